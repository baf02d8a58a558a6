"""A snapshot amidst transactions in every stage of their lives: each counts once, and when it ended."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from store.captured import changes
from store.connection import Connection, log_key
from store.embedded_postgres import EmbeddedPostgres
from store.errors import SnapshotFailed
from store.objects import Objects
from store.snapshot_source import SnapshotSource, SourceSession
from tests.store.studio import Studio

NOTES = "CREATE TABLE public.note (text text); ALTER TABLE public.note REPLICA IDENTITY FULL"
NOTE = "INSERT INTO public.note VALUES ('{0}'), ('{0}')"


class Interrupted:
    """A connection where something happens between the look at who is seen and that at the place."""

    def __init__(self, connection: asyncpg.Connection, between: Callable[[], Awaitable[None]]):
        self._connection = connection
        self._between = between
        self._looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetchrow(self, query: str, *arguments: object) -> Any:
        return await self._look(query, self._connection.fetchrow, *arguments)

    async def fetchval(self, query: str, *arguments: object) -> Any:
        return await self._look(query, self._connection.fetchval, *arguments)

    async def _look(
        self, query: str, fetch: Callable[..., Awaitable[Any]], *arguments: object
    ) -> Any:
        self._looks += "pg_current_" in query
        if self._looks == 2 and "pg_current_" in query:
            await self._between()
        return await fetch(query, *arguments)


class InterruptedSource(SnapshotSource):
    between: Callable[[], Awaitable[None]]

    @classmethod
    def of(cls, studio: Studio, between: Callable[[], Awaitable[None]]) -> "InterruptedSource":
        source = studio.taker._source
        made = cls(source.name, source._dsn, source._settings, source._read_tables)
        made.between = between
        return made

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[SourceSession]:
        async with super().connect() as session:
            session._connection = Interrupted(session._connection, self.between)
            yield session


class Scene:
    """A database with one table, whose rows say which transaction they are of, each twice."""

    def __init__(self, studio: Studio, admin: asyncpg.Connection) -> None:
        self.studio = studio
        self.admin = admin

    async def set_replica(self, name: str) -> None:
        """Whom commits wait for that are to be safe."""
        await self.admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        await self.admin.execute("SELECT pg_reload_conf()")
        ends = asyncio.get_running_loop().time() + 30
        while await self.admin.fetchval("SHOW synchronous_standby_names") != name:
            assert asyncio.get_running_loop().time() < ends, "the setting is in effect"
            await asyncio.sleep(0.01)
        if name:
            await self._await_waits(ends)

    async def _await_waits(self, ends: float) -> None:
        """Until a commit really waits: another process of the server turns that on, a moment later."""
        async with connections(self.studio, 1) as (probe,):
            await probe.execute("SET synchronous_commit = on")
            number = await probe.fetchval("SELECT pg_backend_pid()")
            waits = False
            while not waits:
                commit = asyncio.create_task(
                    probe.execute("SELECT pg_logical_emit_message(true, 'probe', '')")
                )
                while not commit.done() and not waits:
                    assert asyncio.get_running_loop().time() < ends, "a commit waits"
                    waits = await self.admin.fetchval(
                        "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1", number
                    )
                    await asyncio.sleep(0.005)
                if waits:
                    await self.admin.execute("SELECT pg_cancel_backend($1)", number)
                await commit

    async def notes(self) -> list[tuple[int, str]]:
        """When each was made, as the log has it."""
        key = log_key(changes(self.studio.tenant))
        found = []
        for entry_id, (_, event) in await self.studio.connection.execute("XRANGE", key, "-", "+"):
            row = json.loads(event)["data"]["payload"]["after"]
            found.append((int(entry_id.partition(b"-")[0]), row["text"]))
        return found

    async def logged(self, text: str) -> None:
        ends = asyncio.get_running_loop().time() + 60
        while text not in [each for _, each in await self.notes()]:
            assert asyncio.get_running_loop().time() < ends, f"'{text}' is in the log"
            await asyncio.sleep(0.02)

    async def state(self, ms: int) -> Counter[str]:
        rows = (await self.studio.state(ms)).get("public.note", [])
        return Counter(json.loads(row)["text"] for row in rows)


@pytest.fixture
async def scene(
    database: str,
    postgres: EmbeddedPostgres,
    tenant: str,
    connection: Connection,
    tmp_path: Path,
) -> AsyncIterator[Scene]:
    admin = await asyncpg.connect(postgres.dsn, server_settings={"synchronous_commit": "local"})
    name = database.rpartition("/")[2].partition("?")[0]
    await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = local")
    studio = Studio(database, tenant, connection, Objects(f"file://{tmp_path}/snapshots"))
    await studio.time.measure()
    made = Scene(studio, admin)
    source = await studio.connect()
    await source.execute(NOTES)
    await source.close()
    try:
        yield made
    finally:
        await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()


@asynccontextmanager
async def connections(studio: Studio, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    opened = [await studio.connect() for _ in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            await each.close()


async def test_every_transaction_around_a_snapshot_counts_once_and_when_it_ended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose commit waits for replicas is written and not seen; no margin helps to find it."""
    monkeypatch.setattr("store.alignment._MARGIN_MS", 0)
    studio = scene.studio
    async with studio.capturing(), connections(studio, 6) as opened:
        writer, waiting, early, nested, undone, late = opened
        await writer.execute(NOTE.format("before"))
        await early.execute(f"BEGIN; {NOTE.format('early')}")
        await nested.execute(
            f"BEGIN; SAVEPOINT one; {NOTE.format('nested')}; SAVEPOINT two; "
            f"{NOTE.format('taken back')}; ROLLBACK TO two; RELEASE one"
        )
        await undone.execute(f"BEGIN; {NOTE.format('undone')}")
        await late.execute("BEGIN; SELECT 1")
        await scene.set_replica("nobody")
        await waiting.execute("SET synchronous_commit = on")
        committing = asyncio.create_task(waiting.execute(NOTE.format("waiting")))
        await scene.logged("waiting")
        await writer.execute(NOTE.format("seen"))
        happened: list[str] = []

        async def between() -> None:
            await writer.execute(NOTE.format("between"))
            await late.execute(NOTE.format("late"))
            happened.append("all of it")

        studio.taker._source = InterruptedSource.of(studio, between)
        taken = await studio.taker.take([], everybody=True)
        assert happened == ["all of it"]
        snapshot = taken[studio.tenant]
        assert snapshot.rows == 4, "before, and seen"
        await late.execute("COMMIT")
        await nested.execute("COMMIT")
        await undone.execute("ROLLBACK")
        await writer.execute(NOTE.format("after"))
        await early.execute("COMMIT")
        assert not committing.done()
        await scene.set_replica("")
        await committing
        end_ms = await studio.now_ms(writer)
        truth = await writer.fetch("SELECT text FROM public.note")
        assert await scene.state(end_ms) == Counter(row["text"] for row in truth)
        notes = await scene.notes()
        names = ["before", "waiting", "seen", "between", "late", "nested", "after", "early"]
        assert [text for _, text in notes] == [name for name in names for _ in range(2)]
        for ms in sorted({snapshot.at_ms, *(ms for ms, _ in notes if ms > snapshot.at_ms)}):
            for asked in {max(snapshot.at_ms, ms - 1), ms}:
                known = Counter(text for told_ms, text in notes if told_ms <= asked)
                assert await scene.state(asked) == known, asked - snapshot.at_ms


