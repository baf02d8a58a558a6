"""Takes snapshots of a source: read as of one moment, stored, aligned with the log, listed, expired.

Memory is bounded whatever the size of the tables. What did not come to its end is in no index, so
that nobody uses it; a later snapshot of the source removes what was left of it.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from uuid import uuid4

import msgspec
import structlog
from msgspec.structs import replace

from store.alignment import align
from store.captured import (
    add_tenants,
    changes,
    count_breaks,
    read_reached,
    read_tenants,
)
from store.configuration import Configuration
from store.connection import Connection
from store.errors import SnapshotFailed
from store.event import Position, rfc3339
from store.log import EventLog
from store.objects import Objects
from store.row_upload import RowUpload
from store.snapshot_index import Run, Snapshot, SnapshotIndex
from store.snapshot_reader import Manifest, TableFile
from store.snapshot_source import Moment, SnapshotSource, SourceSession, SourceTable
from store.tenant_rows import TenantRows
from store.visibility import format_lsn, parse_lsn

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
    """One tenant's share of a snapshot. `listed`: the tables it is of, all when there are none.

    When it was begun the tenant had so many `breaks`, and its log ended at `begun`.
    """

    id: str
    folder: str
    listed: Set[str]
    breaks: int
    begun: Position
    files: dict[str, TableFile] = field(default_factory=dict)

    def wants(self, table: str) -> bool:
        return not self.listed or table in self.listed

    def describe(self, table: SourceTable) -> TableFile:
        return self.files.get(table.name) or _describe(table)


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
        self.tenant = tenant
        self._connection = connection
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
        run = _Run(
            *(self.source, int(self._now_ms()), self._connection, self._log), everybody=everybody
        )
        known = await read_tenants(self._connection, self.source) if everybody else []
        taken: dict[str, Snapshot] = {}
        async with self._source.connect() as session:
            for tenant in {*tenants, *known} if self.tenant is None else (self.tenant,):
                await run.part(tenant)
            async with session.moment() as (moment, tables):
                await self._read(session, tables, run, on_progress)
                # While no table can be truncated yet, which is told to those who are known.
                await add_tenants(self._connection, self.source, run.parts)
            await self._await_capture(await session.cluster(), await session.write_marker())
            for tenant, part in run.parts.items():
                taken[tenant] = await self._list(tenant, part, moment, tables)
            if everybody:
                at_ms = max((each.at_ms for each in taken.values()), default=moment.wall_ms)
                run_moment = Run(self.source, at_ms, moment.visible_text, moment.lsn_text)
                await self._index.add_run(run_moment)
            for tenant in taken:
                await self._expire(tenant)
        return taken

    async def _read(
        self,
        session: SourceSession,
        tables: Sequence[SourceTable],
        run: "_Run",
        on_progress: OnProgress,
    ) -> None:
        expected = sum(table.expected_rows for table in tables)
        tenants = None if run.everybody else sorted(run.parts)
        before = 0
        for number, table in enumerate(tables):
            if not run.wants(table.name):
                continue
            writing = _Writing(run, self._objects, table, number, self.tenant)

            async def take_over(
                text: bytes, writing: _Writing = writing, rows: int = before
            ) -> None:
                await writing.write(text)
                on_progress(Progress(writing.table.name, rows + writing.rows, expected))

            try:
                await session.copy(table, tenants, take_over)
                await writing.finish()
            finally:
                await writing.abort()
            before += writing.rows

    async def _await_capture(self, cluster: str, marker: str) -> None:
        """Until the log has all that the snapshot may have, from one who still captures."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._patience_sec
        while True:
            reached = await read_reached(self._connection, self.source)
            if reached.cluster == cluster and reached.lsn >= parse_lsn(marker):
                return
            if loop.time() >= ends:
                break
            await asyncio.sleep(_POLL_SEC)
        if reached.lsn and reached.cluster != cluster:
            raise SnapshotFailed(
                f"source '{self.source}' is another database cluster or timeline ({cluster}) than "
                f"the one that is captured ({reached.cluster})"
            )
        raise SnapshotFailed(
            f"capture of source '{self.source}' did not come up to {marker} within "
            f"{self._patience_sec:g} s: it stands at {format_lsn(reached.lsn)}"
        )

    # -- making it known

    async def _list(
        self,
        tenant: str,
        part: _Part,
        moment: Moment,
        tables: Sequence[SourceTable],
    ) -> Snapshot:
        aligned = await align(
            self._log, self._connection, tenant, self.source, moment, begun=part.begun
        )
        if await count_breaks(self._connection, tenant) != part.breaks:
            raise SnapshotFailed(f"changes of tenant {tenant} were lost while it was taken")
        files = [part.describe(table) for table in tables if part.wants(table.name)]
        manifest = Manifest(
            id=part.id,
            source=self.source,
            tenant=tenant,
            at_ms=aligned.at_ms,
            visible=moment.visible_text,
            lsn=moment.lsn_text,
            tables=files,
            excluded=[table.name for table in tables if not part.wants(table.name)],
        )
        content = msgspec.json.encode(manifest)
        await self._objects.put_bytes(f"{part.folder}/manifest.json", content)
        snapshot = Snapshot(
            id=part.id,
            source=self.source,
            at_ms=aligned.at_ms,
            folder=part.folder,
            visible=moment.visible_text,
            lsn=moment.lsn_text,
            ms=aligned.position.ms,
            sequence=aligned.position.sequence,
            epoch=aligned.epoch.decode(),
            rows=sum(each.rows for each in files),
            size=sum(each.size for each in files),
            manifest_sha256=hashlib.sha256(content).hexdigest(),
            breaks=part.breaks,
        )
        await self._index.add(tenant, snapshot)
        logger.info(
            "snapshot_taken",
            tenant=tenant,
            source=self.source,
            at=rfc3339(snapshot.at_ms),
            tables=len(files),
            rows=snapshot.rows,
            bytes=snapshot.size,
        )
        return snapshot

    # -- what is no longer kept

    async def _expire(self, tenant: str) -> None:
        """Remove what is older than the retention, but never the newest, and leftovers."""
        now_ms = int(self._now_ms())
        broken = await self._index.broken(tenant)
        own = [each for each in await self._index.all(tenant) if each.source == self.source]
        newest = max((each for each in own if each.id not in broken), key=_time_of, default=None)
        kept: set[str] = set()
        for each in own:
            if each is newest or each.at_ms >= now_ms - self._retention_ms:
                kept.add(each.folder)
                continue
            # First from the index: who looks there now must not find what is being removed.
            await self._index.remove(tenant, each)
            await self._objects.remove(each.folder)
        for folder in await self._objects.folders(_folder(tenant, self.source)):
            if folder not in kept:
                changed_ms = await self._objects.changed_ms(folder)
                if changed_ms < now_ms - _LEFTOVER_MS:
                    logger.warning("snapshot_leftover_removed", folder=folder)
                    await self._objects.remove(folder)


