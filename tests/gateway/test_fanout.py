"""The sweep, and what happens to those who come and go while it gives way to others."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from gateway import sse
from gateway.fanout import SENDS_BEFORE_YIELD, Channel, Fanout
from gateway.ring import Ring
from store.connection import Connection
from store.event import ORIGIN, Entry, Gap, GapReason, Position, StreamKey
from store.log import EventLog
from store.tail import SHARDS, Tail
from tests.servers import Valkey

EPOCH = b"e1"


@dataclass(frozen=True)
class Everything:
    """A filter that lets all pass; two of different keys make two groups."""

    key: str
    everything: bool = True

    def matches(self, topic: bytes, event: bytes) -> bool:
        return True


@dataclass(frozen=True)
class Broken:
    """A filter with a defect."""

    key: str = "broken"
    everything: bool = False

    def matches(self, topic: bytes, event: bytes) -> bool:
        raise ZeroDivisionError


@dataclass(eq=False)
class Recorder:
    """A subscriber that takes all bytes."""

    pushed: list[bytes] = field(default_factory=list)
    resets: int = 0

    def push(self, body: bytes, events: int) -> bool:
        self.pushed.append(body)
        return True

    def on_gap(self, gap: Gap, before: Position) -> None:
        self.pushed.append(b"gap:%d" % gap.expected)

    def on_reset(self) -> None:
        self.resets += 1


def fail(error: BaseException) -> None:
    raise error


FIRST, SECOND = Everything("first"), Everything("second")
BEFORE, AFTER = Position(1, 1), Position(2, 2)
ENTRIES: list[Entry] = [(b"2-2", (b"topic", b"{}"))]


@pytest.fixture
def channel() -> Channel:
    """Two groups; the first is so large that a sweep gives way before it comes to the second."""
    made = Channel(BEFORE, EPOCH, Ring(BEFORE, 100, 1000), on_failure=fail)
    for _ in range(SENDS_BEFORE_YIELD):
        assert made.join(Recorder(), FIRST, 1)
    return made


async def begin_sweep(channel: Channel) -> asyncio.Task[None]:
    """A sweep that has served the first group and gives way."""
    await channel.on_entries(ENTRIES, AFTER, EPOCH)
    assert channel._sweeping is not None
    return channel._sweeping


async def test_who_joins_while_a_sweep_gives_way_is_not_sent_what_it_has(channel: Channel) -> None:
    """A watcher that had caught up by the ring got the events of the sweep under way once more."""
    member, newcomer = Recorder(), Recorder()
    channel.join(member, SECOND, 1)
    sweep = await begin_sweep(channel)
    assert channel.join(newcomer, SECOND, 2)
    await sweep
    assert len(member.pushed) == 1
    assert newcomer.pushed == []


async def test_a_member_that_the_sweep_has_not_come_to_stands_where_it_stood(
    channel: Channel,
) -> None:
    """A heartbeat in between told, and the member went on from, a position behind the events that
    it was still to be sent: one that blocked there, or resumed from there, never got them."""
    member = Recorder()
    channel.join(member, SECOND, 1)
    sweep = await begin_sweep(channel)
    assert channel.place_of(member, SECOND) == BEFORE
    await sweep
    assert channel.place_of(member, SECOND) == AFTER


async def test_who_parts_and_joins_again_during_a_sweep_is_not_sent_its_events_twice(
    channel: Channel,
) -> None:
    member = Recorder()
    channel.join(member, SECOND, 1)
    sweep = await begin_sweep(channel)
    channel.part(member, SECOND)
    assert channel.join(member, SECOND, 2)
    await sweep
    assert member.pushed == []


async def test_a_sweep_ends_when_its_log_is_found_to_be_another(channel: Channel) -> None:
    """Members that had gone to find the new log were still written to, between their own frames."""
    member = Recorder()
    channel.join(member, SECOND, 1)
    channel.users[member] = None
    sweep = await begin_sweep(channel)
    channel.on_reset()
    await sweep
    assert (member.resets, member.pushed) == (1, [])


LATER, LAST = [(b"3-3", (b"topic", b"{}"))], Position(3, 3)


async def test_what_comes_during_a_sweep_is_sent_to_those_whose_turn_is_next(
    channel: Channel,
) -> None:
    """Under load, what came just after a sweep had begun waited for all of it and then for its own
    turn in the next: for two rounds."""
    member = Recorder()
    channel.join(member, SECOND, 1)
    first = next(iter(channel._groups[FIRST.key][1]))
    assert isinstance(first, Recorder)
    sweep = await begin_sweep(channel)
    await channel.on_entries(LATER, LAST, EPOCH)
    await sweep
    assert [body.count(b"\n\n") for body in member.pushed] == [2]
    assert [body.count(b"\n\n") for body in first.pushed] == [1, 1]
    assert channel._pending == []


async def test_a_gap_that_is_found_during_a_sweep_is_told_after_what_came_before_it(
    channel: Channel,
) -> None:
    member = Recorder()
    channel.join(member, SECOND, 1)
    sweep = await begin_sweep(channel)
    assert member.pushed == []
    channel.on_gap(Gap(GapReason.EXPIRED, 3, 8), Position(9, 7))
    await sweep
    assert [body.partition(b":")[0] for body in member.pushed] == [b"event", b"gap"]


async def test_more_is_read_only_when_what_is_pending_is_not_much(channel: Channel) -> None:
    """Pending events that nobody limits would be as much memory as there is load."""
    member = Recorder()
    channel.join(member, SECOND, 1)
    large = b'"%b"' % (b"x" * (300 << 10))
    await channel.on_entries([(b"2-2", (b"topic", large))], AFTER, EPOCH)
    assert len(member.pushed) == 1


async def test_a_sweep_that_fails_is_told() -> None:
    """Its members would wait for ever for what it owed them."""
    failures: list[BaseException] = []
    channel = Channel(BEFORE, EPOCH, Ring(BEFORE, 100, 1000), on_failure=failures.append)
    for _ in range(SENDS_BEFORE_YIELD):
        channel.join(Recorder(), FIRST, 1)
    channel.join(Recorder(), Broken(), 1)
    await asyncio.wait([await begin_sweep(channel)])
    await asyncio.sleep(0)
    assert [type(failure) for failure in failures] == [ZeroDivisionError]


@pytest.mark.parametrize("seed", range(20))
async def test_each_member_is_sent_each_event_once_and_in_order(seed: int) -> None:
    """Whatever comes, and whoever leaves and returns, while a sweep gives way."""
    pick = random.Random(seed)
    channel = made()
    filters = [Everything(str(number)) for number in range(3)]
    crowd = [Recorder() for _ in range(3 * SENDS_BEFORE_YIELD)]
    matches = {member: filters[number % 3] for number, member in enumerate(crowd)}
    out: dict[Recorder, int] = {}
    sequence = 1
    for member in crowd:
        channel.join(member, matches[member], sequence)
    for _ in range(100):
        step = pick.random()
        if step < 0.3:
            sequence += 1
            entry_id = b"%d-%d" % (sequence, sequence)
            position = Position.parse(entry_id)
            await channel.on_entries([(entry_id, (b"topic", b"{}"))], position, EPOCH)
        elif step < 0.6:
            member = pick.choice(crowd)
            if member not in out:
                out[member] = channel.place_of(member, matches[member]).sequence
                channel.part(member, matches[member])
        elif out and step < 0.9:
            member = pick.choice(list(out))
            member.pushed += (frame(number) for number in range(out.pop(member) + 1, sequence + 1))
            assert channel.join(member, matches[member], sequence)
        else:
            await asyncio.sleep(0)
    if channel._sweeping is not None:
        await channel._sweeping
    for member in crowd:
        sent = b"".join(member.pushed)
        assert sent == b"".join(map(frame, range(2, out.get(member, sequence) + 1)))


def frame(sequence: int) -> bytes:
    return sse.event_frame(sse.LIVE, b"0-%d" % sequence, EPOCH, b"{}")


# -- groups


@dataclass(frozen=True)
class Topic:
    """A filter on the topic, which counts how often it is asked."""

    topic: bytes
    asked: list[bytes] = field(default_factory=list)
    everything: bool = False

    @property
    def key(self) -> str:
        return self.topic.decode()

    def matches(self, topic: bytes, event: bytes) -> bool:
        self.asked.append(topic)
        return topic == self.topic


@dataclass(eq=False)
class Blocking(Recorder):
    """A subscriber that cannot take the next bytes, and then leaves for its own task."""

    channel: Channel | None = None
    gaps: list[tuple[Gap, Position]] = field(default_factory=list)

    def push(self, body: bytes, events: int) -> bool:
        self.pushed.append(body)
        assert self.channel is not None
        self.channel.part(self, FIRST)
        return False

    def on_gap(self, gap: Gap, before: Position) -> None:
        self.gaps.append((gap, before))


def made(epoch: bytes = EPOCH) -> Channel:
    return Channel(BEFORE, epoch, Ring(BEFORE, 100, 1000), on_failure=fail)


MIXED: list[Entry] = [
    (b"2-%d" % number, (b"odd" if number % 2 else b"even", b"{}")) for number in range(2, 6)
]


async def test_members_of_a_group_are_handed_the_same_bytes_and_their_filter_is_asked_once() -> (
    None
):
    channel = made()
    odd, same, even = Topic(b"odd"), Topic(b"odd"), Topic(b"even")
    members = [Recorder() for _ in range(3)]
    everybody, others = Recorder(), Recorder()
    for member, match in zip(members, (odd, same, odd), strict=True):
        assert channel.join(member, match, 1)
    channel.join(everybody, FIRST, 1)
    channel.join(others, even, 1)
    await channel.on_entries(MIXED, Position(2, 5), EPOCH)
    [body] = members[0].pushed
    assert all(member.pushed[0] is body for member in members)
    assert len(odd.asked) == len(MIXED)
    assert same.asked == []
    assert body.count(b"\n\n") == 2
    assert everybody.pushed[0].count(b"\n\n") == 4
    assert others.pushed != members[0].pushed


async def test_who_wants_nothing_of_it_is_sent_nothing_and_has_all(channel: Channel) -> None:
    quiet, nothing = Recorder(), Topic(b"none")
    channel.join(quiet, nothing, 1)
    await (await begin_sweep(channel))
    assert quiet.pushed == []
    assert channel.place_of(quiet, nothing) == AFTER


async def test_a_member_that_blocks_is_out_until_it_joins_again() -> None:
    channel = made()
    member = Blocking(channel=channel)
    channel.join(member, FIRST, 1)
    await channel.on_entries(ENTRIES, AFTER, EPOCH)
    await channel.on_entries([(b"3-3", (b"topic", b"{}"))], Position(3, 3), EPOCH)
    assert len(member.pushed) == 1
    assert not channel.join(member, FIRST, 2)
    assert channel.join(member, FIRST, 3)


async def test_only_who_has_caught_up_may_join() -> None:
    channel = made()
    assert not channel.join(Recorder(), FIRST, 0)
    assert not channel.join(Recorder(), FIRST, 2)
    channel.closed = True
    assert not channel.join(Recorder(), FIRST, 1)


async def test_a_gap_is_told_to_members_and_sends_the_others_to_the_log() -> None:
    """A ring that began further back than its channel's first event, by the clock, served those who
    stood before the gap as if there were none."""
    channel = made()
    member = Blocking(channel=channel)
    channel.join(member, FIRST, 1)
    gap, before = Gap(GapReason.EXPIRED, 2, 8), Position(9, 7)
    channel.on_gap(gap, before)
    assert member.gaps == [(gap, before)]
    await channel.on_entries([(b"9-8", (b"topic", b"{}"))], Position(9, 8), EPOCH)
    for behind in (Position(1, 1), Position(8, 3), Position(9, 6)):
        assert channel.ring.after(behind, None, 1000) is None
    found = channel.ring.after(before, None, 1000)
    assert found is not None
    assert len(found[0]) == 1


async def test_who_is_ahead_of_the_channel_waits_for_it(channel: Channel) -> None:
    await asyncio.wait_for(channel.reached(1), 1)
    waiting = [asyncio.create_task(channel.reached(sequence)) for sequence in (2, 3)]
    given_up = asyncio.create_task(channel.reached(3))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    await channel.on_entries(ENTRIES, AFTER, EPOCH)
    await waiting[0]
    await asyncio.sleep(0)
    assert not waiting[1].done()
    channel.on_reset()
    await waiting[1]
    assert channel._waiting == {}


@pytest.fixture
async def tail(connection: Connection, log: EventLog) -> AsyncIterator[Tail]:
    failures: list[BaseException] = []
    opened = Tail(connection, log, on_failure=failures.append)
    yield opened
    await opened.close()
    assert failures == []


async def readers(connection: Connection) -> int:
    """Clients of the server that wait for new entries."""
    clients: bytes = await connection.execute("CLIENT", "LIST")
    return clients.count(b"cmd=xread")


async def test_a_client_that_leaves_while_its_channel_is_made_leaves_nothing_behind(
    connection: Connection, tail: Tail, valkey: Valkey, tenant: str
) -> None:
    """The channel stayed for ever, and so did the reader of its stream."""
    fanout = Fanout(tail, ring_events=10, ring_bytes=1000, on_failure=fail)
    first = StreamKey(tenant, "first")
    group = connection.reader_group(first, SHARDS)
    second = next(
        stream
        for stream in (StreamKey(tenant, f"second-{number}") for number in count())
        if connection.reader_group(stream, SHARDS) == group
    )
    staying, leaving = Recorder(), Recorder()
    channel = await fanout.attach(first, staying, ORIGIN, b"")
    while not await readers(connection):
        pass
    valkey.pause()
    try:
        attaching = asyncio.create_task(fanout.attach(second, leaving, ORIGIN, b""))
        for _ in range(20):  # until it waits for the server to wake the reader
            await asyncio.sleep(0)
        attaching.cancel()
        await asyncio.wait([attaching])
    finally:
        valkey.resume()
    assert attaching.cancelled()
    fanout.detach(first, staying, channel)
    while await readers(connection):
        pass


async def test_watchers_of_one_stream_share_its_channel_and_the_last_one_closes_it(
    connection: Connection, tail: Tail, tenant: str
) -> None:
    fanout = Fanout(tail, ring_events=10, ring_bytes=1000, on_failure=fail)
    stream, first, second = StreamKey(tenant, "kind"), Recorder(), Recorder()
    channel = await fanout.attach(stream, first, ORIGIN, b"")
    assert await fanout.attach(stream, second, ORIGIN, b"") is channel
    fanout.detach(stream, first, channel)
    assert not channel.closed
    fanout.detach(stream, second, channel)
    assert channel.closed
    again = await fanout.attach(stream, first, ORIGIN, b"")
    assert again is not channel
    fanout.detach(stream, second, channel)  # of the old one, which is nobody's business any more
    assert not again.closed
    fanout.detach(stream, first, again)


async def test_a_channel_that_was_retired_is_replaced_and_its_watchers_are_told_once(
    tail: Tail, tenant: str
) -> None:
    fanout = Fanout(tail, ring_events=10, ring_bytes=1000, on_failure=fail)
    stream, old, new = StreamKey(tenant, "kind"), Recorder(), Recorder()
    channel = await fanout.attach(stream, old, ORIGIN, b"")
    fanout.retire(stream, channel)
    fanout.retire(stream, channel)
    assert (old.resets, channel.closed) == (1, True)
    other = await fanout.attach(stream, new, ORIGIN, b"")
    fanout.detach(stream, old, channel)
    assert (new.resets, other.closed) == (0, False)
    fanout.detach(stream, new, other)
