"""One tenant's tables in the playback database: restored, played on, and cleaned."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from store.playback_connection import drop, translated
from store.playback_schema import CLAIM, KEEP, SHARED
from store.playback_script import Batch, Scope, Script, by_columns, columns_of
from store.playback_tables import TargetTable, find_tables
from store.state import State

# The state of a time (ms) of some tables: the rows that are to be removed again.
StateOf: TypeAlias = Callable[[int, Set[str]], Awaitable[State]]

_NOTHING = Scope(frozenset(), frozenset(), None)


class Progress(NamedTuple):
    """What a tenant's tables hold: of this session and run, everything up to a place in the log.

    Its sequence is that of the last change carried out or part of the state restored; 0 when the log
    had none before. No session: nothing.
    """

    session: str
    run: int
    ms: int
    sequence: int


class Target:
    """Tables that are held by a token. After an error, and when a call is cancelled: `close`.

    Every call raises TargetError, also when they are held by a newer token, and TargetUnavailable.
    """

    def __init__(
        self,
        connection: Any,
        tenant: str,
        tables: Mapping[str, TargetTable],
        progress: Progress,
        scope: Scope,
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._tables = tables
        self._scope = scope
        self._prepared: dict[str, bytes] = {}
        self.progress = progress

    async def prepare(self, token: int) -> None:
        """Owed before anything else."""
        await self._connection.execute(CLAIM.format(tenant=self._tenant, token=token))

    def script(self) -> Script:
        """For what comes next; one at a time, and all of it is to be applied."""
        return Script(self._tenant, self._tables, self._scope, self._prepared)

    async def apply(self, batch: Batch) -> None:
        """Carry out a batch of this target's script: its transactions one by one, or some of them."""
        async with translated():
            await self._connection.execute(batch.text)
        if batch.place is not None:
            ms, sequence = batch.place
            self.progress = self.progress._replace(ms=ms, sequence=sequence)
        if batch.claimed:
            self._scope = replace(self._scope, tables=self._scope.tables | batch.claimed)

    async def settle(self, run: int, through_ms: int | None) -> None:
        """Say which run the tables hold, and that they hold all of a time if one is given.

        Survives a crash of the server, with all that was carried out before.
        """
        progress = self.progress._replace(run=run)
        if through_ms is not None and through_ms >= progress.ms:
            progress = progress._replace(ms=through_ms)
        async with translated(), self._connection.transaction():
            await self._keep(progress, self._scope)

    async def restore(
        self, session: str, run: int, state: State, sequence: int, state_of: StateOf
    ) -> None:
        """Have exactly the rows of a state, in one transaction; it ends with this change of the log."""
        names = frozenset(state.tables)
        tables = find_tables(self._tables, names)
        scope = Scope(names, state.excluded, state.sources)
        async with translated():
            # Said before they are written to, so that no other tenant empties them.
            async with self._connection.transaction():
                claimed = replace(self._scope, tables=self._scope.tables | names)
                await self._keep(self.progress, claimed)
            async with self._connection.transaction():
                await self._clear(claimed.tables, state_of)
                await self._keep(Progress(session, run, state.at_ms, sequence), scope)
                async for name, lines in state.blocks():
                    await self._insert(tables[name], lines)

    async def clean(self, state_of: StateOf) -> None:
        """Remove what was written for the tenant."""
        async with translated(), self._connection.transaction():
            await self._clear(self._scope.tables, state_of)
            await self._keep(Progress("", 0, -1, 0), _NOTHING)

    async def _clear(self, names: Set[str], state_of: StateOf) -> None:
        """Empty tables; of one that another tenant uses too, only the rows of this one."""
        there = sorted(names & self._tables.keys())
        shared = await self._shared(there)
        for name in there:
            if name not in shared:
                await self._connection.execute(self._tables[name].close)
        # Asked again: nobody can write to the others from here on.
        shared = await self._shared(there)
        for name in there:
            if name not in shared:
                await self._connection.execute(self._tables[name].clear)
        if shared and self.progress.session:
            state = await state_of(self.progress.ms, shared)
            async for name, lines in state.blocks():
                await self._remove(self._tables[name], lines)

    async def _shared(self, names: list[str]) -> frozenset[str]:
        found = await self._connection.fetch(SHARED, UUID(self._tenant), names)
        return frozenset(row["name"] for row in found)

    async def _keep(self, progress: Progress, scope: Scope) -> None:
        """Have the progress written, if the tables are still held; known when it is committed."""
        await self._connection.execute("SET LOCAL synchronous_commit = on")
        await self._connection.execute(f"EXECUTE ph_advance({progress.ms}, {progress.sequence})")
        await self._connection.execute(
            KEEP,
            UUID(self._tenant),
            progress.session,
            progress.run,
            sorted(scope.tables),
            sorted(scope.excluded),
            None if scope.sources is None else sorted(scope.sources),
        )
        # An error ends this object: that it knows more than was committed does no harm.
        self.progress, self._scope = progress, scope

    async def _insert(self, table: TargetTable, lines: bytes) -> None:
        rows: list[bytes] = []
        keyed = b""
        for line in lines.rstrip(b"\n").split(b"\n"):
            key, _, row = line.partition(b"\t")
            rows.append(row)
            keyed = key if key != row else keyed
        if keyed:
            table.require_identity(columns_of(keyed))
        for columns, objects in by_columns(rows).items():
            await self._connection.execute(table.insert(columns), _array(objects))

    async def _remove(self, table: TargetTable, lines: bytes) -> None:
        keys = [line.partition(b"\t")[0] for line in lines.rstrip(b"\n").split(b"\n")]
        for columns, objects in by_columns(keys).items():
            identity = table.identity_in(columns)
            if identity is not None:
                await self._connection.execute(table.delete(identity), _array(objects))
                continue
            for row, count in Counter(objects).items():
                await self._connection.execute(table.delete_equal(columns), row.decode(), count)

    async def close(self) -> None:
        """Let go; what was not committed is undone."""
        drop(self._connection)


def _array(objects: list[bytes]) -> str:
    return (b"[%b]" % b",".join(objects)).decode()
