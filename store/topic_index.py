"""The topic index of a log: the label of each topic, and readings of a few topics out of many.

The server-side functions keep it and read it. What it selects is all there is of the topics, and
now and then an event of another topic that has the same label.
"""

import struct
from collections.abc import Iterable, Sequence
from zlib import crc32

from store.connection import Connection, index_keys, log_key, meta_key
from store.event import Page, Position, StreamKey

# A scan has read so few before a look into the index would have paid.
_FEW = 256


def labels_of(topics: Sequence[bytes]) -> bytes:
    """The labels of these topics, two bytes each. A shape, after '>', is no part of a topic's name."""
    names = [crc32(topic.partition(b">")[0]) & 0xFFFF for topic in topics]
    return struct.pack(f">{len(names)}H", *names)


def indexed_keys(stream: StreamKey) -> tuple[str, ...]:
    """The keys of a log and its index."""
    return log_key(stream), meta_key(stream), *index_keys(stream)


class Selection:
    """Reads the events of some topics, from one position on to later ones."""

    def __init__(self, connection: Connection, stream: StreamKey, topics: Iterable[bytes]) -> None:
        self._connection = connection
        self._keys = indexed_keys(stream)
        self._labels = sorted({labels_of([topic]) for topic in topics})
        self._scan_through = 0

    def may_help(self, after: Position, until: Position) -> bool:
        """Whether `page` is worth asking."""
        return after.sequence >= self._scan_through and until.sequence - after.sequence > _FEW

    async def page(self, after: Position, until: Position, epoch: bytes, count: int) -> Page | None:
        """The next events of the topics, or None: scan on from here, as without an index.

        A gap and another epoch are for the scan to find.
        """
        scan_through, *found = await self._connection.call(
            "selected",
            self._keys,
            epoch,
            after.sequence,
            *until,
            count,
            *self._labels,
        )
        if scan_through:
            self._scan_through = int(scan_through)
            return None
        place, entries = found
        return Page(entries, Position.parse(place), epoch)
