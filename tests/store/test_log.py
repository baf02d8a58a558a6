"""The log's promises: dense sequences, exact look-ups, told gaps, retention, idempotency."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import pytest

from store.connection import Connection, index_keys, log_key, meta_key
from store.errors import StoreError, StoreUnavailable
from store.event import (
    ORIGIN,
    Appended,
    Draft,
    Envelope,
    GapReason,
    Head,
    Idempotency,
    Position,
    Refusal,
    Refused,
    Retention,
    StreamKey,
)
from store.log import EventLog

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')


def draft(number: int, *, topic: bytes = b"t", time_ms: int | None = None) -> Draft:
    return Draft(topic, b'{"n":%d,"id":"' % number, time_ms)


@pytest.fixture
def stream() -> StreamKey:
    return StreamKey(str(uuid4()), "kind")


async def append(log: EventLog, stream: StreamKey, *drafts: Draft) -> list[Appended]:
    outcomes = await log.append(stream, ENVELOPE, drafts)
    stored = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    assert len(stored) == len(drafts), outcomes
    return stored


async def read(log: EventLog, stream: StreamKey, after: Position, head: Head) -> list[bytes]:
    found: list[bytes] = []
    pages = log.range(stream, after, head.last, epoch=head.epoch, page_size=3)
    async with aclosing(pages) as opened:
        async for page in opened:
            found += [event for _, (_, event) in page.entries]
    return found


async def test_sequences_are_dense_and_the_stored_json_names_them(
    log: EventLog, stream: StreamKey
) -> None:
    stored = await append(log, stream, *(draft(n) for n in range(10)))
    assert [each.position.sequence for each in stored] == list(range(1, 11))
    head = await log.head(stream)
    events = await read(log, stream, ORIGIN, head)
    assert [b'"id":"%d"' % n in event for n, event in enumerate(events, 1)] == [True] * 10
    assert events[0].startswith(b'{"n":0,"id":"1","time":"20')
    assert events[0].endswith(b'Z"}')


async def test_concurrent_appends_share_calls_and_keep_each_callers_order(
    connection: Connection, stream: StreamKey
) -> None:
    batches: list[int] = []
    log = EventLog(connection, idempotency_window_ms=1000, on_batch=batches.append)
    groups = await asyncio.gather(
        *(append(log, stream, *(draft(n) for n in range(5))) for _ in range(40))
    )
    sequences = [each.position.sequence for group in groups for each in group]
    assert sorted(sequences) == list(range(1, 201))
    for group in groups:
        numbers = [each.position.sequence for each in group]
        assert numbers == sorted(numbers)
    assert len(batches) < 40


async def test_deleting_the_newest_event_does_not_free_its_sequence(
    log: EventLog, stream: StreamKey
) -> None:
    await append(log, stream, draft(1), draft(2))
    assert await log.delete(stream, 2)
    assert not await log.delete(stream, 2)
    [third] = await append(log, stream, draft(3))
    assert third.position.sequence == 3


async def test_a_wiped_log_goes_on_counting_and_keeps_its_epoch(
    log: EventLog, stream: StreamKey
) -> None:
    [_, second] = await append(log, stream, draft(1), draft(2))
    assert await log.wipe(stream)
    assert not await log.wipe(StreamKey(stream.tenant, "other"))
    head = await log.head(stream)
    assert (head.floor, head.first_available, head.last.sequence) == (2, 3, 2)
    [third] = await append(log, stream, draft(3))
    assert third.position.sequence == 3
    assert third.epoch == second.epoch


async def test_a_destroyed_log_has_another_epoch(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    [first] = await append(log, stream, draft(1))
    await connection.execute("DEL", log_key(stream))
    [again] = await append(log, stream, draft(1))
    assert again.position.sequence == 1
    assert again.epoch != first.epoch


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("per_ms", [1, 7])
async def test_every_sequence_and_time_is_found_whatever_shares_a_millisecond(
    connection: Connection, log: EventLog, stream: StreamKey, per_ms: int, indexed: bool
) -> None:
    times = [1000 + (n // per_ms) * 13 for n in range(100)]
    await append(log, stream, *(draft(n, time_ms=ms) for n, ms in enumerate(times)))
    if not indexed:  # as an older version left it
        await connection.execute("HDEL", meta_key(stream), "fresh")
        await connection.execute("DEL", *index_keys(stream))
    for sequence in (3, 50, 51, 100):
        await log.delete(stream, sequence)
    kept = [n for n in range(1, 101) if n not in (3, 50, 51, 100)]
    for sequence in range(0, 103):
        before = await log.before_sequence(stream, sequence)
        first = next((n for n in kept if n >= sequence), None)
        assert (None if before is None else before.sequence + 1) == first
    for ms in range(990, 1000 + 100 * 13, 5):
        found = await log.before_time(stream, ms)
        first = next((n for n in kept if times[n - 1] >= ms), None)
        assert (None if found is None else found.sequence + 1) == first
        newest = await log.at_time(stream, ms)
        last = next((n for n in reversed(kept) if times[n - 1] <= ms), None)
        assert (None if newest is None else newest.sequence) == last


async def test_an_own_time_is_refused_before_the_last_event_and_in_the_future(
    log: EventLog, stream: StreamKey
) -> None:
    early, late, future = await log.append(
        stream,
        ENVELOPE,
        [draft(1, time_ms=5000), draft(2, time_ms=4999), draft(3, time_ms=4_000_000_000_000)],
    )
    assert isinstance(early, Appended)
    assert late == Refused(Refusal.BEFORE_LAST, 5000)
    assert isinstance(future, Refused)
    assert future.refusal is Refusal.IN_FUTURE
    assert (await log.head(stream)).last == Position(5000, 1)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, b"1970-01-01T00:00:00.000Z"),
        (951_782_399_999, b"2000-02-28T23:59:59.999Z"),
        (951_782_400_000, b"2000-02-29T00:00:00.000Z"),
        (1_517_932_243_007, b"2018-02-06T15:50:43.007Z"),
        (1_735_689_599_001, b"2024-12-31T23:59:59.001Z"),
    ],
)
async def test_the_stored_time_is_rfc3339_in_utc(
    log: EventLog, stream: StreamKey, ms: int, text: bytes
) -> None:
    await append(log, stream, draft(1, time_ms=ms))
    [event] = await read(log, stream, ORIGIN, await log.head(stream))
    assert text in event


async def test_the_same_idempotency_key_stores_once_and_another_body_is_refused(
    log: EventLog, stream: StreamKey
) -> None:
    first = Draft(b"t", b'{"id":"', None, Idempotency(b"k", b"one"))
    other = Draft(b"t", b'{"id":"', None, Idempotency(b"k", b"two"))
    stored, again, refused = await log.append(stream, ENVELOPE, [first, first, other])
    [later] = await log.append(stream, ENVELOPE, [first])
    assert isinstance(stored, Appended)
    assert isinstance(again, Appended)
    assert isinstance(later, Appended)
    assert isinstance(refused, Refused)
    assert (stored.repeated, again.repeated, later.repeated) == (False, True, True)
    assert stored.position == again.position == later.position
    assert refused.refusal is Refusal.KEY_REUSED
    assert (await log.head(stream)).last.sequence == 1


async def test_each_draft_of_a_call_keeps_its_own_time_and_key(
    log: EventLog, stream: StreamKey
) -> None:
    """Only drafts that have a time or a key say so: another one must not be taken for them."""
    one, two = Idempotency(b"one", b"1"), Idempotency(b"two", b"2")
    head = b'{"id":"'
    drafts = [
        Draft(b"t", head, 1000),
        Draft(b"t", head, 2000, one),
        Draft(b"t", head, 1999),
        Draft(b"t", head),
        Draft(b"t", head, None, two),
        Draft(b"t", head, 3000),
        Draft(b"t", head, 2000, one),
        Draft(b"t", head),
    ]
    found = await log.append(stream, ENVELOPE, drafts)
    stored = [each.position for each in found if isinstance(each, Appended)]
    assert [each.sequence for each in stored] == [1, 2, 3, 4, 2, 5]
    assert [each.ms for each in stored[:2]] == [1000, 2000]
    assert [at for at, each in enumerate(found) if isinstance(each, Refused)] == [2, 5]
    assert [each.repeated for each in found if isinstance(each, Appended)] == [False] * 4 + [
        True,
        False,
    ]
    again = await log.append(stream, ENVELOPE, [drafts[4], drafts[1]])
    assert [each.position for each in again if isinstance(each, Appended)] == [
        stored[3],
        stored[1],
    ]


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(max_count=10), 10),
        (Retention(max_age_ms=1000), 0),
        (Retention(max_age_ms=10**12 * 3), 50),
        (Retention(max_count=100), 50),
    ],
)
async def test_retention_removes_the_oldest_and_raises_the_floor(
    log: EventLog, stream: StreamKey, retention: Retention, kept: int
) -> None:
    await append(log, stream, *(draft(n, time_ms=5000 + n) for n in range(50)))
    assert await log.trim(stream, retention) == 50 - kept
    head = await log.head(stream)
    assert head.floor == 50 - kept
    assert head.first_available == 51 - kept
    assert len(await read(log, stream, ORIGIN, head)) == kept


async def test_retention_by_size_keeps_the_newest_within_it(
    log: EventLog, stream: StreamKey
) -> None:
    big = [Draft(b"t", b'{"x":"%s","id":"' % (b"x" * 2000)) for _ in range(1000)]
    await append(log, stream, *big)
    for _ in range(5):
        await log.trim(stream, Retention(max_bytes=500_000))
    head = await log.head(stream)
    kept = await read(log, stream, ORIGIN, head)
    assert 150 <= len(kept) <= 250
    assert head.floor == 1000 - len(kept)


async def test_a_reader_behind_the_retained_is_told_what_it_misses(
    log: EventLog, stream: StreamKey
) -> None:
    await append(log, stream, *(draft(n) for n in range(20)))
    head = await log.head(stream)
    await log.trim(stream, Retention(max_count=5))
    pages = log.range(stream, Position(0, 3), head.last, epoch=head.epoch, page_size=100)
    async with aclosing(pages) as opened:
        [page] = [page async for page in opened]
    assert page.gap is not None
    assert (page.gap.reason, page.gap.expected, page.gap.first_available) == (
        GapReason.EXPIRED,
        4,
        16,
    )
    assert len(page.entries) == 5


async def test_a_reader_of_another_epoch_is_told_so(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    await append(log, stream, draft(1), draft(2))
    head = await log.head(stream)
    await connection.execute("DEL", log_key(stream))
    await append(log, stream, draft(3), draft(4), draft(5))
    pages = log.range(stream, ORIGIN, head.last, epoch=head.epoch, page_size=100)
    async with aclosing(pages) as opened:
        [page] = [page async for page in opened]
    assert page.gap is not None
    assert page.gap.reason is GapReason.RESET
    assert not page.entries


async def test_a_destroyed_log_does_not_read_as_if_it_were_complete(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    """Its epoch outlives it until it is made anew: a replay under way ended as if all were sent."""
    await append(log, stream, *(draft(n) for n in range(5)))
    head = await log.head(stream)
    await connection.execute("DEL", log_key(stream))
    pages = log.range(stream, ORIGIN, head.last, epoch=head.epoch, page_size=100)
    async with aclosing(pages) as opened:
        [page] = [page async for page in opened]
    assert page.gap is not None
    assert page.gap.reason is GapReason.RESET


async def test_confirm_changes_the_epoch_only_of_a_history_that_was_lost(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    stored = await append(log, stream, *(draft(n) for n in range(5)))
    position, epoch = stored[-1].position, stored[-1].epoch
    assert await log.confirm(stream, position, epoch) == epoch
    await log.delete(stream, 5)
    assert await log.confirm(stream, position, epoch) == epoch
    # As a fail-over to a replica that lacked the last writes would leave it.
    await connection.execute("DEL", log_key(stream))
    for each in stored[:4]:
        await connection.execute("XADD", log_key(stream), each.position.entry_id, "t", "{}")
    assert await log.confirm(stream, stored[3].position, epoch) == epoch
    other = await log.confirm(stream, position, epoch)
    assert other != epoch
    # A second gateway that lost the same writes: the first one's readers are not reset again.
    assert await log.confirm(stream, position, epoch) == other


async def test_streams_and_tenants_are_listed(log: EventLog, stream: StreamKey) -> None:
    await append(log, stream, draft(1))
    await append(log, StreamKey(stream.tenant, "another"), draft(1))
    assert await log.streams(stream.tenant) == ["another", "kind"]
    assert stream.tenant in await log.tenants()


async def test_a_log_that_cannot_be_listed_is_the_outcome_of_each_draft(tmp_path: Path) -> None:
    """It was raised: one event type of a bulk request cost the results of all the others."""
    connection = Connection(f"unix://{tmp_path}/nobody.sock")
    log = EventLog(connection, idempotency_window_ms=1000)
    outcomes = await log.append(StreamKey("tenant", "kind"), ENVELOPE, [draft(1), draft(2)])
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
    await connection.close()


async def test_nobody_waits_for_ever_for_an_append_that_a_defect_ended(
    connection: Connection, stream: StreamKey
) -> None:
    def fail(size: int) -> None:
        raise ValueError(size)

    log = EventLog(connection, idempotency_window_ms=1000, on_batch=fail)
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(
            *(log.append(stream, ENVELOPE, [draft(n)]) for n in range(3))
        )
    assert [type(outcome) for [outcome] in outcomes] == [StoreError] * 3
