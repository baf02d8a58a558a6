"""The real Aviso client when connections, gateways and stores end, and when it may not come in."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pyaviso
import pytest

from tests.conftest import RunningGateway, Start, example_configuration, merge
from tests.journeys.aviso import (
    connections,
    quake,
    read,
    take,
)
from tests.servers import GatewayProcess, Valkey, running, wait_until

SECRET = "a secret of this test that is long enough"


async def test_a_listener_whose_time_is_up_goes_on_without_loss(start_gateway: Start) -> None:
    async with start_gateway(watch_endpoint={"connection_max_duration_sec": 0.5}) as gateway:
        client = pyaviso.AsyncAvisoClient(base_url=gateway.url)
        async with client.listen("earthquake", start_from=0) as stream:
            reading = asyncio.create_task(take(stream, 30))
            for connection in range(1, 4):
                deadline = time.monotonic() + 60
                while connections((await gateway.client.get("/metrics")).text) < connection:
                    assert time.monotonic() < deadline, f"connection {connection} is not there"
                    await asyncio.sleep(0.01)
                for _ in range(10):
                    await client.notify(**quake())
            assert await reading == [*range(1, 31)]


async def test_a_new_process_goes_on_where_the_last_one_was(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    def start() -> pyaviso.AsyncAvisoClient:
        store = pyaviso.JsonFileStore(tmp_path / "state.json")
        return pyaviso.AsyncAvisoClient(
            base_url=gateway.url, state_store=store, flush_cursor_on_exit=True
        )

    first = start()
    for _ in range(3):
        await first.notify(**quake())
    async with first.listen("earthquake", start_from=0) as stream:
        assert await take(stream, 3) == [1, 2, 3]
    await first.notify(**quake())

    second = start()
    async with second.listen("earthquake") as stream:
        assert await take(stream, 1) == [4]
        await second.notify(**quake())
        assert await take(stream, 1) == [5]
    assert await read(start(), "earthquake", start_from=0, until=2) == [1, 2]


async def test_a_listener_waits_for_a_store_that_is_away_and_stays_when_it_goes(
    start_gateway: Start, tmp_path: Path
) -> None:
    valkey = Valkey(tmp_path / "valkey")
    with running(valkey):
        async with start_gateway(url=valkey.url) as gateway:
            client = pyaviso.AsyncAvisoClient(base_url=gateway.url)
            await client.notify(**quake())
            valkey.kill()
            with pytest.raises(pyaviso.HttpError) as failure:
                await client.notify(**quake())
            assert failure.value.status == 503

            async with client.listen("earthquake", start_from=0) as stream:
                reading = asyncio.create_task(take(stream, 1))
                await asyncio.wait([reading], timeout=0.2)
                assert not reading.done(), "503 is no end"
                await asyncio.to_thread(valkey.start)
                assert await reading == [1]

                before = connections((await gateway.client.get("/metrics")).text)
                valkey.kill()
                await asyncio.to_thread(valkey.start)
                deadline = time.monotonic() + 60
                while True:
                    with suppress(pyaviso.HttpError):
                        await client.notify(**quake())
                        break
                    assert time.monotonic() < deadline
                assert await take(stream, 1) == [2]
                after = connections((await gateway.client.get("/metrics")).text)
                assert after == before, "the listener did not have to connect again"


@pytest.fixture
def mortal_gateway(tmp_path: Path, valkey: Valkey) -> Iterator[GatewayProcess]:
    """A gateway that may be killed."""
    content = example_configuration()
    merge(content, {"store": {"url": valkey.url}, "tenants": {"default": str(uuid4())}})
    gateway = GatewayProcess(tmp_path / "gateway", content)
    with running(gateway):
        yield gateway


def listen_over_an_end_of(gateway: GatewayProcess, end: Callable[[], object]) -> list[int]:
    """What a listener hears that is there before, while and after the gateway ends."""
    client = pyaviso.AvisoClient(base_url=gateway.url)

    def listeners() -> int:
        answer = httpx.get(f"{gateway.url}/metrics", trust_env=False)
        return connections(answer.text)

    with client.listen("earthquake") as stream:
        wait_until(lambda: listeners() == 1, "the listener is connected")
        client.notify(**quake())
        heard = [next(stream).sequence]
        end()
        gateway.start()
        client.notify(**quake())
        client.notify(**quake())
        heard += [next(stream).sequence, next(stream).sequence]
        assert listeners() == 1, "one new connection was enough"
        client.notify(**quake())
        heard.append(next(stream).sequence)
    return heard


def test_a_listener_goes_on_after_the_gateway_was_restarted(mortal_gateway: GatewayProcess) -> None:
    assert listen_over_an_end_of(mortal_gateway, mortal_gateway.terminate) == [1, 2, 3, 4]


def test_a_listener_goes_on_after_the_gateway_was_killed(mortal_gateway: GatewayProcess) -> None:
    assert listen_over_an_end_of(mortal_gateway, mortal_gateway.kill) == [1, 2, 3, 4]


async def test_a_token_decides_what_may_be_done(start_gateway: Start) -> None:
    def user(*roles: str) -> pyaviso.Bearer:
        claims = {"sub": "ann", "realm": "home", "roles": roles, "exp": int(time.time()) + 600}
        return pyaviso.Bearer(jwt.encode(claims, SECRET, "HS256"))

    auth = {
        "enabled": True,
        "mode": "trusted_proxy",
        "jwt_secret": SECRET,
        "admin_roles": {"home": ["admin"]},
    }
    rules = {"required": True, "read_roles": {"home": ["reader"]}}
    async with start_gateway(
        auth=auth, notification_schema={"earthquake": {"auth": rules}}
    ) as gateway:

        def connect(auth: Any = None) -> pyaviso.AsyncAvisoClient:
            return pyaviso.AsyncAvisoClient(base_url=gateway.url, auth=auth)

        admin, reader, guest = connect(user("admin")), connect(user("reader")), connect(user())
        await admin.notify(**quake())
        for each in (admin, reader):
            assert await read(each, "earthquake", start_from=0, until=1) == [1]
        for each, status in ((connect(), 401), (guest, 403)):
            with pytest.raises(pyaviso.HttpError) as failure:
                await read(each, "earthquake", start_from=0, until=1)
            assert failure.value.status == status
        with pytest.raises(pyaviso.AuthError):
            await read(connect(pyaviso.Bearer("stale")), "earthquake", start_from=0, until=1)

        for each, status in ((connect(), 401), (reader, 403)):
            with pytest.raises(pyaviso.HttpError) as failure:
                await each.notify(**quake())
            assert failure.value.status == status
            with pytest.raises(pyaviso.HttpError) as failure:
                await each.wipe_all()
            assert failure.value.status == status
        await admin.wipe_stream("earthquake")
        assert (await connect().schema()).total_schemas == 2, "schemas are public"
