"""The session lock: one a tenant, over all gateways, for sessions and for one-shot replays."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from store import session as store_session
from store.connection import Connection
from tests.conftest import RunningGateway, Start
from tests.contract.users import PROXY, bearer
from tests.event_stream import OpenStream, get, open_stream, post
from tests.playback.conftest import House
from tests.playback.controls import Controls, done, moment, refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

REPLAY = "/api/v1/replay"
ALL = {"event_type": "reading", "from_id": "1"}
# One event a minute: a replay stays open for as long as its client does.
ENDLESS = {"replay_batch_size": 1, "replay_batch_delay_ms": 60_000}
SHORT = {"lease_sec": 3}


# -- sessions


async def test_of_200_inits_at_once_one_gets_the_session_and_199_are_told_its_holder(
    controls: Controls, others: Controls
) -> None:
    answers = await asyncio.gather(
        *(each.init(moment(number)) for number in range(100) for each in (controls, others))
    )
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 199}
    [winner] = [answer for answer in answers if answer.status_code == 201]
    session = done(winner, 201)
    for answer in answers:
        if answer is not winner:
            assert refused(answer, 409, "REPLAY_SESSION_ACTIVE")["details"] == session
    assert await controls.current() == session


async def one_tenant(house: House, number: int) -> None:
    """What a tenant does with its session while others do so with theirs."""
    tenant = str(uuid4())
    ways = [Controls(gateway.client, tenant) for gateway in (house.first, house.second)]
    near, far = ways if number % 2 else reversed(ways)
    answers = await asyncio.gather(*(each.init(moment(number)) for each in (near, far, near)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    [session] = [answer.json()["data"] for answer in answers if answer.status_code == 201]
    assert session["tenant_id"] == tenant
    assert session["replay_start_timestamp"] == moment(number)
    sid = session["id"]
    assert done(await far.start(sid, 2))["replay_speed"] == 2
    assert done(await near.stop(sid))["status"] == "MSG_STOP_OK"
    moved = done(await far.seek(sid, moment(number + 1)))
    assert moved["replay_last_timestamp"] == moment(number + 1)
    assert await near.current() == moved
    done(await far.end(sid))
    assert await near.current() is None


async def test_a_hundred_tenants_at_once_do_not_disturb_each_other(house: House) -> None:
    await asyncio.gather(*(one_tenant(house, number) for number in range(100)))


@pytest.mark.soak
async def test_a_thousand_tenants_at_once_do_not_disturb_each_other(house: House) -> None:
    turns = asyncio.Semaphore(200)  # as many connections as a client opens

    async def take_turn(number: int) -> None:
        async with turns:
            await one_tenant(house, number % 3000)

    await asyncio.gather(*(take_turn(number) for number in range(1000)))


async def test_reset_frees_while_others_try_to_take(controls: Controls, others: Controls) -> None:
    """Whatever the order they come in, there is never more than one session."""
    await controls.begin()
    answers = await asyncio.gather(
        *(
            each()
            for _ in range(20)
            for each in (controls.init, others.reset, others.init, controls.reset, others.init)
        )
    )
    given = [answer.json()["data"]["id"] for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    assert len(set(given)) == len(given)
    current = await controls.current()
    assert current is None or current["id"] in given
    done(await others.reset(), null=True)
    await controls.begin()


# -- idle sessions


async def test_a_session_that_nobody_watches_or_touches_ends_by_itself(
    start_gateway: Start, tenant: str, backend: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name stayed in the server's list for ever."""
    monkeypatch.setattr(store_session, "SWEEP_SEC", 0.05)
    async with start_gateway(playback={"idle_sec": 1}, notification_schema_strict=False) as running:
        controls = Controls(running.client, tenant)
        session = await controls.begin()
        await until_false(backend, "EXISTS", f"ph:{{{tenant}}}:session")
        await until_false(backend, "HEXISTS", "ph:sessions", session["id"])
        assert await controls.current() is None
        for verb, body in (("start", {}), ("seek", {"timestamp": moment(1)}), ("end", {})):
            answer = await controls.put(session["id"], verb, **body)
            refused(answer, 404, "SESSION_NOT_FOUND")
        path = f"/v1/replay/{session['id']}/stream"
        refused(await controls.send("GET", path), 404, "SESSION_NOT_FOUND")
        assert (await controls.begin())["id"] != session["id"]


async def test_a_session_that_is_watched_does_not_end_however_short_its_idle_time(
    start_gateway: Start, tenant: str, backend: Connection
) -> None:
    """Watchers touched it every ten seconds, whatever its idle time."""
    async with start_gateway(playback={"idle_sec": 2}, notification_schema_strict=False) as running:
        controls = Controls(running.client, tenant)
        session = await controls.begin()
        request = get(f"/v1/replay/{session['id']}/stream", {}, tenant)
        async with open_stream(running.port, request) as stream:
            touches: set[bytes] = set()
            while len(touches) < 4:  # by the request, by its player, and again and again
                await stream.until("system-time")
                touches.add(await backend.execute("HGET", f"ph:{{{tenant}}}:session", "touched"))
            assert await controls.current() == session
        # Nobody watches now.
        async with asyncio.timeout(60):
            while await controls.current() is not None:
                pass


