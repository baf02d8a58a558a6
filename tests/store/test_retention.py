"""Retention, stream by stream: who has one is trimmed, who has none is left alone."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from store import retention
from store.connection import Connection, log_key
from store.event import Draft, Envelope, Retention, StreamKey
from store.log import EventLog
from store.retention import Retainer
from tests.servers import Valkey, running

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
DRAFT = Draft(b"topic", b'{"id":"')


async def fill(log: EventLog, *streams: StreamKey, number: int = 10) -> None:
    for stream in streams:
        await log.append(stream, ENVELOPE, [DRAFT] * number)


async def kept(connection: Connection, stream: StreamKey) -> int:
    return int(await connection.execute("XLEN", log_key(stream)))


async def test_each_event_type_is_kept_as_its_own_retention_says_in_every_tenant(
    connection: Connection, log: EventLog
) -> None:
    # No other test's logs have these event types.
    mark = uuid4().hex
    short, long, endless = (f"{name}-{mark}" for name in ("short", "long", "endless"))
    tenants = [str(uuid4()) for _ in range(3)]
    streams = [StreamKey(tenant, kind) for tenant in tenants for kind in (short, long, endless)]
    await fill(log, *streams)
    retainer = Retainer(log, {short: Retention(max_count=2), long: Retention(max_count=7)})
    assert await retainer.trim() == 3 * (8 + 3)
    assert await retainer.trim() == 0
    assert [await kept(connection, stream) for stream in streams] == [2, 7, 10] * 3


async def test_age_and_size_hold_at_once(connection: Connection, log: EventLog) -> None:
    kind = f"kind-{uuid4().hex}"
    stream = StreamKey(str(uuid4()), kind)
    old = [Draft(DRAFT.topic, DRAFT.head, time_ms) for time_ms in range(1000, 1010)]
    await log.append(stream, ENVELOPE, old)
    await fill(log, stream)
    retainer = Retainer(log, {kind: Retention(max_age_ms=3_600_000, max_count=5)})
    assert await retainer.trim() == 15
    assert await kept(connection, stream) == 5


async def test_a_log_that_cannot_be_trimmed_keeps_no_other_from_it(
    connection: Connection, log: EventLog
) -> None:
    """The round ended at it, every time: the logs named after it grew without end."""
    kind = f"kind-{uuid4().hex}"
    tenants = [str(uuid4()) for _ in range(8)]
    streams = [StreamKey(tenant, kind) for tenant in tenants]
    await fill(log, *streams)
    await connection.execute("DEL", log_key(streams[3]))
    await connection.execute("SET", log_key(streams[3]), "no log")
    assert await Retainer(log, {kind: Retention(max_count=1)}).trim() == 7 * 9


async def test_a_log_made_anew_after_everything_was_deleted_is_trimmed_again(
    tmp_path: Path,
) -> None:
    """FLUSHALL took the lists of tenants and streams with it, which a gateway writes once: its logs
    were never trimmed, or wiped with all others, until it was started again."""
    server = Valkey(tmp_path / "v", fsync="no")
    with running(server):
        connection = Connection(server.url)
        await connection.open()
        log = EventLog(connection, idempotency_window_ms=1000)
        stream = StreamKey("tenant", "kind")
        retainer = Retainer(log, {"kind": Retention(max_count=1)})
        await fill(log, stream)
        await connection.execute("FLUSHALL")
        await fill(log, stream)
        assert await log.streams("tenant") == ["kind"]
        assert await retainer.trim() == 9
        await connection.close()


async def test_it_goes_on_when_the_server_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "INTERVAL_SEC", 0.01)
    server = Valkey(tmp_path / "v", fsync="no")
    with running(server):
        connection = Connection(server.url)
        await connection.open()
        log = EventLog(connection, idempotency_window_ms=1000)
        stream = StreamKey("tenant", "kind")
        task = asyncio.create_task(Retainer(log, {"kind": Retention(max_count=1)}).run())
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await fill(log, stream)
        async with asyncio.timeout(60):
            while await kept(connection, stream) > 1:
                pass
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        await connection.close()


async def test_without_a_retention_there_is_nothing_to_do(log: EventLog) -> None:
    async with asyncio.timeout(5):
        await Retainer(log, {}).run()