async def test_a_role_that_cannot_see_who_waits_for_replicas_takes_no_snapshot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the end of those whose activity is hidden, and gives up with what to run."""
    monkeypatch.setattr("store.snapshot_source._HIDDEN_SEC", 0.5)
    studio = scene.studio
    role = f"weak_{studio.name}"
    await scene.admin.execute(f"CREATE ROLE {role}")
    source = studio.taker._source
    source._settings = {**source._settings, "role": role}
    try:
        async with studio.capturing(), connections(studio, 2) as (writer, busy):
            await writer.execute(f"GRANT SELECT ON public.note TO {role}")
            await busy.execute(f"BEGIN; {NOTE.format('busy')}")
            taken = await studio.taker.take([], everybody=True)
            assert taken[studio.tenant].rows == 0, "nobody waits for replicas"
            await scene.set_replica("nobody")
            with pytest.raises(SnapshotFailed, match="GRANT pg_read_all_stats"):
                await studio.taker.take([], everybody=True)
            await busy.execute("COMMIT")
            taken = await studio.taker.take([], everybody=True)
            assert taken[studio.tenant].rows == 2
            await writer.execute(f"DROP OWNED BY {role}")
    finally:
        await scene.set_replica("")
        await scene.admin.execute(f"DROP ROLE {role}")


async def test_a_snapshot_that_nobody_captures_is_none(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptom: of a quiet source the log had everything, so that one that nobody captured was listed
    and, when capture went on with a loss, believed: what was lost came after it."""
    studio = scene.studio
    async with studio.capturing(), connections(studio, 1) as (writer,):
        await writer.execute(NOTE.format("captured"))
        await studio.taker.take([], everybody=True)
    key = f"ph:capture:{studio.name}"
    # All that was ever written is in the log.
    await studio.connection.execute("HSET", key, "confirmed_lsn", "7FFFFFFF/0")
    await studio.connection.execute("HSET", key, "timeline", 7)
    monkeypatch.setattr(studio.taker, "_patience_sec", 0.2)
    with pytest.raises(SnapshotFailed, match="another database cluster or timeline"):
        await studio.taker.take([], everybody=True)
    async with studio.taker._source.connect() as session:
        timeline = (await session.cluster()).partition("/")[2]
    written = await scene.admin.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    await studio.connection.execute("HSET", key, "timeline", timeline, "confirmed_lsn", written)
    with pytest.raises(SnapshotFailed, match="did not come up to"):
        await studio.taker.take([], everybody=True)
    assert len(await studio.index.all(studio.tenant)) == 1


async def test_a_snapshot_that_is_taken_while_changes_are_lost_is_none(scene: Scene) -> None:
    """Symptom: its time is after that of the loss, which begins where the last change was told."""
    studio = scene.studio
    async with studio.capturing(), connections(studio, 1) as (writer,):
        await writer.execute(NOTE.format("captured"))

        async def lose() -> None:
            await studio.connection.execute("RPUSH", f"ph:{{{studio.tenant}}}:breaks", "1-1")

        taking = studio.taker.take
        studio.taker._source = InterruptedSource.of(studio, lose)
        with pytest.raises(SnapshotFailed, match="were lost while it was taken"):
            await taking([], everybody=True)
        assert await studio.index.all(studio.tenant) == []
