"""A real PostgreSQL that is captured for a test, its snapshots, and its states."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import asyncpg

from gateway.changes import ChangeRenderer
from gateway.cloudevent import Renderer
from gateway.schema.catalog import Catalog
from gateway.schema.change import CHANGE
from store.capture import Capture
from store.captured import read_captured
from store.connection import Connection
from store.log import EventLog
from store.objects import Objects
from store.pgsource import SourceSettings
from store.pgtypes import SESSION_SETTINGS
from store.server_time import ServerTime
from store.snapshot import SnapshotTaker
from store.snapshot_index import SnapshotIndex
from store.snapshot_reader import SnapshotReader
from store.snapshot_source import SnapshotSource
from store.source_tables import table_reader
from store.state import States
from tests.faults.wire import eventually

# Every row of a table as `to_json` writes it, by table: what a state has to be.
Tables = dict[str, list[str]]
PATIENCE_SEC = 60.0


class Studio:
    """One source of one tenant, or of many by a column."""

    def __init__(
        self,
        dsn: str,
        tenant: str,
        connection: Connection,
        objects: Objects,
        *,
        column: str | None = None,
        retention_ms: int = 86_400_000,
    ) -> None:
        self.dsn = dsn
        self.tenant = tenant
        self.name = f"s{uuid4().hex[:10]}"
        self.connection = connection
        self.log = EventLog(connection, idempotency_window_ms=60_000)
        self.objects = objects
        self.index = SnapshotIndex(connection)
        self.time = ServerTime(connection)
        self.settings = SourceSettings(
            name=self.name,
            dsn=dsn,
            publication="playhead",
            slot=f"playhead_{self.name}",
            tables=(),
            tenant=tenant,
            tenant_column=column,
            resume_when_lost=False,
        )
        reader = table_reader("playhead", tenant_column=column, fallback=tenant)
        self.taker = SnapshotTaker(
            SnapshotSource(self.name, dsn, SESSION_SETTINGS, reader),
            tenant=None if column else tenant,
            connection=connection,
            log=self.log,
            objects=objects,
            retention_ms=retention_ms,
            patience_sec=PATIENCE_SEC,
            now_ms=self.time.now_ms,
        )
        self.states = States(connection, self.log, self.index, SnapshotReader(objects, self.index))

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.dsn, server_settings=SESSION_SETTINGS)

    async def now_ms(self, source: asyncpg.Connection) -> int:
        """A time of the source behind all that was committed, before all that will be."""
        ms = await source.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8")
        await source.execute("SELECT pg_sleep(0.003)")
        return int(ms) + 1

    @asynccontextmanager
    async def capturing(self) -> AsyncIterator[None]:
        """Capture until the block is left; it has begun when the block is entered."""
        schema = Catalog.parse(None, None, changes=True).get(CHANGE)
        assert schema is not None
        renderer = Renderer(source="http://localhost", type_prefix="")
        capture = Capture(
            self.settings,
            log=self.log,
            connection=self.connection,
            renderer=ChangeRenderer(self.name, schema, renderer),
        )
        task = asyncio.create_task(capture.run())
        try:
            await eventually(
                lambda: task.done() or capture.status.state == "capturing",
                f"capture has begun: {capture.status}",
            )
            assert not task.done(), capture.status
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def caught_up(self, ms: int, tenant: str | None = None) -> None:
        """Everything up to this time is in the log."""
        ends = asyncio.get_running_loop().time() + PATIENCE_SEC
        while True:
            captured = await read_captured(self.connection, tenant or self.tenant)
            if captured.through and captured.behind(ms) is None:
                return
            assert asyncio.get_running_loop().time() < ends, (ms, captured)
            await asyncio.sleep(0.02)

    async def state(self, ms: int, tenant: str | None = None) -> Tables:
        """The rows of a time, once everything up to it is in the log; sorted."""
        await self.caught_up(ms, tenant)
        state = await self.states.open(tenant or self.tenant, ms)
        found: Tables = {name: [] for name in state.tables}
        async for table, lines in state.blocks():
            found[table] += [line.split("\t")[1] for line in lines.decode().splitlines()]
        return {name: sorted(rows) for name, rows in found.items()}

    @staticmethod
    async def truth(
        source: asyncpg.Connection, tables: Sequence[str], condition: str = "true"
    ) -> Tables:
        """What the source holds now; in a transaction of the caller's, as it sees it."""
        found: Tables = {}
        for name in tables:
            rows = await source.fetch(
                f"SELECT to_json(whole)::text FROM {name} whole WHERE {condition}"
            )
            found[name] = sorted(row[0] for row in rows)
        return found


def folder_of(objects: Objects) -> Path:
    return Path(objects.url.removeprefix("file://"))
