"""Programs of what publishers, readers and operators do to one log, and the site they run on.

Every step may be done in any state, so that a program can be shortened by leaving steps out.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Literal, Protocol
from uuid import uuid4

from hypothesis import strategies as st

from store.connection import Connection, log_key, meta_key
from store.event import Position, Retention, StreamKey
from store.log import EventLog
from tests.conftest import RunningGateway
from tests.event_stream import Frame, OpenStream, get, open_stream, post
from tests.properties.log_model import Judge, Life, LogModel, Session, Wanted

EVENT_TYPE = "reading"
SCHEMA = {
    EVENT_TYPE: {
        "topic": {"base": "reading", "key_order": ["station", "level"]},
        "identifier": {
            "station": {"type": "EnumHandler", "values": ["north", "south"], "required": False},
            "level": {"type": "IntHandler", "range": [0, 9], "required": False},
        },
    }
}
SLOTS = 3
# What a client that does not read must be sent before the gateway has to wait for it.
FLOOD_EVENTS, FLOOD_BYTES = 20, 16 << 10
_RECORDED = datetime(2018, 2, 6, tzinfo=UTC)
_DEADLINE_SEC = 60.0

Form = Literal["GET", "POST"]


class Reader:
    """One client, over all its connections: EventSource (GET), or as Aviso's clients ask (POST)."""

    def __init__(self, site: "Site", form: Form, wanted: Wanted) -> None:
        self.form = form
        self.wanted = wanted
        self.sessions: list[Session] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.ended = True
        self._site = site
        self._task: asyncio.Task[None] | None = None

    @property
    def session(self) -> Session:
        return self.sessions[-1]

    @property
    def last_id(self) -> str | None:
        ids = [frame.id for session in self.sessions for frame in session.frames if frame.id]
        return ids[-1] if ids else None

    def start(self, session: Session, params: dict[str, str], **headers: str) -> None:
        self.sessions.append(session)
        self.ended = False
        self._task = asyncio.create_task(self._run(session, self._request(params, headers)))

    def _request(self, params: dict[str, str], headers: dict[str, str]) -> bytes:
        path = f"/api/v1/{'watch' if self.session.watch else 'replay'}"
        tenant = self._site.stream.tenant
        station, least = self.wanted.station, self.wanted.least
        if self.form == "POST":
            identifier: dict[str, object] = {} if station is None else {"station": station}
            if least is not None:
                identifier["level"] = {"gte": least}
            body = {"event_type": EVENT_TYPE, "identifier": identifier, **params}
            return post(path, body, tenant, **headers)
        query = {"event_type": EVENT_TYPE, **params}
        if station is not None:
            query["identifier.station"] = station
        if least is not None:
            query["identifier.level.gte"] = str(least)
        return get(path, query, tenant, **headers)

    async def _run(self, session: Session, request: bytes) -> None:
        while True:
            port = self._site.gateway.port
            async with open_stream(port, request, receive_buffer=2048) as stream:
                session.frames = stream.frames
                await self._receive(session, stream)
            if stream.status != 503:
                break
        assert stream.status == 200, stream.body
        assert stream.parser.strange == []
        self.ended = True
        self._site.changed.set()

    async def _receive(self, session: Session, stream: OpenStream) -> None:
        while not stream.ended:
            await self.reading.wait()
            await stream.receive()
            if session.turn_opened is None and stream.frames:
                session.turn_opened = self._site.model.turns
                session.last_opened = self._site.model.last + self._site.coming
            self._site.changed.set()

    async def drop(self) -> None:
        """Lose the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self.ended = True

    def check(self) -> None:
        """Nothing has gone wrong in the task that reads."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def place(self) -> tuple[str, int] | None:
        """The last position told: epoch and sequence."""
        for frame in reversed(self.session.frames):
            if frame.kind == "event":
                assert frame.id is not None
                return frame.id.partition("-")[2], frame.sequence
            if frame.kind == "heartbeat":
                return (frame.id or "").partition("-")[2], int(frame.data["sequence"])
        return None

    def had(self, event_id: str) -> bool:
        return any(frame.kind == "event" and frame.id == event_id for frame in self.session.frames)

    def has_all(self, life: Life) -> bool:
        """Nothing that is kept lies behind the position it was told."""
        epoch, sequence = self.place() or ("", -1)
        if self.ended or (epoch and epoch != life.epoch):
            return self.ended
        return sequence >= 0 and all(event.sequence <= sequence for event in life.kept)

    @property
    def follows(self) -> bool:
        return bool(self.sessions) and self.session.watch and not self.ended


