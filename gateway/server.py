"""The HTTP server as this gateway needs it: uvicorn, with a drain.

On SIGTERM streams are closed with their reason before uvicorn waits for connections.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn


class Server(uvicorn.Server):
    """uvicorn, which first lets the gateway say goodbye to its streams."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain: Callable[[], Awaitable[None]],
        on_started: Callable[[int], None],
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            names = [each.getsockname() for server in self.servers for each in server.sockets]
            self._on_started(names[0][1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        await super().shutdown(sockets)


def config(app: Any, *, host: str, port: int, http: type[asyncio.Protocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=http,
        loop="uvloop" if os.name == "posix" else "auto",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
        backlog=4096,
    )
