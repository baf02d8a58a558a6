"""`kill -9` of capture, Valkey and PostgreSQL while writers write: each change is in the log once."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from store.connection import Connection
from store.embedded_postgres import EmbeddedPostgres
from tests.captures import CaptureProcess, Json, Site, eventually
from tests.servers import Valkey, start_postgres, stop_postgres

WRITERS = 3
TABLES = """
CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL, body text);
CREATE TABLE audit (number bigserial, xid bigint DEFAULT pg_current_xact_id()::text::bigint,
                    op text, id int, n int);
CREATE PUBLICATION playhead FOR TABLE item
"""


class Writer:
    """Transactions on rows of its own, each change also noted in a table that is not captured."""

    def __init__(self, dsn: str, number: int, seed: int) -> None:
        self._dsn = dsn
        self._rng = random.Random(seed)
        self._ids = range(number * 1000, number * 1000 + 40)
        self.committed = 0

    async def run(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(self._dsn)
                try:
                    while True:
                        await self._transact(connection)
                        self.committed += 1
                finally:
                    connection.terminate()
            except (
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
                OSError,
            ):
                await asyncio.sleep(0.05)

    async def _transact(self, connection: asyncpg.Connection) -> None:
        # A long one does not fit a call of the log.
        count = 700 if self._rng.random() < 0.02 else self._rng.randint(1, 12)
        async with connection.transaction():
            for _ in range(count):
                if self._rng.random() < 0.15:
                    undone = connection.transaction()
                    await undone.start()
                    await self._change(connection)
                    await undone.rollback()
                await self._change(connection)
            if self._rng.random() < 0.1:
                await asyncio.sleep(self._rng.random() * 0.1)

    async def _change(self, connection: asyncpg.Connection) -> None:
        row, n = self._rng.choice(self._ids), self._rng.randint(0, 10**6)
        op = self._rng.choice("uuud")
        if op == "u":
            changed = await connection.execute("UPDATE item SET n = $2 WHERE id = $1", row, n)
            if changed == "UPDATE 0":
                op = "c"
                body = "x" * self._rng.choice([0, 10, 5000])
                await connection.execute("INSERT INTO item VALUES ($1, $2, $3)", row, n, body)
        elif await connection.execute("DELETE FROM item WHERE id = $1", row) == "DELETE 0":
            return
        await connection.execute(
            "INSERT INTO audit (op, id, n) VALUES ($1, $2, $3)", op, row, None if op == "d" else n
        )


class House:
    """Everything that can be killed."""

    def __init__(self, directory: Path) -> None:
        self.valkey = Valkey(directory / "valkey")
        self.postgres: EmbeddedPostgres = start_postgres()
        self.valkey.start()
        self.connection = Connection(self.valkey.url)
        self.site = Site(self.postgres.dsn, self.connection)
        settings = self.site.settings
        source = {"name": settings.name, "dsn": settings.dsn, "tenant": self.site.tenant}
        self.capture = CaptureProcess(directory / "capture", self.valkey.url, [source])

    async def kill(self, victim: str) -> None:
        await asyncio.to_thread(self._kill, victim)

    def _kill(self, victim: str) -> None:
        if victim in ("capture", "all"):
            self.capture.kill()
        if victim in ("valkey", "all"):
            self.valkey.kill()
        if victim in ("postgres", "all"):
            self.postgres.kill()
        if victim in ("valkey", "all"):
            self.valkey.start()
        if victim in ("postgres", "all"):
            self.postgres.start()
        if victim in ("capture", "all"):
            self.capture.start()

    async def close(self) -> None:
        self.capture.kill()
        await self.connection.close()
        await asyncio.to_thread(self.valkey.stop)
        await asyncio.to_thread(stop_postgres, self.postgres)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = await asyncio.to_thread(House, tmp_path)
    await made.connection.open()
    await made.site.run(TABLES)
    made.capture.start()
    yield made
    await made.close()


async def prove(house: House, kills: int, seed: int) -> int:
    """The number of changes that were checked."""
    rng = random.Random(seed)
    site = house.site
    writers = [Writer(site.dsn, number, seed + number) for number in range(WRITERS)]

    async def at_work() -> bool:
        return await site.record.load() is not None

    await eventually(at_work, "capture has begun")
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(writer.run()) for writer in writers]
        stack.callback(lambda: [task.cancel() for task in tasks])
        for _ in range(kills):
            before = [writer.committed for writer in writers]

            async def moved(before: list[int] = before) -> bool:
                assert not any(task.done() for task in tasks), [task.exception() for task in tasks]
                return all(
                    writer.committed >= was + 3 for writer, was in zip(writers, before, strict=True)
                )

            await eventually(moved, "writers write")
            await asyncio.sleep(rng.random() * 0.3)
            await house.kill(rng.choice(["capture", "capture", "valkey", "postgres", "all"]))
    await asyncio.wait(tasks)
    return await check(site)


async def check(site: Site) -> int:
    changes = await site.changes()
    connection = await site.connect()
    try:
        audit = await connection.fetch("SELECT xid, op, id, n FROM audit ORDER BY number")
        rows = {row["id"]: dict(row) for row in await connection.fetch("SELECT * FROM item")}
    finally:
        await connection.close()
    expected: dict[int, list[tuple[str, int, int | None]]] = defaultdict(list)
    for row in audit:
        expected[row["xid"]].append((row["op"], row["id"], row["n"]))
    found: dict[int, list[tuple[str, int, int | None]]] = defaultdict(list)
    state: dict[int, Json] = {}
    order: list[int] = []
    for change in changes:
        xid = change["xid"]
        if not found[xid]:
            order.append(xid)
        assert order[-1] == xid, "transactions are mixed"
        assert change["index"] == len(found[xid])
        found[xid].append(fact(change, state))
        assert change["last"] == (len(found[xid]) == len(expected[xid]))
    assert found == expected
    assert state == rows
    places = [tuple(int(half, 16) for half in change["lsn"].split("/")) for change in changes]
    assert places == sorted(places)
    assert await site.meta(f"open:{site.settings.name}") is None
    return len(changes)


def fact(change: Json, state: dict[int, Json]) -> tuple[str, int, int | None]:
    """What a change did, done to the state too."""
    row: Any = change["key"]["id"]
    after = change["after"]
    if after is None:
        del state[row]
        return "d", row, None
    op = "u" if row in state else "c"
    assert not change.get("unchanged")
    state[row] = after
    return op, row, after["n"]


async def test_each_change_is_in_the_log_once_whoever_is_killed(house: House) -> None:
    assert await prove(house, 6, seed=4) > 100


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_each_change_is_in_the_log_once_through_many_kills(house: House) -> None:
    print(f"{await prove(house, 150, seed=5)} changes checked")
