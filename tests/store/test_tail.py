"""Live reading: every entry after a position once, in order; what was lost or replaced is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from store import tail as tail_module
from store.connection import Connection, log_key
from store.event import (
    ORIGIN,
    Appended,
    Draft,
    Entry,
    Envelope,
    Gap,
    GapReason,
    Position,
    Retention,
    StreamKey,
)
from store.log import EventLog
from store.tail import SHARDS, Tail
from tests.servers import Valkey, running

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
DRAFT = Draft(b"topic", b'{"id":"')


class Deaf:
    """A listener that nothing comes to."""

    async def on_entries(self, entries: Sequence[Entry], position: Position, epoch: bytes) -> None:
        raise AssertionError("nothing was published")

    def on_gap(self, gap: Gap, before: Position) -> None:
        raise AssertionError("nothing was trimmed")

    def on_reset(self) -> None:
        raise AssertionError("nothing was replaced")


@dataclass
class Recorder:
    """Keeps what it is told, in order: sequences, gaps, and "reset". May be busy for a while."""

    told: list[object] = field(default_factory=list)
    places: list[Position] = field(default_factory=list)
    epochs: set[bytes] = field(default_factory=set)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.free.set()

    async def on_entries(self, entries: Sequence[Entry], position: Position, epoch: bytes) -> None:
        self.told += [Position.parse(entry_id).sequence for entry_id, _ in entries]
        self.epochs.add(epoch)
        assert position == Position.parse(entries[-1][0])
        self.called.set()
        await self.free.wait()

    def on_gap(self, gap: Gap, before: Position) -> None:
        self.told.append(gap)
        self.places.append(before)

    def on_reset(self) -> None:
        self.told.append("reset")
        self.called.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.called.clear()
                await self.called.wait()


@pytest.fixture(autouse=True)
def _blocks_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is missed is not made up for by the end of the blocking read."""
    monkeypatch.setattr(tail_module, "BLOCK_MS", 60_000)


@pytest.fixture
async def tail(connection: Connection, log: EventLog) -> AsyncIterator[Tail]:
    failures: list[BaseException] = []
    opened = Tail(connection, log, on_failure=failures.append)
    yield opened
    await opened.close()
    assert failures == []


@pytest.fixture
def stream(tenant: str) -> StreamKey:
    return StreamKey(tenant, "kind")


async def append(log: EventLog, stream: StreamKey, number: int = 1) -> Appended:
    """Append so many events; the last one."""
    outcomes = await log.append(stream, ENVELOPE, [DRAFT] * number)
    stored = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    assert len(stored) == number, outcomes
    return stored[-1]


async def cut(connection: Connection) -> None:
    """Close the connections of all readers, and only theirs."""
    clients: bytes = await connection.execute("CLIENT", "LIST")
    for line in clients.splitlines():
        fields = dict(part.partition(b"=")[::2] for part in line.split())
        if fields[b"cmd"] == b"xread":
            await connection.execute("CLIENT", "KILL", "ID", int(fields[b"id"]))


def beside(connection: Connection, stream: StreamKey) -> StreamKey:
    """Another stream that the same reader reads."""
    group = connection.reader_group(stream, SHARDS)
    others = (StreamKey(stream.tenant, f"other-{number}") for number in count())
    return next(each for each in others if connection.reader_group(each, SHARDS) == group)


