"""Where a snapshot stands in the log: by what it sees, not by a clock."""

from dataclasses import dataclass

import msgspec

from store.captured import changes
from store.errors import SnapshotFailed
from store.event import ORIGIN, Position
from store.log import EventLog
from store.snapshot_source import Moment
from store.visibility import parse_lsn

# A transaction is in the log before it is seen for as long as its commit waits for replicas.
_UNSEEN_MS = 60_000
_PAGE_EVENTS = 1000


class _Payload(msgspec.Struct, frozen=True):
    xid: int
    source: str
    lsn: str


class _Data(msgspec.Struct, frozen=True):
    payload: _Payload


class _Event(msgspec.Struct, frozen=True):
    data: _Data


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(frozen=True, slots=True)
class Aligned:
    """All that the snapshot does not have stands behind the position, all it has happened by `at_ms`."""

    at_ms: int
    position: Position
    epoch: bytes


async def align(log: EventLog, tenant: str, source: str, moment: Moment) -> Aligned:
    """To be asked when the log has all that the source had written at the moment.

    Raises SnapshotFailed when the log has lost what has to be looked at.
    """
    stream = changes(tenant)
    head = await log.head(stream)
    if not head.epoch:
        return Aligned(moment.wall_ms, ORIGIN, b"")
    start = await log.before_time(stream, moment.wall_ms - _UNSEEN_MS)
    if start is None:
        return Aligned(moment.wall_ms, head.last, head.epoch)
    at_ms, position = moment.wall_ms, None
    visible, lsn = moment.visible, moment.lsn
    pages = log.range(stream, start, head.last, epoch=head.epoch, page_size=_PAGE_EVENTS)
    async for page in pages:
        if page.gap is not None:
            raise SnapshotFailed("changes were removed from the log while it was looked through")
        for entry_id, (_, event) in page.entries:
            change = _read(event)
            if change is None or change.source != source:
                continue
            here = Position.parse(entry_id)
            before = Position(here.ms, here.sequence - 1)
            if not visible.sees(change.xid):
                position = position or before
            else:
                at_ms = max(at_ms, here.ms)
            if parse_lsn(change.lsn) >= lsn:
                return Aligned(at_ms, position or before, head.epoch)
    return Aligned(at_ms, position or head.last, head.epoch)


def _read(event: bytes) -> _Payload | None:
    try:
        return _decode(event).data.payload
    except msgspec.DecodeError:
        return None  # published by somebody, not captured
