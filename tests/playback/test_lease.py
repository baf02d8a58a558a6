"""The lease of a one-shot replay: a holder that slept past it finds that nothing is its own any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import uuid4

import pytest

from store.connection import Connection
from store.session import Answer, Lease, Outcome, Sessions
from tests.event_stream import OpenStream, open_stream, post
from tests.playback.controls import done, refused
from tests.playback.processes import Site, open_site
from tests.servers import Valkey

# Who is awake must be able to renew in time, however busy the machine is.
LEASE_SEC = 2.0
BODY = {"event_type": "reading", "identifier": {}, "from_id": "1"}


# -- on the server


@pytest.fixture
async def server(valkey: Valkey) -> AsyncIterator[Connection]:
    opened = Connection(valkey.url)
    await opened.open()
    yield opened
    await opened.close()


def holders(server: Connection, lease_ms: int) -> Sessions:
    return Sessions(server, idle_ms=1000, lease_ms=lease_ms)


async def take(sessions: Sessions, tenant: str, owner: str) -> Lease:
    taken = await sessions.take_lease(tenant, owner)
    assert isinstance(taken, Lease)
    return taken


async def expire(server: Connection, tenant: str) -> None:
    key = f"ph:{{{tenant}}}:lease"
    async with asyncio.timeout(60):
        while await server.execute("EXISTS", key):
            pass


async def test_of_many_takers_one_gets_the_lease(server: Connection, tenant: str) -> None:
    sessions = holders(server, 60_000)
    taken = await asyncio.gather(*(sessions.take_lease(tenant, f"o{n}") for n in range(50)))
    [lease] = [each for each in taken if isinstance(each, Lease)]
    others = [each for each in taken if isinstance(each, Outcome)]
    assert [each.answer for each in others] == [Answer.ONE_SHOT] * 49
    assert await sessions.renew_lease(tenant, lease)
    assert await sessions.release_lease(tenant, lease)


async def test_tokens_grow_with_every_take_and_never_begin_again(
    server: Connection, tenant: str
) -> None:
    sessions = holders(server, 1)
    tokens = []
    for number in range(5):
        lease = await take(sessions, tenant, f"owner-{number % 2}")
        tokens.append(int(lease.token))
        if number % 2:
            await sessions.release_lease(tenant, lease)
        else:
            await sessions.reset(tenant)
        await expire(server, tenant)
    assert tokens == sorted(set(tokens))
    assert await server.execute("PTTL", f"ph:{{{tenant}}}:fence") == -1
    other = await take(sessions, str(uuid4()), "owner")
    assert int(other.token) == 1, "counted for each tenant"


async def test_a_lease_that_ran_out_cannot_be_renewed_or_given_back(
    server: Connection, tenant: str
) -> None:
    short, long = holders(server, 5), holders(server, 60_000)
    old = await take(short, tenant, "old")
    await expire(server, tenant)
    assert not await short.renew_lease(tenant, old), "though nobody else has it"
    assert not await server.execute("EXISTS", f"ph:{{{tenant}}}:lease")
    new = await take(long, tenant, "new")
    assert int(new.token) > int(old.token)
    assert not await short.renew_lease(tenant, old)
    assert not await short.release_lease(tenant, old)
    # The same owner with an older token is no holder either.
    assert not await long.renew_lease(tenant, Lease("new", old.token))
    assert not await long.release_lease(tenant, Lease("new", old.token))
    assert not await long.release_lease(tenant, Lease("old", new.token))
    assert await server.execute("PTTL", f"ph:{{{tenant}}}:lease") > 50_000
    assert await long.renew_lease(tenant, new)
    assert await long.release_lease(tenant, new)


async def test_a_session_stands_in_the_way_of_a_lease_and_a_lease_in_that_of_a_session(
    server: Connection, tenant: str
) -> None:
    sessions = holders(server, 60_000)

    async def init() -> Outcome:
        return await sessions.init(
            *(tenant, str(uuid4())), start_ms=1, end_ms=9, event_types=[], again=False, failure=""
        )

    lease = await take(sessions, tenant, "owner")
    assert (await init()).answer is Answer.ONE_SHOT
    assert await sessions.release_lease(tenant, lease)
    given = await init()
    assert given.answer is Answer.OK
    refusal = await sessions.take_lease(tenant, "owner")
    assert isinstance(refusal, Outcome)
    assert refusal.answer is Answer.ACTIVE
    assert refusal.session is not None
    assert given.session is not None
    assert refusal.session.view.id == given.session.view.id


# -- gateways that sleep


class Rounds:
    """Two gateways in turn: one holds the lock and is paused past its lease, the other takes over."""

    def __init__(self, site: Site, server: Connection) -> None:
        self.site = site
        self.server = server
        self.tenant = str(uuid4())
        self.tokens: list[int] = []
        self.controls = site.controls(self.tenant)

    async def held(self) -> bytes | None:
        value: bytes | None = await self.server.execute("GET", f"ph:{{{self.tenant}}}:lease")
        return value

    async def opened(self, stream: OpenStream) -> bytes:
        """The lease under which this replay runs."""
        await stream.until("event")
        value = await self.held()
        assert value is not None
        token = int(value.rpartition(b" ")[2])
        assert not self.tokens or token > self.tokens[-1], "the token of a later take is higher"
        self.tokens.append(token)
        return value

    async def run(self, number: int, successor: str) -> None:
        """`successor`: what takes the lock while its holder sleeps: a replay, a session or nothing."""
        sleeper, other = number % 2, 1 - number % 2
        async with self.open(sleeper) as sleeping:
            old = await self.opened(sleeping)
            self.site.pause(sleeper)
            try:
                await self._until_free()
                if successor == "replay":
                    async with self.open(other) as stream:
                        new = await self.opened(stream)
                        assert new != old
                        await self._wake(sleeper, sleeping, new)
                        assert not stream.ended
                    await self._until_free()
                elif successor == "session":
                    session = done(await self.controls[other].init(), 201)
                    await self._wake(sleeper, sleeping, None)
                    assert await self.controls[sleeper].current() == session
                    done(await self.controls[sleeper].end(session["id"]))
                else:
                    await self._wake(sleeper, sleeping, None)
            finally:
                self.site.resume(sleeper)

    def open(self, number: int) -> AbstractAsyncContextManager[OpenStream]:
        request = post("/api/v1/replay", BODY, self.tenant)
        return open_stream(self.site.gateways[number].port, request)

    async def _wake(self, sleeper: int, sleeping: OpenStream, lease: bytes | None) -> None:
        """The stream of who slept ends; until then and after, the lease is as it was."""
        self.site.resume(sleeper)
        ended = asyncio.create_task(read_to_the_loss(sleeping))
        while not ended.done():
            assert await self.held() == lease
        ended.result()
        # What it does after that, such as giving back its lease, was done when it answers.
        refusal = await self.controls[sleeper].init("no time")
        refused(refusal, 400, "INVALID_SESSION_REQUEST")
        assert await self.held() == lease

    async def _until_free(self) -> None:
        async with asyncio.timeout(60):
            while await self.held() is not None:
                pass


async def read_to_the_loss(stream: OpenStream) -> None:
    """The connection was cut without a word: a client took it for a network's fault."""
    await stream.rest()
    *_, error, closing = stream.frames
    assert error.event == "error"
    assert "lock of the tenant could not be kept" in error.data["message"]
    assert closing.data["reason"] == "end_of_stream"
    assert [frame.kind for frame in stream.frames].count("event") == 1
    assert "replay_completed" not in [frame.kind for frame in stream.frames]


