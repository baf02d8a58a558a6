"""What the source forgot before it was captured is refused, or told as a gap: never passed over."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from store.capture_record import Progress, format_lsn, parse_lsn
from store.connection import Connection, log_key
from store.embedded_postgres import EmbeddedPostgres
from store.event import Mark
from store.pgsource import Identity, Moment, Slot, SourceSettings
from store.resumption import find_loss
from tests.captures import Site, eventually
from tests.servers import Valkey, start_postgres, stop_postgres

SETTINGS = SourceSettings("s", "", "p", "slot", (), "", None, False)
PROGRESS = Progress("id", 1, "slot", 0, 0x1000, 5)
IDENTITY = Identity("id", 1, 5)
NOW = Moment(9, 0x2000, 0x2000)


@pytest.fixture
async def site(database: str, connection: Connection) -> AsyncIterator[Site]:
    made = Site(database, connection)
    await made.run("CREATE TABLE t (id int PRIMARY KEY)")
    yield made
    assert not made.failures, "a defect"


def slot(confirmed: int = 0x1000, lost: str | None = None) -> Slot:
    return Slot(confirmed, confirmed, "pgoutput", "db", lost)


@pytest.mark.parametrize(
    ("identity", "found", "now", "sentence"),
    [
        (IDENTITY, slot(), NOW, None),
        (IDENTITY, slot(0x800), NOW, None),
        (Identity("id", 2, 5), slot(), NOW, None),
        (IDENTITY, None, NOW, "was dropped"),
        (IDENTITY, slot(lost="wal_removed"), NOW, r"gave up its slot 'slot' \(wal_removed\)"),
        (IDENTITY, slot(0x1001), NOW, "stands at 0/1001, past 0/1000"),
        (Identity("other", 1, 5), slot(), NOW, "another database cluster"),
        (IDENTITY, slot(), Moment(9, 0x800, 0x800), "restored from an earlier time"),
    ],
)
def test_a_loss_is_seen_and_nothing_else_is_taken_for_one(
    identity: Identity, found: Slot | None, now: Moment, sentence: str | None
) -> None:
    loss = find_loss(SETTINGS, PROGRESS, identity, found, now)
    if sentence is None:
        assert loss is None
    else:
        assert loss is not None
        assert re.search(sentence, loss)


@pytest.mark.parametrize("lsn", [0, 0x16B374D848, 2**64 - 1])
def test_a_place_is_read_as_it_was_written(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


async def admin(site: Site, query: str, *args: object) -> object:
    connection = await site.connect()
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


async def drop_slot(site: Site) -> None:
    """The moment it is free."""
    while True:
        with suppress(asyncpg.ObjectInUseError):
            await admin(site, "SELECT pg_drop_replication_slot($1)", site.settings.slot)
            return
        await asyncio.sleep(0.01)


async def test_a_dropped_slot_is_refused_with_what_to_do(site: Site) -> None:
    async with site.capturing() as capture:
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
        await drop_slot(site)
        await site.reach(capture, "lost")
        assert capture.status.error is not None
        assert "set on_lost_slot to resume" in capture.status.error
        status = await site.record.status()
        assert status is not None
        assert status.state == "lost"
    assert await site.breaks() == []


async def test_with_resume_a_dropped_slot_is_a_break_and_capture_goes_on(site: Site) -> None:
    async with site.capturing(resume_when_lost=True) as capture:
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
        await drop_slot(site)

        async def begun_again() -> bool:
            return capture.status.restarts > 0 and capture.status.state == "capturing"

        await eventually(begun_again, "capture goes on")
        await site.run("INSERT INTO t VALUES (2)")
        assert [each["key"]["id"] for each in await site.changes()] == [1, 2]
    [place] = await site.breaks()
    assert place.endswith("-1")
    assert site.gaps[0] == "capture begins"
    assert "was dropped" in site.gaps[1]


async def test_a_slot_made_again_while_nobody_looked_is_seen(site: Site) -> None:
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
    await drop_slot(site)
    await site.run("INSERT INTO t VALUES (2)")
    await admin(
        site, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", site.settings.slot
    )
    await site.run("INSERT INTO t VALUES (3)")
    async with site.running() as capture:
        await site.reach(capture, "lost")
        assert "made again" in str(capture.status.error)
    async with site.capturing(resume_when_lost=True):
        assert [each["key"]["id"] for each in await site.changes()] == [1, 3]
    assert len(await site.breaks()) == 1


async def test_a_slot_made_again_between_two_looks_is_seen(site: Site) -> None:
    """Dropped and made again within the tenth of a second between two rounds: the new slot stood
    where capture would have been by then, and what was committed before it was passed over."""
    async with site.capturing(resume_when_lost=True):
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
        connection = await site.connect()
        try:
            await drop_slot(site)
            await connection.execute("INSERT INTO t VALUES (2)")
            await connection.execute(
                "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", site.settings.slot
            )
            await connection.execute("INSERT INTO t VALUES (3)")
        finally:
            await connection.close()

        async def told() -> bool:
            return len(await site.breaks()) == 1

        await eventually(told, "the loss is a break")
        assert [each["key"]["id"] for each in await site.changes()] == [1, 3]
    assert len(site.gaps) == 2


async def test_places_of_a_source_that_was_restored_begin_anew(site: Site) -> None:
    """What comes at a place that the log has passed is another change than that of before."""
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
    key = f"ph:capture:{site.settings.name}"
    await site.connection.execute("HSET", key, "confirmed_lsn", "FFFF/0")
    meta = log_key(site.stream)[:-3] + "meta"
    mark = Mark(0, 0xFFFF << 32, 0).text
    await site.connection.execute("HSET", meta, f"mark:{site.settings.name}", mark)
    async with site.capturing(resume_when_lost=True):
        await site.run("INSERT INTO t VALUES (2)")
        assert (await site.changes())[-1]["key"] == {"id": 2}
    assert (await site.progress()).generation == 1
    # Snapshots do not compare what is behind this with what is before.
    assert await site.meta(f"began:{site.settings.name}") == "1"
    assert "restored from an earlier time" in site.gaps[-1]


async def test_a_slot_that_somebody_else_read_from_is_seen(site: Site) -> None:
    async with site.capturing():
        await site.caught_up()
    await site.run("INSERT INTO t VALUES (1)")
    await admin(
        site,
        "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())",
        site.settings.slot,
    )
    async with site.running() as capture:
        await site.reach(capture, "lost")
        assert "somebody else read from it" in str(capture.status.error)


async def open_transaction(site: Site) -> asyncpg.Connection:
    connection = await site.connect()
    await connection.execute("BEGIN; SELECT pg_current_xact_id()")
    return connection


@asynccontextmanager
async def emptied_as_the_slot_is_made(site: Site) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Inside, what makes the slot has to wait; the call then empties the table, and writes to it.

    PostgreSQL misses what ends while it makes a slot, for as long as an older one is open.
    """
    first, observer = await open_transaction(site), await site.connect()
    opened = [first, observer]

    async def held_by(holder: asyncpg.Connection) -> None:
        xid = await holder.fetchval("SELECT pg_current_xact_id()::text")

        async def waits() -> bool:
            query = (
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted "
                "AND transactionid = $1::text::xid AND query LIKE '%create_logical%'"
            )
            return bool(await observer.fetchval(query, xid))

        await eventually(waits, "the slot is being made")

    async def empty() -> None:
        await held_by(first)
        older = await open_transaction(site)
        await site.run("TRUNCATE t")
        await first.execute("COMMIT")
        await held_by(older)
        writer = await open_transaction(site)
        opened.extend((older, writer))
        await writer.execute("INSERT INTO t VALUES (1)")
        await older.execute("COMMIT")
        await eventually(site.slot_is_there, "the slot is made")
        await writer.execute("COMMIT")

    try:
        yield empty
    finally:
        for connection in opened:
            await connection.close()


