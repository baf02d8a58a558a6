"""Where a stream starts, ends and goes live, and what is told of a cursor that cannot be honoured."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from gateway.reading import Cursor, Reading, resolve
from gateway.schema.filter import Filter
from gateway.schema.query import End, FromSequence, FromTime, Query, Start, ToSequence, ToTime
from store.connection import Connection, log_key
from store.event import (
    Appended,
    Draft,
    Envelope,
    Gap,
    GapReason,
    Position,
    Retention,
    StreamKey,
)
from store.log import EventLog

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
# Event n of the log was at 1000 + 10 n.
FIRST_MS = 1000


class Interrupted(EventLog):
    """A log to which something happens between a request's first look at it and its second."""

    between: Callable[[], Awaitable[object]] | None = None

    async def _interrupt(self) -> None:
        between, self.between = self.between, None
        if between is not None:
            await between()

    async def before_sequence(self, stream: StreamKey, sequence: int) -> Position | None:
        await self._interrupt()
        return await super().before_sequence(stream, sequence)

    async def before_time(self, stream: StreamKey, ms: int) -> Position | None:
        await self._interrupt()
        return await super().before_time(stream, ms)


@pytest.fixture
def log(connection: Connection) -> Interrupted:
    return Interrupted(connection, idempotency_window_ms=1000)


@pytest.fixture
async def stream(log: Interrupted, tenant: str) -> StreamKey:
    """A log of ten events."""
    stream = StreamKey(tenant, "kind")
    await append(log, stream, *range(1, 11))
    return stream


async def append(log: EventLog, stream: StreamKey, *numbers: int) -> None:
    drafts = [Draft(b"t", b'{"id":"', FIRST_MS + 10 * number) for number in numbers]
    outcomes = await log.append(stream, ENVELOPE, drafts)
    assert all(isinstance(outcome, Appended) for outcome in outcomes), outcomes


def asked(start: Start | None = None, end: End | None = None) -> Query:
    return Query("kind", "kind", Filter("", None), start, end)


async def read(log: EventLog, stream: StreamKey, reading: Reading) -> list[object]:
    """The history of a reading: sequences and gaps, in order."""
    assert reading.after is not None
    found: list[object] = []
    pages = log.range(stream, reading.after, reading.until, epoch=reading.head.epoch, page_size=3)
    async with aclosing(pages) as opened:
        async for page in opened:
            found += [] if page.gap is None else [page.gap]
            found += [Position.parse(entry_id).sequence for entry_id, _ in page.entries]
    return found


async def epoch_of(log: EventLog, stream: StreamKey) -> str:
    return (await log.head(stream)).epoch.decode()


# -- cursors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Cursor(0)),
        ("17", Cursor(17)),
        (" 17-5f3a ", Cursor(17, "5f3a")),
        ("9999999999999999999-0", Cursor(9999999999999999999, "0")),
    ],
)
def test_a_cursor_is_a_sequence_with_or_without_epoch(text: str, expected: Cursor) -> None:
    assert Cursor.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "-", "x", "-1", "1-", "1-xyz", "1-AB", "1 2", "1.5", "٣", "1" * 20, "1-\n2", "1\0"]
)
def test_anything_else_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="last_event_id must be"):
        Cursor.parse(text)


@pytest.mark.parametrize("sequence", [0, 1, 5, 9, 10])
@pytest.mark.parametrize("bare", [True, False])
async def test_a_cursor_goes_on_behind_its_event(
    log: Interrupted, stream: StreamKey, sequence: int, bare: bool
) -> None:
    cursor = Cursor(sequence, None if bare else await epoch_of(log, stream))
    reading = await resolve(log, stream, asked(), cursor)
    assert reading.gap is None
    assert await read(log, stream, reading) == list(range(sequence + 1, 11))


async def test_a_cursor_at_deleted_events_is_honoured(log: Interrupted, stream: StreamKey) -> None:
    for sequence in (5, 6, 10):
        await log.delete(stream, sequence)
    reading = await resolve(log, stream, asked(), Cursor(5, await epoch_of(log, stream)))
    assert reading.gap is None
    assert await read(log, stream, reading) == [7, 8, 9]


async def test_a_cursor_that_retention_has_passed_is_told_and_starts_at_what_is_kept(
    log: Interrupted, stream: StreamKey
) -> None:
    await log.trim(stream, Retention(max_count=3))
    reading = await resolve(log, stream, asked(), Cursor(2, await epoch_of(log, stream)))
    assert reading.gap == Gap(GapReason.EXPIRED, 3, 8)
    assert await read(log, stream, reading) == [8, 9, 10]
    just = await resolve(log, stream, asked(), Cursor(7, await epoch_of(log, stream)))
    assert just.gap is None


async def test_a_cursor_of_another_log_is_told_and_starts_at_the_beginning(
    log: Interrupted, stream: StreamKey, connection: Connection
) -> None:
    before = await epoch_of(log, stream)
    await connection.execute("DEL", log_key(stream))
    gone = await resolve(log, stream, asked(), Cursor(4, before))
    assert gone.gap == Gap(GapReason.RESET, 5, 1)
    assert await read(log, stream, gone) == []
    await append(log, stream, 1, 2)
    anew = await resolve(log, stream, asked(), Cursor(1, before))
    assert anew.gap == Gap(GapReason.RESET, 2, 1)
    assert await read(log, stream, anew) == [1, 2]


