"""Who plays into the database is killed, sleeps, or loses what it needs: nothing twice, nothing stuck."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from store.connection import Connection
from store.embedded_postgres import EmbeddedPostgres
from store.log import EventLog
from tests.playback.controls import Controls, done
from tests.playback.processes import Site, open_site
from tests.playback.recording import Recording, Rows, connect, create_tables, read_rows
from tests.playback.session_model import ms_of, text_of
from tests.servers import start_postgres, stop_postgres

LEASE_SEC = 0.5
PAST_MS = 3_600_000
RESTING = ("_OK", "_KO")


class Theatre:
    """Two gateways, their server, the database they play into, and a recording of one tenant."""

    def __init__(self, site: Site, dsn: str, recording: Recording) -> None:
        self.site = site
        self.dsn = dsn
        self.recording = recording
        self.tenant = str(uuid4())
        self.begin = text_of(recording.begin_ms)
        self.end = text_of(recording.now_ms + 1000)

    @property
    def controls(self) -> list[Controls]:
        return self.site.controls(self.tenant)

    def at(self, share: float) -> str:
        """A time so far into the recording."""
        length = self.recording.now_ms - self.recording.begin_ms
        return text_of(self.recording.begin_ms + int(length * share))

    async def rows(self) -> Rows:
        connection = await connect(self.dsn)
        try:
            return await read_rows(connection)
        finally:
            await connection.close()

    async def execute(self, statement: str) -> None:
        connection = await connect(self.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def expected(self, session: Any, *, played: bool = True) -> Rows:
        at = ms_of(session["replay_last_timestamp"])
        return self.recording.at(at if played else at - 1)

    async def rest(self, number: int) -> Any:
        """The session as soon as nothing is under way; None when there is none."""
        async with asyncio.timeout(40):
            while True:
                answer = await self.controls[number].send("GET", "/v1/replay/current-session")
                if answer.status_code != 503:
                    session = done(answer, null=True)
                    if session is None or session["status"].endswith(RESTING):
                        return session
                await asyncio.sleep(0.02)

    async def stop_at(self, number: int, session: Any) -> Any:
        """Stopped by a gateway, whoever is at work."""
        answer = await self.controls[number].stop(session["id"])
        assert answer.status_code == 200, answer.text
        return await self.rest(number)


@asynccontextmanager
async def open_theatre(
    directory: Path, seed: int, dsn: str, **playback: Any
) -> AsyncIterator[Theatre]:
    await create_tables(dsn)
    recording = Recording(random.Random(seed), int(time.time() * 1000) - PAST_MS)
    recording.run(1000, 20)
    limits = {"lease_sec": LEASE_SEC, "outage_sec": 20, "work_limit_sec": 60, **playback}
    sections = {"playback": {"database": dsn, "highest_speed": 100, **limits}}
    async with open_site(directory, 2, **sections) as site:
        theatre = Theatre(site, dsn, recording)
        connection = Connection(site.valkey.url)
        await connection.open()
        await recording.publish(EventLog(connection, idempotency_window_ms=1), theatre.tenant)
        await connection.close()
        yield theatre


@pytest.fixture
def mortal() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own, to be killed."""
    server = start_postgres()
    yield server
    stop_postgres(server)


async def run_takeovers(directory: Path, dsn: str, seed: int, rounds: int) -> None:
    """The owner is killed or put to sleep in mid-play, and the other one goes on."""
    async with open_theatre(directory, seed, dsn) as theatre:
        pick = random.Random(seed)
        session = await theatre.controls[0].begin(theatre.begin, theatre.end)
        for number in range(rounds):
            owner, other = number % 2, 1 - number % 2
            done(await theatre.controls[owner].seek(session["id"], theatre.at(pick.random() * 0.3)))
            done(await theatre.controls[owner].start(session["id"], 1))
            await asyncio.sleep(pick.uniform(0.1, 0.6))
            asleep = number % 3 != 1
            if asleep:
                theatre.site.pause(owner)
            else:
                theatre.site.gateways[owner].kill()
            stopped = await theatre.stop_at(other, session)
            assert stopped["status"] == "MSG_STOP_OK", stopped
            assert await theatre.rows() == theatre.expected(stopped)
            if asleep:
                await wake(theatre, owner)
            else:
                await theatre.site.start_gateway(owner)
            # Whatever the old one still had in hand has come to nothing.
            assert await theatre.rows() == theatre.expected(stopped)
            done(await theatre.controls[other].start(session["id"], 20))
            await asyncio.sleep(pick.uniform(0, 0.1))
            stopped = await theatre.stop_at(owner, session)
            assert await theatre.rows() == theatre.expected(stopped)
        done(await theatre.controls[1].end(session["id"]))
        assert await theatre.rows() == theatre.recording.at(0)


