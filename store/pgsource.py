"""A PostgreSQL that is captured: two connections to it, its slot, and its changes in steps.

Everything by SQL calls: peek what the slot has, and, once it is in the log, advance it. Every failure
leaves here as SourceUnavailable (try again), SourceRefused (what to change) or a StoreError.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from store.errors import SourceRefused, SourceUnavailable, StoreError
from store.pgcatalog import full_identity, kinds
from store.pgtypes import SESSION_SETTINGS, Kind, quote_identifier, table_name

PLUGIN = "pgoutput"
CONNECT_TIMEOUT_SEC = 10.0
# Of everything that PostgreSQL answers at once; a peek may take its time.
ANSWER_TIMEOUT_SEC = 30.0
# The source reads what the slot passes over.
ADVANCE_TIMEOUT_SEC = 600.0
PAGE_ROWS = 1000
# Of now: the control file has that of the last checkpoint, for minutes after a standby took over.
TIMELINE_SQL = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int"
_IDENTITY = f"""
SELECT system_identifier::text AS system_id, {TIMELINE_SQL} AS timeline, d.oid AS database
  FROM pg_control_system(), pg_catalog.pg_database d WHERE d.datname = current_database()
"""  # noqa: S608 - no value
# A page has so many rows whatever their size, so a large message comes in pieces, a row each.
PIECE_BYTES = 16 << 10
_MINIMUM_VERSION = 140_000
_APPLICATION = "playhead"
# A peek may hold this much in memory before it goes to a temporary file of the source.
_WORK_MEM = "16MB"

# A piece of full length is followed by another one of its message, if by an empty one.
_PEEK = f"""
SELECT CASE WHEN size < {PIECE_BYTES} THEN data
            ELSE substr(data, 1 + piece * {PIECE_BYTES}, {PIECE_BYTES}) END
  FROM (SELECT data, length(data) AS size, generate_series(0, length(data) / {PIECE_BYTES}) AS piece
          FROM pg_logical_slot_peek_binary_changes(
                   $1, $2, NULL, 'proto_version', '1', 'publication_names', $3)) pieces
"""  # noqa: S608 - numbers

# Whatever a role or a database has set for its applications: a peek takes the time it takes, and
# between two pages it waits for the log.
_PATIENCE = dict.fromkeys(
    ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
     "idle_session_timeout"),
    "0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """A source as it is configured.

    ``tenant`` is whose all rows are; with a ``tenant_column``, whose those are that name none.
    """

    name: str
    dsn: str
    publication: str
    slot: str
    tables: tuple[str, ...]
    tenant: str
    tenant_column: str | None
    resume_when_lost: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database of which cluster it is; a timeline ends where a standby took over."""

    system_id: str
    timeline: int
    database: int


@dataclass(frozen=True, slots=True)
class Slot:
    """``lost`` says why the slot can be read no more, None while it can."""

    confirmed_lsn: int
    restart_lsn: int
    plugin: str
    database: str
    lost: str | None


@dataclass(frozen=True, slots=True)
class Moment:
    """The source's time (ms since 1970, UTC) and where its write-ahead log stood just after."""

    ms: int
    insert_lsn: int
    flush_lsn: int


