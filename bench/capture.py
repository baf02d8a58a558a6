"""How fast capture catches up, and how soon a commit is at a watcher.

Against a PostgreSQL and a gateway that captures it. Catching up is timed from the moment the gateway
listens, so that it has the checks of the source in it, to the last change in the log; a commit from the
moment before it is sent to that of its frame's arrival.
"""

import asyncio
import tempfile
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, cast

import asyncpg

from bench import percentiles
from bench.event import TENANT
from bench.figure import Figure, Finding, Row, Wrong
from bench.load import request
from bench.question import Question, Sizes, Subject
from bench.site import Site
from store.capture_record import CHANGE, CaptureRecord
from store.connection import Connection, log_key
from store.embedded_postgres import EmbeddedPostgres
from store.event import StreamKey

_STREAM = log_key(StreamKey(TENANT, CHANGE))
_SOURCE = "bench"
_TABLE = """
CREATE TABLE vehicle (id int PRIMARY KEY, fleet int, name text, lat float8, lon float8,
                      at timestamptz, speed int);
INSERT INTO vehicle SELECT i, i % 7, 'truck ' || i, 52.1, 13.4, now(), 0
  FROM generate_series(1, 1000) i;
CREATE PUBLICATION playhead FOR TABLE vehicle
"""
_SLOT = "SELECT pg_create_logical_replication_slot('playhead_bench', 'pgoutput')"
_UPDATE = """
UPDATE vehicle SET lat = lat + 1e-5, lon = lon - 1e-5, at = now(), speed = (random() * 100)::int
 WHERE id BETWEEN {} AND {}
"""
_ROWS = 100
_COMMITS_A_SECOND = 500
_WRITERS = 4
_PATIENCE_SEC = 300.0
# The first frame, which tells of the connection, has no id.
_FRAME = b"event: live-notification\nid: "


_CATCHING_UP = Row("capture/catch-up", "capture catches up with a database", "changes/s")
_FOLLOWING = Row(
    "capture/follow", "capture, commit to watcher, 500 commits/s: p99", "ms", more=False
)


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    """Raises Wrong when a change is missing or comes twice."""
    yield await _catch_up(subject, sizes.captured)
    yield await _follow(subject, sizes.follow_sec)


class _Source(NamedTuple):
    dsn: str
    snapshots: Path


@asynccontextmanager
async def _open_source() -> AsyncIterator[_Source]:
    """A database with a table, its publication and a slot."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        settings = {"fsync": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
        async with EmbeddedPostgres(Path(directory) / "pg", settings) as postgres:
            connection = await asyncpg.connect(postgres.dsn)
            await connection.execute(_TABLE)
            await connection.execute(_SLOT)
            await connection.close()
            yield _Source(postgres.dsn, Path(directory) / "snapshots")


def _capturing(source: _Source) -> dict[str, object]:
    return {
        "capture": {"enabled": True, "sources": [{"name": _SOURCE, "dsn": source.dsn}]},
        "snapshots": {"url": f"file://{source.snapshots}"},
    }


async def _catch_up(subject: Subject, changes: int) -> Figure:
    """What was written while nobody captured, in transactions of 100 rows."""
    async with _open_source() as source:
        writer = await asyncpg.connect(source.dsn)
        for start in range(0, changes, _ROWS):
            first = start % 1000 + 1
            await writer.execute(_UPDATE.format(first, first + _ROWS - 1))
        await writer.close()
        async with subject.open(_capturing(source)) as site:
            started = time.perf_counter()
            connection = Connection(site.store_url)
            await connection.open()
            length = 0
            while length < changes:
                await asyncio.sleep(0.02)
                length = int(await connection.execute("XLEN", _STREAM))
                if time.perf_counter() - started > _PATIENCE_SEC:
                    raise Wrong(f"{length} of {changes} changes are captured")
            took = time.perf_counter() - started
            await connection.close()
            if length != changes:
                raise Wrong(f"{length} changes are captured of {changes}")
    return Figure(_CATCHING_UP.key, "playhead", changes / took)


class _Watcher(asyncio.Protocol):
    """Notes when each frame arrived; they are in the order of the commits."""

    def __init__(self) -> None:
        self._rest = b""
        self.arrived = array("d")
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(request("GET", f"/api/v1/watch?event_type={CHANGE}"))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        text = self._rest + data
        if not self.opened.done() and b"\n\n" in text:
            self.opened.set_result(None)
        # A frame is counted when it is whole.
        end = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
        self.arrived.extend([now] * text.count(_FRAME, 0, end))
        self._rest = text[end:]


async def _follow(subject: Subject, seconds: float) -> Figure:
    """Commits of one row each, as even as they come, by writers that take turns."""
    count = int(seconds * _COMMITS_A_SECOND)
    async with _open_source() as source, subject.open(_capturing(source)) as site:
        await _await_capture(site)
        loop = asyncio.get_running_loop()
        _, watcher = await loop.create_connection(_Watcher, "127.0.0.1", site.port)
        await watcher.opened
        sent = await _commit(source.dsn, count)
        deadline = time.perf_counter() + _PATIENCE_SEC
        while len(watcher.arrived) < count:
            if time.perf_counter() > deadline:
                raise Wrong(f"{len(watcher.arrived)} of {count} commits were watched")
            await asyncio.sleep(0.05)
        watcher.transport.abort()
    # The n-th commit to arrive was sent no later than the n-th to be sent: no time is too short.
    waited = [
        (there - then) * 1000 for then, there in zip(sorted(sent), watcher.arrived, strict=True)
    ]
    rate = count / (max(sent) - min(sent))
    found = percentiles.of_ms([waited])
    return Figure(_FOLLOWING.key, "playhead", percentiles.p99(found), {"commits/s": rate}, found)


async def _await_capture(site: Site) -> None:
    connection = Connection(site.store_url)
    await connection.open()
    record = CaptureRecord(connection, _SOURCE)
    async with asyncio.timeout(_PATIENCE_SEC):
        while (status := await record.status()) is None or status.state != "capturing":
            await asyncio.sleep(0.05)
    await connection.close()


async def _commit(dsn: str, count: int) -> list[float]:
    """When each commit was sent."""
    sent: list[float] = []
    started = time.perf_counter() + 0.1

    async def write(writer: int) -> None:
        connection = await asyncpg.connect(dsn)
        statement = await connection.prepare("UPDATE vehicle SET speed = $2 WHERE id = $1")
        for number in range(writer, count, _WRITERS):
            await asyncio.sleep(started + number / _COMMITS_A_SECOND - time.perf_counter())
            sent.append(time.perf_counter())
            await statement.fetch(number % 1000 + 1, number)
        await connection.close()

    await asyncio.gather(*map(write, range(_WRITERS)))
    return sent


QUESTION = Question((_CATCHING_UP, _FOLLOWING), measure, only_here="capture is Playhead's own")
