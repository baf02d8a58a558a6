"""Takes snapshots of a source: read as of one moment, stored, aligned with the log, listed, expired.

Memory is bounded whatever the size of the tables. What did not come to its end is in no index, so
that nobody uses it; a later snapshot of the source removes what was left of it.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import msgspec
import structlog

from store.alignment import align
from store.captured import read_confirmed
from store.configuration import Configuration
from store.connection import Connection
from store.errors import SnapshotFailed
from store.log import EventLog
from store.objects import Objects
from store.row_upload import RowUpload
from store.snapshot_index import Run, Snapshot, SnapshotIndex
from store.snapshot_reader import Manifest, TableFile
from store.snapshot_source import Moment, SnapshotSource, SourceSession, SourceTable
from store.tenant_rows import TenantRows

_POLL_SEC = 0.1
_LEFTOVER_MS = 3_600_000
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]")

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a snapshot is. The number of rows there are is PostgreSQL's estimate."""

    table: str
    rows: int
    expected_rows: int


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class _Part:
    """One tenant's share of a snapshot. `listed`: the tables it is of, all when there are none."""

    folder: str
    listed: Set[str]
    files: dict[str, TableFile] = field(default_factory=dict)

    def wants(self, table: str) -> bool:
        return not self.listed or table in self.listed


class SnapshotTaker:
    """Snapshots of one source, of the tenant that has all its rows or of those that rows name.

    `patience_sec`: so long capture may take to come up to a snapshot.
    """

    def __init__(
        self,
        source: SnapshotSource,
        *,
        tenant: str | None,
        connection: Connection,
        log: EventLog,
        objects: Objects,
        retention_ms: int,
        patience_sec: float,
        now_ms: Callable[[], float],
    ) -> None:
        self.source = source.name
        self._source = source
        self._tenant = tenant
        self._connection = connection
        self._configuration = Configuration(connection)
        self._index = SnapshotIndex(connection)
        self._log = log
        self._objects = objects
        self._retention_ms = retention_ms
        self._patience_sec = patience_sec
        self._now_ms = now_ms

    async def take(
        self,
        tenants: Collection[str],
        *,
        everybody: bool,
        on_progress: OnProgress = lambda progress: None,
    ) -> dict[str, Snapshot]:
        """One for each of these tenants, with `everybody` also for all others that have rows.

        Raises SnapshotFailed, ObjectsUnavailable and StoreUnavailable; some may then be listed.
        """
        wanted = {self._tenant} if self._tenant is not None else set(tenants)
        run = _Run(str(uuid4()), int(self._now_ms()), self, everybody)
        taken: dict[str, Snapshot] = {}
        async with self._source.connect() as session:
            async with session.moment() as (moment, tables):
                for tenant in wanted:
                    await run.part(tenant)
                await self._read(session, tables, run, on_progress)
            await session.write_marker()
            await self._await_capture(moment)
            for tenant, part in run.parts.items():
                taken[tenant] = await self._list(tenant, part, run.id, moment, tables)
            if everybody:
                at_ms = max((each.at_ms for each in taken.values()), default=moment.wall_ms)
                await self._index.add_run(Run(self.source, at_ms, moment.visible_text))
            for tenant in taken:
                await self._expire(tenant)
        return taken

    # -- reading

    async def _read(
        self,
        session: SourceSession,
        tables: Sequence[SourceTable],
        run: "_Run",
        on_progress: OnProgress,
    ) -> None:
        expected = sum(table.expected_rows for table in tables)
        rows = 0
        for number, table in enumerate(tables):
            async with _Writing(self._objects, run, table, number) as writing:

                async def sink(text: bytes, writing: "_Writing" = writing) -> None:
                    await writing.write(text)
                    told = Progress(writing.table.name, rows + writing.rows, expected)
                    on_progress(told)

                if self._tenant is not None or table.tenant_sql is None:
                    ...
            rows += writing.rows