async def test_every_verb_is_a_touch(controls: Controls, backend: Connection) -> None:
    session = await controls.begin()
    key = f"ph:{{{controls.tenant}}}:session"
    for verb, body in (
        ("start", {}),
        ("start", {"replay_speed": 2}),
        ("seek", {"timestamp": moment(1)}),
        ("stop", {}),
        ("stop", {}),
    ):
        await backend.execute(
            "HSET", key, "touched", int(await backend.execute("HGET", key, "touched")) - 900_000
        )
        before = await backend.execute("HGET", key, "touched")
        done(await controls.put(session["id"], verb, **body))
        assert int(await backend.execute("HGET", key, "touched")) >= int(before) + 900_000
    # To look at it is not.
    before = await backend.execute("HGET", key, "touched")
    await controls.current()
    assert await backend.execute("HGET", key, "touched") == before


async def until_false(backend: Connection, *command: str) -> None:
    """Until the server answers 0."""
    async with asyncio.timeout(60):
        while await backend.execute(*command):
            pass


# -- one-shot replays


@pytest_asyncio.fixture(loop_scope="session")
async def shop(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    """A gateway whose replays do not end by themselves, with short leases."""
    async with start_gateway(
        watch_endpoint=ENDLESS, playback=SHORT, notification_schema_strict=False
    ) as running:
        yield running


Replay = Callable[[], AbstractAsyncContextManager[OpenStream]]


def by_post(running: RunningGateway, tenant: str) -> Replay:
    body = {**ALL, "identifier": {}}
    return lambda: open_stream(running.port, post(REPLAY, body, tenant))


def by_get(running: RunningGateway, tenant: str) -> Replay:
    return lambda: open_stream(running.port, get(REPLAY, ALL, tenant))


async def lease_of(backend: Connection, tenant: str) -> tuple[str, int] | None:
    """Its token, and how many ms it lasts unless it is renewed."""
    key = f"ph:{{{tenant}}}:lease"
    value, left = await backend.execute("GET", key), await backend.execute("PTTL", key)
    return None if value is None else (value.decode().rpartition(" ")[2], int(left))


async def until_free(controls: Controls) -> dict[str, Any]:
    """The session that is given as soon as the lock is free."""
    async with asyncio.timeout(60):
        while (answer := await controls.init()).status_code == 409:
            refused(answer, 409, "REPLAY_SESSION_ACTIVE")
    session: dict[str, Any] = done(answer, 201)
    return session


@pytest.mark.parametrize("way", [by_post, by_get])
async def test_a_replay_of_a_named_tenant_holds_the_lock_until_its_client_leaves(
    house: House,
    shop: RunningGateway,
    backend: Connection,
    tenant: str,
    way: Callable[[RunningGateway, str], Replay],
) -> None:
    others = Controls(house.second.client, tenant)
    await others.record([1, 2, 3])
    async with way(shop, tenant)() as stream:
        await stream.until("event")
        answer = await others.init()
        body = refused(answer, 409, "REPLAY_SESSION_ACTIVE")
        assert int(answer.headers["retry-after"]) > 0
        assert "one-shot" in body["message"]
        for rival in (by_post, by_get):
            async with rival(house.second, tenant)() as refused_stream:
                assert await refused_stream.rest() == []
            assert refused_stream.status == 409
            assert int(refused_stream.headers["retry-after"]) > 0
            assert b'"code":"REPLAY_SESSION_ACTIVE"' in refused_stream.body
        # Renewed while it runs, so that it lasts for as long as that.
        renewals, left = 0, 3000
        async with asyncio.timeout(60):
            while renewals < 2:
                found = await lease_of(backend, tenant)
                assert found is not None, "it expired under its holder"
                renewals += found[1] > left
                left = found[1]
        # Another tenant, and a watch of this one, are not concerned.
        await Controls(house.second.client, str(uuid4())).begin()
        watch = get("/api/v1/watch", {"event_type": "reading"}, tenant)
        async with open_stream(house.second.port, watch) as watching:
            await watching.until("connection_established")
        assert not stream.ended
    await until_free(others)
    assert await lease_of(backend, tenant) is None


async def test_a_replay_that_ends_frees_the_lock(
    house: House, controls: Controls, others: Controls
) -> None:
    assert controls.tenant is not None
    await controls.record([1, 2, 3])
    for way in (by_post, by_get):
        async with way(house.first, controls.tenant)() as stream:
            frames = await stream.rest()
        assert [frame.kind for frame in frames].count("event") == 3
        session = await until_free(others)
        done(await others.end(session["id"]))


async def test_a_replay_is_refused_while_there_is_a_session_and_told_which(
    house: House, controls: Controls
) -> None:
    assert controls.tenant is not None
    await controls.record([1])
    session = await controls.begin()
    for way in (by_post, by_get):
        async with way(house.second, controls.tenant)() as stream:
            await stream.rest()
        assert stream.status == 409
        assert int(stream.headers["retry-after"]) > 0
    answer = await controls.send("POST", REPLAY, {**ALL, "identifier": {}})
    assert refused(answer, 409, "REPLAY_SESSION_ACTIVE")["details"] == session
    await controls.stop(session["id"])
    assert (await controls.send("POST", REPLAY, {**ALL, "identifier": {}})).status_code == 409
    done(await controls.reset())
    assert (await controls.send("POST", REPLAY, {**ALL, "identifier": {}})).status_code == 200


async def test_reset_takes_the_lock_from_a_replay_and_its_stream_ends_with_its_reason(
    house: House, shop: RunningGateway, tenant: str
) -> None:
    others = Controls(house.second.client, tenant)
    await others.record([1, 2, 3])
    async with by_post(shop, tenant)() as stream:
        await stream.until("event")
        assert done(await others.reset(), null=True) is None
        session = await others.begin()
        await stream.rest()
    *_, error, closing = stream.frames
    assert "lock of the tenant could not be kept" in error.data["message"]
    assert closing.data["reason"] == "end_of_stream"
    assert "replay_completed" not in [frame.kind for frame in stream.frames]
    assert await others.current() == session


async def test_what_is_refused_for_another_reason_takes_no_lock(
    house: House, controls: Controls, backend: Connection
) -> None:
    assert controls.tenant is not None
    await controls.record([1])
    for params in ({"event_type": "reading"}, {**ALL, "to_id": "x"}, {**ALL, "last_event_id": "x"}):
        assert (await controls.send("GET", REPLAY, params=params)).status_code == 400
        assert await lease_of(backend, controls.tenant) is None
    assert (await controls.send("HEAD", REPLAY, params=ALL)).status_code == 200
    assert await lease_of(backend, controls.tenant) is None


async def test_a_request_that_names_no_tenant_takes_no_lock_and_minds_none(
    start_gateway: Start,
) -> None:
    async with start_gateway(notification_schema_strict=False, watch_endpoint=ENDLESS) as running:
        named = Controls(running.client, running.tenant)
        nobody = Controls(running.client, None)
        await named.record([1, 2, 3])
        request = post(REPLAY, {**ALL, "identifier": {}}, "")
        request = request.replace(b"x-tenant-id: \r\n", b"")
        async with open_stream(running.port, request) as one:
            await one.until("event")
            async with open_stream(running.port, request) as two:
                await two.until("event")
                session = await nobody.begin()
                assert session["tenant_id"] == running.tenant
                async with open_stream(running.port, request) as three:
                    await three.until("event")
                    # The same tenant by its name is another matter.
                    assert (await named.send("GET", REPLAY, params=ALL)).status_code == 409


async def test_a_tenant_named_by_its_token_has_the_lock_too(
    start_gateway: Start, tenant: str
) -> None:
    async with start_gateway(auth=PROXY, notification_schema_strict=False) as running:
        bound = Controls(running.client, None)
        bound.headers |= bearer("reader", tenant_id=tenant)
        session = await bound.begin()
        assert session["tenant_id"] == tenant
        answer = await bound.send("GET", REPLAY, params=ALL)
        assert refused(answer, 409, "REPLAY_SESSION_ACTIVE")["details"] == session
        free = Controls(running.client, None)
        free.headers |= bearer("reader")
        assert (await free.send("GET", REPLAY, params=ALL)).status_code == 200


async def test_a_setting_turns_the_lock_of_replays_off(
    start_gateway: Start, backend: Connection, tenant: str
) -> None:
    async with start_gateway(
        playback={"lock_replays": False}, watch_endpoint=ENDLESS, notification_schema_strict=False
    ) as running:
        controls = Controls(running.client, tenant)
        await controls.record([1, 2, 3])
        async with by_post(running, tenant)() as one, by_get(running, tenant)() as two:
            await one.until("event")
            await two.until("event")
            assert await lease_of(backend, tenant) is None
            await controls.begin()
            async with by_post(running, tenant)() as three:
                await three.until("event")


async def test_a_gateway_that_shuts_down_gives_its_locks_back(
    start_gateway: Start, house: House, backend: Connection, tenant: str
) -> None:
    """One that was cut off in the drain kept its tenant locked until the lease ran out."""
    others = Controls(house.second.client, tenant)
    await others.record([1, 2, 3])
    drain = {"window_sec": 0, "timeout_sec": 0.1}
    async with AsyncExitStack() as clients:
        async with start_gateway(
            drain=drain, watch_endpoint=ENDLESS, notification_schema_strict=False
        ) as running:
            stream = await clients.enter_async_context(by_post(running, tenant)())
            await stream.until("event")
            assert await lease_of(backend, tenant) is not None
        assert await lease_of(backend, tenant) is None
