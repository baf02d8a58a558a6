"""The verbs of an owned session, step by step, against a model: whoever works on it, and whoever interferes."""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.connection import Connection
from store.errors import WorkLost
from store.session import Answer, Lease, Session, Sessions, parse
from tests.servers import Valkey

HOUR = 3_600_000
MINUTE = 60_000
RESTING = {"MSG_INIT_OK": "", "MSG_STOP_OK": "MSG_STOP", "MSG_START_OK": "MSG_START"}
FOLLOWING = {"DB_INIT": "MSG_INIT", "MSG_END": "DB_END"}
STEPS = ("REQUESTED", "IN_PROGRESS", "OK")


def walk(part: str) -> list[str]:
    return [f"{part}_{step}" for step in STEPS]


@dataclass
class Record:
    """What the record of an owned session must be."""

    id: str
    event: int
    status: str = ""
    played: bool = False
    resume: str = ""
    revision: int = 0

    @property
    def part(self) -> str:
        return "_".join(self.status.split("_")[:2])

    @property
    def working(self) -> bool:
        return not self.status.endswith(("_OK", "_KO"))

    @property
    def owed(self) -> bool:
        return self.working or self.status == "MSG_START_OK"

    def advance(self) -> list[str]:
        """The statuses of the next step."""
        part = self.part
        if self.status.endswith("_REQUESTED"):
            return [f"{part}_IN_PROGRESS"]
        told = [f"{part}_OK"]
        if part in FOLLOWING:
            told.append(f"{FOLLOWING[part]}_REQUESTED")
        elif part == "MSG_INIT" and self.resume:
            told += walk(self.resume)
        return told


