"""A source database read as it is at one moment: its tables, and their rows as lines.

Writers are not waited for and do not wait, except for what rewrites a whole table (TRUNCATE, ALTER
TABLE): a snapshot does not protect from that, so the tables are locked in share mode before it is made.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from store.errors import SnapshotFailed
from store.visibility import Visibility, parse_lsn

_LOCK_TIMEOUT_MS = 30_000
_CONNECT_TIMEOUT_SEC = 10.0
_CATALOG_TRIES = 5
_HIDDEN_SEC = 5.0
_POLL_SEC = 0.05
# In no JSON there is, so that COPY finds nothing to quote and gives the rows as they are.
_NEVER = "\x01"
# Advisory locks of Playhead's snapshots: two of one source would take each other for leftovers.
_LOCK_CLASS = 0x506C6179


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A captured table, and the SQL that gives its rows (the table being `t`).

    `tenant_sql` is None where all rows belong to the source's one tenant. A table without a key is
    a `multiset`. `condition_sql`: which of the rows. Their number is PostgreSQL's estimate.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    multiset: bool
    relation_sql: str
    key_sql: str
    row_sql: str
    condition_sql: str | None
    tenant_sql: str | None
    expected_rows: int


ReadTables = Callable[[asyncpg.Connection], Awaitable[Sequence[SourceTable]]]
Sink = Callable[[bytes], Awaitable[None]]


# A commit is on disk, where capture reads it, and not seen for as long as it waits for replicas. Of
# others' transactions some roles see nothing but that they are.
_COMMITTING = """
SELECT pid, backend_xid::text AS xid, query_start AS since
  FROM pg_stat_activity
 WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (wait_event = 'SyncRep' OR backend_xid IS NOT NULL AND state IS NULL)
 UNION ALL SELECT 0, NULL, statement_timestamp()
"""
_CLUSTER = """
SELECT system_identifier || '/' || timeline_id FROM pg_control_system(), pg_control_checkpoint()
"""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the source stood: what it saw, what it had written, and its clock.

    What capture could read before it and it did not see was committed at `committing_since_ms` or
    later, or a moment before.
    """

    visible_text: str
    lsn_text: str
    wall_ms: int
    committing_since_ms: int

    @property
    def visible(self) -> Visibility:
        return Visibility.parse(self.visible_text)

    @property
    def lsn(self) -> int:
        return parse_lsn(self.lsn_text)


class SnapshotSource:
    """Raises SnapshotFailed for whatever goes wrong at the source."""

    def __init__(
        self, name: str, dsn: str, settings: Mapping[str, str], read_tables: ReadTables
    ) -> None:
        self.name = name
        self._dsn = dsn
        self._settings = dict(settings)
        self._read_tables = read_tables

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["SourceSession"]:
        """The only snapshot session of this source there is, in any process."""
        try:
            connection = await asyncpg.connect(
                # A marker need not wait for replicas, which may be away.
                *(self._dsn,),
                server_settings={**self._settings, "synchronous_commit": "local"},
                timeout=_CONNECT_TIMEOUT_SEC,
            )
            try:
                if not await connection.fetchval(
                    "SELECT pg_try_advisory_lock($1, $2)", _LOCK_CLASS, _lock_of(self.name)
                ):
                    raise SnapshotFailed(f"a snapshot of source '{self.name}' is being taken")
                yield SourceSession(self.name, connection, self._read_tables)
            finally:
                await connection.close(timeout=_CONNECT_TIMEOUT_SEC)
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
        ) as error:
            told = str(error) or type(error).__name__
            raise SnapshotFailed(f"source '{self.name}' cannot be read: {told}") from error


def _lock_of(name: str) -> int:
    return zlib.crc32(name.encode()) - (1 << 31)


