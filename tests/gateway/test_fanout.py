"""The sweep, and what happens to those who come and go while it gives way to others."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from gateway.fanout import SENDS_BEFORE_YIELD, Channel, Fanout
from gateway.ring import Ring
from store.connection import Connection
from store.event import ORIGIN, Entry, Gap, Position, StreamKey
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


@dataclass(eq=False)
class Recorder:
    """A subscriber that takes all bytes."""

    pushed: list[bytes] = field(default_factory=list)
    resets: int = 0

    def push(self, body: bytes, events: int) -> bool:
        self.pushed.append(body)
        return True

    def on_gap(self, gap: Gap, before: Position) -> None:
        raise AssertionError(gap)

    def on_reset(self) -> None:
        self.resets += 1


FIRST, SECOND = Everything("first"), Everything("second")
BEFORE, AFTER = Position(1, 1), Position(2, 2)
ENTRIES: list[Entry] = [(b"2-2", (b"topic", b"{}"))]


@pytest.fixture
def channel() -> Channel:
    """Two groups; the first is so large that a sweep gives way before it comes to the second."""
    made = Channel(BEFORE, EPOCH, Ring(BEFORE, 100, 1000))
    for _ in range(SENDS_BEFORE_YIELD):
        assert made.join(Recorder(), FIRST, 1)
    return made


async def begin_sweep(channel: Channel) -> asyncio.Task[None]:
    """A sweep that has served the first group and gives way."""
    sweep = asyncio.create_task(channel.on_entries(ENTRIES, AFTER, EPOCH))
    await asyncio.sleep(0)
    assert not sweep.done()
    return sweep


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
    assert channel.place_of(member) == BEFORE
    await sweep
    assert channel.place_of(member) == AFTER


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
    fanout = Fanout(tail, ring_events=10, ring_bytes=1000)
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