class World:
    """One tenant: its record as the model has it, two gateways, and the lease between them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.sessions = Sessions(connection, idle_ms=0, lease_ms=60_000, work_limit_ms=60_000)
        self.tenant = str(uuid4())
        self.record: Record | None = None
        self.told: list[str] = []
        self.known: list[Session | None] = [None, None]
        self.leases: list[Lease | None] = [None, None]
        self.holder: int | None = None
        self.token = 0

    def tell(self, *statuses: str) -> None:
        assert self.record is not None
        self.told += [f"{self.record.id} {status}" for status in statuses]
        self.record.status = statuses[-1]
        self.record.revision += len(statuses)
        if statuses[-1] == "DB_END_OK":
            self.record = None

    # -- verbs

    async def init(self, again: bool, minute: int) -> None:
        name = self.record.id if again and self.record else str(uuid4())
        outcome = await self.sessions.init(
            *(self.tenant, name),
            start_ms=minute * MINUTE,
            end_ms=minute * MINUTE + HOUR,
            event_types=["change"],
            again=again,
            failure="",
            owned=True,
        )
        if self.record is None and again:
            assert outcome.answer is Answer.MISSING
        elif self.record is not None and not again:
            assert outcome.answer is Answer.ACTIVE
        else:
            assert outcome.answer is Answer.OK
            revision = self.record.revision if self.record else 0
            self.record = Record(name, minute * MINUTE, revision=revision)
            self.tell("DB_INIT_REQUESTED")

    async def start(self) -> None:
        outcome = await self.sessions.start(self.tenant, self.id, 1.0)
        if self.allows(outcome.answer, set(RESTING)):
            self.tell("MSG_START_REQUESTED")

    async def stop(self) -> None:
        record = self.record
        outcome = await self.sessions.stop(self.tenant, self.id)
        if record is not None and record.part == "MSG_STOP" and record.working:
            assert outcome.answer is Answer.OK, "it stops already"
        elif self.allows(outcome.answer, {"MSG_START_OK", "MSG_STOP_OK"}):
            assert record is not None
            if record.status == "MSG_START_OK":
                self.tell("MSG_STOP_REQUESTED")

    async def seek(self, minute: int) -> None:
        record = self.record
        target = minute * MINUTE
        outcome = await self.sessions.seek(self.tenant, self.id, target)
        if outcome.answer is Answer.RANGE:
            assert record is not None
            return
        if self.allows(outcome.answer, set(RESTING)):
            assert record is not None
            ahead = target > record.event if record.played else target >= record.event
            record.resume, record.event, record.played = RESTING[record.status], target, False
            self.tell("MSG_INIT_REQUESTED" if ahead else "DB_INIT_REQUESTED")

    async def end(self, everything: bool, force: bool) -> None:
        if everything:
            outcome = await self.sessions.reset(self.tenant, force=force)
        else:
            outcome = await self.sessions.end(self.tenant, self.id)
        if self.record is None:
            assert outcome.answer is Answer.MISSING
            return
        assert outcome.answer is Answer.OK
        if everything and force:
            self.holder = None
            self.tell(*walk("MSG_END"), *walk("DB_END"))
        elif not (self.record.working and self.record.part in {"MSG_END", "DB_END"}):
            self.tell("MSG_END_REQUESTED")

    @property
    def id(self) -> str:
        return self.record.id if self.record else str(uuid4())

    def allows(self, answer: Answer, statuses: set[str]) -> bool:
        if self.record is None:
            assert answer is Answer.MISSING
        elif self.record.status not in statuses:
            assert answer is Answer.STATE
        else:
            assert answer is Answer.OK
            return True
        return False

    # -- the work

    async def take(self, gateway: int) -> None:
        taken = await self.sessions.take_work(self.tenant, f"gateway-{gateway}")
        if self.record is None or not self.record.owed or self.holder is not None:
            assert taken is None
            return
        assert taken is not None
        lease, session = taken
        assert int(lease.token) > self.token, "tokens grow"
        self.token = int(lease.token)
        assert session.view.status == self.record.status
        self.holder, self.leases[gateway], self.known[gateway] = gateway, lease, session

    async def step(self, gateway: int, failure: str) -> None:
        lease, known, record = self.leases[gateway], self.known[gateway], self.record
        if lease is None or known is None:
            return
        if self.holder != gateway:
            with pytest.raises(WorkLost):
                await self.sessions.step(self.tenant, lease, known, failure=failure)
            return
        found = await self.sessions.step(self.tenant, lease, known, failure=failure)
        self.known[gateway] = found
        if record is None or record.id != known.view.id:
            assert found is None
        elif known.clock.revision == record.revision and record.owed:
            if failure:
                between = [f"{record.part}_IN_PROGRESS"] if "_REQ" in record.status else []
                self.tell(*between, f"{record.part}_KO")
            elif record.working:
                told = record.advance()
                if "MSG_START_OK" in told:
                    record.played = True
                elif told[0] == "MSG_INIT_OK":
                    record.resume = ""
                self.tell(*told)
            assert found is not None
            assert found.view.status == record.status
            assert (b'"error":null' in bytes(found.session)) == (not failure)

    async def look(self, gateway: int) -> None:
        lease, known = self.leases[gateway], self.known[gateway]
        if lease is None or known is None:
            return
        if self.holder != gateway:
            with pytest.raises(WorkLost):
                await self.sessions.look(self.tenant, lease, known)
            return
        found = await self.sessions.look(self.tenant, lease, known)
        assert (found and found.view.status) == (self.record and self.record.status)
        self.known[gateway] = found

    async def leave(self, gateway: int) -> None:
        lease = self.leases[gateway]
        if lease is None:
            return
        if self.holder != gateway:
            with pytest.raises(WorkLost):
                await self.sessions.leave_work(self.tenant, lease)
            return
        found = await self.sessions.leave_work(self.tenant, lease)
        if self.record is not None and self.record.owed:
            assert found is not None
            assert found.view.status == self.record.status
        else:
            assert found is None
            self.holder = None

    async def expire(self) -> None:
        await self.connection.execute("DEL", f"ph:{{{self.tenant}}}:work")
        self.holder = None

    async def check(self) -> None:
        """Everything was told once, in this order, and the record is as it was last told."""
        entries = await self.connection.execute("XRANGE", f"ph:{{{self.tenant}}}:log", "-", "+")
        sessions = [parse(event) for _, (_, event) in entries]
        assert [f"{each.view.id} {each.view.status}" for each in sessions] == self.told
        session = await self.sessions.get(self.tenant)
        if self.record is None:
            assert session is None
            return
        assert session is not None
        assert session.view.status == self.record.status
        assert session.working == self.record.working
        assert session.clock.owned
        assert session.clock.playing == (self.record.status == "MSG_START_OK")
        if not session.clock.playing:
            assert session.clock.event_ms - session.clock.through_ms == int(not self.record.played)
        last = await self.sessions.last_told(self.tenant, self.record.id)
        assert last is not None
        assert last.view == session.view


minutes = st.integers(0, 59)
gateways = st.integers(0, 1)
verbs = st.one_of(
    st.tuples(st.just("init"), st.booleans(), minutes),
    st.tuples(st.just("start")),
    st.tuples(st.just("stop")),
    st.tuples(st.just("seek"), minutes),
    st.tuples(st.just("end"), st.booleans(), st.booleans()),
)
work = st.one_of(
    st.tuples(st.just("take"), gateways),
    *[st.tuples(st.just("step"), gateways, st.just(""))] * 4,
    st.tuples(st.just("step"), gateways, st.just("it failed")),
    st.tuples(st.just("look"), gateways),
    st.tuples(st.just("leave"), gateways),
    st.tuples(st.just("expire")),
)
# A session with an owner, so that few programs are about nothing; then verbs and steps as they come.
opening = [("init", False, 10), ("take", 0), *[("step", 0, "")] * 4]
programs = st.lists(st.one_of(verbs, work, work, work), min_size=5, max_size=40)

ordinary = settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def run(valkey: Valkey, program: list[tuple[Any, ...]]) -> None:
    connection = Connection(valkey.url)
    await connection.open()
    try:
        world = World(connection)
        for name, *args in [*opening, *program]:
            await getattr(world, name)(*args)
        await world.check()
    finally:
        await connection.close()


@ordinary
@given(program=programs)
async def test_an_owned_session_walks_as_the_model_says_whoever_interferes(
    valkey: Valkey, program: list[tuple[Any, ...]]
) -> None:
    await run(valkey, program)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(ordinary, max_examples=20_000, derandomize=False)
@given(program=programs)
async def test_owned_sessions_walk_as_the_model_says_in_many_more_programs(
    valkey: Valkey, program: list[tuple[Any, ...]]
) -> None:
    await run(valkey, program)


# -- time


async def begin(connection: Connection, tenant: str, **limits: int) -> tuple[Sessions, str]:
    sessions = Sessions(connection, lease_ms=60_000, **{"idle_ms": 0, **limits})
    name = str(uuid4())
    await sessions.init(
        *(tenant, name),
        start_ms=0,
        end_ms=HOUR,
        event_types=["change"],
        again=False,
        failure="",
        owned=True,
    )
    return sessions, name


async def until(sessions: Sessions, tenant: str, status: str | None) -> Session | None:
    async with asyncio.timeout(30):
        while True:
            session = await sessions.get(tenant)
            if (session and session.view.status) == status:
                return session


@pytest.mark.parametrize("steps", range(4))
async def test_work_that_outlasts_its_limit_becomes_ko_wherever_it_is(
    connection: Connection, tenant: str, steps: int
) -> None:
    sessions, name = await begin(connection, tenant, work_limit_ms=300)
    taken = await sessions.take_work(tenant, "owner")
    assert taken is not None
    lease, session = taken
    for _ in range(steps):
        stepped = await sessions.step(tenant, lease, session)
        assert stepped is not None
        session = stepped
    failed = await until(sessions, tenant, "DB_INIT_KO" if steps < 2 else "MSG_INIT_KO")
    assert failed is not None
    assert b'"error":"the work outlasted its limit of 0.3 seconds"' in bytes(failed.session)
    late = await sessions.step(tenant, lease, session)
    assert late is not None
    assert late.session == failed.session, "who was too late has no say"
    assert (await sessions.end(tenant, name)).answer is Answer.OK


async def test_an_owned_session_at_its_end_asks_for_its_stop(
    connection: Connection, tenant: str
) -> None:
    sessions, name = await begin(connection, tenant, work_limit_ms=60_000)
    taken = await sessions.take_work(tenant, "owner")
    assert taken is not None
    lease, session = taken
    for _ in range(4):
        session = await sessions.step(tenant, lease, session) or session
    session = (await sessions.start(tenant, name, 0.0)).session or session
    for status in ("MSG_START_IN_PROGRESS", "MSG_START_OK", "MSG_STOP_REQUESTED"):
        stepped = await sessions.step(tenant, lease, session)
        assert stepped is not None
        session = stepped
        if status != "MSG_STOP_REQUESTED":
            assert session.view.status == status
    assert session.view.status == "MSG_STOP_REQUESTED"
    assert session.clock.through_ms == HOUR, "at speed 0 it is there at once"


async def test_an_idle_owned_session_is_asked_to_end_and_its_lock_stays_until_that_is_done(
    connection: Connection, tenant: str
) -> None:
    sessions, _ = await begin(connection, tenant, work_limit_ms=60_000, idle_ms=50)
    await until(sessions, tenant, "MSG_END_REQUESTED")
    taken = await sessions.take_work(tenant, "owner")
    assert taken is not None
    lease, session = taken
    for _ in range(3):
        session = await sessions.step(tenant, lease, session) or session
    failed = await sessions.step(tenant, lease, session, failure="it is away")
    assert failed is not None
    assert failed.view.status == "DB_END_KO"
    # What could not be cleaned is tried again, an idle time later.
    await until(sessions, tenant, "MSG_END_REQUESTED")
