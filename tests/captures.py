"""A captured database as an object: a source, its capture as a task, and what the log has of it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import yaml

from gateway.changes import ChangeRenderer
from gateway.cloudevent import Renderer
from gateway.schema.catalog import Catalog
from store.capture import Capture
from store.capture_record import CHANGE, CaptureRecord, Progress
from store.connection import Connection, log_key, meta_key
from store.event import StreamKey
from store.log import EventLog
from store.pgsource import SourceSettings

PATIENCE_SEC = 60.0
Json: TypeAlias = dict[str, Any]


async def eventually(
    predicate: Callable[[], Awaitable[object]], description: str, timeout: float = PATIENCE_SEC
) -> None:
    """Return when the predicate holds; fail with the description when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while not await predicate():
        assert loop.time() < deadline, f"not within {timeout:g} s: {description}"
        await asyncio.sleep(0.02)


def renderer(source: str) -> ChangeRenderer:
    schema = Catalog.parse(None, None, changes=True).get(CHANGE)
    assert schema is not None
    return ChangeRenderer(source, schema, Renderer(source="http://test", type_prefix="test."))


@dataclass
class Site:
    """One source; `connection` is to the log's server."""

    dsn: str
    connection: Connection
    tenant: str = field(default_factory=lambda: str(uuid4()))
    options: Json = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    failures: list[None] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Sources of one log's server have names of their own.
        name = f"s{uuid4().hex[:12]}"
        self.settings = SourceSettings(
            name=name,
            dsn=self.dsn,
            publication="playhead",
            slot=f"playhead_{name}",
            tables=(),
            tenant=self.tenant,
            tenant_column=None,
            resume_when_lost=False,
        )
        self.settings = replace(self.settings, **self.options)
        self.log = EventLog(self.connection, idempotency_window_ms=60_000)
        self.record = CaptureRecord(self.connection, name)

    @property
    def stream(self) -> StreamKey:
        return StreamKey(self.tenant, CHANGE)

    def with_options(self, **options: Any) -> SourceSettings:
        return replace(self.settings, **options)

    def capture(self, **options: Any) -> Capture:
        settings = self.with_options(**options)
        return Capture(
            settings,
            log=self.log,
            connection=self.connection,
            renderer=renderer(settings.name),
            on_failure=lambda: self.failures.append(None),
            on_gap=self.gaps.append,
        )

    @asynccontextmanager
    async def capturing(self, **options: Any) -> AsyncIterator[Capture]:
        """Capture runs, and has begun."""
        async with self.running(**options) as capture:
            await self.reach(capture, "capturing")
            yield capture

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Capture]:
        capture = self.capture(**options)
        task = asyncio.create_task(capture.run())
        try:
            yield capture
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def reach(self, capture: Capture, state: str) -> None:
        async def there() -> bool:
            return capture.status.state == state

        await eventually(there, f"capture is {state}: {capture.status}")

    async def slot_is_there(self) -> bool:
        connection = await self.connect()
        try:
            query = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1"
            return await connection.fetchval(query, self.settings.slot) is not None
        finally:
            await connection.close()

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.dsn)

    async def run(self, *statements: str) -> None:
        """Each a transaction of its own."""
        connection = await self.connect()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def progress(self) -> Progress:
        found = await self.record.load()
        assert found is not None
        return found

    async def caught_up(self, timeout: float = PATIENCE_SEC) -> None:
        """Everything that was committed before this call is in the log."""
        connection = await self.connect()
        try:
            # An own commit, so that the place is flushed.
            await connection.execute("SELECT pg_logical_emit_message(true, 'test', '')")
            lsn = await connection.fetchval("SELECT pg_current_wal_flush_lsn()")
        finally:
            await connection.close()

        async def there() -> bool:
            assert not self.failures, "a defect"
            progress = await self.record.load()
            return progress is not None and progress.confirmed_lsn >= lsn

        await eventually(there, "capture has caught up", timeout)

    async def events(self, tenant: str | None = None) -> list[Json]:
        key = log_key(StreamKey(tenant or self.tenant, CHANGE))
        entries = await self.connection.execute("XRANGE", key, "-", "+")
        return [json.loads(event) for _, (_, event) in entries]

    async def topics(self, tenant: str | None = None) -> list[str]:
        key = log_key(StreamKey(tenant or self.tenant, CHANGE))
        entries = await self.connection.execute("XRANGE", key, "-", "+")
        return [topic.decode() for _, (topic, _) in entries]

    async def changes(self, tenant: str | None = None) -> list[Json]:
        """The payloads, when capture has caught up."""
        await self.caught_up()
        return [event["data"]["payload"] for event in await self.events(tenant)]

    async def changes_now(self, tenant: str | None = None) -> list[Json]:
        return [event["data"]["payload"] for event in await self.events(tenant)]

    async def meta(self, field: str, tenant: str | None = None) -> str | None:
        key = meta_key(StreamKey(tenant or self.tenant, CHANGE))
        found = await self.connection.execute("HGET", key, field)
        return None if found is None else found.decode()

    async def breaks(self, tenant: str | None = None) -> list[str]:
        key = f"ph:{{{tenant or self.tenant}}}:breaks"
        return [each.decode() for each in await self.connection.execute("LRANGE", key, 0, -1)]


class CaptureProcess:
    """`playhead capture` as a process of its own, to be killed."""

    def __init__(self, directory: Path, redis: str, sources: list[Json]) -> None:
        self.directory = directory
        self.configuration = {
            "store": {"url": redis},
            "capture": {"sources": sources},
            "snapshots": {"url": f"file://{directory}/snapshots"},
        }
        self.log_file = directory / "capture.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "config.yaml"
        path.write_text(yaml.safe_dump(self.configuration))
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "capture", "--config", str(path)],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def memory_bytes(self) -> int:
        """The most there ever was in memory."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")
