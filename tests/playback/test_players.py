"""A gateway's players: one a session, gone with its last watcher, told and replaced when one dies."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias
from uuid import uuid4

import pytest
import structlog

from gateway.playback.cursor import SessionCursor
from store.connection import Connection, log_key
from store.event import StreamKey
from store.log import EventLog
from store.session import Session, feed
from tests.conftest import RunningGateway
from tests.event_stream import Parser
from tests.faults.wire import eventually
from tests.playback.conftest import House
from tests.playback.stage import KINDS, Recording, Stage, at, evenly

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Nobody:
    """A watcher that is sent nothing, because nothing is played."""

    def push(self, body: bytes, events: int) -> bool:
        raise AssertionError("nothing is sent to it")

    def on_types(self, event_types: Sequence[str]) -> None:
        """It may read all there are."""

    def on_ended(self) -> None:
        raise AssertionError("it left before")

    def on_sought(self) -> None:
        raise AssertionError("nobody sought")


class Member:
    """A watcher that always takes what it is sent."""

    def __init__(self) -> None:
        self.body = b""

    def push(self, body: bytes, events: int) -> bool:
        self.body += body
        return True

    async def has(self, text: bytes, count: int = 1) -> None:
        await eventually(lambda: self.body.count(text) >= count, f"{text!r}, {count} times")

    def on_types(self, event_types: Sequence[str]) -> None:
        """It may read all there are."""

    def on_ended(self) -> None:
        raise AssertionError("it left before")

    def on_sought(self) -> None:
        raise AssertionError("nobody sought")


class Lingering:
    """A watcher that does not leave, like one that has stopped reading."""

    def push(self, body: bytes, events: int) -> bool:
        raise AssertionError("it has not caught up")

    def on_types(self, event_types: Sequence[str]) -> None:
        """It may read all there are."""

    def on_ended(self) -> None:
        """It finds out when it reads again."""

    def on_sought(self) -> None:
        raise AssertionError("nobody sought")


async def session_of(stage: Stage) -> Session:
    session = await stage.first.gateway.sessions.get(stage.tenant)
    assert session is not None
    return session


# -- one a session, for as long as it is watched


async def test_watchers_share_a_player_that_goes_with_the_last_of_them(stage: Stage) -> None:
    await stage.begin(Recording(evenly(500, 10)))
    await stage.start()
    session = await session_of(stage)
    players = stage.first.gateway.players
    found = []
    for _ in range(5):
        viewers = [await stage.watch(once=True) for _ in range(4)]
        looking = Nobody()
        player = await players.attach(session, looking)
        assert player is not None
        assert len(player.users) == 5
        players.detach(player, looking)
        for viewer in viewers:
            viewer.stop()
        await eventually(lambda: player.done, "the player has gone")  # noqa: B023 - awaited
        found.append(player)
    assert len(set(found)) == 5


async def test_a_stream_of_a_session_that_is_over_does_not_end_the_one_that_runs(
    stage: Stage,
) -> None:
    """Symptom: a request that had looked the session up before it ended took the next one's player."""
    recording = Recording(evenly(100, 10))
    await stage.begin(recording)
    old = await session_of(stage)
    await stage.end()
    stage.session = (await stage.controls.begin(at(0), at(1000)))["id"]
    viewer = await stage.watch()
    assert await stage.first.gateway.players.attach(old, Nobody()) is None
    await stage.play_to_end()
    assert viewer.events == recording.events
    assert viewer.connections == 1


async def test_a_time_that_is_being_sent_is_sent_to_its_end_before_a_seek_is_told(
    stage: Stage,
) -> None:
    """More events share it than are read at once: they may be one transaction."""
    large = [10] * 400
    recording = Recording([0, *large], large)
    await stage.begin(recording)
    for number in range(1, 6):
        session = await session_of(stage)
        run = session.clock.run
        member = Member()
        player = await stage.first.gateway.players.attach(session, member)
        assert player is not None
        assert player.join(member, SessionCursor(run, player.place), session.clock.revision)
        await stage.start(1000)
        # The seek comes a little later from round to round.
        await member.has(b"event: replay", 40 * number)
        await stage.seek(0)
        await member.has(b"id: %d-" % (run + 1))
        stage.first.gateway.players.detach(player, member)
        frames = [frame for frame in Parser().feed(member.body) if frame.event == "replay"]
        ended = [frame for frame in frames if str(frame.id).startswith(f"{run}-")]
        assert len(ended) == len(recording.events)
        await stage.stop()
        await stage.seek(0)


