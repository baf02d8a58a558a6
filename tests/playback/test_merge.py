"""Several logs in one total order, against a model: from any place on, whole, and gaps told."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.connection import Connection
from store.errors import StoreUnavailable
from store.event import Appended, Draft, Envelope, Gap, GapReason, Retention, StreamKey
from store.log import EventLog
from store.merge import Batch, Item, Merge, Place
from tests.servers import Valkey

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
KINDS = ("air", "rain", "sea")
LATEST_MS = 30

ordinary = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
# Times of the events of each log, in its order; many share one.
recordings = st.lists(
    st.lists(st.integers(1, LATEST_MS), max_size=25).map(sorted), min_size=1, max_size=len(KINDS)
)


async def record(log: EventLog, tenant: str, *times: Sequence[int]) -> list[Place]:
    """A log a list of times; the places of all events in the total order."""
    places: list[Place] = []
    for kind, each in enumerate(times):
        drafts = [Draft(b"t", b'{"id":"', ms) for ms in each]
        for outcome in await log.append(StreamKey(tenant, KINDS[kind]), ENVELOPE, drafts):
            assert isinstance(outcome, Appended)
            places.append(Place(outcome.position.ms, kind, outcome.position.sequence))
    return sorted(places)


def merge(  # noqa: PLR0917 - a test's shorthand
    log: EventLog,
    tenant: str,
    kinds: int,
    after: Place,
    through_ms: int = LATEST_MS,
    page_size: int = 3,
) -> Merge:
    return Merge(log, tenant, KINDS[:kinds], after, through_ms, page_size=page_size)


async def read_all(merging: Merge) -> list[Batch]:
    batches = []
    while (batch := await merging.read()) is not None:
        batches.append(batch)
    assert await merging.read() is None
    await merging.close()
    return batches


async def read_until_lost(merging: Merge) -> list[Batch]:
    """What was read ahead is given before it is told that the server is away."""
    batches: list[Batch] = []
    with suppress(StoreUnavailable):
        while (batch := await merging.read()) is not None:
            batches.append(batch)
        pytest.fail("all was read: nothing was proved")
    return batches


async def read_on(merging: Merge) -> Batch | None:
    """The next batch, from a server that is back: pages asked for before are lost once more."""
    while True:
        with suppress(StoreUnavailable):
            return await merging.read()


def items_of(batches: Sequence[Batch]) -> list[Item]:
    return [item for batch in batches for item in batch.items]


def gaps_of(batches: Sequence[Batch]) -> list[tuple[int, Gap]]:
    return [(item.place.kind, item.gap) for item in items_of(batches) if item.gap is not None]


def check_batches(batches: Sequence[Batch]) -> None:
    """None is empty, and a time is parted only where the batch says so."""
    assert all(batch.items for batch in batches)
    for batch, following in pairwise(batches):
        parted = batch.items[-1].place.ms == following.items[0].place.ms
        assert not (batch.whole and parted)


START = Place.before_ms(0)


@settings(ordinary, max_examples=150)
@given(recordings, st.integers(1, 8), st.integers(0, LATEST_MS + 1))
async def test_every_event_comes_once_in_the_total_order(
    log: EventLog, times: list[list[int]], page_size: int, through_ms: int
) -> None:
    tenant = str(uuid4())
    places = await record(log, tenant, *times)
    batches = await read_all(merge(log, tenant, len(times), START, through_ms, page_size))
    check_batches(batches)
    assert [item.place for item in items_of(batches)] == [
        place for place in places if place.ms <= through_ms
    ]
    assert all(item.entry is not None and item.gap is None for item in items_of(batches))


@st.composite
def resumes(draw: st.DrawFn) -> tuple[list[list[int]], Place]:
    """A recording, and a place in it: an event's own, or one between all events of two times."""
    times = draw(recordings)
    events = [
        Place(ms, kind, sequence)
        for kind, each in enumerate(times)
        for sequence, ms in enumerate(each, 1)
    ]
    edges = st.integers(0, LATEST_MS + 1)
    between = st.one_of(edges.map(Place.before_ms), edges.map(Place.after_ms))
    return times, draw(st.one_of(st.sampled_from(events), between) if events else between)


