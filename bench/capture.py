"""`python -m bench.capture [--changes N]`: how fast capture catches up, how soon a commit is watched.

A PostgreSQL, a Valkey and a gateway of their own. Catching up is timed from the start of capture, with
its checks, to the last change in the log; a commit from the moment before it is sent to the arrival of
its frame at a watcher of the gateway.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import cast

import asyncpg
import uvloop

from bench.load import request
from gateway.changes import ChangeRenderer
from gateway.cloudevent import Renderer
from gateway.schema.catalog import Catalog
from store.capture import Capture
from store.capture_record import CHANGE
from store.connection import Connection, log_key
from store.embedded import EmbeddedServer
from store.embedded_postgres import EmbeddedPostgres
from store.event import StreamKey
from store.log import EventLog
from store.pgsource import SourceSettings

TENANT = "00000000-0000-0000-0000-000000000000"
TABLE = (
    "CREATE TABLE vehicle (id int PRIMARY KEY, fleet int, name text, lat float8, lon float8, "
    "at timestamptz, speed int); "
    "INSERT INTO vehicle SELECT i, i % 7, 'truck ' || i, 52.1, 13.4, now(), 0 "
    "FROM generate_series(1, 1000) i"
)
UPDATE = (
    "UPDATE vehicle SET lat = lat + 1e-5, lon = lon - 1e-5, at = now(), "
    "speed = (random() * 100)::int WHERE id BETWEEN {} AND {}"
)
ROWS_A_TRANSACTION = 100
RATE = 500
_KEY = b'"identifier":{"key":"'


@asynccontextmanager
async def _house(directory: Path) -> AsyncIterator[tuple[EmbeddedPostgres, asyncpg.Connection]]:
    settings = {"fsync": "off", "max_wal_size": "4GB", "checkpoint_timeout": "1h"}
    async with EmbeddedPostgres(directory / "pg", settings) as postgres:
        database = await asyncpg.connect(postgres.dsn)
        await database.execute(TABLE)
        yield postgres, database
        await database.close()


async def catch_up(directory: Path, changes: int) -> str:
    """Capture what was written while it was away, in transactions of 100 rows."""
    async with (
        EmbeddedServer(directory / "valkey") as valkey,
        _house(directory) as (postgres, database),
    ):
        connection = Connection(valkey.url)
        await connection.open()
        schema = Catalog.parse(None, None, changes=True).get(CHANGE)
        assert schema is not None
        source = SourceSettings(
            *("fleet", postgres.dsn, "playhead", "playhead_fleet", (), TENANT, None, False)
        )
        capture = Capture(
            source,
            log=EventLog(connection, idempotency_window_ms=1000),
            connection=connection,
            renderer=ChangeRenderer("fleet", schema, Renderer(source="http://bench", type_prefix="")),
        )

        async def run_until(wanted: int) -> float:
            started = time.perf_counter()
            task = asyncio.create_task(capture.run())
            while capture.status.state != "capturing" or await length() < wanted:
                assert not task.done()
                await asyncio.sleep(0.01)
            took = time.perf_counter() - started
            task.cancel()
            await asyncio.wait([task])
            return took

        async def length() -> int:
            return int(await connection.execute("XLEN", log_key(StreamKey(TENANT, CHANGE))))

        await run_until(0)
        for start in range(0, changes, ROWS_A_TRANSACTION):
            first = start % 1000 + 1
            await database.execute(UPDATE.format(first, first + ROWS_A_TRANSACTION - 1))
        took = await run_until(changes)
        await connection.close()
        return f"{changes / took:>9,.0f} changes/s   {changes:,} in transactions of 100"


class _Watcher(asyncio.Protocol):
    """Notes when the frame of each key arrived."""

    def __init__(self, opening: bytes, wanted: int) -> None:
        self._opening = opening
        self._wanted = wanted
        self._rest = b""
        self.arrived: dict[int, float] = {}
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._opening)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        *whole, self._rest = (self._rest + data).split(_KEY)
        # A key may be cut; what follows it is looked at when more has come.
        self._rest = _KEY + self._rest if whole and len(self._rest) < 20 else self._rest
        for piece in (*whole[1:], self._rest if whole and len(self._rest) >= 20 else b""):
            if piece:
                self.arrived.setdefault(int(piece.partition(b'"')[0]), now)
        if not self.opened.done():
            self.opened.set_result(None)
        if len(self.arrived) >= self._wanted and not self.done.done():
            self.done.set_result(None)