@dataclass
class Site:
    """A gateway, its server, and the model of the one log that everything here is about."""

    gateway: RunningGateway
    connection: Connection
    log: EventLog
    stream: StreamKey = field(default_factory=lambda: StreamKey(str(uuid4()), EVENT_TYPE))
    model: LogModel = field(default_factory=LogModel)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    slots: dict[int, Reader] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    recorded_ms: int | None = 0
    coming: int = 0

    async def publish(self, items: list[dict[str, Any]]) -> None:
        """Publish in one request; all must be stored."""
        headers = {"X-Tenant-ID": self.stream.tenant, "Idempotency-Key": str(uuid4())}
        self.coming = len(items)  # which a reader may be told of before we are
        status = 503
        while status == 503:  # a connection that an operator cut off: again, under the same key
            answer = await self.gateway.client.post(
                "/api/v1/notifications", json=items, headers=headers
            )
            status = answer.status_code
        assert status == 200, answer.text
        assert answer.json()["rejected"] == 0, answer.text
        epoch = await self.connection.execute("HGET", meta_key(self.stream), "epoch")
        entries = await self.connection.execute(
            "XREVRANGE", log_key(self.stream), "+", "-", "COUNT", len(items)
        )
        results = answer.json()["results"]
        for item, result, entry in zip(items, results, reversed(entries), strict=True):
            identifier = {name: str(value) for name, value in item["identifier"].items()}
            self.model.append(
                result["sequence"],
                epoch.decode(),
                identifier,
                item["payload"],
                Position.parse(entry[0]).ms,
            )
        self.coming = 0

    async def wait(self, condition: Callable[[], object], description: str, of: Reader) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_SEC):
                while not condition():
                    for reader in self.readers:
                        reader.check()
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {_DEADLINE_SEC:g} s: {description}: {self.show(of)}"
            ) from None

    async def finish(self) -> None:
        """Let everybody read to a last event that all want, then judge what they were sent."""
        for reader in self.readers:
            reader.reading.set()
        for reader in self.readers:
            await self.wait(lambda: reader.ended or reader.session.frames, "is open", reader)  # noqa: B023
        await self.publish([event("north", 9)])
        last = f"{self.model.last}-{self.model.lives[-1].epoch}"
        for reader in self.readers:
            if reader.sessions[-1].watch:
                await self.wait(
                    lambda: reader.ended or reader.had(last),  # noqa: B023 - awaited at once
                    f"has event {last}",
                    reader,
                )
            else:
                await self.wait(lambda: reader.ended, "has ended", reader)  # noqa: B023
        for reader in self.readers:
            reader.check()
            judge = Judge(self.model, reader.wanted)
            try:
                for session in reader.sessions:
                    judge.judge(session)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.show(reader)}") from error

    async def close(self) -> None:
        for reader in self.readers:
            await reader.drop()

    def show(self, reader: Reader) -> str:
        lines = [f"{reader.form} {reader.wanted}"]
        for session in reader.sessions:
            start = "now" if session.after is None else f"behind {session.after}"
            lines.append(f"  {'watch' if session.watch else 'replay'} from {start}")
            # A heartbeat that is like the line before it tells nothing.
            lines += [f"    {line}" for line, _ in groupby(map(_brief, session.frames))]
        return "\n".join(lines)


def _brief(frame: Frame) -> str:
    if frame.kind == "event":
        return f"event {frame.id}"
    shown = ("sequence", "reason", "expected", "first_available")
    fields = {name: value for name, value in frame.data.items() if name in shown}
    return f"{frame.kind} {frame.id or ''} {fields or ''}"


def event(station: str, level: int, size: int = 0) -> dict[str, Any]:
    return {
        "event_type": EVENT_TYPE,
        "identifier": {"station": station, "level": level},
        "payload": str(uuid4()) + "x" * size,
    }


class Step(Protocol):
    async def run(self, site: Site) -> None: ...


@dataclass(frozen=True)
class Publish:
    events: tuple[tuple[str, int], ...]

    async def run(self, site: Site) -> None:
        site.recorded_ms = None
        await site.publish([event(*each) for each in self.events])


