"""Several logs of one tenant as one: ordered by event time, then event type, then sequence.

The total order of a session. A place in it names the last event that lies behind.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from store.event import Entry, Gap, Position, StreamKey
from store.log import EventLog


class Place(NamedTuple):
    """Behind it lie all events up to this time, of this time those up to this type and sequence.

    `kind` is the index into the session's sorted event types. `(ms, -1, 0)` lies before all of ms.
    """

    ms: int
    kind: int
    sequence: int


class Item(NamedTuple):
    """One event in the total order, or a gap in one of its logs before that place."""

    place: Place
    epoch: bytes
    entry: Entry | None
    gap: Gap | None = None


async def merge(
    log: EventLog,
    tenant: str,
    event_types: Sequence[str],
    after: Place,
    through_ms: int,
    *,
    page_size: int,
) -> AsyncGenerator[list[Item], None]:
    """Every event after a place up to and including a time, in order, in batches.

    Raises StoreUnavailable; resume after the last place yielded.
    """
    sources = []
    for kind, event_type in enumerate(event_types):
        source = _Source(log, StreamKey(tenant, event_type), kind)
        if await source.open(after, through_ms, page_size):
            sources.append(source)
    try:
        while sources:
            await asyncio.gather(*(source.fill() for source in sources if not source.items))
            sources = [source for source in sources if source.items]
            if not sources:
                return
            # Up to here every source is known: what comes later in any of them lies behind it.
            bound = (
                min(source.items[-1].place for source in sources if not source.ended)
                if any(not source.ended for source in sources)
                else max(source.items[-1].place for source in sources)
            )
            batch: list[Item] = []
            for source in sources:
                batch += source.take(bound)
            if len(sources) > 1:
                batch.sort(key=_place_of)
            yield batch
            sources = [source for source in sources if source.items or not source.ended]
    finally:
        for source in sources:
            await source.close()


def _place_of(item: Item) -> Place:
    return item.place


class _Source:
    """One log of the merge: its pages, and what is read of them and not yet given on."""

    def __init__(self, log: EventLog, stream: StreamKey, kind: int) -> None:
        self._log = log
        self._stream = stream
        self._kind = kind
        self.items: list[Item] = []
        self.ended = False

    async def open(self, after: Place, through_ms: int, page_size: int) -> bool:
        """False when the log has nothing to give."""
        head = await self._log.head(self._stream)
        until = await self._log.at_time(self._stream, through_ms)
        if until is None:
            return False
        start = await self._start(after, head.floor)
        if start is None or start >= until:
            return False
        self._pages = self._log.range(
            self._stream, start, until, epoch=head.epoch, page_size=page_size
        )
        return True

    async def _start(self, after: Place, floor: int) -> Position | None:
        if self._kind == after.kind and after.sequence:
            return Position(after.ms, after.sequence)
        first_ms = after.ms + 1 if self._kind < after.kind else after.ms
        return await self._log.before_time(self._stream, first_ms)

    async def fill(self) -> None:
        """Have at least one item, or be at the end."""
        while not self.items and not self.ended:
            page = await anext(self._pages, None)
            if page is None:
                self.ended = True
                return
            entries = page.entries
            for entry in entries:
                ms, sequence = Position.parse(entry[0])
                self.items.append(Item(Place(ms, self._kind, sequence), page.epoch, entry))
            if page.gap is not None:
                place = (
                    self.items[0].place if self.items else Place(page.position.ms, self._kind, 0)
                )
                before = Place(place.ms, place.kind, place.sequence - 1)
                self.items.insert(0, Item(before, page.epoch, None, page.gap))

    def take(self, bound: Place) -> list[Item]:
        """Remove and return the items up to the bound."""
        items = self.items
        if items[-1].place <= bound:
            self.items = []
            return items
        count = 0
        while count < len(items) and items[count].place <= bound:
            count += 1
        self.items = items[count:]
        return items[:count]

    async def close(self) -> None:
        async with aclosing(self._pages):
            return