async def run_rounds(directory: Path, count: int) -> None:
    async with open_site(
        directory,
        2,
        playback={"lease_sec": LEASE_SEC},
        # One event a minute: a replay stays open for as long as its client does.
        watch_endpoint={"replay_batch_size": 1, "replay_batch_delay_ms": 60_000},
    ) as site:
        server = Connection(site.valkey.url)
        await server.open()
        try:
            rounds = Rounds(site, server)
            await rounds.controls[0].record([1, 2, 3])
            for number in range(count):
                await rounds.run(number, ("replay", "session", "nothing", "replay")[number % 4])
        finally:
            await server.close()


async def test_a_gateway_that_slept_past_its_lease_has_no_say_when_it_wakes(tmp_path: Path) -> None:
    await run_rounds(tmp_path, 3)


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_nobody_has_a_say_after_its_lease_in_500_rounds(tmp_path: Path) -> None:
    await run_rounds(tmp_path, 500)


async def test_a_replay_whose_server_is_silent_past_its_lease_ends_with_its_reason(
    tmp_path: Path,
) -> None:
    """Its gateway went on for as long as it could not ask whether the lease was still its own."""
    async with open_site(
        tmp_path,
        1,
        playback={"lease_sec": LEASE_SEC},
        watch_endpoint={"replay_batch_size": 1, "replay_batch_delay_ms": 60_000},
    ) as site:
        tenant = str(uuid4())
        [controls] = site.controls(tenant)
        await controls.record([1, 2, 3])
        request = post("/api/v1/replay", BODY, tenant)
        async with open_stream(site.gateways[0].port, request) as stream:
            await stream.until("event")
            site.valkey.kill()
            await read_to_the_loss(stream)
        await asyncio.to_thread(site.valkey.start)
        session = done(await controls.init(), 201)
        done(await controls.end(session["id"]))
