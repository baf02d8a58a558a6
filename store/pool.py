"""Connections to one server, given out in the order in which they were asked for."""

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError


class FairPool(ConnectionPool):
    """Who asks while all are in use waits, at most for so long, and is not overtaken.

    redis-py's own BlockingConnectionPool lets newcomers overtake: of 200 tasks that asked on and on,
    some got none in five seconds, while the others waited for 7 ms.
    """

    def __init__(self, *, patience_sec: float, **options: Any) -> None:
        super().__init__(**options)
        self._patience_sec = patience_sec
        self._turns = asyncio.Semaphore(self.max_connections)

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        try:
            async with asyncio.timeout(self._patience_sec):
                await self._turns.acquire()
        except TimeoutError as error:
            raise RedisConnectionError("all connections are in use") from error
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        try:
            await super().release(connection)
        finally:
            self._turns.release()