@dataclass(frozen=True)
class Load:
    """A recording: events with times of their own, `step_ms` apart."""

    events: tuple[tuple[str, int], ...]
    step_ms: int

    async def run(self, site: Site) -> None:
        if site.recorded_ms is None:
            return  # the past of a log that has a present is refused
        items = [event(*each) for each in self.events]
        for item in items:
            site.recorded_ms += self.step_ms
            item["time"] = (_RECORDED + timedelta(milliseconds=site.recorded_ms)).isoformat()
        await site.publish(items)


@dataclass(frozen=True)
class Flood:
    """More than the gateway can be rid of while a client does not read."""

    async def run(self, site: Site) -> None:
        site.recorded_ms = None
        await site.publish([event("north", n % 10, FLOOD_BYTES) for n in range(FLOOD_EVENTS)])


@dataclass(frozen=True)
class Delete:
    sequence: int

    async def run(self, site: Site) -> None:
        sequence = self.sequence % (site.model.last + 1) or 1
        deleted = await site.log.delete(site.stream, sequence)
        assert deleted == site.model.delete(sequence)


@dataclass(frozen=True)
class Trim:
    keep: int

    async def run(self, site: Site) -> None:
        removed = await site.log.trim(site.stream, Retention(max_count=self.keep))
        assert removed == site.model.trim(self.keep)


@dataclass(frozen=True)
class Wipe:
    async def run(self, site: Site) -> None:
        await site.log.wipe(site.stream)
        site.model.wipe()


@dataclass(frozen=True)
class Destroy:
    """What no API does: an operator deletes the log, knowing of its second key or not."""

    what: Literal["log", "both", "all"]

    async def run(self, site: Site) -> None:
        entries = await site.connection.execute("XREVRANGE", log_key(site.stream), "+", "-")
        site.model.destroy()
        if self.what == "all":
            await site.connection.execute("FLUSHALL")
        else:
            await site.connection.execute("DEL", log_key(site.stream))
            if self.what == "both":
                await site.connection.execute("DEL", meta_key(site.stream))
        # Two logs whose events share a millisecond cannot be told apart by their ids.
        newest = Position.parse(entries[0][0]).ms if entries else 0
        now = 0
        while now <= newest:
            seconds, micros = await site.connection.execute("TIME")
            now = int(seconds) * 1000 + int(micros) // 1000
        site.recorded_ms = None


@dataclass(frozen=True)
class Cut:
    """An operator, or a firewall, closes all connections between gateway and server."""

    async def run(self, site: Site) -> None:
        await site.connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@dataclass(frozen=True)
class Settle:
    """Wait until every reader that reads has been told that it has everything."""

    async def run(self, site: Site) -> None:
        life = site.model.current
        if life is None:
            return
        for reader in site.slots.values():
            if reader.follows and reader.reading.is_set():
                await site.wait(lambda: reader.has_all(life), "has all", reader)  # noqa: B023


@dataclass(frozen=True)
class Open:
    """A new reader. Not waited for: what comes next happens while it is being opened."""

    slot: int
    form: Form
    watch: bool
    wanted: Wanted
    start: Literal["now", "zero", "sequence", "date"]
    place: int
    length: int | None

    async def run(self, site: Site) -> None:
        if self.slot in site.slots:
            await site.slots[self.slot].drop()
        reader = site.slots[self.slot] = Reader(site, self.form, self.wanted)
        site.readers.append(reader)
        model, life = site.model, site.model.current
        session = Session(0, self.watch, model.clock, model.turns, life, model.last)
        params: dict[str, str] = {}
        if self.start == "sequence":
            sequence = 1 + self.place % (model.last + 2)
            session.after, params = sequence - 1, {"from_id": str(sequence)}
        elif self.start == "date" and life is not None:
            ms = life.events[self.place % life.last].ms
            older = [each.sequence for each in life.events if each.ms < ms]
            session.after = max([life.floor, *older])
            session.strict, params = False, {"from_date": str(ms).rjust(12, "0")}
        elif self.start == "now" and self.watch:
            session.after = None
        else:
            session.after, session.strict = (life.floor if life else 0), False
            params = {"from_id": "0"}
        if not self.watch and self.length is not None and "from_id" in params:
            session.until = int(params["from_id"]) + self.length
            params["to_id"] = str(session.until)
        reader.start(session, params)