async def test_a_cursor_ahead_of_the_log_is_told(log: Interrupted, stream: StreamKey) -> None:
    reading = await resolve(log, stream, asked(), Cursor(11))
    assert reading.gap == Gap(GapReason.AHEAD, 12, 1)
    assert await read(log, stream, reading) == list(range(1, 11))


async def test_a_cursor_from_before_the_first_event_is_honoured(
    log: Interrupted, tenant: str
) -> None:
    """`0`, which a stream of no log yet is told, so that the first event of all is not missed."""
    stream = StreamKey(tenant, "new")
    assert (await resolve(log, stream, asked(), Cursor(0))).gap is None
    await append(log, stream, 1, 2)
    reading = await resolve(log, stream, asked(), Cursor(0))
    assert reading.gap is None
    assert await read(log, stream, reading) == [1, 2]


# -- starts and ends


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (FromSequence(0), None, range(1, 11)),
        (FromSequence(4), None, range(4, 11)),
        (FromSequence(11), None, ()),
        (FromSequence(2**64 - 1), None, ()),
        (FromSequence(4), ToSequence(4), (4,)),
        (FromSequence(3), ToSequence(7), range(3, 8)),
        (FromSequence(3), ToSequence(2**64 - 1), range(3, 11)),
        (FromSequence(0), ToSequence(0), ()),
        (FromTime(-1), None, range(1, 11)),
        (FromTime(FIRST_MS + 40), None, range(4, 11)),
        (FromTime(FIRST_MS + 41), None, range(5, 11)),
        (FromTime(FIRST_MS + 101), None, ()),
        (FromSequence(0), ToTime(FIRST_MS + 40), range(1, 5)),
        (FromSequence(0), ToTime(FIRST_MS + 39), range(1, 4)),
        (FromSequence(0), ToTime(FIRST_MS), ()),
        (FromSequence(0), ToTime(-1), ()),
        (FromTime(FIRST_MS + 20), ToTime(FIRST_MS + 40), (2, 3, 4)),
        (FromTime(FIRST_MS + 80), ToSequence(3), ()),
    ],
)
async def test_a_reading_is_what_lies_between_its_start_and_its_end(
    log: Interrupted, stream: StreamKey, start: Start, end: End | None, expected: range
) -> None:
    reading = await resolve(log, stream, asked(start, end), None)
    assert reading.gap is None
    assert await read(log, stream, reading) == list(expected)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (None, None),
        (ToSequence(4), 4),
        (ToSequence(99), 10),
        (ToTime(FIRST_MS + 49), 4),
        (ToTime(10**13), 10),
        (ToTime(0), 0),
    ],
)
async def test_the_end_that_is_told_is_the_last_sequence_there_can_be(
    log: Interrupted, stream: StreamKey, end: End | None, expected: int | None
) -> None:
    reading = await resolve(log, stream, asked(FromSequence(0), end), None)
    assert reading.end_sequence == expected


async def test_a_start_that_retention_has_passed_is_told_but_the_beginning_is_not(
    log: Interrupted, stream: StreamKey
) -> None:
    await log.trim(stream, Retention(max_count=3))
    numbered = await resolve(log, stream, asked(FromSequence(5)), None)
    assert numbered.gap == Gap(GapReason.EXPIRED, 5, 8)
    everything = await resolve(log, stream, asked(FromSequence(0)), None)
    assert everything.gap is None
    for reading in (numbered, everything):
        assert await read(log, stream, reading) == [8, 9, 10]


# -- what happens in between


@pytest.mark.parametrize("cursor", [True, False])
@pytest.mark.parametrize("keep", [0, 4])
async def test_what_is_trimmed_between_two_looks_is_told(
    log: Interrupted, stream: StreamKey, cursor: bool, keep: int
) -> None:
    """The second look went past what the first one had seen: events were missed, and no gap told."""
    log.between = lambda: log.trim(stream, Retention(max_count=keep))
    reading = await (
        resolve(log, stream, asked(), Cursor(2))
        if cursor
        else resolve(log, stream, asked(FromSequence(3)), None)
    )
    first = 11 - keep
    assert await read(log, stream, reading) == [
        Gap(GapReason.EXPIRED, 3, first),
        *range(first, 11),
    ]


async def test_what_is_appended_between_two_looks_is_live(
    log: Interrupted, stream: StreamKey
) -> None:
    """A watch from a date that nothing had reached went live behind the first event that did, at a
    place that was no event's own: the next reconnect took it for a log that had lost its history."""
    log.between = lambda: append(log, stream, 11, 12)
    reading = await resolve(log, stream, asked(FromTime(FIRST_MS + 120)), None)
    assert reading.after == reading.until == reading.head.last == Position(FIRST_MS + 100, 10)


async def test_a_log_that_is_replaced_between_two_looks_is_told(
    log: Interrupted, stream: StreamKey, connection: Connection
) -> None:
    async def replace() -> None:
        await connection.execute("DEL", log_key(stream))
        await append(log, stream, *range(1, 21))

    log.between = replace
    reading = await resolve(log, stream, asked(FromSequence(3)), None)
    [gap] = await read(log, stream, reading)
    assert isinstance(gap, Gap)
    assert gap.reason is GapReason.RESET
