"""Where a snapshot stands in the log: by what it sees, not by a clock."""

from dataclasses import dataclass

import msgspec

from store.captured import changes, read_beginning
from store.connection import Connection
from store.errors import SnapshotFailed
from store.event import ORIGIN, Position
from store.fold import read_change
from store.log import EventLog
from store.snapshot_source import Moment
from store.visibility import parse_lsn

# Between its being on disk and its being seen a commit does nothing that takes time, unless its
# process is halted, or the clock set.
_MARGIN_MS = 60_000
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


async def align(
    log: EventLog,
    connection: Connection,
    tenant: str,
    source: str,
    moment: Moment,
    *,
    begun: Position,
) -> Aligned:
    """To be asked when the log has all that the source had written at the moment.

    `begun`: the head of the log at some time before the moment.
    Raises SnapshotFailed when the log has lost what has to be looked at.
    """
    stream = changes(tenant)
    head = await log.head(stream)
    if not head.epoch:
        return Aligned(moment.wall_ms, ORIGIN, b"")
    since_ms = min(moment.wall_ms, moment.committing_since_ms) - _MARGIN_MS
    # What was not in the log when it was begun is behind its head of then, whatever its time.
    start = min(await log.before_time(stream, since_ms) or head.last, begun)
    began = await read_beginning(connection, tenant, source)
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
            if here.sequence <= began:
                continue
            before = Position(here.ms, here.sequence - 1)
            if parse_lsn(change.lsn) >= lsn:
                return Aligned(at_ms, position or before, head.epoch)
            if visible.sees(change.xid):
                at_ms = max(at_ms, here.ms)
            else:
                position = position or before
    return Aligned(at_ms, position or head.last, head.epoch)


def _read(event: bytes) -> _Payload | None:
    try:
        return _decode(event).data.payload
    except (msgspec.DecodeError, RecursionError):
        # Published by somebody, or with a value that only PostgreSQL reads.
        change = read_change(event)
        return None if change is None else _Payload(change.xid, change.source, change.lsn)