@settings(ordinary, max_examples=200)
@given(resumes(), st.integers(1, 8))
async def test_reading_resumes_after_any_place_without_gap_or_repeat(
    log: EventLog, resume: tuple[list[list[int]], Place], page_size: int
) -> None:
    times, after = resume
    tenant = str(uuid4())
    places = await record(log, tenant, *times)
    batches = await read_all(merge(log, tenant, len(times), after, page_size=page_size))
    check_batches(batches)
    assert [item.place for item in items_of(batches)] == [each for each in places if each > after]


async def test_the_order_is_time_then_type_then_sequence(log: EventLog, tenant: str) -> None:
    await record(log, tenant, [2, 5, 5], [5], [1, 5])
    items = items_of(await read_all(merge(log, tenant, 3, START)))
    assert [item.place for item in items] == [
        (1, 2, 1),
        (2, 0, 1),
        (5, 0, 2),
        (5, 0, 3),
        (5, 1, 1),
        (5, 2, 2),
    ]


async def test_a_time_with_more_events_than_a_page_comes_in_parts_that_say_so(
    log: EventLog, tenant: str
) -> None:
    await record(log, tenant, [1, *[2] * 20, 3], [2] * 7)
    batches = await read_all(merge(log, tenant, 2, START, page_size=4))
    check_batches(batches)
    assert len(items_of(batches)) == 29
    assert not all(batch.whole for batch in batches)
    # What is held at a time is a page or two a log, however many events share a time.
    assert max(len(batch.items) for batch in batches) <= 4 * 4
    assert batches[-1].whole


async def test_logs_without_events_in_the_range_have_nothing_to_say(
    log: EventLog, tenant: str
) -> None:
    await record(log, tenant, [], [9], [1])
    batches = await read_all(merge(log, tenant, 3, Place.before_ms(2), 8))
    assert batches == []


# -- gaps


async def test_what_retention_takes_while_reading_is_told_before_the_next_event(
    log: EventLog, tenant: str
) -> None:
    places = await record(log, tenant, range(1, 21), [5, 15])
    merging = merge(log, tenant, 2, START, page_size=2)
    first = await merging.read()
    assert first is not None
    await log.trim(StreamKey(tenant, "air"), Retention(max_count=4))
    batches = [first, *await read_all(merging)]
    [(kind, gap)] = gaps_of(batches)
    assert (kind, gap.reason, gap.first_available) == (0, GapReason.EXPIRED, 17)
    items = items_of(batches)
    assert [item.place for item in items] == sorted(item.place for item in items)
    events = [item.place for item in items if item.entry is not None]
    kept = [place for place in places if place.kind == 1 or place.sequence >= 17]
    assert events == [place for place in places if place < (gap.expected, 0, 0) or place in kept]


@pytest.mark.parametrize("after", [Place(8, 0, 8), Place(8, 1, 1), Place.after_ms(8)])
async def test_who_resumes_where_nothing_is_kept_any_more_is_told(
    log: EventLog, tenant: str, after: Place
) -> None:
    """Also by a place that names no event of that log: silence would look complete."""
    await record(log, tenant, range(1, 21), [8, 18])
    await log.trim(StreamKey(tenant, "air"), Retention(max_count=4))
    batches = await read_all(merge(log, tenant, 2, after))
    gaps = gaps_of(batches)
    assert [(kind, gap.first_available) for kind, gap in gaps] == [(0, 17)]
    events = [item.place for item in items_of(batches) if item.entry]
    assert events[-5:] == [(17, 0, 17), (18, 0, 18), (18, 1, 2), (19, 0, 19), (20, 0, 20)]
    assert events[:-5] == [place for place in [Place(8, 1, 1)] if place > after]


@pytest.mark.parametrize("after", [Place(8, 0, 8), Place(8, 1, 1), Place.after_ms(8)])
async def test_who_resumes_in_a_log_that_was_wiped_is_told(
    log: EventLog, tenant: str, after: Place
) -> None:
    await record(log, tenant, range(1, 21), [8, 18])
    await log.wipe(StreamKey(tenant, "air"))
    batches = await read_all(merge(log, tenant, 2, after))
    assert [kind for kind, _ in gaps_of(batches)] == [0]
    assert [item.place for item in items_of(batches) if item.entry][-1] == (18, 1, 2)


