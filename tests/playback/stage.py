"""A recording that is played, and who watches: what tests of play share."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

from gateway.playback.cursor import SessionCursor
from store.event import rfc3339
from store.merge import Place
from tests.conftest import RunningGateway
from tests.faults.wire import LOST, Frame, Frames, abort, eventually, head, open_frames
from tests.playback.controls import PAST, Controls, done

# Events of a page, and frames of a ring: few, so that recordings of a second come to the edges.
PAGE = 5
RING = 40
KINDS = ("air", "rain", "sea")
SCHEMA = {
    "extreme_event": None,
    "earthquake": None,
    **{kind: {"identifier": {"n": {"type": "IntHandler", "required": False}}} for kind in KINDS},
}
PAST_MS = int(PAST.timestamp() * 1000)
# Not paced would be early by more; how punctual it is to the millisecond is for the bench.
EARLY_MS = 250


def play_settings(**more: Any) -> dict[str, Any]:
    """Sections of a gateway on which hours pass in seconds."""
    return {
        "notification_schema": SCHEMA,
        "playback": {"lowest_speed": 0.01, "highest_speed": 100_000, "allow_fastest": True},
        **more,
    }


def at(ms: float) -> str:
    """So long after the start of the recording."""
    return rfc3339(PAST_MS + round(ms))


def ms_of(timestamp: str) -> int:
    """The time after the start of the recording."""
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000) - PAST_MS


def evenly(count: int, every_ms: int, first_ms: int = 0) -> list[int]:
    return [first_ms + number * every_ms for number in range(count)]


@dataclass(frozen=True, slots=True, order=True)
class Played:
    """One event as it was seen: `ms` after the start of the recording."""

    ms: int
    kind: int
    sequence: int


class Recording:
    """Events of up to three types: a list of times (ms after its start) for each."""

    def __init__(self, *times: Sequence[int]) -> None:
        self.times = times
        self.events = sorted(
            Played(ms, kind, sequence)
            for kind, each in enumerate(times)
            for sequence, ms in enumerate(each, 1)
        )

    @property
    def kinds(self) -> list[str]:
        return list(KINDS[: len(self.times)])

    def between(self, first_ms: float, last_ms: float) -> list[Played]:
        """The events of this stretch, both ends included."""
        return [event for event in self.events if first_ms <= event.ms <= last_ms]

    async def publish(self, controls: Controls, text: str = "") -> None:
        for kind, times in zip(self.kinds, self.times, strict=True):
            items = [
                {
                    "event_type": kind,
                    "identifier": {"n": number},
                    "payload": text,
                    "time": at(ms),
                }
                for number, ms in enumerate(times, 1)
            ]
            for start in range(0, len(items), 1000):
                answer = await controls.send(
                    "POST", "/api/v1/notifications", items[start : start + 1000]
                )
                assert answer.json()["rejected"] == 0, answer.text


@dataclass(slots=True)
class Seen:
    """One frame, when it came (wall ms) and over which connection, counted from 1."""

    frame: Frame
    wall_ms: float
    connection: int
    event: Played | None = None

    @property
    def data(self) -> Any:
        return self.frame.json()

    @property
    def run(self) -> int:
        return SessionCursor.parse(self.frame.id).run


@dataclass(eq=False)
class Viewer:
    """A client of a session's stream that comes back with the last id it got, until stopped."""

    ports: Sequence[int]
    tenant: str
    session: str
    receive_buffer: int | None = None
    last_id: str = ""
    once: bool = False
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    refusals: list[int] = field(default_factory=list)
    closings: list[str] = field(default_factory=list)
    _protocol: Frames | None = None
    stopped: bool = False
    _next: int = 0

    async def run(self) -> None:
        while not self.stopped:
            port = self.ports[self._next % len(self.ports)]
            self._next += 1
            try:
                self.connections += 1
                self._protocol = await open_frames(
                    port, self._request(), self._on_frame, self.receive_buffer
                )
                if self.stopped:
                    return
                await self._protocol.closed
                if self._protocol.status not in (0, 200):
                    self.refusals.append(self._protocol.status)
            except LOST:
                pass
            finally:
                abort(self._protocol)
            if self.once:
                return
            if not self.stopped:
                await asyncio.sleep(0.02)

    def _request(self) -> bytes:
        headers = {"last-event-id": self.last_id} if self.last_id else {}
        return head("GET", f"/v1/replay/{self.session}/stream", self.tenant, headers)

    def _on_frame(self, frame: Frame) -> None:
        seen = Seen(frame, time.time() * 1000, self.connections)
        if frame.id:
            self.last_id = frame.id
        if frame.is_event:
            place = SessionCursor.parse(frame.id).place
            seen.event = Played(place.ms - PAST_MS, place.kind, place.sequence)
        elif frame.name == "connection-closing":
            self.closings.append(frame.json()["reason"])
        self.seen.append(seen)

    def stop(self) -> None:
        self.stopped = True
        abort(self._protocol)

    def drop(self, port: int | None = None) -> None:
        """Lose the connection; the next one goes to this port, or to the next of its own."""
        if port is not None:
            self._next = self.ports.index(port)
        abort(self._protocol)

    def pause(self) -> None:
        """Take no byte any more."""
        transport = self._protocol.transport if self._protocol is not None else None
        if transport is not None:
            transport.pause_reading()

    def resume(self) -> None:
        transport = self._protocol.transport if self._protocol is not None else None
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    # -- what it saw

    @property
    def events(self) -> list[Played]:
        return [seen.event for seen in self.seen if seen.event is not None]

    @property
    def sessions(self) -> list[Any]:
        return [seen.data for seen in self.seen if seen.frame.name == "session"]

    @property
    def since_last_session(self) -> list[Played]:
        """The events that came after the session was told last."""
        told = max(i for i, seen in enumerate(self.seen) if seen.frame.name == "session")
        return [seen.event for seen in self.seen[told:] if seen.event is not None]

    @property
    def ticks(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.frame.name == "system-time"]

    @property
    def errors(self) -> list[Any]:
        return [seen.data for seen in self.seen if seen.frame.name in ("error", "gap")]

    @property
    def status(self) -> str:
        sessions = self.sessions
        return str(sessions[-1]["status"]) if sessions else ""

    def runs(self) -> dict[int, list[Played]]:
        """The events of each run, as they came."""
        found: dict[int, list[Played]] = {}
        for seen in self.seen:
            if seen.frame.id:
                run = found.setdefault(seen.run, [])
                if seen.event is not None:
                    run.append(seen.event)
        return found

    async def sees(self, predicate: "Callable[[Viewer], object]", description: str) -> None:
        await eventually(lambda: predicate(self), description, poll_sec=0.002)

    async def opened(self) -> None:
        await self.sees(lambda viewer: viewer.sessions, "the stream is open")

    async def ticked(self, count: int = 1) -> None:
        """So many more `system-time` frames."""
        target = len(self.ticks) + count
        await self.sees(lambda viewer: len(viewer.ticks) >= target, f"{count} ticks")

    async def plays(self, count: int, *, of: Recording | None = None) -> None:
        """So many more events, or all of a recording."""
        target = len(self.events) + count
        if of is not None:
            target = min(target, len(of.events))
        await self.sees(lambda viewer: len(viewer.events) >= target, f"{count} more events")

    async def plays_run(self, run: int) -> None:
        """An event of this run."""
        await self.sees(lambda viewer: viewer.runs().get(run), f"it plays run {run}")

    async def has(self, *statuses: str) -> None:
        await self.sees(lambda viewer: viewer.status in statuses, f"status {statuses}")

    async def rests_at(self, playhead: str) -> None:
        await self.sees(lambda viewer: viewer._rests_at(playhead), f"it rests at {playhead}")

    def _rests_at(self, playhead: str) -> bool:
        at_rest = self.status == "MSG_STOP_OK"
        return at_rest and self.sessions[-1]["replay_last_timestamp"] == playhead

    # -- what holds whatever happens

    def check(self, recording: Recording) -> None:
        """In each run every event at most once, in order, none left out; and times never parted."""
        for run, events in self.runs().items():
            if events:
                first = recording.events.index(events[0])
                expected = recording.events[first : first + len(events)]
                assert events == expected, f"run {run}: {_first_difference(events, expected)}"
        self._check_times_whole()
        self._check_sessions()

    def _check_times_whole(self) -> None:
        for _, frames in groupby(self.seen, key=lambda seen: seen.connection):
            place: dict[tuple[int, int], int] = {}
            for index, seen in enumerate(frames):
                if seen.event is None:
                    continue
                key = (seen.run, seen.event.ms)
                assert place.get(key, index - 1) == index - 1, f"parted at {seen.event}"
                place[key] = index

    def _check_sessions(self) -> None:
        for _, group in groupby(self.seen, key=lambda seen: seen.connection):
            frames = list(group)
            assert frames[0].frame.name in ("session", "error", "connection-closing"), frames[0]
            runs = [seen.run for seen in frames if seen.frame.id]
            assert runs == sorted(runs)
        ids = [SessionCursor.parse(seen.frame.id) for seen in self.seen if seen.frame.id]
        for before, after in pairwise(ids):
            assert after >= before or after.run > before.run, f"{after} after {before}"


