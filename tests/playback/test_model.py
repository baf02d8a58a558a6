"""Random verbs of several clients on two gateways: every answer and the record are as the model says."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from store.connection import Connection
from store.event import Retention, StreamKey
from store.log import EventLog
from tests.playback.conftest import House
from tests.playback.controls import NOBODY, START, Controls, moment
from tests.playback.session_model import Answer, Kind, State, Verb, explain, ms_of, text_of
from tests.playback.test_states import END_WALK, INIT_WALK, START_WALK, STOP_WALK

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEGIN = ms_of(START)
HOUR = 3_600_000
KO_WALK = ["DB_INIT_REQUESTED", "DB_INIT_IN_PROGRESS", "DB_INIT_KO"]
WALKS = [INIT_WALK, KO_WALK, START_WALK, STOP_WALK, END_WALK]
RESTING = {"MSG_INIT_OK", "MSG_START_OK", "MSG_STOP_OK", "DB_INIT_KO"}
# Changes are kept from here on: an earlier start cannot be restored.
KEPT_FROM = 10_001


@dataclass(frozen=True)
class Call:
    """A verb before it is known which session it is about: `whose` says where the id is from."""

    kind: Kind
    whose: str = "own"
    gateway: int = 0
    offset: int = 0
    length: int = HOUR
    changes: bool = False
    speed: float = 1.0


@dataclass
class Tenant:
    """What is known of a tenant: the state its record must be in, and the sessions it had."""

    name: str
    ways: list[Controls]
    state: State | None = None
    past: list[str] = field(default_factory=list)


class World:
    """Two tenants on two gateways, with changes of which the oldest are gone."""

    def __init__(self, house: House, backend: Connection) -> None:
        self.backend = backend
        self.log = EventLog(backend, idempotency_window_ms=1000)
        names = [str(uuid4()), str(uuid4())]
        clients = [house.first.client, house.second.client]
        self.tenants = [
            Tenant(name, [Controls(client, name) for client in clients]) for name in names
        ]

    async def open(self) -> None:
        for tenant in self.tenants:
            await tenant.ways[0].record([0, (KEPT_FROM - 1) / 1000], "change")
            await self.log.trim(StreamKey(tenant.name, "change"), Retention(max_count=1))

    def verb(self, tenant: Tenant, call: Call) -> Verb:
        other = self.tenants[0] if tenant is self.tenants[1] else self.tenants[1]
        theirs = other.state.id if other.state else NOBODY
        session = {
            "own": tenant.state.id if tenant.state else NOBODY,
            "past": tenant.past[-1] if tenant.past else NOBODY,
            "theirs": theirs,
            "nobody": NOBODY,
        }[call.whose]
        start = BEGIN + call.offset
        event_types = ("change", "reading") if call.changes else ("reading",)
        valid = call.length > 0 if call.kind in {"init", "again"} else True
        return Verb(
            call.kind,
            session,
            start=start,
            end=start + call.length,
            event_types=event_types,
            speed=call.speed,
            valid=valid if call.kind != "start" else 0.5 <= call.speed <= 4,
            fails=call.changes and call.offset < KEPT_FROM,
            foreign=session == theirs != NOBODY,
        )

    async def run(self, tenant: Tenant, calls: list[Call]) -> None:
        """Some calls at once; then the record, and every answer, must be explained."""
        verbs = [self.verb(tenant, call) for call in calls]
        answers = await asyncio.gather(
            *(ask(tenant.ways[call.gateway], verb) for call, verb in zip(calls, verbs, strict=True))
        )
        pairs = list(zip(verbs, answers, strict=True))
        look = Verb("current")
        seen = await ask(tenant.ways[0], look)
        for state in explain(tenant.state, pairs):
            for after in explain(state, [(look, seen)]):
                self._enter(tenant, after)
                await self._check_record(tenant)
                return
        lines = [f"{verb}\n   -> {answer.status} {answer.body}" for verb, answer in pairs]
        raise AssertionError("\n".join([str(tenant.state), *lines, str(seen.body)]))

    def _enter(self, tenant: Tenant, state: State | None) -> None:
        if state is not None and state.id not in tenant.past[-1:]:
            assert state.id not in tenant.past, "an id was given twice"
            tenant.past.append(state.id)
        tenant.state = state

    async def _check_record(self, tenant: Tenant) -> None:
        status = await self.backend.execute("HGET", f"ph:{{{tenant.name}}}:session", "status")
        if tenant.state is None:
            assert status is None
        else:
            assert status.decode() in RESTING

    async def close(self) -> None:
        """No feed has anything but whole walks of one session after the other."""
        for tenant in self.tenants:
            entries = await self.backend.execute("XRANGE", f"ph:{{{tenant.name}}}:log", "-", "+")
            told = [msgspec.json.decode(fields[1]) for _, fields in entries]
            if told and told[0]["clock"]["revision"] > 1:
                # A long feed is cut at its front, in the middle of a walk perhaps.
                cut = told[0]["session"]["id"]
                told = [each for each in told if each["session"]["id"] != cut]
            check_walks(told)
            await tenant.ways[1].reset()


def check_walks(told: list[Any]) -> None:
    """One session is over before the next begins; each takes whole walks, one revision a step."""
    ids = [key for key, _ in groupby(told, lambda each: each["session"]["id"])]
    assert len(ids) == len(set(ids)), "two sessions at once"
    for place, session in enumerate(ids):
        own = [each for each in told if each["session"]["id"] == session]
        revisions = [each["clock"]["revision"] for each in own]
        assert revisions == list(range(1, len(own) + 1))
        statuses = [each["session"]["status"] for each in own]
        resting = ""
        while statuses:
            walk = next((walk for walk in WALKS if statuses[: len(walk)] == walk), None)
            if walk is None:
                # A seek stays where it is.
                assert statuses[0] == resting, statuses
                walk = statuses[:1]
            statuses, resting = statuses[len(walk) :], walk[-1]
        assert resting == "DB_END_OK" or place == len(ids) - 1


async def ask(controls: Controls, verb: Verb) -> Answer:
    began = time.time() * 1000
    sending: dict[Kind, Callable[[], Awaitable[httpx.Response]]] = {
        "init": lambda: controls.init(
            text_of(verb.start), text_of(verb.end), event_types=list(verb.event_types)
        ),
        "again": lambda: controls.init(
            text_of(verb.start),
            text_of(verb.end),
            event_types=list(verb.event_types),
            session_id=verb.session,
        ),
        "start": lambda: controls.start(verb.session, verb.speed),
        "stop": lambda: controls.stop(verb.session),
        "seek": lambda: controls.seek(verb.session, text_of(verb.start)),
        "end": lambda: controls.end(verb.session),
        "reset": controls.reset,
        "current": lambda: controls.send("GET", "/v1/replay/current-session"),
    }
    response = await sending[verb.kind]()
    return Answer(response.status_code, response.json(), began, time.time() * 1000)


whose = st.sampled_from(["own", "own", "own", "past", "theirs", "nobody"])
gateways = st.sampled_from([0, 1])
offsets = st.sampled_from([0, 1, KEPT_FROM - 1, KEPT_FROM, 60_000, HOUR, HOUR + 1])
# Short ones reach their end while the program runs.
lengths = st.sampled_from([HOUR, HOUR, 20, 3, 1, 0])
calls = st.one_of(
    st.builds(
        Call,
        kind=st.sampled_from(["init", "init", "again"]),
        whose=whose,
        gateway=gateways,
        offset=offsets,
        length=lengths,
        changes=st.booleans(),
    ),
    st.builds(
        Call,
        kind=st.just("start"),
        whose=whose,
        gateway=gateways,
        speed=st.sampled_from([0.5, 1, 1.5, 4, 4.5]),
    ),
    st.builds(Call, kind=st.just("seek"), whose=whose, gateway=gateways, offset=offsets),
    st.builds(
        Call,
        kind=st.sampled_from(["stop", "stop", "end", "current"]),
        whose=whose,
        gateway=gateways,
    ),
    st.builds(Call, kind=st.sampled_from(["reset", "current"]), gateway=gateways),
)
steps = st.tuples(st.sampled_from([0, 0, 1]), st.lists(calls, min_size=1, max_size=4))
programs = st.lists(steps, min_size=3, max_size=15)

ordinary = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def run(house: House, backend: Connection, program: list[tuple[int, list[Call]]]) -> None:
    note("\n".join(map(repr, program)))
    world = World(house, backend)
    await world.open()
    for number, together in program:
        await world.run(world.tenants[number], together)
    await world.close()


@ordinary
@given(program=programs)
async def test_whatever_clients_ask_the_sessions_are_as_the_model_says(
    house: House, backend: Connection, program: list[tuple[int, list[Call]]]
) -> None:
    await run(house, backend, program)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(ordinary, max_examples=5_000, derandomize=False)
@given(program=programs)
async def test_the_sessions_are_as_the_model_says_in_many_more_programs(
    house: House, backend: Connection, program: list[tuple[int, list[Call]]]
) -> None:
    await run(house, backend, program)


async def test_the_model_refuses_what_the_contract_does_not_allow() -> None:
    """It would be of no use if it explained everything."""
    now = 1_000_000.0
    state = State("s", "t", "MSG_INIT_OK", 0, HOUR, 0, 1.0, (), (now, now))
    session = {
        **{"id": "s", "tenant_id": "t", "status": "MSG_STOP_OK", "error": None, "event_types": []},
        **{"display_status": "REPLAY_STOP_OK", "replay_speed": 1.0},
        **{f"replay_{name}_timestamp": text_of(0) for name in ("start", "last")},
        "replay_end_timestamp": text_of(HOUR),
    }
    stop = Verb("stop", "s")
    assert not list(explain(state, [(stop, Answer(200, {"data": session}, now, now))]))
    assert not list(explain(state, [(stop, Answer(404, {"code": "SESSION_NOT_FOUND"}, now, now))]))
    start = Verb("start", "s")
    playing = {**session, "status": "MSG_START_OK", "display_status": "REPLAY_START_OK"}
    begun = (start, Answer(200, {"data": playing}, now, now))
    ended = (stop, Answer(200, {"data": session}, now, now))
    [after] = explain(state, [ended, begun])
    assert after is not None
    assert after.status == "MSG_STOP_OK"
    far = {**session, "replay_last_timestamp": moment(60)}
    assert not list(explain(state, [begun, (stop, Answer(200, {"data": far}, now, now))]))
    init = Verb("init", start=0, end=HOUR)
    fresh = {**session, "status": "MSG_INIT_OK", "display_status": "REPLAY_INIT_OK", "id": "new"}
    assert not list(explain(state, [(init, Answer(201, {"data": fresh}, now, now))]))
    assert list(explain(None, [(init, Answer(201, {"data": fresh}, now, now))]))
    twice = (init, Answer(201, {"data": {**fresh, "id": "other"}}, now, now))
    assert not list(explain(None, [(init, Answer(201, {"data": fresh}, now, now)), twice]))
