"""A captured database is played again into another one, beside which the state over HTTP must agree."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from store.embedded_postgres import EmbeddedPostgres
from store.pgtypes import SESSION_SETTINGS
from tests.captures import eventually
from tests.conftest import RunningGateway, Start
from tests.playback.controls import Controls, done
from tests.playback.session_model import text_of
from tests.servers import drop_database

TABLES = """
CREATE TABLE vehicle (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, at timestamptz DEFAULT now(),
  place float8[], load numeric(10, 3), note text);
CREATE TABLE alarm (vehicle integer, text text);
ALTER TABLE alarm REPLICA IDENTITY FULL;
"""
ROWS = {
    "public.vehicle": "SELECT to_json(r)::text AS row FROM public.vehicle r",
    "public.alarm": "SELECT to_json(r)::text AS row FROM public.alarm r",
}


@pytest.fixture
async def target(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    name = f"target_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    yield postgres.database_dsn(name)
    await drop_database(postgres.dsn, name)


async def rows(connection: Any) -> dict[str, list[str]]:
    found = {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for table, query in ROWS.items():
            found[table] = sorted(row["row"] for row in await connection.fetch(query))
    return found


async def state(gateway: RunningGateway, at: str) -> dict[str, list[str]] | None:
    """The rows of a time over HTTP, or None while they are not known yet."""
    answer = await gateway.client.get("/v1/state", params={"at": at})
    lines = answer.text.splitlines()
    if answer.status_code != 200 or '"complete":true' not in lines[-1]:
        return None
    found: dict[str, list[str]] = {table: [] for table in ROWS}
    for line in lines[:-1]:
        found[json.loads(line)["table"]].append(line.partition(',"row":')[2][:-1])
    return {table: sorted(each) for table, each in found.items()}


async def work(source: Any, pick: random.Random) -> None:
    """One transaction, as an application makes them."""
    async with source.transaction():
        for _ in range(pick.choice([1, 1, 2, 5])):
            number = pick.randint(1, 60)
            statement, *values = pick.choice(
                [
                    (
                        "INSERT INTO vehicle (name, place, load) VALUES ($1, $2, 1.5)",
                        "x",
                        [0.1, 2e9],
                    ),
                    ("UPDATE vehicle SET at = now(), note = $2 WHERE id = $1", number, "it's 'on'"),
                    ("UPDATE vehicle SET load = load * 1.1 WHERE id % 10 = $1", number % 10),
                    ("DELETE FROM vehicle WHERE id = $1", number),
                    ("INSERT INTO alarm VALUES ($1, 'a'), ($1, 'a')", number % 3),
                    ("DELETE FROM alarm WHERE ctid IN (SELECT min(ctid) FROM alarm)",),
                ]
            )
            await source.execute(statement, *values)


async def test_what_happened_in_a_database_happens_again_in_another(
    start_gateway: Start, database: str, target: str, tmp_path: Path
) -> None:
    source = await asyncpg.connect(database, server_settings={"search_path": "public"})
    settings = SESSION_SETTINGS | {"search_path": "public"}
    played = await asyncpg.connect(target, server_settings=settings)
    reading = await asyncpg.connect(database, server_settings=settings)
    pick = random.Random(3)
    for connection in (source, played):
        await connection.execute(TABLES)
    # Before anybody looked: only the snapshot has these.
    for _ in range(20):
        await work(source, pick)
    async with start_gateway(
        capture={"enabled": True, "sources": [{"name": f"f{uuid4().hex[:9]}", "dsn": database}]},
        snapshots={"url": f"file://{tmp_path}/snapshots"},
        playback={"database": target, "highest_speed": 100},
    ) as gateway:
        begin = text_of(int(time.time() * 1000))

        async def begun() -> bool:
            nonlocal begin
            begin = text_of(int(time.time() * 1000) - 1)
            found = await state(gateway, begin)
            return found is not None and bool(found["public.vehicle"])

        await eventually(begun, "there is a snapshot")
        for _ in range(60):
            await work(source, pick)
        end = text_of(int(time.time() * 1000))
        controls = Controls(gateway.client, gateway.tenant)
        session = await controls.begin(begin, end)
        assert session["status"] == "MSG_INIT_OK", session
        assert await rows(played) == await state(gateway, begin)
        for speed in (0.5, 1, 0.5, 2):
            done(await controls.start(session["id"], speed))
            await asyncio.sleep(0.05)
            stopped = done(await controls.stop(session["id"]))
            assert await rows(played) == await state(gateway, stopped["replay_last_timestamp"])
        done(await controls.seek(session["id"], begin))
        done(await controls.start(session["id"], 100))

        async def over() -> bool:
            session = await controls.current()
            assert session["error"] is None
            return bool(session["status"] == "MSG_STOP_OK")

        await eventually(over, "everything is played")
        assert await rows(played) == await rows(reading)
        done(await controls.end(session["id"]))
        assert await rows(played) == {table: [] for table in ROWS}
    for connection in (source, played, reading):
        await connection.close()
