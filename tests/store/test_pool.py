"""Who waits for a connection is served in turn, and whoever gives up takes none along."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio.connection import UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from store.pool import FairPool
from tests.servers import Valkey

SIZE = 3


@pytest.fixture
async def make_pool(valkey: Valkey) -> AsyncIterator[Callable[[float], FairPool]]:
    pools: list[FairPool] = []

    def make(patience_sec: float) -> FairPool:
        pools.append(
            FairPool(
                patience_sec=patience_sec,
                max_connections=SIZE,
                connection_class=UnixDomainSocketConnection,
                path=str(valkey.socket),
            )
        )
        return pools[-1]

    yield make
    for pool in pools:
        await pool.disconnect()


async def test_who_waits_is_not_overtaken_by_who_comes_later(
    make_pool: Callable[[float], FairPool],
) -> None:
    """Symptom: of 200 tasks some got no connection in five seconds, the others one in 7 ms."""
    pool = make_pool(60)
    held = [await pool.get_connection() for _ in range(SIZE)]
    served: list[int] = []

    async def ask(number: int) -> None:
        connection = await pool.get_connection()
        served.append(number)
        await pool.release(connection)

    waiting = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    for connection in held:
        await pool.release(connection)
    await asyncio.gather(*waiting, *(ask(number) for number in range(5, 10)))
    assert served == list(range(10))


async def test_who_waits_too_long_is_told(make_pool: Callable[[float], FairPool]) -> None:
    pool = make_pool(0.05)
    held = [await pool.get_connection() for _ in range(SIZE)]
    with pytest.raises(RedisConnectionError, match="all connections are in use"):
        await pool.get_connection()
    await pool.release(held.pop())
    held.append(await pool.get_connection())
    for connection in held:
        await pool.release(connection)


async def test_whoever_gives_up_takes_no_connection_along(
    make_pool: Callable[[float], FairPool],
) -> None:
    pool = make_pool(60)

    async def ask() -> None:
        connection = await pool.get_connection()
        try:
            await connection.send_command("PING")
            await connection.read_response()
        finally:
            await pool.release(connection)

    for steps in range(40):
        tasks = [asyncio.create_task(ask()) for _ in range(2 * SIZE)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    async with asyncio.timeout(60):
        held = [await pool.get_connection() for _ in range(SIZE)]
    for connection in held:
        await pool.release(connection)