async def test_a_time_of_which_a_part_is_gone_is_told(log: EventLog, tenant: str) -> None:
    """Symptom: the rest of a transaction came as if it were all of it."""
    await record(log, tenant, [5] * 10, [5])
    await log.trim(StreamKey(tenant, "air"), Retention(max_count=4))
    batches = await read_all(merge(log, tenant, 2, Place.before_ms(5)))
    assert [(kind, gap.first_available) for kind, gap in gaps_of(batches)] == [(0, 7)]
    assert len([item for item in items_of(batches) if item.entry]) == 5


async def test_no_gap_is_told_where_all_that_is_asked_for_is_kept(
    log: EventLog, tenant: str
) -> None:
    await record(log, tenant, range(1, 21), [3, 18])
    await log.trim(StreamKey(tenant, "air"), Retention(max_count=10))
    for after in (Place(11, 0, 11), Place(15, 0, 15), Place.after_ms(11), Place.before_ms(15)):
        assert gaps_of(await read_all(merge(log, tenant, 2, after))) == []


async def test_the_place_of_a_gap_can_be_resumed_from(log: EventLog, tenant: str) -> None:
    """Symptom: the id of a frame after a gap had a negative sequence, and was refused."""
    await record(log, tenant, range(1, 9), [4, 12])
    merging = merge(log, tenant, 2, START, page_size=1)
    assert await merging.read() is not None
    await log.wipe(StreamKey(tenant, "air"))
    items = items_of(await read_all(merging))
    assert any(item.gap for item in items)
    for item in items:
        assert item.place.sequence >= 0
        resumed = items_of(await read_all(merge(log, tenant, 2, item.place)))
        assert [each.place for each in resumed if each.entry] == [
            each.place for each in items if each.entry and each.place > item.place
        ]


async def test_a_log_that_was_made_anew_is_a_gap_and_ends_there(
    connection: Connection, log: EventLog, tenant: str
) -> None:
    await record(log, tenant, range(1, 9), [4, 12])
    merging = merge(log, tenant, 2, START, page_size=2)
    first = await merging.read()
    assert first is not None
    stream = f"ph:{{{tenant}/air}}"
    await connection.execute("DEL", f"{stream}:log", f"{stream}:meta")
    await record(log, tenant, range(1, 9))
    batches = [first, *await read_all(merging)]
    assert [gap.reason for _, gap in gaps_of(batches)] == [GapReason.RESET]
    assert [item.place for item in items_of(batches) if item.entry][-1] == (12, 1, 2)


# -- faults


async def test_reading_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    """Symptom: one of several reads failed, and closing those still under way failed too."""
    own_valkey = Valkey(tmp_path / "valkey")
    own_valkey.start()
    connection = Connection(own_valkey.url)
    tenant = str(uuid4())
    try:
        await connection.open()
        log = EventLog(connection, idempotency_window_ms=1000)
        places = await record(log, tenant, range(1, 21), range(1, 21), range(5, 25))
        merging = merge(log, tenant, 3, START, page_size=2)
        found: list[Batch] = []
        for _ in range(3):
            batch = await read_on(merging)
            assert batch is not None
            found.append(batch)
            own_valkey.kill()
            found += await read_until_lost(merging)
            await asyncio.to_thread(own_valkey.start)
        while (batch := await read_on(merging)) is not None:
            found.append(batch)
        await merging.close()
        assert [item.place for item in items_of(found)] == places
    finally:
        await connection.close()
        own_valkey.stop()


async def test_a_merge_may_be_left_at_any_moment(log: EventLog, tenant: str) -> None:
    await record(log, tenant, range(1, 21), range(1, 21))
    for step in range(30):
        merging = merge(log, tenant, 2, START, page_size=2)
        reading = asyncio.ensure_future(read_all(merging))
        for _ in range(step):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await merging.close()