def _first_difference(found: Sequence[Played], expected: Sequence[Played]) -> str:
    for index, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return f"{found[max(0, index - 1) : index + 2]}, expected {other} at {index}"
    return f"{len(found)} events, expected {len(expected)}"


def place_of(event: Played) -> Place:
    return Place(PAST_MS + event.ms, event.kind, event.sequence)


class Stage:
    """A tenant's recording, the two gateways that play it, and whoever watches."""

    def __init__(self, first: RunningGateway, second: RunningGateway, tenant: str) -> None:
        self.first = first
        self.second = second
        self.tenant = tenant
        self.controls = Controls(first.client, tenant)
        self.others = Controls(second.client, tenant)
        self.viewers: list[Viewer] = []
        self.recording = Recording([])
        self.session = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(
        self,
        recording: Recording,
        *,
        start_ms: float = 0,
        end_ms: float = 3_600_000,
        text: str = "",
        **more: Any,
    ) -> Any:
        """Publish a recording and initialise a session over it."""
        self.recording = recording
        await recording.publish(self.controls, text)
        session = await self.controls.begin(at(start_ms), at(end_ms), **more)
        self.session = session["id"]
        return session

    def enter(self, *gateways: RunningGateway, **more: Any) -> Viewer:
        return self.enter_at(*(gateway.port for gateway in gateways or (self.first,)), **more)

    def enter_at(self, *ports: int, **more: Any) -> Viewer:
        viewer = Viewer(ports, self.tenant, self.session, **more)
        self.viewers.append(viewer)
        self._tasks.append(asyncio.create_task(viewer.run()))
        return viewer

    async def watch(self, *gateways: RunningGateway, **more: Any) -> Viewer:
        """A viewer that is served already."""
        viewer = self.enter(*gateways, **more)
        await viewer.opened()
        return viewer

    @property
    def watching(self) -> list[Viewer]:
        return [viewer for viewer in self.viewers if not viewer.stopped]

    # -- verbs that have to succeed

    async def start(self, speed: float = 1) -> Any:
        return done(await self.controls.start(self.session, speed))

    async def stop(self) -> Any:
        return done(await self.controls.stop(self.session))

    async def seek(self, ms: float) -> Any:
        return done(await self.controls.seek(self.session, at(ms)))

    async def end(self) -> Any:
        return done(await self.controls.end(self.session))

    async def stop_and_rest(self) -> int:
        """Stop; the playhead, once every viewer was told."""
        playhead = (await self.stop())["replay_last_timestamp"]
        for viewer in self.watching:
            await viewer.rests_at(playhead)
        return ms_of(playhead)

    async def play_to_end(self, speed: float = 100_000) -> None:
        """Once every viewer was told that the end is reached, it has all that comes before."""
        end = (await self.start(speed))["replay_end_timestamp"]
        for viewer in self.watching:
            await viewer.rests_at(end)
            if viewer.connections > 1:
                # Who came back is told how things stand first, what it has missed then; and the
                # time once it has caught up.
                await viewer.ticked()

    async def close(self) -> None:
        for viewer in self.viewers:
            viewer.stop()
        for done_task in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert done_task is None, done_task
        if self.session:
            await self.controls.reset()
        for viewer in self.viewers:
            viewer.check(self.recording)