class PgSource:
    """Opened once; when anything fails it is closed and another one opened."""

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self.version = 0
        self._control: Any = None
        self._reading: Any = None
        # One query at a time on the control connection, whoever asks.
        self._asking = asyncio.Lock()
        self._may_log_snapshot = True

    async def open(self) -> None:
        self._control = await self._connect()
        self._reading = await self._connect()
        self.version = int(await self.value("SELECT current_setting('server_version_num')"))

    async def _connect(self) -> Any:
        settings = {
            **SESSION_SETTINGS,
            **_PATIENCE,
            "application_name": _APPLICATION,
            "work_mem": _WORK_MEM,
        }
        try:
            async with self._translated("cannot be reached"):
                connection = await asyncpg.connect(
                    self.settings.dsn, server_settings=settings, timeout=CONNECT_TIMEOUT_SEC
                )
        except (ValueError, OverflowError) as error:
            # A ValueError says what it could not read, perhaps a password.
            raise SourceRefused(["its dsn cannot be read as an address"]) from error
        version = connection.get_server_version()
        if version.major * 10_000 < _MINIMUM_VERSION:
            await connection.close()
            raise SourceRefused(
                [f"it runs PostgreSQL {version.major}; Playhead captures version 14 or newer"]
            )
        # Else a long peek of a process that was killed keeps the slot until it has an answer. Not
        # every system that PostgreSQL runs on can look.
        async with self._translated():
            with suppress(asyncpg.InvalidParameterValueError):
                await connection.execute("SET client_connection_check_interval = '2s'")
        return connection

    def close(self) -> None:
        for connection in (self._control, self._reading):
            if connection is not None:
                connection.terminate()

    @asynccontextmanager
    async def _translated(self, what: str = "did not answer") -> AsyncIterator[None]:
        try:
            yield
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
            asyncpg.ClientConfigurationError,
        ) as error:
            raise SourceRefused([f"it cannot be logged in to: {error}"]) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise SourceRefused([f"its role may not do what capture needs: {error}"]) from error
        except (
            asyncpg.PostgresConnectionError,
            asyncpg.OperatorInterventionError,
            asyncpg.InsufficientResourcesError,
            asyncpg.ObjectInUseError,
            asyncpg.InterfaceError,
            # What asyncpg says of a connection that was lost between two steps of a query.
            asyncpg.InternalClientError,
            OSError,
        ) as error:
            told = str(error) or type(error).__name__
            raise SourceUnavailable(f"source '{self.settings.name}' {what}: {told}") from error
        except asyncpg.PostgresError as error:
            raise StoreError(f"source '{self.settings.name}' refused a query: {error}") from error

    # -- asking

    async def fetch(
        self, query: str, *args: object, timeout_sec: float = ANSWER_TIMEOUT_SEC
    ) -> list[Any]:
        async with self._asking, self._translated():
            found: list[Any] = await self._control.fetch(query, *args, timeout=timeout_sec)
            return found

    async def value(
        self, query: str, *args: object, timeout_sec: float = ANSWER_TIMEOUT_SEC
    ) -> Any:
        rows = await self.fetch(query, *args, timeout_sec=timeout_sec)
        return rows[0][0] if rows else None

    async def execute(self, query: str, *args: object) -> None:
        """A statement that may take as long as it likes."""
        async with self._asking, self._translated():
            await self._control.execute(query, *args)

    async def own(self) -> bool:
        """Become the one process that captures this source, for as long as the connection lives."""
        return bool(
            await self.value(
                "SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
                f"playhead capture {self.settings.slot}",
            )
        )

    async def identity(self) -> Identity:
        [row] = await self.fetch(_IDENTITY)
        return Identity(row["system_id"], row["timeline"], row["database"])

    async def moment(self) -> Moment:
        # The time is taken first: what was committed before it lies before the place.
        [row] = await self.fetch(
            "SELECT (extract(epoch FROM t.now) * 1000)::int8 AS ms, "
            "pg_current_wal_insert_lsn() AS insert_lsn, pg_current_wal_flush_lsn() AS flush_lsn "
            "FROM (SELECT clock_timestamp() AS now OFFSET 0) t"
        )
        return Moment(row["ms"], row["insert_lsn"], row["flush_lsn"])

    async def kinds(self, oids: list[int]) -> dict[int, Kind]:
        return await kinds(self, oids)

    async def full_identity(self, oid: int) -> tuple[bool, tuple[str, ...]] | None:
        return await full_identity(self, oid)

    async def published_tables(self) -> dict[str, list[int]]:
        """By name their OID and those of their partitions."""
        rows = await self.fetch(
            "SELECT schemaname, tablename, ARRAY(SELECT relid::oid FROM pg_partition_tree("
            "to_regclass(format('%I.%I', schemaname, tablename)))) AS oids "
            "FROM pg_publication_tables WHERE pubname = $1",
            self.settings.publication,
        )
        return {table_name(row["schemaname"], row["tablename"]): row["oids"] for row in rows}

    # -- the slot

    async def slot(self) -> Slot | None:
        rows = await self.fetch(
            "SELECT to_jsonb(s) ->> 'invalidation_reason' AS reason, wal_status, plugin, database, "
            "slot_type, confirmed_flush_lsn, restart_lsn "
            "FROM pg_replication_slots s WHERE slot_name = $1",
            self.settings.slot,
        )
        if not rows:
            return None
        row = rows[0]
        lost = row["reason"] or ("wal_removed" if row["wal_status"] == "lost" else None)
        return Slot(
            row["confirmed_flush_lsn"] or 0,
            row["restart_lsn"] or 0,
            row["plugin"] or row["slot_type"],
            row["database"] or "",
            lost,
        )

    async def drop_slot(self) -> None:
        await self.fetch("SELECT pg_drop_replication_slot($1)", self.settings.slot)

    async def peek(self, upto_lsn: int) -> AsyncGenerator[list[bytes], None]:
        """The messages of every transaction committed before this place that the slot has.

        In pages; a transaction of any size takes no more memory here than a page or its largest
        message, and a temporary file at the source.
        """
        async with self._translated():
            transaction = self._reading.transaction(readonly=True)
            await transaction.start()
            try:
                cursor = await self._reading.cursor(
                    _PEEK,
                    *(self.settings.slot, upto_lsn, quote_identifier(self.settings.publication)),
                )
                begun: list[bytes] = []
                while rows := await cursor.fetch(PAGE_ROWS):
                    page = [data for (data,) in rows]
                    if begun or PIECE_BYTES in map(len, page):
                        page = list(_joined(begun, page))
                    yield page
            except asyncpg.UndefinedObjectError as error:
                raise await self._why_undefined() from error
            except asyncpg.InternalServerError as error:
                # The only words for it that PostgreSQL has; other failures may pass.
                if "could not map file" not in str(error):
                    raise
                raise self._why_undecodable(error) from error
            except BaseException:
                # To roll back would be to wait for a source that may be gone.
                self._reading.terminate()
                raise
            await transaction.rollback()

    async def _why_undefined(self) -> StoreError:
        name, publication = self.settings.slot, self.settings.publication
        if await self.slot() is None:
            return SourceUnavailable(f"slot '{name}' was dropped")
        # It is looked up as it was when the changes were made.
        return SourceRefused(
            [
                f"publication '{publication}' was not there when changes were made that are still "
                f"to be captured, and so they cannot be: SELECT pg_drop_replication_slot('{name}'), "
                "and set on_lost_slot to resume to go on with a gap"
            ]
        )

    def _why_undecodable(self, error: asyncpg.PostgresError) -> StoreError:
        name = self.settings.slot
        # Of a slot that somebody made while tables were changed; see store/slot_making.py.
        return SourceRefused(
            [
                f"PostgreSQL cannot decode what slot '{name}' has ({error}): "
                f"SELECT pg_drop_replication_slot('{name}'), and set on_lost_slot to resume to go on "
                "with a gap"
            ]
        )

    async def advance(self, lsn: int) -> None:
        """Let the source forget what comes before this place."""
        try:
            await self.value(
                "SELECT end_lsn FROM pg_replication_slot_advance($1, $2)",
                *(self.settings.slot, lsn),
                timeout_sec=ADVANCE_TIMEOUT_SEC,
            )
        except StoreError as error:
            if isinstance(error.__cause__, asyncpg.UndefinedObjectError):
                raise await self._why_undefined() from error
            raise

    async def log_running_transactions(self) -> None:
        """Give the slot a later place to read on from; the source does so by itself every 15 s.

        Needs version 16 and the right to; without them a peek reads more than it would have to.
        """
        if not self._may_log_snapshot or self.version < 160_000:
            return
        try:
            await self.fetch("SELECT pg_log_standby_snapshot()")
        except SourceRefused:
            self._may_log_snapshot = False

    # -- rows

    async def row_now(
        self, table: str, expressions: str, key: bytes, columns: tuple[str, ...], xid: int
    ) -> str | None:
        """Columns of a row as JSON, if the transaction wrote the version that is there now."""
        same = " AND ".join(
            f"t.{quote_identifier(name)} = k.{quote_identifier(name)}" for name in columns
        )
        found = await self.value(
            f"SELECT (SELECT to_json(r)::text FROM (SELECT {expressions}) r) "  # noqa: S608 - quoted
            f"FROM {table} t, json_populate_record(NULL::{table}, $1::json) k "
            f"WHERE {same} AND t.xmin::text::int8 = $2",
            *(key.decode(), xid),
        )
        return None if found is None else str(found)


def _joined(begun: list[bytes], page: Iterable[bytes]) -> Iterator[bytes]:
    """The messages that end in a page; `begun` has the pieces of one that has not ended yet."""
    for piece in page:
        begun.append(piece)
        if len(piece) < PIECE_BYTES:
            yield b"".join(begun)
            begun.clear()
