"""Events of one time that are read in parts: what watchers do while the rest of them is not known."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from gateway.playback import player
from gateway.playback.ahead import ReadAhead
from gateway.playback.session_stream import SessionStream
from store.event import Page, Position
from store.log import EventLog
from store.session import Session
from tests.event_stream import Parser
from tests.faults.wire import eventually
from tests.playback.stage import RING, Recording, Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Sluice:
    """Lets pages of a log through up to a sequence; those behind it wait."""

    def __init__(self, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self._range: Callable[..., AsyncGenerator[Page, None]] = log.range
        self._opened = asyncio.Event()
        self._last = 0
        monkeypatch.setattr(log, "range", self.range)

    def open(self, last: int) -> None:
        self._last = last
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()

    async def range(self, *args: Any, **more: Any) -> AsyncGenerator[Page, None]:
        pages = self._range(*args, **more)
        try:
            async for page in pages:
                while Position.parse(page.entries[-1][0]).sequence > self._last:
                    await self._opened.wait()
                yield page
        finally:
            await pages.aclose()


class Client:
    """The server's side of one stream, whose client takes nothing while `takes` is not set."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.takes.set()
        self.body = b""
        self.written_bytes = 0
        self._on_left: Callable[[], None] = lambda: None

    def borrow(self, on_left: Callable[[], None]) -> bool:
        self._on_left = on_left
        return True

    def write(self, body: bytes) -> bool:
        if self.takes.is_set():
            self.body += body
            self.written_bytes += len(body)
        return self.takes.is_set()

    async def writable(self) -> None:
        await self.takes.wait()

    def give_back(self) -> None:
        """Nothing comes after the stream."""

    def unsent(self) -> int:
        return 0

    def abort(self) -> None:
        self._on_left()

    def count(self, name: str) -> int:
        return self.body.count(b"event: %b\n" % name.encode())

    @asynccontextmanager
    async def watch(self, stage: Stage, session: Session) -> AsyncIterator[None]:
        gateway = stage.first.gateway
        stream = SessionStream(
            session,
            cursor=None,
            players=gateway.players,
            may_read=lambda _: True,
            states=gateway.states,
            request_id="",
            retry_ms=1000,
            census=gateway.streams,
            send_timeout_sec=60,
            lifetime=nullcontext(),
            on_events=lambda _: None,
            on_error=lambda: None,
            on_catch_up=lambda: None,
        )
        stream.begin(self)
        try:
            yield
        finally:
            self._on_left()


async def test_a_watcher_in_mid_time_with_a_change_to_be_told_waits_for_the_rest_of_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptom: it went round without ever waiting, and the whole gateway hung."""
    sluice = Sluice(stage.first.gateway.log, monkeypatch)
    recording = Recording([1000] * 100 + [5000] * 100)
    await stage.begin(recording)
    session = await stage.first.gateway.sessions.get(stage.tenant)
    assert session is not None
    client, other = Client(), Client()
    assert RING > 110 - 90, "it comes up from what was sent of late"
    async with client.watch(stage, session), other.watch(stage, session):
        await eventually(lambda: client.count("system-time"), "it is served")
        sluice.open(85)
        await stage.start(100)
        await eventually(lambda: client.count("replay") == 85, "the first time, in part")
        client.takes.clear()
        sluice.open(90)
        await eventually(lambda: other.count("replay") == 90, "a little more of it")
        await stage.start(50)
        sluice.open(110)
        await eventually(lambda: other.count("replay") == 110, "the second time, in part")
        client.takes.set()
        await eventually(lambda: client.count("replay") == 110, "it has come up")
        sluice.open(200)
        for each in (client, other):
            await eventually(lambda: each.count("replay") == 200, "all of it")  # noqa: B023 - awaited
            frames = Parser().feed(each.body)
            ids = Counter(str(frame.id) for frame in frames if frame.event == "replay")
            assert list(ids) == sorted(ids, key=lambda text: int(text.rpartition("-")[2]))
            assert set(ids.values()) == {1}


async def test_a_player_in_mid_time_rests_until_more_of_it_is_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptom: a tick was due that could not be sent, and it woke every 4 ms to find that out."""
    rounds = 0
    collect = ReadAhead.collect

    def counting(ahead: ReadAhead) -> None:
        nonlocal rounds
        rounds += 1
        collect(ahead)

    monkeypatch.setattr(ReadAhead, "collect", counting)
    monkeypatch.setattr(player, "TICK_SEC", 0.1)
    sluice = Sluice(stage.first.gateway.log, monkeypatch)
    recording = Recording([0] * 50)
    await stage.begin(recording)
    viewer = await stage.watch()
    sluice.open(20)
    await stage.start()
    await viewer.plays(20)
    began, rounds = time.monotonic(), 0
    for _ in range(200):
        await stage.controls.current()
    assert rounds < 20 + (time.monotonic() - began) / player.TICK_SEC
    sluice.open(50)
    await viewer.plays(30)