async def keep_reading(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    """Let the reader of this stream be at work already, for another stream."""
    other, recorder = beside(connection, stream), Recorder()
    await tail.follow(other, ORIGIN, b"", recorder)
    await append(log, other)
    await recorder.until(lambda: recorder.told)


# -- following


async def test_everything_after_the_position_comes_once_in_order(
    tail: Tail, log: EventLog, stream: StreamKey
) -> None:
    third = await append(log, stream, 3)
    await append(log, stream, 2)
    recorder = Recorder()
    await tail.follow(stream, third.position, third.epoch, recorder)
    for _ in range(5):
        await append(log, stream, 2)
    await recorder.until(lambda: len(recorder.told) >= 12)
    assert recorder.told == list(range(4, 16))
    assert recorder.epochs == {third.epoch}


async def test_streams_of_all_readers_come_to_their_own_listeners(
    tail: Tail, log: EventLog, connection: Connection, tenant: str
) -> None:
    streams: list[StreamKey] = []
    while len({connection.reader_group(stream, SHARDS) for stream in streams}) < SHARDS:
        streams.append(StreamKey(tenant, f"kind-{len(streams)}"))
    recorders = {stream: Recorder() for stream in streams}
    await asyncio.gather(
        *(tail.follow(stream, ORIGIN, b"", recorders[stream]) for stream in streams)
    )
    for number, stream in enumerate(streams):
        await append(log, stream, number + 1)
    for number, recorder in enumerate(recorders.values()):
        await recorder.until(lambda: len(recorder.told) > number)  # noqa: B023 - awaited at once
        assert recorder.told == list(range(1, number + 2))


async def test_a_stream_that_is_followed_while_its_reader_blocks_wakes_it(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    await tail.follow(stream, ORIGIN, b"", Deaf())
    other = beside(connection, stream)
    for number in range(20):
        recorder = Recorder()
        await tail.follow(other, ORIGIN, b"", recorder)
        await append(log, other)
        await recorder.until(lambda: len(recorder.told) > number)  # noqa: B023 - awaited at once
        tail.leave(other)


async def test_who_follows_again_from_further_back_is_not_kept_waiting(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    """The read under way still knew the stream, at the place of the one before: what lay between
    the two places came when that read ended."""
    await keep_reading(tail, log, connection, stream)
    last = await append(log, stream, 5)
    await tail.follow(stream, last.position, last.epoch, Deaf())
    tail.leave(stream)
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, last.epoch, recorder)
    await recorder.until(lambda: recorder.told)
    assert recorder.told == [1, 2, 3, 4, 5]


async def test_who_has_left_is_told_nothing(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    other = beside(connection, stream)
    busy = Recorder()
    await tail.follow(stream, ORIGIN, b"", Deaf())
    await tail.follow(other, ORIGIN, b"", busy)
    busy.free.clear()
    await append(log, other)
    await busy.until(lambda: busy.told)
    await append(log, stream)  # which the reader will find when it reads again
    tail.leave(stream)
    busy.free.set()
    await append(log, other)
    await busy.until(lambda: len(busy.told) == 2)


async def test_a_reader_ends_whenever_its_last_stream_is_left(
    connection: Connection, log: EventLog
) -> None:
    """Symptom: a watch closed just after it was opened, and the process did not end at SIGTERM.

    redis-py can swallow a cancellation, and the reader then waited for streams for ever.
    """
    deaths: list[BaseException] = []
    for step in range(1000):
        tail = Tail(connection, log, on_failure=deaths.append)
        stream = StreamKey(str(uuid4()), "kind")
        await tail.follow(stream, ORIGIN, b"", Deaf())
        for _ in range(step % 50):
            await asyncio.sleep(0)
        tail.leave(stream)
        async with asyncio.timeout(60):
            await tail.close()
    assert deaths == []


async def test_a_listener_that_fails_is_not_passed_over_in_silence(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    tail = Tail(connection, log, on_failure=failed.set_result)
    await tail.follow(stream, ORIGIN, b"", Deaf())
    await append(log, stream)
    async with asyncio.timeout(60):
        assert str(await failed) == "nothing was published"
    await tail.close()


async def test_the_lag_is_nothing_while_readers_wait(tail: Tail, stream: StreamKey) -> None:
    assert tail.lag_ms() == 0
    await tail.follow(stream, ORIGIN, b"", Deaf())
    assert tail.lag_ms() == 0


# -- what is lost


async def test_what_retention_took_before_it_was_read_is_told(
    tail: Tail, log: EventLog, stream: StreamKey
) -> None:
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    recorder.free.clear()
    await append(log, stream)
    await recorder.until(lambda: recorder.told)
    await append(log, stream, 5)
    await log.trim(stream, Retention(max_count=2))
    recorder.free.set()
    await recorder.until(lambda: len(recorder.told) == 4)
    assert recorder.told == [1, Gap(GapReason.EXPIRED, 2, 5), 5, 6]
    assert [place.sequence for place in recorder.places] == [4]


async def test_what_a_wipe_took_is_told_with_the_next_event(
    tail: Tail, log: EventLog, stream: StreamKey
) -> None:
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    recorder.free.clear()
    await append(log, stream)
    await recorder.until(lambda: recorder.told)
    await append(log, stream, 3)
    await log.wipe(stream)
    recorder.free.set()
    await append(log, stream)
    await recorder.until(lambda: len(recorder.told) == 3)
    assert recorder.told == [1, Gap(GapReason.EXPIRED, 2, 5), 5]


async def test_deleted_events_are_no_gap(tail: Tail, log: EventLog, stream: StreamKey) -> None:
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    recorder.free.clear()
    await append(log, stream)
    await recorder.until(lambda: recorder.told)
    await append(log, stream, 4)
    for sequence in (2, 3):
        await log.delete(stream, sequence)
    recorder.free.set()
    await recorder.until(lambda: len(recorder.told) == 3)
    assert recorder.told == [1, 4, 5]


# -- connections


async def test_a_lost_connection_is_opened_again_and_read_on_from(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    for _ in range(5):
        await append(log, stream)
        await cut(connection)
        await append(log, stream)
    await recorder.until(lambda: len(recorder.told) >= 10)
    assert recorder.told == list(range(1, 11))
    assert len(recorder.epochs) == 1


async def test_what_retention_took_while_the_server_could_not_be_reached_is_told(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    await append(log, stream)
    await recorder.until(lambda: recorder.told)
    recorder.free.clear()
    await append(log, stream)
    await recorder.until(lambda: len(recorder.told) == 2)
    await append(log, stream, 4)
    await log.trim(stream, Retention(max_count=1))
    await cut(connection)
    recorder.free.set()
    await recorder.until(lambda: len(recorder.told) == 4)
    assert recorder.told == [1, 2, Gap(GapReason.EXPIRED, 3, 6), 6]


async def test_a_server_that_is_killed_and_comes_back_is_read_on(tmp_path: Path) -> None:
    """Subscribers stayed connected and deaf after a restart of the server (nchan, and others)."""
    server = Valkey(tmp_path / "v")
    with running(server):
        connection = Connection(server.url)
        await connection.open()
        log = EventLog(connection, idempotency_window_ms=1000)
        failures: list[BaseException] = []
        tail = Tail(connection, log, on_failure=failures.append)
        stream, recorder = StreamKey("tenant", "kind"), Recorder()
        await tail.follow(stream, ORIGIN, b"", recorder)
        await append(log, stream, 2)
        await recorder.until(lambda: len(recorder.told) == 2)
        server.kill()
        await asyncio.to_thread(server.start)
        await append(log, stream, 2)
        await recorder.until(lambda: len(recorder.told) == 4)
        await tail.close()
        await connection.close()
    assert recorder.told == [1, 2, 3, 4]
    assert failures == []


# -- another log


async def test_a_log_that_comes_into_being_is_not_another_one(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    """Who watched for the first event of all was told of a reset when it came while the reader was
    (re)connecting."""
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    await cut(connection)
    first = await append(log, stream)
    await recorder.until(lambda: recorder.told)
    assert recorder.told == [1]
    assert recorder.epochs == {first.epoch}


async def destroy(connection: Connection, stream: StreamKey) -> None:
    await connection.execute("DEL", log_key(stream))


@pytest.mark.parametrize("events", [1, 3, 5])
async def test_a_log_that_was_destroyed_and_made_anew_is_told(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey, events: int
) -> None:
    """Whether the new numbers are behind the place of the old ones, at it, or past it."""
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    await append(log, stream, 2)
    await recorder.until(lambda: len(recorder.told) == 2)
    await destroy(connection, stream)
    await append(log, stream, events)
    await recorder.until(lambda: len(recorder.told) == 3)
    assert recorder.told == [1, 2, "reset"]


async def test_numbers_past_the_last_place_do_not_hide_that_the_log_is_another(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    """A recording loaded into the new log has times before the place of the old one, so that only
    its last events are found: they came as if the old log went on."""
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    await append(log, stream, 2)
    await recorder.until(lambda: len(recorder.told) == 2)
    await destroy(connection, stream)
    past = [Draft(DRAFT.topic, DRAFT.head, time_ms) for time_ms in range(1000, 1010)]
    assert all(isinstance(each, Appended) for each in await log.append(stream, ENVELOPE, past))
    await append(log, stream)
    await recorder.until(lambda: len(recorder.told) == 3)
    assert recorder.told == [1, 2, "reset"]


async def test_a_log_that_is_replaced_before_anything_of_it_was_read_is_told(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    """Its first event has the number that is expected: it came under the epoch of the log before."""
    await keep_reading(tail, log, connection, stream)
    first = await append(log, stream)
    await log.delete(stream, 1)
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, first.epoch, recorder)
    await destroy(connection, stream)
    await append(log, stream)
    await recorder.until(lambda: recorder.told)
    assert recorder.told == ["reset"]


async def test_a_reader_that_comes_back_to_another_log_is_told(
    tail: Tail, log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    recorder = Recorder()
    await tail.follow(stream, ORIGIN, b"", recorder)
    await append(log, stream, 3)
    await recorder.until(lambda: recorder.told)
    await destroy(connection, stream)
    await cut(connection)
    await recorder.until(lambda: recorder.told[-1] == "reset")
    assert recorder.told == [1, 2, 3, "reset"]


async def test_a_failover_that_lost_events_is_told_once_to_each_reader(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    """Each gateway that came back made another epoch, and reset the readers of those before it."""
    failures: list[BaseException] = []
    tails = [Tail(connection, log, on_failure=failures.append) for _ in range(3)]
    recorders = [Recorder() for _ in tails]
    stored = [await append(log, stream) for _ in range(3)]
    for tail, recorder in zip(tails, recorders, strict=True):
        await tail.follow(stream, ORIGIN, stored[0].epoch, recorder)
        await recorder.until(lambda: len(recorder.told) == 3)  # noqa: B023 - awaited at once
    # As a replica that lacked the last two events would have the log.
    await connection.execute("DEL", log_key(stream))
    entry = stored[0].position.entry_id
    await connection.execute("XADD", log_key(stream), entry, DRAFT.topic, b'{"id":"1"}')
    await cut(connection)
    for recorder in recorders:
        await recorder.until(lambda: recorder.told[-1] == "reset")  # noqa: B023 - awaited at once
    head = await log.head(stream)
    assert head.epoch != stored[0].epoch
    anew = Recorder()
    await tails[0].follow(stream, head.last, head.epoch, anew)
    await cut(connection)
    await append(log, stream)
    await anew.until(lambda: anew.told)
    assert anew.told == [2]
    for tail in tails:
        await tail.close()
    assert failures == []
