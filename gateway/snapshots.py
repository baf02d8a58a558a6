"""The snapshots of the configured sources: taken on schedule beside capture, or at once by command."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from gateway.metrics import Metrics
from gateway.settings import Settings
from store.connection import Connection
from store.embedded import find_running
from store.errors import StoreConfigurationError
from store.log import EventLog
from store.objects import Objects, S3Access
from store.pgsource import SourceSettings
from store.pgtypes import SESSION_SETTINGS
from store.schedule import SnapshotSchedule
from store.server_time import ServerTime
from store.snapshot import OnProgress, SnapshotTaker
from store.snapshot_index import Snapshot
from store.snapshot_source import SnapshotSource
from store.source_tables import table_reader


def open_objects(settings: Settings) -> Objects:
    """Where the snapshots are kept. Raises StoreConfigurationError."""
    kept = settings.snapshots
    access = S3Access(kept.endpoint, kept.region, kept.access_key_id, kept.secret_access_key)
    return Objects(kept.url, access)


def make_taker(
    settings: Settings,
    source: SourceSettings,
    *,
    connection: Connection,
    log: EventLog,
    now_ms: Callable[[], float],
) -> SnapshotTaker:
    """What takes the snapshots of one source."""
    reader = table_reader(
        source.publication, tenant_column=source.tenant_column, fallback=source.tenant
    )
    return SnapshotTaker(
        SnapshotSource(source.name, source.dsn, SESSION_SETTINGS, reader),
        tenant=None if source.tenant_column else source.tenant,
        connection=connection,
        log=log,
        objects=open_objects(settings),
        retention_ms=settings.snapshots.retention_sec * 1000,
        patience_sec=settings.snapshots.patience_sec,
        now_ms=now_ms,
    )


def make_schedule(
    settings: Settings,
    source: SourceSettings,
    *,
    connection: Connection,
    log: EventLog,
    metrics: Metrics,
    now_ms: Callable[[], float],
) -> SnapshotSchedule:
    """What takes them when they are due, counted in the metrics."""
    return SnapshotSchedule(
        make_taker(settings, source, connection=connection, log=log, now_ms=now_ms),
        connection,
        now_ms=now_ms,
        on_taken=lambda seconds: metrics.snapshot_taken(source.name, seconds),
        on_failure=lambda: metrics.snapshot_failed(source.name),
    )


async def take_now(
    settings: Settings, source: SourceSettings, on_progress: OnProgress
) -> dict[str, Snapshot]:
    """`playhead snapshot`: of everybody who has rows in a source. Raises StoreError."""
    async with AsyncExitStack() as stack:
        url = settings.store.url or find_running(settings.store.data_dir)
        if url is None:
            raise StoreConfigurationError(
                f"nothing serves the log in {settings.store.data_dir}: start the gateway that "
                "captures, or name its server by store.url"
            )
        connection = Connection(url)
        stack.push_async_callback(connection.close)
        await connection.open()
        time = ServerTime(connection)
        await time.measure()
        window_ms = settings.publish.idempotency_window_sec * 1000
        log = EventLog(connection, idempotency_window_ms=window_ms)
        taker = make_taker(settings, source, connection=connection, log=log, now_ms=time.now_ms)
        return await taker.take([], everybody=True, on_progress=on_progress)