async def test_a_player_ends_whatever_it_is_at_when_its_last_watcher_leaves(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptom: its keeping of the session went on for ever, and the next watcher waited for it.

    On Python 3.11 redis-py forgets a cancellation that comes while it sends.
    """
    await stage.begin(Recording([]))
    gateway = stage.first.gateway
    monkeypatch.setattr(gateway.sessions, "touch_sec", 0.0)
    session = await session_of(stage)
    for steps in range(48):
        watcher = Nobody()
        async with asyncio.timeout(60):
            player = await gateway.players.attach(session, watcher)
        assert player is not None
        for _ in range(steps):
            await asyncio.sleep(0)
        gateway.players.detach(player, watcher)
        await eventually(lambda: player.done, "it has ended", poll_sec=0)  # noqa: B023 - awaited


# -- one that dies

# Breaks what the player of a session lives on, and mends it at the end.
Fault: TypeAlias = Callable[[Connection, str], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def replaced(backend: Connection, key: str) -> AsyncIterator[None]:
    """Something of another kind stands at the key."""
    dumped = await backend.execute("DUMP", key)
    await backend.execute("SET", key, "something else")
    try:
        yield
    finally:
        await backend.execute("RESTORE", key, 0, dumped, "REPLACE")


def events_cannot_be_read(backend: Connection, tenant: str) -> AbstractAsyncContextManager[None]:
    """The task that reads ahead dies."""
    return replaced(backend, log_key(StreamKey(tenant, KINDS[0])))


def record_cannot_be_read(backend: Connection, tenant: str) -> AbstractAsyncContextManager[None]:
    """The task that keeps the session dies."""
    return replaced(backend, f"ph:{{{tenant}}}:session")


async def tell(backend: Connection, tenant: str, change: Callable[[bytes], bytes]) -> None:
    """Write into the session's feed what it told last, changed."""
    stream = feed(tenant)
    last = (await EventLog(backend, idempotency_window_ms=1000).head(stream)).last
    [[_, [name, text]]] = await backend.execute(
        "XRANGE", log_key(stream), last.entry_id, last.entry_id
    )
    entry_id = f"{last.ms}-{last.sequence + 1}"
    await backend.execute("XADD", log_key(stream), entry_id, name, change(text))


@asynccontextmanager
async def feed_tells_no_session(backend: Connection, tenant: str) -> AsyncIterator[None]:
    """The entry cannot be parsed."""
    await tell(backend, tenant, lambda text: text[:40])
    yield


@asynccontextmanager
async def feed_tells_no_text(backend: Connection, tenant: str) -> AsyncIterator[None]:
    """It dies on the way to its watchers: what they are to be told is not UTF-8."""

    def spoil(text: bytes) -> bytes:
        later = re.sub(rb'"revision":(\d+)', rb'"revision":9\1', text)
        return later.replace(b'"error":null', b'"error":"\xff"')

    await tell(backend, tenant, spoil)
    yield


async def failures(gateway: RunningGateway) -> float:
    text = (await gateway.client.get("/metrics")).text
    found = re.findall(
        r'^playhead_background_failures_total\{task="player"\} (\S+)$', text, re.MULTILINE
    )
    return float(found[0]) if found else 0.0


@pytest.mark.parametrize(
    "fault",
    [events_cannot_be_read, record_cannot_be_read, feed_tells_no_session, feed_tells_no_text],
)
async def test_a_player_that_dies_is_told_logged_counted_and_replaced(
    stage: Stage,
    theatre: House,
    backend: Connection,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    """Symptoms: it had died unseen and its streams hung open; it took the whole process with it."""
    gateways = (stage.first, stage.second)
    for gateway in gateways:
        monkeypatch.setattr(gateway.gateway.sessions, "touch_sec", 0.05)
    recording = Recording(evenly(400, 10))
    await stage.begin(recording)
    viewers = [await stage.watch(gateway) for gateway in gateways * 2]
    lingering = Lingering()
    player = await stage.first.gateway.players.attach(await session_of(stage), lingering)
    assert player is not None
    async with bystanders(theatre) as beside:
        await stage.start(4)
        for viewer in viewers:
            await viewer.plays(10)
        before = [await failures(gateway) for gateway in gateways]
        with structlog.testing.capture_logs() as lines:
            async with fault(backend, stage.tenant):
                for viewer in viewers:
                    await viewer.sees(lambda v: v.closings, "it was closed")
                    assert viewer.errors[0]["error"] == "stream_processing_failed"
                    assert viewer.errors[0]["request_id"]
                    assert viewer.closings[0] == "end_of_stream"
        logged = [line for line in lines if line["event"] == "player_failed"]
        assert {line["session"] for line in logged} == {stage.session}
        assert all(line["exc_info"] for line in logged)
        for gateway, count in zip(gateways, before, strict=True):
            assert await failures(gateway) > count
            assert not gateway.gateway.failed.is_set()
        viewers.append(await stage.watch(last_id=viewers[0].seen[0].frame.id))
        await stage.play_to_end()
        for viewer in viewers:
            # One that came back is told that it rests there before it is sent what is owed.
            await viewer.plays(400, of=recording)
            assert viewer.events == recording.events, "a new player goes on where each one was"
        assert all(viewer.connections > 1 for viewer in viewers[:-1])
        await beside()
        stage.first.gateway.players.detach(player, lingering)


@asynccontextmanager
async def bystanders(theatre: House) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Who watches another tenant's session; the check that they were not concerned."""
    stage = Stage(theatre.first, theatre.second, str(uuid4()))
    recording = Recording(evenly(200, 10))
    try:
        await stage.begin(recording)
        viewers = [await stage.watch(each) for each in (theatre.first, theatre.second)]

        async def check() -> None:
            await stage.play_to_end()
            for viewer in viewers:
                assert viewer.events == recording.events
                assert viewer.connections == 1
                assert viewer.errors == []

        yield check
    finally:
        await stage.close()
