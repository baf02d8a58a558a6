"""Gateways and the server are killed around each verb: no session is left in the middle of a step."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from store.connection import Connection
from store.errors import StoreUnavailable
from tests.playback.controls import END, START, Controls, done, moment
from tests.playback.processes import Site, open_site

RESTING = {"MSG_INIT_OK", "MSG_START_OK", "MSG_STOP_OK", "DB_INIT_KO"}
TENANTS = 8

Prepare = Callable[[Controls], Awaitable[str]]
Verb = Callable[[Controls, str], Awaitable[httpx.Response]]


async def nothing(controls: Controls) -> str:
    return ""


async def initialised(controls: Controls) -> str:
    session: str = (await controls.begin())["id"]
    return session


async def playing(controls: Controls) -> str:
    session = await initialised(controls)
    done(await controls.start(session))
    return session


async def near_its_end(controls: Controls) -> str:
    """It stops by itself about when the fault comes."""
    session: str = (await controls.begin(end=moment(0.04)))["id"]
    done(await controls.start(session))
    return session


# What a verb is sent to, the verb, and the statuses that an answer may leave (None: no session).
VERBS: dict[str, tuple[Prepare, Verb, set[str | None]]] = {
    "init": (nothing, lambda controls, _: controls.init(), {"MSG_INIT_OK"}),
    "again": (
        playing,
        lambda controls, session: controls.init(session_id=session),
        {"MSG_INIT_OK"},
    ),
    "start": (initialised, lambda controls, session: controls.start(session, 2), {"MSG_START_OK"}),
    "speed": (playing, lambda controls, session: controls.start(session, 4), {"MSG_START_OK"}),
    "stop": (playing, lambda controls, session: controls.stop(session), {"MSG_STOP_OK"}),
    "seek": (
        playing,
        lambda controls, session: controls.seek(session, moment(60)),
        {"MSG_START_OK"},
    ),
    "end": (playing, lambda controls, session: controls.end(session), {None}),
    "reset": (playing, lambda controls, _: controls.reset(), {None}),
    "range": (
        near_its_end,
        lambda controls, _: controls.send("GET", "/v1/replay/current-session"),
        {"MSG_START_OK", "MSG_STOP_OK"},
    ),
}


class Faults:
    """Verbs for many tenants at once, by a gateway that is killed, or whose server is."""

    def __init__(self, site: Site, backend: Connection, seed: int) -> None:
        self.site = site
        self.backend = backend
        self.random = random.Random(seed)
        self.answered = 0

    async def run(self, name: str, fault: str) -> None:
        prepare, verb, allowed = VERBS[name]
        tenants = [str(uuid4()) for _ in range(TENANTS)]
        sessions = await asyncio.gather(
            *(prepare(self.site.controls(tenant)[1]) for tenant in tenants)
        )
        before = [await self._status(tenant) for tenant in tenants]
        # From before the first answer to behind the last one.
        moment_of_fault = self.random.randint(0, TENANTS)
        self.answered = 0
        sent = [
            asyncio.create_task(self._send(verb, tenant, session))
            for tenant, session in zip(tenants, sessions, strict=True)
        ]
        async with asyncio.timeout(60):
            while self.answered < moment_of_fault:
                await asyncio.sleep(0)
        if fault == "gateway":
            self.site.gateways[0].kill()
            mending = asyncio.create_task(self.site.start_gateway(0))
        else:
            mending = asyncio.create_task(self.site.kill_valkey())
        answers = await asyncio.gather(*sent)
        for tenant, answer, old in zip(tenants, answers, before, strict=True):
            await self._check(tenant, answer, allowed, old)
        await mending

    async def _send(self, verb: Verb, tenant: str, session: str) -> int | None:
        """The status of the answer, if there was one."""
        try:
            answer = await verb(self.site.controls(tenant)[0], session)
        except httpx.TransportError:
            return None
        finally:
            self.answered += 1
        return answer.status_code

    async def _check(
        self, tenant: str, answer: int | None, allowed: set[str | None], old: str | None
    ) -> None:
        assert answer in {None, 200, 201, 503}
        for way in self.site.controls(tenant)[1:]:
            session = await self._current(way)
            status = session and session["status"]
            assert status in RESTING | {None}
            if answer in {200, 201}:
                assert status in allowed, "what was answered is not so"
            else:
                # Either it happened or it did not.
                assert status in allowed | {old, "MSG_STOP_OK" if old == "MSG_START_OK" else old}
        assert await self._status(tenant) == status
        assert await self._last_told(tenant) == (status or ("DB_END_OK" if old else None))
        # And the tenant is none the worse for it.
        way = self.site.controls(tenant)[1]
        if session is not None:
            done(await way.end(session["id"]))
        fresh = await way.begin(START, END)
        assert done(await way.start(fresh["id"]))["status"] == "MSG_START_OK"
        done(await way.reset())

    async def _current(self, way: Controls) -> Any:
        """The session, as soon as the gateway has its server again."""
        async with asyncio.timeout(60):
            while True:
                answer = await way.send("GET", "/v1/replay/current-session")
                if answer.status_code != 503:
                    return done(answer, null=True)

    async def _status(self, tenant: str) -> str | None:
        found = await self._ask("HGET", f"ph:{{{tenant}}}:session", "status")
        return None if found is None else str(found.decode())

    async def _last_told(self, tenant: str) -> str | None:
        entries = await self._ask("XREVRANGE", f"ph:{{{tenant}}}:log", "+", "-", "COUNT", 1)
        if not entries:
            return None
        told: str = msgspec.json.decode(entries[0][1][1])["session"]["status"]
        return told

    async def _ask(self, *command: str | int) -> Any:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self.backend.execute(*command)
                except StoreUnavailable:
                    continue


@asynccontextmanager
async def open_faults(directory: Path, seed: int) -> AsyncIterator[Faults]:
    async with open_site(directory, 2) as site:
        backend = Connection(site.valkey.url)
        await backend.open()
        try:
            yield Faults(site, backend, seed)
        finally:
            await backend.close()


@pytest.mark.parametrize("fault", ["gateway", "valkey"])
async def test_a_fault_around_a_verb_leaves_no_session_in_the_middle_of_a_step(
    tmp_path: Path, fault: str
) -> None:
    async with open_faults(tmp_path, seed=0) as faults:
        for name in VERBS:
            await faults.run(name, fault)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("fault", ["gateway", "valkey"])
async def test_many_faults_around_verbs_leave_no_session_in_the_middle_of_a_step(
    tmp_path: Path, fault: str
) -> None:
    async with open_faults(tmp_path, seed=1) as faults:
        for _ in range(40):
            for name in VERBS:
                await faults.run(name, fault)