class SourceSession:
    """A connection to the source, for one snapshot."""

    def __init__(self, name: str, connection: asyncpg.Connection, read_tables: ReadTables) -> None:
        self._name = name
        self._connection = connection
        self._read_tables = read_tables

    @asynccontextmanager
    async def moment(self) -> AsyncIterator[tuple[Moment, Sequence[SourceTable]]]:
        """Inside, all that is read is as of this moment."""
        expected = await self._read_tables(self._connection)
        since = await self._committing_since()
        for _ in range(_CATALOG_TRIES):
            async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                await self._lock(expected)
                seen = await self._connection.fetchrow(
                    "SELECT pg_current_snapshot()::text AS visible, clock_timestamp() AS wall"
                )
                lsn = await self._connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
                tables = await self._read_tables(self._connection)
                if {each.relation_sql for each in tables} <= {e.relation_sql for e in expected}:
                    since_ms = int(since.timestamp() * 1000)
                    yield Moment(seen["visible"], lsn, _ms(seen["wall"]), since_ms), tables
                    return
            # One was made between the two looks, and is not locked.
            expected = tables
        raise SnapshotFailed("tables are made faster than they can be listed")

    async def _committing_since(self) -> datetime:
        """Since when commits wait for replicas; now when none does."""
        rows = await self._connection.fetch(_COMMITTING)
        since: datetime = min(row["since"] for row in rows if row["since"] is not None)
        hidden = _hidden(rows)
        ends = asyncio.get_running_loop().time() + _HIDDEN_SEC
        while hidden and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(_POLL_SEC)
            hidden &= _hidden(await self._connection.fetch(_COMMITTING))
        if hidden and await self._connection.fetchval(
            "SELECT current_setting('synchronous_standby_names') <> ''"
        ):
            raise SnapshotFailed(
                f"source '{self._name}' waits for replicas, and its role may not see which commits "
                "do: a superuser has to run GRANT pg_read_all_stats TO the role of its dsn"
            )
        return since

    async def _lock(self, tables: Sequence[SourceTable]) -> None:
        # Before the first query: with it the transaction sees what it sees.
        if tables:
            names = ", ".join(each.relation_sql for each in tables)
            await self._connection.execute(
                f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}; "
                f"LOCK TABLE {names} IN ACCESS SHARE MODE"
            )

    async def copy(self, table: SourceTable, tenants: Sequence[str] | None, sink: Sink) -> None:
        """Lines `key<TAB>row` of a table, cut anywhere.

        Where the rows tell their tenant: of these tenants, or of all, as `tenant<TAB>key<TAB>row`,
        those of a tenant together.
        """
        shown = [table.key_sql, table.row_sql]
        conditions = [] if table.condition_sql is None else [f"({table.condition_sql})"]
        order, arguments = "", []
        if table.tenant_sql is not None:
            shown.insert(0, table.tenant_sql)
            if tenants is not None:
                conditions.append(f"{table.tenant_sql} = ANY($1::text[])")
                arguments.append(list(tenants))
            if tenants is None or len(tenants) > 1:
                order = f' ORDER BY {table.tenant_sql} COLLATE "C"'
        query = f"SELECT {', '.join(shown)} FROM {table.relation_sql} t"  # noqa: S608 - quoted names
        if conditions:
            query += f" WHERE {' AND '.join(conditions)}"
        query += order
        await self._connection.copy_from_query(
            query, *arguments, output=sink, format="csv", delimiter="\t", quote=_NEVER
        )

    async def cluster(self) -> str:
        """Which database cluster it is, and on which timeline."""
        return str(await self._connection.fetchval(_CLUSTER))

    async def write_marker(self) -> str:
        """Something that capture has to come past, also of a quiet source; its place."""
        return str(
            await self._connection.fetchval(
                "SELECT pg_logical_emit_message(true, 'playhead', 'snapshot')::text"
            )
        )


def _hidden(rows: Sequence[asyncpg.Record]) -> set[tuple[int, str | None]]:
    return {(row["pid"], row["xid"]) for row in rows if row["since"] is None}


def _ms(moment: datetime) -> int:
    # Rounded up: what was committed in this millisecond before lies not behind it.
    return -int(-moment.timestamp() * 1000 // 1)
