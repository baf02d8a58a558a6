"""From what a request asks for to positions in a log: where a stream starts, ends, and goes live.

The highest sequence assigned at this moment (H) divides history from live: history is at most H,
live is more than H, each event exactly once. Source: Aviso wire contract §2, §5.4.
"""

import re
from dataclasses import dataclass

from gateway.schema.query import FromSequence, FromTime, Query, ToSequence, ToTime
from store.event import ORIGIN, Gap, GapReason, Head, Position, StreamKey
from store.log import EventLog

_CURSOR = re.compile(r"(\d{1,19})(?:-([0-9a-f]{1,32}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A `Last-Event-ID`: everything up to this sequence was received. No epoch: bare digits."""

    sequence: int
    epoch: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError with a sentence."""
        match = _CURSOR.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"last_event_id must be '<sequence>-<epoch>'. Got: '{text[:100]}'")
        return cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class Reading:
    """What one stream reads: after `after` up to `until` as history, then live if it watches.

    `after` is None for a stream without history. `end_sequence` is what `replay_started` tells.
    """

    head: Head
    after: Position | None
    until: Position
    end_sequence: int | None
    gap: Gap | None


async def resolve(log: EventLog, stream: StreamKey, query: Query, cursor: Cursor | None) -> Reading:
    """Look up the positions of a request. A cursor has precedence over the query's start."""
    head = await log.head(stream)
    gap: Gap | None = None
    after: Position | None = None
    if cursor is not None:
        gap = _cursor_gap(head, cursor)
        first = head.floor + 1 if gap else cursor.sequence + 1
        after = await place_before(log, stream, head, first)
    elif isinstance(query.start, FromSequence):
        wanted = query.start.sequence
        # 0 asks for everything there is; a number asks for that event.
        if 0 < wanted <= head.floor:
            gap = Gap(GapReason.EXPIRED, wanted, head.first_available)
        after = await place_before(log, stream, head, max(wanted, head.floor + 1))
    elif isinstance(query.start, FromTime):
        found = await log.before_time(stream, query.start.ms)
        # What was appended since the head was read is live, whatever its time.
        behind = found is None or found.sequence >= head.last.sequence
        after = head.last if behind else found
    until, end_sequence = await _end(log, stream, query, head)
    return Reading(head, after, until, end_sequence, gap)


def _cursor_gap(head: Head, cursor: Cursor) -> Gap | None:
    expected = cursor.sequence + 1
    if cursor.epoch is not None and cursor.epoch != head.epoch.decode():
        return Gap(GapReason.RESET, expected, head.first_available)
    if cursor.sequence > head.last.sequence:
        return Gap(GapReason.AHEAD, expected, head.first_available)
    if cursor.sequence < head.floor:
        return Gap(GapReason.EXPIRED, expected, head.first_available)
    return None


async def place_before(log: EventLog, stream: StreamKey, head: Head, sequence: int) -> Position:
    """The place just before a sequence, kept or not; not past the last event of the head."""
    if sequence > head.last.sequence:
        return head.last
    found = await log.before_sequence(stream, sequence)
    ms = head.last.ms if found is None else min(found.ms, head.last.ms)
    # Not just before the one found: what a trim takes between the two look-ups is then missed by
    # the reading, and told.
    return Position(ms, sequence - 1)


async def _end(
    log: EventLog, stream: StreamKey, query: Query, head: Head
) -> tuple[Position, int | None]:
    if isinstance(query.end, ToSequence):
        wanted = query.end.sequence
        if wanted >= head.last.sequence:
            return head.last, head.last.sequence
        return await place_before(log, stream, head, wanted + 1), wanted
    if isinstance(query.end, ToTime):
        newest = await log.at_time(stream, query.end.ms)
        if newest is None or newest.sequence > head.last.sequence:
            newest = ORIGIN if newest is None else head.last
        return newest, newest.sequence or head.first_available - 1
    return head.last, None
