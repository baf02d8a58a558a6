"""The sources of a configuration: captured in this process, or looked at where another one does."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version

import msgspec
import structlog

from gateway.changes import ChangeRenderer
from gateway.cloudevent import Renderer
from gateway.metrics import Metrics
from gateway.schema.catalog import Catalog
from gateway.schema.change import CHANGE
from gateway.settings import Settings
from gateway.snapshots import make_schedule
from store.capture import Capture, check
from store.capture_record import CaptureRecord, Status
from store.connection import Connection
from store.embedded import EmbeddedServer
from store.errors import SourceRefused, SourceUnavailable, StoreConfigurationError, StoreError
from store.log import EventLog
from store.pgsource import SourceSettings
from store.server_time import ServerTime

logger = structlog.get_logger(__name__)

_LOOK_SEC = 1.0
# A status that is older says nothing of now.
_SILENT_MS = 10_000


def read_sources(settings: Settings) -> list[SourceSettings]:
    """The sources as their capture takes them."""
    return [
        SourceSettings(
            name=each.name,
            dsn=each.dsn,
            publication=each.publication,
            slot=each.slot_name,
            tables=each.tables,
            tenant=each.tenant or settings.tenants.default,
            tenant_column=each.tenant_column,
            resume_when_lost=each.on_lost_slot == "resume",
        )
        for each in settings.capture.sources
    ]


class Captures:
    """Every source of the configuration, captured by this process as far as no other one does."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        *,
        log: EventLog,
        connection: Connection,
        metrics: Metrics,
        now_ms: Callable[[], float],
    ) -> None:
        schema = catalog.get(CHANGE)
        assert schema is not None or not settings.capture.sources  # noqa: S101 - Catalog.parse
        renderer = Renderer(
            source=settings.application.base_url, type_prefix=settings.publish.event_type_prefix
        )
        self._captures: list[Capture] = []
        for source in read_sources(settings):
            assert schema is not None  # noqa: S101 - as above
            schedule = make_schedule(
                settings, source, connection=connection, log=log, metrics=metrics, now_ms=now_ms
            )
            self._captures.append(
                Capture(
                    source,
                    log=log,
                    connection=connection,
                    renderer=ChangeRenderer(source.name, schema, renderer),
                    on_failure=metrics.background_failures("capture").inc,
                    on_gap=schedule.request,
                    while_owner=schedule.run,
                )
            )

    async def run(self) -> None:
        """Capture until cancelled."""
        async with asyncio.TaskGroup() as group:
            for capture in self._captures:
                group.create_task(capture.run())


class CaptureWatch:
    """How capture is doing, from what its process writes down; for `/ready` and the metrics."""

    def __init__(self, connection: Connection, sources: Sequence[str], metrics: Metrics) -> None:
        self._records = {name: CaptureRecord(connection, name) for name in sources}
        self._metrics = metrics
        self._seen = dict.fromkeys(sources, Status("unknown"))

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while self._records:
            for name, record in self._records.items():
                try:
                    self._seen[name] = _judge(await record.status(), int(time.time() * 1000))
                except StoreError as error:
                    logger.warning("capture_not_seen", source=name, error=str(error))
                self._metrics.show_capture(name, self._seen[name])
            await asyncio.sleep(_LOOK_SEC)

    def report(self) -> dict[str, object]:
        """By source, as it was seen last."""
        return {name: msgspec.to_builtins(status) for name, status in self._seen.items()}


def _judge(status: Status | None, now_ms: int) -> Status:
    """A status as it is to be read now: one whose process is silent, or not at work, falls behind."""
    if status is None:
        return Status("unknown")
    silent = now_ms - status.updated_ms > _SILENT_MS
    if status.state == "capturing" and not silent:
        return status
    lag = max(0, now_ms - status.through_ms) / 1000 if status.through_ms else None
    state = "silent" if silent else status.state
    return msgspec.structs.replace(status, state=state, lag_sec=lag, lag_bytes=None)


async def capture_alone(settings: Settings, catalog: Catalog) -> None:
    """`playhead capture`: every source, without a gateway, until cancelled.

    Raises SourceRefused and StoreConfigurationError with what to change.
    """
    metrics = Metrics(version("playhead"), catalog.event_types)
    async with AsyncExitStack() as stack:
        url = settings.store.url
        if url is None:
            try:
                embedded = await stack.enter_async_context(EmbeddedServer(settings.store.data_dir))
            except StoreConfigurationError as error:
                raise StoreConfigurationError(
                    f"{error}; where a gateway has it, that can capture itself (capture.enabled), "
                    "or both share a server of your own (store.url)"
                ) from error
            url = embedded.url
        connection = Connection(url)
        stack.push_async_callback(connection.close)
        await connection.open()
        window_ms = settings.publish.idempotency_window_sec * 1000
        log = EventLog(connection, idempotency_window_ms=window_ms)
        for source in read_sources(settings):
            try:
                await check(source)
            except SourceUnavailable as error:
                logger.warning("source_is_away", error=str(error))
            except SourceRefused as error:
                raise SourceRefused(
                    f"source '{source.name}': {sentence}" for sentence in error.sentences
                ) from error
        server_time = ServerTime(connection)
        await server_time.measure()
        captures = Captures(
            settings,
            catalog,
            log=log,
            connection=connection,
            metrics=metrics,
            now_ms=server_time.now_ms,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(server_time.run())
            group.create_task(captures.run())


async def check_sources(settings: Settings) -> dict[str, Sequence[str] | StoreError]:
    """By source what could be better about it, or why it cannot be captured."""
    found: dict[str, Sequence[str] | StoreError] = {}
    for source in read_sources(settings):
        try:
            found[source.name] = await check(source)
        except StoreError as error:
            found[source.name] = error
    return found
