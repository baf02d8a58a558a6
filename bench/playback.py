"""How punctual a session plays 2,000 recorded events a second to many watchers at each speed.

An event is due by the session's anchor, as the server keeps it: wall + (time - event) / speed, on the
one clock of this machine. Its lateness is that of its arrival here, so that it includes what this
client, which shares the processors with the gateway, takes to read. Each read of each watcher is
noted with its first and last sequence and their number: a frame that is missing, repeated or out of
order shows. One watcher in ten looks at every single frame.
"""

import asyncio
import re
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar, cast

import httpx
import numpy as np
import numpy.typing as npt

from bench import percentiles
from bench.event import TENANT, body
from bench.figure import Figure, Finding, Row, Wrong
from bench.load import request, send
from bench.question import Question, Sizes, Subject
from bench.site import Site
from store.connection import Connection
from store.session import Clock, Sessions

SPEEDS = (0.5, 1, 2, 4)
_EVENTS_A_SECOND = 2000
_START = datetime(2018, 2, 6, tzinfo=UTC)
_START_MS = int(_START.timestamp() * 1000)
_BATCH = 1000
_PATIENCE_SEC = 30.0
_LOOKS_CLOSELY = 10
_PUNCTUAL_MS = 25
_PART = 0.05

_Number = TypeVar("_Number", int, npt.NDArray[np.int64])

_FRAME = b"event: replay\nid: "
_SESSION = b"event: session\n"
_TIME = b"event: system-time\n"
_IDS = re.compile(rb"event: replay\nid: [0-9]+-([0-9]+)-0-([0-9]+)\n")


_ROWS = {
    speed: Row(f"playback/{speed:g}", f"play at speed {speed:g}: late, p99", "ms", more=False)
    for speed in SPEEDS
}
_DRIFT = Row(
    "playback/drift", "play at speed 1: later at the end than at the start", "ms", more=False
)


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    longest = max(max(SPEEDS) * sizes.play_sec, sizes.drift_sec or 0)
    async with subject.open() as site:
        await _record(site, longest)
        connection = Connection(site.store_url)
        await connection.open()
        try:
            stage = _Stage(site, Sessions(connection, idle_ms=0, lease_ms=0), sizes.play_watchers)
            for speed in SPEEDS:
                performance = await stage.play(speed, sizes.play_sec)
                yield performance.figure(_ROWS[speed].key)
            if sizes.drift_sec is not None:
                performance = await stage.play(1, sizes.drift_sec)
                yield performance.drift(_DRIFT.key)
        finally:
            await connection.close()


async def _record(site: Site, seconds: float) -> None:
    """Two events a millisecond; one request after the other, since times must not go back."""
    total = int(seconds * _EVENTS_A_SECOND)

    def bodies() -> Iterator[bytes]:
        for start in range(0, total, _BATCH):
            numbers = range(start, min(start + _BATCH, total))
            lines = (body(number, at=_moment(_due_in_recording(number))) for number in numbers)
            yield request("POST", "/api/v1/notifications", b"\n".join(lines))

    await send(site.address, 1, bodies())


def _due_in_recording(number: _Number) -> _Number:
    """ms after the start at which the event of this number, counted from 0, happened."""
    return number * 1000 // _EVENTS_A_SECOND


def _moment(ms: float) -> str:
    return (_START + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")


class _Watcher(asyncio.Protocol):
    """Notes of each read: when, first and last sequence. `close`: looks at each frame as well."""

    def __init__(self, opening: bytes, wanted: int, *, close: bool) -> None:
        self._opening = opening
        self._wanted = wanted
        self._close = close
        self._rest = b""
        self.last = 0
        self.arrived_ms = array("d")
        self.firsts = array("q")
        self.lasts = array("q")
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._opening)

    def data_received(self, data: bytes) -> None:
        now_ms = time.time() * 1000
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            self._rest = data
            return
        self._rest = data[end:]
        first_at = data.find(_FRAME, 0, end)
        if first_at >= 0:
            self._on_frames(now_ms, data, first_at, end)
        elif not self.opened.done() and _SESSION in data:
            self.opened.set_result(None)
        if self.last >= self._wanted and (_SESSION in data or _TIME in data):
            # The gateway has gone on to something else, so that there is no frame too many.
            self._finish(None)

    def _on_frames(self, now_ms: float, data: bytes, first_at: int, end: int) -> None:
        last_at = data.rfind(_FRAME, 0, end)
        first, last = _sequence(data, first_at), _sequence(data, last_at)
        count = data.count(_FRAME, first_at, end)
        if first != self.last + 1 or last - first + 1 != count or last > self._wanted:
            self._finish(f"after {self.last} came {count} frames, {first} to {last}")
        elif self._close:
            found = _IDS.findall(data, first_at, end)
            expected = [
                (b"%d" % (_START_MS + _due_in_recording(each - 1)), b"%d" % each)
                for each in range(first, last + 1)
            ]
            if found != expected:
                self._finish(f"the frames {first} to {last} are not those events in order")
        self.last = last
        self.arrived_ms.append(now_ms)
        self.firsts.append(first)
        self.lasts.append(last)

    def _finish(self, wrong: str | None) -> None:
        if not self.done.done():
            if wrong is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(Wrong(wrong))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(Wrong("a stream was refused"))
        self._finish(f"a stream ended after {self.last} of {self._wanted} frames")