class _Run:
    """One run of the taker: the parts of the tenants that were asked for or found."""

    def __init__(
        self,
        source: str,
        started_ms: int,
        connection: Connection,
        log: EventLog,
        *,
        everybody: bool,
    ) -> None:
        self.everybody = everybody
        self.parts: dict[str, _Part] = {}
        self._source = source
        self._started_ms = started_ms
        self._connection = connection
        self._log = log
        self._configuration = Configuration(connection)

    async def part(self, tenant: str) -> _Part:
        found = self.parts.get(tenant)
        if found is None:
            listed = (await self._configuration.get(tenant)).list_tables
            # Of its own, for what is known of a snapshot is known by it, whoever the tenant is.
            part_id = str(uuid4())
            folder = f"{_folder(tenant, self._source)}/{self._started_ms}-{part_id}"
            breaks = await count_breaks(self._connection, tenant)
            begun = (await self._log.head(changes(tenant))).last
            found = _Part(part_id, folder, frozenset(listed), breaks, begun)
            self.parts[tenant] = found
        return found

    def wants(self, table: str) -> bool:
        return self.everybody or any(part.wants(table) for part in self.parts.values())


class _Writing:
    """The rows of one table on their way into a file for each tenant."""

    def __init__(
        self, run: _Run, objects: Objects, table: SourceTable, number: int, tenant: str | None
    ) -> None:
        self.table = table
        self.rows = 0
        self._run = run
        self._objects = objects
        self._file = f"{number:04d}-{_UNUSUAL.sub('_', table.name)[:100]}.zst"
        self._only = tenant
        self._divided = TenantRows()
        self._tenant: str | None = None
        self._upload: RowUpload | None = None

    async def write(self, text: bytes) -> None:
        self.rows += text.count(b"\n")
        if self._only is not None:
            await self._write(self._only, text)
            return
        for tenant, lines in self._divided.divide(text):
            await self._write(tenant, lines)

    async def _write(self, tenant: str, text: bytes) -> None:
        if tenant != self._tenant:
            await self.finish()
            part = await self._run.part(tenant)
            self._tenant = tenant
            if part.wants(self.table.name):
                self._upload = RowUpload(self._objects, f"{part.folder}/{self._file}")
        if self._upload is not None:
            await self._upload.write(text)

    async def finish(self) -> None:
        """The file of the tenant whose rows came last is complete."""
        upload = self._upload
        if upload is None or self._tenant is None:
            return
        packed = await upload.finish()
        self._upload = None
        part = await self._run.part(self._tenant)
        part.files[self.table.name] = replace(
            _describe(self.table),
            file=self._file,
            rows=packed.rows,
            size=packed.size,
            sha256=packed.sha256,
        )

    async def abort(self) -> None:
        """What is not finished shall not be there."""
        if self._upload is not None:
            await self._upload.abort()


def _describe(table: SourceTable) -> TableFile:
    """A table without rows."""
    return TableFile(
        name=table.name,
        columns=list(table.columns),
        key=list(table.key),
        multiset=table.multiset,
        file="",
        rows=0,
        size=0,
        sha256="",
    )


def _folder(tenant: str, source: str) -> str:
    return f"{tenant}/{_UNUSUAL.sub('_', source)}"


def _time_of(snapshot: Snapshot) -> int:
    return snapshot.at_ms