async def wake(theatre: Theatre, owner: int) -> None:
    """The one that slept finds that the work is another's; on a slow machine it was so before."""
    gateway = theatre.site.gateways[owner]
    before = gateway.log_file.read_text().count("playback_work_lost")
    theatre.site.resume(owner)
    with suppress(TimeoutError):
        async with asyncio.timeout(3):
            while gateway.log_file.read_text().count("playback_work_lost") == before:
                await asyncio.sleep(0.01)


async def test_a_killed_owner_and_one_that_sleeps_are_taken_over_and_nothing_is_played_twice(
    tmp_path: Path, database: str
) -> None:
    await run_takeovers(tmp_path, database, 3, 2)


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_a_hundred_owners_are_taken_over(tmp_path: Path, database: str) -> None:
    await run_takeovers(tmp_path, database, 4, 100)


# -- faults around a verb

Prepare = Callable[[Theatre], Awaitable[str]]
Verb = Callable[[Theatre, str], Awaitable[httpx.Response]]


async def nothing(theatre: Theatre) -> str:
    return ""


async def paused(theatre: Theatre) -> str:
    session = await theatre.controls[1].begin(theatre.begin, theatre.end)
    done(await theatre.controls[1].seek(session["id"], theatre.at(0.3)))
    return str(session["id"])


async def playing(theatre: Theatre) -> str:
    session = await paused(theatre)
    done(await theatre.controls[1].start(session, 2))
    return session


# What a verb is sent to, the verb, and the status it leads to.
VERBS: dict[str, tuple[Prepare, Verb, str | None]] = {
    "init": (nothing, lambda t, _: t.controls[0].init(t.at(0.5), t.end), "MSG_INIT_OK"),
    "start": (paused, lambda t, session: t.controls[0].start(session, 2), "MSG_START_OK"),
    "stop": (playing, lambda t, session: t.controls[0].stop(session), "MSG_STOP_OK"),
    "forward": (paused, lambda t, session: t.controls[0].seek(session, t.at(0.6)), "MSG_INIT_OK"),
    "back": (playing, lambda t, session: t.controls[0].seek(session, t.at(0.1)), "MSG_START_OK"),
    "end": (playing, lambda t, session: t.controls[0].end(session), None),
    "reset": (playing, lambda t, session: t.controls[0].reset(), None),
}


async def run_fault(
    theatre: Theatre, mortal: EmbeddedPostgres, name: str, fault: str, pick: random.Random
) -> None:
    prepare, verb, reached = VERBS[name]
    session_id = await prepare(theatre)
    sending = asyncio.create_task(send(verb, theatre, session_id))
    await asyncio.sleep(pick.uniform(0, 0.03))
    if fault == "gateway":
        theatre.site.gateways[0].kill()
        mending = asyncio.create_task(theatre.site.start_gateway(0))
    elif fault == "valkey":
        mending = asyncio.create_task(theatre.site.kill_valkey())
    else:
        await asyncio.to_thread(mortal.kill)
        mending = asyncio.create_task(asyncio.to_thread(mortal.start))
    await sending
    await mending
    session = await theatre.rest(1)
    status = session and session["status"]
    if session is not None and status.endswith("_KO"):
        assert session["error"], "a KO has its reason"
    else:
        assert status in {reached, "MSG_INIT_OK", "MSG_START_OK", "MSG_STOP_OK", None}
    if status == "MSG_START_OK":
        session = await theatre.stop_at(1, session)
        status = session["status"]
    if status in {"MSG_INIT_OK", "MSG_STOP_OK"}:
        rows = await theatre.rows()
        # Of a seek that paused it never played on.
        assert rows in (theatre.expected(session), theatre.expected(session, played=False))
    done(await theatre.controls[1].reset(), null=True)
    assert await theatre.rest(1) is None
    assert await theatre.rows() == theatre.recording.at(0)