def _sequence(data: bytes, at: int) -> int:
    end = data.index(b"\n", at + len(_FRAME))
    return int(data[data.rindex(b"-", at, end) + 1 : end])


class _Stage:
    """Plays the recording from its start, to watchers that are all there when it begins."""

    def __init__(self, site: Site, sessions: Sessions, watchers: int) -> None:
        self._site = site
        self._sessions = sessions
        self._watchers = watchers
        self._url = f"http://127.0.0.1:{site.port}/v1/replay"

    async def play(self, speed: float, seconds: float) -> "_Performance":
        recorded_ms = int(seconds * speed * 1000)
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            body = {
                "replay_requested_timestamp": _moment(0),
                "replay_end_timestamp": _moment(recorded_ms - 1),
            }
            session = (await http.post(f"{self._url}/init", json=body)).json()["data"]["id"]
            watchers = await self._open(session, recorded_ms * _EVENTS_A_SECOND // 1000)
            gateway, client = self._site.busy_sec(), time.process_time()
            started = time.perf_counter()
            await http.put(f"{self._url}/{session}/start", json={"replay_speed": speed})
            playing = await self._sessions.get(TENANT)
            assert playing is not None
            assert playing.clock.playing
            try:
                async with asyncio.timeout(seconds + _PATIENCE_SEC):
                    await asyncio.gather(*(watcher.done for watcher in watchers))
            except TimeoutError:
                last = min(watcher.last for watcher in watchers)
                raise Wrong(f"{last} frames came in {seconds + _PATIENCE_SEC:g} s") from None
            finally:
                for watcher in watchers:
                    watcher.transport.abort()
            took = time.perf_counter() - started
            gateway, client = self._site.busy_sec() - gateway, time.process_time() - client
            await http.put(f"{self._url}/{session}/end")
        return _Performance(playing.clock, watchers, seconds, client / took, gateway / took)

    async def _open(self, session: str, wanted: int) -> list[_Watcher]:
        opening = request("GET", f"/v1/replay/{session}/stream")
        loop = asyncio.get_running_loop()
        watchers = []
        for number in range(self._watchers):
            close = number % _LOOKS_CLOSELY == 0
            make = partial(_Watcher, opening, wanted, close=close)
            watchers.append((await loop.create_connection(make, "127.0.0.1", self._site.port))[1])
        await asyncio.gather(*(watcher.opened for watcher in watchers))
        return watchers


@dataclass(frozen=True, slots=True)
class _Performance:
    """What came of one play; `client` and `gateway` are the parts of a processor they were busy."""

    clock: Clock
    watchers: Sequence[_Watcher]
    seconds: float
    client: float
    gateway: float

    def figure(self, key: str) -> Figure:
        late_ms = self._late_ms()
        found = percentiles.of_ms([late_ms])
        details = {
            "frames/s": late_ms.size / self.seconds,
            "at least ms": float(late_ms.min()),
            f"% within {_PUNCTUAL_MS} ms": float(np.mean(late_ms <= _PUNCTUAL_MS)) * 100,
            "% of a processor, gateway": self.gateway * 100,
            "% of a processor, client": self.client * 100,
        }
        return Figure(key, "playhead", percentiles.p99(found), details, found)

    def drift(self, key: str) -> Figure:
        total = self.watchers[0].last
        part = int(total * _PART)
        first, last = (
            float(np.median(self._late_ms(after, after + part))) for after in (0, total - part)
        )
        details = {"first ms": first, "last ms": last, **self.figure(key).details}
        return Figure(key, "playhead", last - first, details)

    def _late_ms(self, after: int = 0, through: int = 1 << 62) -> "npt.NDArray[np.float32]":
        """The lateness of each frame at each watcher; of those reads that lie in between."""
        clock = self.clock
        base_ms = clock.wall_ms + (_START_MS - clock.event_ms) / clock.speed
        parts = []
        for watcher in self.watchers:
            firsts, lasts = np.array(watcher.firsts), np.array(watcher.lasts)
            chosen = (firsts > after) & (lasts <= through)
            firsts, lasts = firsts[chosen], lasts[chosen]
            arrived_ms = np.repeat(np.array(watcher.arrived_ms)[chosen], lasts - firsts + 1)
            numbers = np.arange(firsts[0], lasts[-1] + 1)
            due_ms = base_ms + _due_in_recording(numbers - 1) / clock.speed
            parts.append((arrived_ms - due_ms).astype(np.float32))
        return np.concatenate(parts)


QUESTION = Question((*_ROWS.values(), _DRIFT), measure, only_here="sessions are Playhead's own")
