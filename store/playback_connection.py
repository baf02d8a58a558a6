"""Connections to the playback database: opened, checked and set up; its errors in our words."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from store.errors import TargetError, TargetUnavailable
from store.pgtypes import SESSION_SETTINGS
from store.playback_schema import ABOUT, CREATE, FENCED

_CONNECT_SEC = 10.0
_MINIMUM_VERSION = 12
# Between two parts of a transaction the log or the object store may take their time.
_LEAST_IDLE_SEC = 10.0
# What passes by itself: lost connections, a server that starts or stops, full, in a deadlock, busy.
_TRANSIENT = ("08", "40", "53", "57P", "55P03", "25P03")
_SETTINGS = SESSION_SETTINGS | {
    "standard_conforming_strings": "on",
    # A commit that a crash of the server loses, its place with it, is carried out again.
    "synchronous_commit": "off",
    "jit": "off",
    # Else rows that a policy hides from the role would stay where they are to be removed.
    "row_security": "off",
    # A plan made while a table was empty would read it whole when it is large.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
}


@dataclass(frozen=True, slots=True)
class CaptureSlots:
    """Replication slots by which databases are captured: those named, and all named as by default."""

    names: Collection[str] = ()

    def has(self, slot: str) -> bool:
        return slot in self.names or slot.startswith("playhead_")


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Raises TargetError and TargetUnavailable for what asyncpg raises."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = str(getattr(error, "sqlstate", None) or "")
        # Without the hints of the library.
        text = str(error).partition("\n")[0]
        detail = getattr(error, "detail", None)
        text += f" ({detail})" if detail else ""
        if state.startswith(_TRANSIENT):
            raise TargetUnavailable(f"the playback database is away: {text}") from error
        if state == FENCED:
            raise TargetError(text) from error
        raise TargetError(f"the playback database refused: {text}") from error
    # The last is what asyncpg meets when a server that ends says so unasked.
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        text = str(error) or type(error).__name__
        raise TargetUnavailable(f"the playback database does not answer: {text}") from error


async def connect(
    dsn: str, name: str, *, slots: CaptureSlots, places: Collection[str], idle_sec: float
) -> Any:
    """A connection on which sessions can be played; the schema `playhead` is made if need be.

    What it leaves in mid-transaction for `idle_sec`, or ten seconds, is undone by the server: a
    gateway that sleeps must not keep rows locked for much longer than its lease. A database with one
    of these slots, or that is one of these places, is refused. To be called inside of `translated`.
    """
    settings = _SETTINGS | {"application_name": name}
    try:
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_SEC, server_settings=settings)
    except ValueError as error:  # asyncpg's ClientConfigurationError is one, too
        raise TargetError(f"its address cannot be used: {error}") from error
    try:
        idle_ms = int(max(idle_sec, _LEAST_IDLE_SEC) * 1000)
        await connection.execute(f"SET idle_in_transaction_session_timeout = {idle_ms}")
        await _check(connection, slots, places)
    except BaseException:
        drop(connection)
        raise
    return connection


def drop(connection: Any) -> None:
    """Let go at once, in mid-transaction too."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


async def _check(connection: Any, slots: CaptureSlots, places: Collection[str]) -> None:
    version = connection.get_server_version().major
    if version < _MINIMUM_VERSION:
        raise TargetError(
            f"it runs PostgreSQL {version}; Playhead needs {_MINIMUM_VERSION} or newer"
        )
    about = await connection.fetchrow(ABOUT)
    if about["standby"]:
        raise TargetError("it is a standby, which takes no rows; give the primary")
    captured = [name for name in about["slots"] if slots.has(name)]
    if captured:
        raise TargetError(
            f"database {about['database']} is captured (it has the replication slot "
            f"{captured[0]}), and its tables would be emptied; give another database"
        )
    if about["place"] in places:
        # Its slot may have been dropped or lost: then nothing in the database itself says so.
        raise TargetError(
            f"database {about['database']} is a captured one, or a copy of its files, and its "
            "tables would be emptied; give another database, made by CREATE DATABASE"
        )
    role, sql_role = about["role"], about["sql_role"]
    try:
        await connection.execute("SET session_replication_role = replica")
    except asyncpg.InsufficientPrivilegeError as error:
        if await connection.fetchval("SHOW session_replication_role") != "replica":
            raise TargetError(
                f"role {role} may not set session_replication_role, so that triggers and foreign "
                "keys would act on what is played; as a superuser run: GRANT SET ON PARAMETER "
                f"session_replication_role TO {sql_role} (before PostgreSQL 15: ALTER ROLE "
                f"{sql_role} SET session_replication_role = replica)"
            ) from error
    if not about["prepared"]:
        try:
            await connection.execute(CREATE)
        except asyncpg.InsufficientPrivilegeError as error:
            raise TargetError(
                f"role {role} may not make the schema playhead; run: GRANT CREATE ON DATABASE "
                f"{about['sql_database']} TO {sql_role}"
            ) from error
