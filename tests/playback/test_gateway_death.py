"""The gateway that served `init` is killed: for everybody at the other one nothing has happened."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.event_stream import Frame, OpenStream, get, open_stream
from tests.faults.wire import eventually
from tests.playback.controls import Controls, done, moment
from tests.playback.processes import Site, open_site

STEP_SEC = 0.01
EVENTS = 3000


class Watcher:
    """A client that keeps all it gets, and when it got it."""

    def __init__(self, stream: OpenStream) -> None:
        self.events: list[tuple[float, Frame]] = []
        self.sessions: list[dict[str, Any]] = []
        self.times: list[str] = []
        self._stream = stream
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        seen = 0
        with suppress(ConnectionError):
            while not self._stream.ended:
                await self._stream.receive()
                now = time.monotonic()
                for frame in self._stream.frames[seen:]:
                    if frame.kind == "event":
                        self.events.append((now, frame))
                    elif frame.kind == "session":
                        self.sessions.append(frame.data)
                    elif frame.kind == "system-time":
                        self.times.append(frame.data["timestamp"])
                seen = len(self._stream.frames)

    @property
    def numbers(self) -> list[int]:
        return [frame.data["data"]["payload"] for _, frame in self.events]

    @property
    def status(self) -> str:
        return str(self.sessions[-1]["status"]) if self.sessions else ""

    def heard(self, session: dict[str, Any], since: int) -> bool:
        """Whether it was told of a state, but for the playhead, which may have moved on."""
        last = {"replay_last_timestamp": None}
        return any({**each, **last} == {**session, **last} for each in self.sessions[since:])

    def is_told(self, status: str) -> bool:
        return self.status == status

    def has(self, count: int) -> bool:
        return len(self.events) >= count

    @property
    def last_id(self) -> str:
        [*_, last] = [frame.id for frame in self._stream.frames if frame.id]
        return str(last)

    def longest_pause(self, since: float) -> float:
        """Between two events, in seconds."""
        times = [at for at, _ in self.events if at >= since]
        return max(later - earlier for earlier, later in pairwise([since, *times]))


@asynccontextmanager
async def watching(
    site: Site, number: int, tenant: str, session: str, last_id: str | None = None
) -> AsyncIterator[Watcher]:
    params = {} if last_id is None else {"last_event_id": last_id}
    request = get(f"/v1/replay/{session}/stream", params, tenant)
    async with open_stream(site.gateways[number].port, request) as stream:
        watcher = Watcher(stream)
        try:
            yield watcher
            if watcher.task.done():
                watcher.task.result()
        finally:
            watcher.task.cancel()
            await asyncio.wait([watcher.task])


async def try_every_verb(controls: Controls, watcher: Watcher, session: str) -> None:
    """Each is answered, and told to who watches."""
    verbs: list[tuple[Callable[[], Awaitable[httpx.Response]], str]] = [
        (lambda: controls.stop(session), "MSG_STOP_OK"),
        (lambda: controls.seek(session, moment(20)), "MSG_STOP_OK"),
        (lambda: controls.start(session, 4), "MSG_START_OK"),
        (lambda: controls.start(session, 0.5), "MSG_START_OK"),
        (lambda: controls.init(moment(10), session_id=session), "MSG_INIT_OK"),
        (lambda: controls.end(session), "DB_END_OK"),
    ]
    for call, status in verbs:
        told = len(watcher.sessions)
        answer = await call()
        found = done(answer, answer.status_code)
        assert found["status"] == status
        await eventually(partial(watcher.heard, found, told), f"{status} is told")
    assert await controls.current() is None
    await controls.begin()
    done(await controls.reset())


async def outlive(directory: Path, tenant: str, *, playing: bool) -> float:
    """The longest pause in seconds between two events for those of the other gateway."""
    async with open_site(directory, 2) as site:
        first, second = site.controls(tenant)
        await first.record([number * STEP_SEC for number in range(EVENTS)])
        session = (await first.begin())["id"]
        async with (
            watching(site, 0, tenant, session) as lost,
            watching(site, 1, tenant, session) as kept,
            watching(site, 1, tenant, session) as other,
        ):
            await eventually(lambda: lost.status and kept.status and other.status, "all are open")
            done(await first.start(session))
            await eventually(lambda: len(kept.events) > 20 and len(lost.events) > 20, "it plays")
            if not playing:
                stopped = done(await first.stop(session))
                await eventually(lambda: kept.status == "MSG_STOP_OK", "it is stopped")
            site.gateways[0].kill()
            killed = time.monotonic()
            await lost.task
            if not playing:
                # It ticks on where it stood, until it is told to go on.
                count = len(kept.times)
                await eventually(lambda: len(kept.times) > count + 1, "the time is told")
                assert set(kept.times[count:]) == {stopped["replay_last_timestamp"]}
                killed = time.monotonic()
                done(await second.start(session))
            # Those who lost their gateway go on at the other, at the true playhead.
            async with watching(site, 1, tenant, session, lost.last_id) as again:
                target = len(kept.events) + 150
                for watcher in (kept, other):
                    await eventually(partial(watcher.has, target), "it plays on")
                pause = max(watcher.longest_pause(killed) for watcher in (kept, other))
                await eventually(lambda: again.numbers[-1:] >= kept.numbers[-1:], "it came up")
                numbers = lost.numbers + again.numbers
                assert numbers == list(range(1, len(numbers) + 1))
                for watcher in (kept, other):
                    numbers = watcher.numbers
                    assert numbers == list(range(1, len(numbers) + 1))
                await try_every_verb(second, kept, session)
                for watcher in (again, other):
                    await eventually(partial(watcher.is_told, "DB_END_OK"), "the end is told")
    return pause


@pytest.mark.parametrize("playing", [True, False])
async def test_a_session_outlives_the_gateway_that_made_it(
    tmp_path: Path, tenant: str, playing: bool
) -> None:
    # Less than a lease: nobody waits for what a dead one has to give up.
    assert await outlive(tmp_path, tenant, playing=playing) < 10


@pytest.mark.soak
async def test_a_session_that_plays_on_does_not_stall_for_a_second(
    tmp_path: Path, tenant: str
) -> None:
    pauses = [await outlive(tmp_path / str(each), tenant, playing=True) for each in range(10)]
    print(f"\nlongest pauses: {', '.join(f'{pause:.3f}' for pause in sorted(pauses))} s")
    assert max(pauses) < 1
