"""The playback database: a PostgreSQL whose tables are brought to a session's playhead.

Its tables belong to Playhead: what is in them when a session begins is removed. Who writes for a
tenant holds it by the token of the work's lease; the token, and the place up to which everything is
carried out, are one row (`playhead.progress`) that every transaction changes: nothing is carried out
twice, and who has been overtaken is refused.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any
from uuid import UUID

import msgspec

from store.errors import StoreConfigurationError, TargetError, TargetUnavailable
from store.pgcatalog import kinds
from store.pgtypes import table_name
from store.playback_connection import CaptureSlots, connect, drop, translated
from store.playback_schema import COLUMNS, HOLD, LEFTOVERS, OLDER, TABLES
from store.playback_script import Scope
from store.playback_tables import Identity, TargetColumn, TargetTable
from store.playback_target import Progress, Target


class PlaybackDatabase:
    """Opens connections to the database, one for each tenant whose session is worked on.

    `slots` are those by which databases are captured: none of them may be here. `captured` tells the
    databases themselves that ever were, of which this may be none.
    """

    def __init__(
        self,
        dsn: str,
        *,
        slots: CaptureSlots,
        captured: Callable[[], Awaitable[Collection[str]]],
        lease_sec: float,
    ) -> None:
        self._dsn = dsn
        self._slots = slots
        self._captured = captured
        self._lease_sec = lease_sec

    async def check(self) -> None:
        """That sessions can be played here. Makes the schema `playhead` if it is not there.

        Raises StoreConfigurationError, whose sentence says what to change, and TargetUnavailable.
        """
        try:
            async with translated():
                await (await self._connect("playhead check")).close()
        except TargetUnavailable:
            raise
        except TargetError as error:
            raise StoreConfigurationError(f"playback.database: {error}") from error

    async def hold(self, tenant: str, token: int) -> Target:
        """The tables of a tenant, from now on closed to who holds an older token.

        Raises TargetError, and TargetUnavailable.
        """
        async with translated():
            connection = await self._connect(_name(tenant, token))
            try:
                await _evict(connection, tenant, token)
                return await _open(connection, tenant, token)
            except BaseException:
                drop(connection)
                raise

    async def leftovers(self) -> dict[str, str]:
        """The tenants that have rows here, and the sessions they are of. Raises as `hold` does."""
        async with translated():
            connection = await self._connect("playhead look")
            try:
                found = await connection.fetch(LEFTOVERS)
            finally:
                await connection.close()
        return {row["tenant"]: row["session"] for row in found}

    async def _connect(self, name: str) -> Any:
        places = await self._captured()
        return await connect(
            self._dsn, name, slots=self._slots, places=places, idle_sec=self._lease_sec
        )


def _name(tenant: str, token: int | str) -> str:
    return f"playhead/{tenant}/{token}"


async def _evict(connection: Any, tenant: str, token: int) -> None:
    """End what holders of before have begun: one that is dead or asleep would stand in the way."""
    for row in await connection.fetch(OLDER, _name(tenant, "")):
        if int(row["name"].rpartition("/")[2]) <= token:
            await connection.execute("SELECT pg_terminate_backend($1)", row["pid"])


async def _open(connection: Any, tenant: str, token: int) -> Target:
    row = await connection.fetchrow(HOLD, UUID(tenant), token)
    if row is None:
        raise TargetError(
            f"the tables of tenant {tenant} in the playback database are held by a newer token than "
            f"{token}: by another gateway, or by one of another log; if there is none, run there: "
            f"DELETE FROM playhead.progress WHERE tenant = '{tenant}'"
        )
    sources = row["sources"]
    scope = Scope(
        frozenset(row["tables"]),
        frozenset(row["excluded"]),
        None if sources is None else frozenset(sources),
    )
    progress = Progress(row["session"], row["run"], row["ms"], row["sequence"])
    target = Target(connection, tenant, await _read_tables(connection), progress, scope)
    await target.prepare(token)
    return target


async def _read_tables(connection: Any) -> dict[str, TargetTable]:
    columns = await connection.fetch(COLUMNS)
    known = await kinds(connection, {row["type"] for row in columns})
    by_table: dict[int, dict[str, TargetColumn]] = {}
    for row in columns:
        by_table.setdefault(row["table"], {})[row["name"]] = TargetColumn(
            row["name"],
            row["type"],
            row["type_name"],
            known[row["type"]],
            row["generated"],
            row["required"],
        )
    found: dict[str, TargetTable] = {}
    for row in await connection.fetch(TABLES):
        identities = msgspec.json.decode(row["identities"], type=list[Identity])
        name = table_name(row["schema"], row["relation"])
        own = by_table.get(row["oid"], {})
        found[name] = TargetTable(name, row["sql_name"], own, tuple(identities), row["truncatable"])
    return found