async def send(verb: Verb, theatre: Theatre, session: str) -> None:
    try:
        answer = await verb(theatre, session)
    except httpx.TransportError:
        return  # its gateway is gone
    assert answer.status_code in {200, 201, 503}, answer.text


async def test_a_fault_around_a_verb_ends_in_ok_or_in_a_ko_with_its_reason(
    tmp_path: Path, mortal: EmbeddedPostgres
) -> None:
    async with open_theatre(tmp_path, 5, mortal.dsn) as theatre:
        pick = random.Random(5)
        for fault, name in (
            ("target", "init"),
            ("target", "stop"),
            ("target", "end"),
            ("valkey", "forward"),
            ("valkey", "back"),
            ("gateway", "start"),
        ):
            await run_fault(theatre, mortal, name, fault, pick)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("fault", ["target", "valkey", "gateway"])
async def test_many_faults_around_verbs_leave_nothing_in_progress(
    tmp_path: Path, mortal: EmbeddedPostgres, fault: str
) -> None:
    async with open_theatre(tmp_path, 6, mortal.dsn) as theatre:
        pick = random.Random(fault)
        for _ in range(15):
            for name in VERBS:
                await run_fault(theatre, mortal, name, fault, pick)


async def test_a_database_that_stays_away_is_a_ko_and_what_was_left_there_is_removed_later(
    tmp_path: Path, mortal: EmbeddedPostgres
) -> None:
    limits = {"outage_sec": 0.5, "step_patience_sec": 3}
    async with open_theatre(tmp_path, 7, mortal.dsn, **limits) as theatre:
        controls = theatre.controls[0]
        session = await controls.begin(theatre.at(0.9), theatre.end)
        # What nobody can clean up must not keep what others left: it came first, and ended the round.
        await theatre.execute(
            "INSERT INTO playhead.progress (tenant, token, session) "
            f"VALUES ('{UUID(int=0)}', 1::bigint << 60, 'x')"
        )
        done(await controls.start(session["id"]))
        await asyncio.to_thread(mortal.kill)
        async with asyncio.timeout(30):
            while (failed := await theatre.rest(1))["status"] != "MSG_START_KO":
                await asyncio.sleep(0.02)
        assert "the playback database" in failed["error"]
        again = done(await controls.init(theatre.begin, theatre.end, session_id=session["id"]), 201)
        assert again["status"] == "DB_INIT_KO"
        ended = done(await controls.end(session["id"]))
        assert (ended["status"], ended["display_status"]) == ("DB_END_KO", "REPLAY_END_KO")
        assert await controls.current() == ended, "it still has rows there"
        freed = done(await controls.reset())
        assert freed["status"] == "DB_END_OK"
        assert await controls.current() is None
        await asyncio.to_thread(mortal.start)
        async with asyncio.timeout(60):
            while await theatre.rows() != theatre.recording.at(0):
                await asyncio.sleep(0.05)
        fresh = await controls.begin(theatre.at(0.9), theatre.end)
        assert fresh["status"] == "MSG_INIT_OK"
        assert await theatre.rows() == theatre.expected(fresh, played=False)


def processes_of(server: EmbeddedPostgres) -> list[int]:
    """The server's and its backends'."""
    parent = int((server.folder / "pgdata" / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


@pytest.mark.soak
async def test_a_database_that_hangs_is_a_ko_when_the_limit_of_the_work_is_reached(
    tmp_path: Path, mortal: EmbeddedPostgres
) -> None:
    async with open_theatre(tmp_path, 9, mortal.dsn, work_limit_sec=3) as theatre:
        session = await playing(theatre)
        stopped = processes_of(mortal)
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            failed = await theatre.stop_at(0, {"id": session})
            assert failed["status"] == "MSG_STOP_KO"
            assert failed["error"] == "the work outlasted its limit of 3 seconds"
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)
        done(await theatre.controls[0].reset())
        assert await theatre.rows() == theatre.recording.at(0)
