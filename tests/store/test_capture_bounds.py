"""What is bounded: memory in a huge transaction, the write-ahead log that a source has to keep."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from store.capture_record import parse_lsn
from store.connection import Connection, log_key
from store.pgsource import PIECE_BYTES
from tests.captures import CaptureProcess, Site, eventually

MIB = 1 << 20


@pytest.fixture
async def site(database: str, connection: Connection) -> AsyncIterator[Site]:
    made = Site(database, connection)
    yield made
    assert not made.failures, "a defect"


async def capture_one_transaction(site: Site, directory: Path, rows: int) -> int:
    """Memory of a process that captured it, bytes."""
    await site.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    settings = site.settings
    source = {"name": settings.name, "dsn": settings.dsn, "tenant": site.tenant}
    process = CaptureProcess(directory, site.connection.url, [source])
    process.start()
    try:

        async def begun() -> bool:
            return await site.record.load() is not None

        await eventually(begun, "capture has begun")
        await site.run(
            f"INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1, {rows}) i"
        )
        await site.caught_up(timeout=max(60, rows / 1000))
        memory = process.memory_bytes()
    finally:
        assert process.stop() == 0
    assert await site.connection.execute("XLEN", log_key(site.stream)) == rows
    [(_, (_, last))] = await site.connection.execute(
        "XREVRANGE", log_key(site.stream), "+", "-", "COUNT", 1
    )
    assert b'"index":%d,"last":true' % (rows - 1) in last
    return memory


async def test_a_large_transaction_is_captured_in_pieces(site: Site, tmp_path: Path) -> None:
    """Its rows are 10 MB as they are sent, and more than twice that as events."""
    assert await capture_one_transaction(site, tmp_path, 30_000) < 160 * MIB


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_a_transaction_of_a_million_rows_takes_no_more_memory(
    site: Site, tmp_path: Path
) -> None:
    memory = await capture_one_transaction(site, tmp_path, 1_000_000)
    print(f"{memory / MIB:.0f} MiB for a transaction of a million rows")
    assert memory < 160 * MIB


async def test_messages_of_any_size_are_read_in_pieces(site: Site) -> None:
    """A page of a thousand rows of 1 MB took a gigabyte; one message of a piece's length ends it."""
    await site.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    sizes = [*range(PIECE_BYTES - 40, PIECE_BYTES + 2), 3 * PIECE_BYTES, 10, 12 * MIB]
    async with site.capturing():
        await site.run(
            f"INSERT INTO t SELECT n, repeat('x', s) FROM unnest(ARRAY{sizes}) WITH ORDINALITY u(s, n)"
        )
        assert [len(each["after"]["v"]) for each in await site.changes()] == sizes


async def held(site: Site) -> int:
    """The write-ahead log that the source keeps for the slot, bytes."""
    connection = await site.connect()
    try:
        return int(
            await connection.fetchval(
                "SELECT pg_current_wal_flush_lsn() - restart_lsn FROM pg_replication_slots "
                "WHERE slot_name = $1",
                site.settings.slot,
            )
        )
    finally:
        await connection.close()


async def pass_by(site: Site, megabytes: int) -> float:
    """Write so much that is not captured; the longest time that a captured change took, s."""
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE noise (x text); "
        "CREATE PUBLICATION playhead FOR TABLE t"
    )
    slowest = 0.0
    async with site.capturing() as capture:
        noise = await site.connect()

        async def write_noise() -> None:
            for _ in range(megabytes // 8):
                await noise.execute(
                    "INSERT INTO noise SELECT repeat('x', 8000) FROM generate_series(1, 1000)"
                )
                await noise.execute("TRUNCATE noise")

        writing = asyncio.create_task(write_noise())
        number = 0
        while not writing.done():
            number += 1
            began = time.monotonic()
            await site.run(f"INSERT INTO t VALUES ({number})")

            async def there(number: int = number) -> bool:
                length = await site.connection.execute("XLEN", log_key(site.stream))
                return int(length) >= number

            await eventually(there, "the change is in the log")
            slowest = max(slowest, time.monotonic() - began)
        await writing
        await noise.close()
        await site.caught_up()

        async def let_go() -> bool:
            # A change now and then, as there always is: the slot moves on at one.
            await site.run("SELECT pg_logical_emit_message(true, 'test', '')")
            return await held(site) < 20 * MIB

        await eventually(let_go, "the source keeps no more than it must")
        assert capture.status.restarts == 0
    assert await site.connection.execute("XLEN", log_key(site.stream)) == number
    return slowest


async def test_what_is_not_captured_neither_delays_nor_is_kept(site: Site) -> None:
    await pass_by(site, 48)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_a_gigabyte_that_is_not_captured_neither_delays_nor_is_kept(site: Site) -> None:
    slowest = await pass_by(site, 1024)
    print(f"slowest change while 1 GB passed: {slowest * 1000:.0f} ms")
    assert slowest < 5


async def test_the_record_tells_the_place_as_postgresql_does(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with site.capturing():
        await site.caught_up()
        key = f"ph:capture:{site.settings.name}"
        found = await site.connection.execute("HGET", key, "confirmed_lsn")
    connection = await site.connect()
    try:
        same = await connection.fetchval("SELECT $1::text::pg_lsn::text", found.decode())
    finally:
        await connection.close()
    assert same == found.decode()
    assert parse_lsn(same) > 0