@dataclass(frozen=True)
class Resume:
    """The client of a slot loses its connection and comes back, as its kind does."""

    slot: int
    by_parameter: bool = False

    async def run(self, site: Site) -> None:
        reader = site.slots.get(self.slot)
        if reader is None or not reader.session.watch:
            return
        await reader.drop()
        reader.reading.set()
        model, last_id = site.model, reader.last_id
        session = Session(None, True, model.clock, model.turns, model.current, model.last)
        params: dict[str, str] = {}
        headers: dict[str, str] = {}
        if reader.form == "GET" and last_id is not None:
            digits, _, epoch = last_id.partition("-")
            session.after = int(digits)
            session.cursor_life = model.life(epoch) if epoch else None
            if self.by_parameter:
                params["last_event_id"] = last_id
            else:
                headers["last_event_id"] = last_id
        elif delivered := [
            frame for before in reader.sessions for frame in before.frames if frame.kind == "event"
        ]:
            session.after = delivered[-1].sequence
            params["from_id"] = str(session.after + 1)
        reader.start(session, params, **headers)


@dataclass(frozen=True)
class Drop:
    slot: int

    async def run(self, site: Site) -> None:
        if (reader := site.slots.pop(self.slot, None)) is not None:
            await reader.drop()


@dataclass(frozen=True)
class Read:
    """A client stops reading, or reads again."""

    slot: int
    reading: bool

    async def run(self, site: Site) -> None:
        if (reader := site.slots.get(self.slot)) is not None:
            (reader.reading.set if self.reading else reader.reading.clear)()


@dataclass(frozen=True)
class Stall:
    """A client that is up to date stops reading under a load that the gateway cannot be rid of."""

    client: Open
    more: tuple[tuple[str, int], ...]

    async def run(self, site: Site) -> None:
        slot = self.client.slot
        if slot not in site.slots or not site.slots[slot].follows:
            await self.client.run(site)
        await Settle().run(site)
        await Read(slot, reading=False).run(site)
        await Flood().run(site)
        await Publish(self.more).run(site)


_slots = st.integers(0, SLOTS - 1)
_events = st.tuples(st.sampled_from(["north", "south"]), st.integers(0, 9))
_wanted = st.builds(
    Wanted, station=st.sampled_from([None, "north"]), least=st.sampled_from([None, 5])
)
_batches = st.lists(_events, min_size=1, max_size=6).map(tuple)

_one = st.builds(Publish, events=_events.map(lambda each: (each,)))
_several = st.builds(Publish, events=_batches)
_load = st.builds(Load, events=_batches, step_ms=st.integers(0, 2))


def _opening(watch: st.SearchStrategy[bool]) -> st.SearchStrategy[Open]:
    return st.builds(
        Open,
        slot=_slots,
        form=st.sampled_from(["GET", "POST"]),
        watch=watch,
        wanted=_wanted,
        start=st.sampled_from(["now", "zero", "sequence", "date"]),
        place=st.integers(0, 20),
        length=st.sampled_from([None, 0, 3]),
    )


_open = _opening(st.sampled_from([True, True, False]))
_stall = st.builds(Stall, client=_opening(st.just(True)), more=_batches)
_resume = st.builds(Resume, slot=_slots, by_parameter=st.booleans())
_read = st.builds(Read, slot=_slots, reading=st.booleans())
_delete = st.builds(Delete, sequence=st.integers(1, 20))
_trim = st.builds(Trim, keep=st.integers(0, 4))
_destroy = st.builds(Destroy, what=st.sampled_from(["log", "both", "all"]))
# As often as they are named.
_steps = st.sampled_from(
    [
        *(_one, _one, _several, _several, _load, st.builds(Flood)),
        *(_open, _open, _open, _resume, _resume, _resume, st.builds(Drop, slot=_slots), _read),
        *(st.builds(Settle), st.builds(Settle), _stall, _stall),
        *(_delete, _delete, _trim, _trim, st.builds(Wipe), _destroy, st.builds(Cut)),
    ]
).flatmap(lambda step: step)
# Four lists, because one is short on the average; each can be shortened to nothing.
programs = st.tuples(*[st.lists(_steps, max_size=12)] * 4).map(
    lambda parts: [step for part in parts for step in part]
)


async def run(site: Site, steps: Iterable[Step]) -> None:
    try:
        for step in steps:
            await step.run(site)
        await site.finish()
    finally:
        await site.close()
