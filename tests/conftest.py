"""Fixtures: a real Valkey a worker, and a real gateway on a free port a test, each with a tenant of its own."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import httpx
import pytest
import yaml
from hypothesis import settings

from gateway import server as http_server
from gateway import settings as configuration
from gateway.app import Gateway, open_gateway
from gateway.protocol import protocol
from gateway.schema.catalog import Catalog
from store.connection import Connection
from store.embedded_postgres import EmbeddedPostgres
from store.log import EventLog
from tests.servers import Valkey, drop_database, start_postgres, stop_postgres

# The same examples every time, however busy the machine is.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

EXAMPLE = Path(__file__).parent.parent / "gateway" / "example" / "config.yaml"


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real PostgreSQL with logical decoding, shared by the tests of a worker."""
    server = start_postgres()
    yield server
    stop_postgres(server)


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The DSN of a fresh database; its slots go with it."""
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
    finally:
        await admin.close()
    yield postgres.database_dsn(name)
    await drop_database(postgres.dsn, name)


@pytest.fixture
def tenant() -> str:
    return str(uuid4())


@pytest.fixture
async def connection(valkey: Valkey) -> AsyncIterator[Connection]:
    opened = Connection(valkey.url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def log(connection: Connection) -> EventLog:
    return EventLog(connection, idempotency_window_ms=60_000)


@dataclass(frozen=True)
class RunningGateway:
    """A gateway in this process, behind a real socket."""

    url: str
    port: int
    tenant: str
    gateway: Gateway
    client: httpx.AsyncClient = field(repr=False)


Start: TypeAlias = Callable[..., AbstractAsyncContextManager[RunningGateway]]


def example_configuration() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return loaded


@pytest.fixture(scope="session")
def start_gateway(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start a gateway with the example configuration, changed by sections given by name.

    A small `send_buffer` makes the kernel hold little for a client that does not read.
    """

    @asynccontextmanager
    async def start(
        *,
        tenant: str | None = None,
        url: str | None = None,
        send_buffer: int | None = None,
        **sections: Any,
    ) -> AsyncIterator[RunningGateway]:
        tenant = tenant or str(uuid4())
        content = example_configuration()
        merge(content, {"store": {"url": url or valkey.url}, "tenants": {"default": tenant}})
        merge(content, sections)
        path = tmp_path_factory.mktemp("gateway") / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        loaded = configuration.load(path, {}, {})
        read = loaded.settings
        catalog = Catalog.parse(
            read.notification_schema,
            read.notification_schema_strict,
            changes=bool(read.capture.sources),
        )
        async with open_gateway(read, catalog) as gateway:
            started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            server = _TestServer(
                http_server.config(
                    gateway.app,
                    host="127.0.0.1",
                    port=0,
                    http=protocol(header_bytes=read.limits.header_bytes),
                ),
                drain=gateway.drain,
                on_started=started.set_result,
                send_buffer=send_buffer,
            )
            serving = asyncio.create_task(server.serve())
            port = await started
            address = f"http://127.0.0.1:{port}"
            try:
                async with httpx.AsyncClient(
                    base_url=address, timeout=30, trust_env=False
                ) as client:
                    yield RunningGateway(address, port, tenant, gateway, client)
            finally:
                server.should_exit = True
                await serving
            assert not gateway.failed.is_set(), "a background task died"

    return start


class _TestServer(http_server.Server):
    def __init__(self, *args: Any, send_buffer: int | None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._send_buffer = send_buffer

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self._send_buffer is not None:
            # Connections inherit it. A copy, since the loops show a listening socket as they like.
            shown = self.servers[0].sockets[0]
            with socket.socket(fileno=os.dup(shown.fileno())) as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)

    async def serve(self, sockets: Any = None) -> None:
        await self._serve(sockets)  # without taking over the test runner's signals


def merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Change a configuration section by section; None takes a key out."""
    for key, value in changes.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


@pytest.fixture
async def gateway(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    """A gateway with the example configuration."""
    async with start_gateway() as running:
        yield running