async def test_a_table_may_be_emptied_while_the_slot_is_made(site: Site) -> None:
    async with emptied_as_the_slot_is_made(site) as empty, site.running() as capture:
        await empty()
        await site.reach(capture, "capturing")
        await site.run("INSERT INTO t VALUES (2)")
        assert [each["key"]["id"] for each in await site.changes()] == [2]


async def test_a_slot_that_postgresql_cannot_decode_is_refused_with_what_to_do(site: Site) -> None:
    """One that somebody else made, while a table was emptied."""
    await site.run("CREATE PUBLICATION playhead FOR TABLE t")
    making = f"SELECT pg_create_logical_replication_slot('{site.settings.slot}', 'pgoutput')"
    async with emptied_as_the_slot_is_made(site) as empty:
        made = asyncio.create_task(site.run(making))
        await empty()
        await made
    async with site.running() as capture:
        await site.reach(capture, "refused")
        assert f"pg_drop_replication_slot('{site.settings.slot}')" in (capture.status.error or "")


async def test_a_log_that_lost_changes_gets_them_again_while_the_slot_has_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server does that fell back by a second: its newest events and marks are gone."""
    monkeypatch.setattr("store.capture_rounds.ADVANCE_SEC", 3600.0)
    async with site.capturing() as capture:
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
        mark = await site.meta(f"mark:{site.settings.name}")
        assert mark is not None
        await site.run("INSERT INTO t VALUES (2)")
        await site.caught_up()
        newest = (await site.connection.execute("XREVRANGE", log_key(site.stream), "+", "-"))[0][0]
        await site.connection.execute("XDEL", log_key(site.stream), newest)
        meta = log_key(site.stream)[:-3] + "meta"
        await site.connection.execute("HSET", meta, f"mark:{site.settings.name}", mark)
        await site.run("INSERT INTO t VALUES (3)")
        assert [each["key"]["id"] for each in await site.changes()] == [1, 2, 3]
        assert capture.status.restarts > 0
    assert await site.breaks() == []


async def test_a_log_that_lost_what_the_slot_forgot_has_a_break(site: Site) -> None:
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
        await site.caught_up()
        confirmed = parse_lsn(str(await admin(site, "SELECT pg_current_wal_flush_lsn()::text")))

        async def advanced() -> bool:
            found = await admin(
                site,
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1",
                site.settings.slot,
            )
            return parse_lsn(str(found)) >= confirmed

        await eventually(advanced, "the source may forget")
        await site.connection.execute("DEL", log_key(site.stream))
        await site.run("INSERT INTO t VALUES (3)")
        assert [each["key"]["id"] for each in await site.changes()] == [3]
    assert len(await site.breaks()) == 1
    assert "lost changes" in site.gaps[-1]


@pytest.fixture
def small_postgres() -> Iterator[EmbeddedPostgres]:
    """One that gives a slot up soon."""
    server = start_postgres(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB")
    yield server
    stop_postgres(server)


async def test_a_slot_that_fell_too_far_behind_is_seen(
    small_postgres: EmbeddedPostgres, connection: Connection
) -> None:
    site = Site(small_postgres.dsn, connection)
    await site.run("CREATE TABLE t (id int PRIMARY KEY); CREATE UNLOGGED TABLE noise (x text)")
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
    for _ in range(4):
        await site.run(
            "INSERT INTO t SELECT i FROM generate_series(2, 100) i",
            "DELETE FROM t WHERE id > 1",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        )
    async with site.running() as capture:
        await site.reach(capture, "lost")
        assert "gave up its slot" in str(capture.status.error)
    async with site.capturing(resume_when_lost=True):
        await site.run("INSERT INTO t VALUES (7)")
        assert [each["key"]["id"] for each in await site.changes()] == [1, 7]
    assert not site.failures


async def test_a_source_that_is_down_for_a_while_loses_nothing(connection: Connection) -> None:
    server = start_postgres()
    try:
        site = Site(server.dsn, connection)
        await site.run("CREATE TABLE t (id int PRIMARY KEY)")
        async with site.capturing() as capture:
            for number in range(3):
                await site.run(f"INSERT INTO t VALUES ({number})")
                await asyncio.to_thread(server.kill)
                await site.reach(capture, "down")
                assert "did not answer" in str(capture.status.error) or (
                    "cannot be reached" in str(capture.status.error)
                )
                await asyncio.to_thread(server.start)
                await site.reach(capture, "capturing")
            assert [each["key"]["id"] for each in await site.changes()] == [0, 1, 2]
            assert site.gaps == ["capture begins"]
        assert not site.failures
    finally:
        await asyncio.to_thread(stop_postgres, server)


async def test_a_log_that_is_down_for_a_while_loses_nothing(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    connection = Connection(server.url)
    await connection.open()
    try:
        site = Site(database, connection)
        await site.run("CREATE TABLE t (id int PRIMARY KEY)")
        async with site.capturing() as capture:
            for number in range(3):
                server.kill()
                await site.run(f"INSERT INTO t VALUES ({number})")
                await site.reach(capture, "store_down")
                await asyncio.to_thread(server.start)
                await site.reach(capture, "capturing")
            assert [each["key"]["id"] for each in await site.changes()] == [0, 1, 2]
        assert site.gaps == ["capture begins"]
        assert not site.failures
    finally:
        await connection.close()
        server.stop()
