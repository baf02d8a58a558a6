"""The only wiring: opens the services from the settings, routes, middleware, drain."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from gateway import edge
from gateway.auth import Authenticator, OpenAccess
from gateway.captures import Captures, CaptureWatch
from gateway.census import Streams
from gateway.cloudevent import Renderer
from gateway.cors import Cors
from gateway.edge import Admission, Edge
from gateway.errors import ApiError
from gateway.fanout import Fanout
from gateway.log_stream import StreamLimits
from gateway.metrics import Metrics
from gateway.openapi.document import build_document
from gateway.playback.lease import ReplayLocks
from gateway.playback.player import Player, PlayerLimits
from gateway.playback.players import Players
from gateway.playback.range import Ranges
from gateway.playback.work import WorkLimits
from gateway.playback.writer import Writer
from gateway.routes import about, admin
from gateway.routes.configuration import ConfigurationRoutes
from gateway.routes.notification import Publishing
from gateway.routes.sessions import SessionRoutes, SpeedLimits
from gateway.routes.state import StateRoutes
from gateway.routes.streams import Streaming
from gateway.routes.tenancy import Tenancy
from gateway.schema.catalog import Catalog
from gateway.settings import Settings
from gateway.snapshots import open_objects
from store.capture_record import captured_places
from store.configuration import Configuration
from store.connection import Connection
from store.embedded import EmbeddedServer
from store.errors import StoreUnavailable
from store.event import Retention
from store.log import EventLog
from store.playback_connection import CaptureSlots
from store.playback_db import PlaybackDatabase
from store.retention import Retainer
from store.server_time import ServerTime
from store.session import Session, Sessions
from store.snapshot_index import SnapshotIndex
from store.snapshot_reader import SnapshotReader
from store.state import States
from store.tail import Tail

logger = structlog.get_logger(__name__)


_CORS_HEADERS = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-Tenant-ID",
]


class Gateway:
    """Everything of one process. `app` is the ASGI application; `failed` is set when it cannot go on."""

    def __init__(self, settings: Settings, catalog: Catalog, connection: Connection) -> None:
        self.settings = settings
        self.metrics = Metrics(version("playhead"), catalog.event_types)
        self.draining = False
        self.failed = asyncio.Event()
        watch = settings.watch_endpoint
        self.log = EventLog(
            connection,
            idempotency_window_ms=settings.publish.idempotency_window_sec * 1000,
            on_batch=self.metrics.append_batch.observe,
            observe_page=lambda: self.metrics.backend("get_batch"),
        )
        self.tail = Tail(
            connection, self.log, on_failure=lambda error: self._on_death("tail", error)
        )
        self.streams = Streams(
            heartbeat_sec=watch.sse_heartbeat_interval_sec,
            max_duration_sec=watch.connection_max_duration_sec,
        )
        self.retainer = Retainer(self.log, _retentions(catalog))
        self.access = _access(settings, self.metrics)
        self.server_time = ServerTime(connection)
        self.sessions = Sessions(
            connection,
            idle_ms=settings.playback.idle_sec * 1000,
            lease_ms=int(settings.playback.lease_sec * 1000),
            work_limit_ms=settings.playback.work_limit_sec * 1000,
        )
        self.locks = ReplayLocks(self.sessions, lease_sec=settings.playback.lease_sec)
        self.players = Players(self.sessions, self._make_player)
        index = SnapshotIndex(connection)
        self.states = States(
            connection,
            self.log,
            index,
            SnapshotReader(
                open_objects(settings), index, on_broken=self.metrics.snapshots_broken.inc
            ),
        )
        self._connection = connection
        self.writer = self._make_writer()
        self.metrics.tail_lag.set_function(lambda: self.tail.lag_ms() / 1000)
        self.captures = Captures(
            settings,
            catalog,
            log=self.log,
            connection=connection,
            metrics=self.metrics,
            now_ms=self.server_time.now_ms,
        )
        self.capture_watch = CaptureWatch(
            connection, [source.name for source in settings.capture.sources], self.metrics
        )
        self.app = self._build(catalog)

    def _make_player(self, session: Session) -> Player:
        watch = self.settings.watch_endpoint
        return Player(
            session,
            log=self.log,
            tail=self.tail,
            sessions=self.sessions,
            time=self.server_time,
            limits=PlayerLimits(watch.replay_batch_size, watch.ring_events, watch.ring_bytes),
            on_failure=self.metrics.background_failures("player").inc,
        )

    def _make_writer(self) -> Writer | None:
        playback = self.settings.playback
        if playback.database is None:
            return None
        return Writer(
            PlaybackDatabase(
                playback.database,
                slots=CaptureSlots([each.slot_name for each in self.settings.capture.sources]),
                captured=partial(captured_places, self._connection),
                lease_sec=playback.lease_sec,
            ),
            sessions=self.sessions,
            states=self.states,
            log=self.log,
            time=self.server_time,
            limits=WorkLimits(
                lease_sec=playback.lease_sec,
                outage_sec=playback.outage_sec,
                patience_sec=playback.step_patience_sec,
                page_size=self.settings.watch_endpoint.replay_batch_size,
            ),
            metrics=self.metrics,
        )

    def _build(self, catalog: Catalog) -> ASGIApp:
        settings, watch, limits = self.settings, self.settings.watch_endpoint, self.settings.limits
        publishing = Publishing(
            catalog=catalog,
            log=self.log,
            renderer=Renderer(
                source=settings.application.base_url,
                type_prefix=settings.publish.event_type_prefix,
            ),
            access=self.access,
            metrics=self.metrics,
            body_limit=limits.body_bytes,
            bulk_items=limits.bulk_items,
        )
        streaming = Streaming(
            catalog=catalog,
            log=self.log,
            fanout=Fanout(
                self.tail,
                ring_events=watch.ring_events,
                ring_bytes=watch.ring_bytes,
                on_failure=lambda error: self._on_death("fanout", error),
                on_catch_up=self.metrics.catch_ups.inc,
            ),
            streams=self.streams,
            access=self.access,
            metrics=self.metrics,
            limits=StreamLimits(
                heartbeat_sec=watch.sse_heartbeat_interval_sec,
                max_duration_sec=watch.connection_max_duration_sec,
                send_timeout_sec=watch.send_timeout_sec,
                backend_patience_sec=watch.backend_patience_sec,
                page_size=watch.replay_batch_size,
                batch_delay_ms=watch.replay_batch_delay_ms,
            ),
            max_history=watch.max_historical_notifications,
            body_limit=limits.body_bytes,
            draining=lambda: self.draining,
            locks=self.locks if settings.playback.lock_replays else None,
        )
        routes = [
            *publishing.routes(),
            *streaming.routes(),
            *self._playback(catalog),
            *admin.routes(self.log, catalog, self.access, self.metrics),
            *self._about(catalog),
        ]
        app = Starlette(
            routes=routes,
            middleware=[
                *_cors(settings),
                Middleware(
                    Admission,
                    default_tenant=settings.tenants.default,
                    header_bytes=limits.header_bytes,
                    query_bytes=limits.query_bytes,
                ),
            ],
            exception_handlers={
                ApiError: edge.on_api_error,
                StoreUnavailable: edge.on_unavailable,
                ClientDisconnect: edge.on_client_gone,
                HTTPException: edge.on_http_exception,
                Exception: edge.on_defect,
            },
        )
        # A path with a slash too many is unknown: no redirect to where its Host header says.
        app.router.redirect_slashes = False
        return Edge(
            app,
            metrics=self.metrics,
            access_log=settings.logging.access,
        )

    def _playback(self, catalog: Catalog) -> list[BaseRoute]:
        settings, playback = self.settings, self.settings.playback
        tenancy = Tenancy(settings.tenants.default)
        sessions = SessionRoutes(
            catalog=catalog,
            sessions=self.sessions,
            ranges=Ranges(
                self.log,
                self.states,
                catalog,
                default_ms=playback.default_range_sec * 1000,
                longest_ms=playback.longest_range_sec * 1000,
            ),
            players=self.players,
            writer=self.writer,
            states=self.states,
            streams=self.streams,
            access=self.access,
            tenancy=tenancy,
            server_time=self.server_time,
            metrics=self.metrics,
            speeds=SpeedLimits(
                playback.lowest_speed, playback.highest_speed, playback.allow_fastest
            ),
            send_timeout_sec=settings.watch_endpoint.send_timeout_sec,
            body_limit=settings.limits.body_bytes,
            draining=lambda: self.draining,
        )
        configuration = ConfigurationRoutes(
            connection=self._connection,
            configuration=Configuration(self._connection),
            server_time=self.server_time,
            access=self.access,
            tenancy=tenancy,
            body_limit=settings.limits.body_bytes,
        )
        states = StateRoutes(
            connection=self._connection,
            log=self.log,
            states=self.states,
            catalog=catalog,
            streams=self.streams,
            access=self.access,
            tenancy=tenancy,
            server_time=self.server_time,
            metrics=self.metrics,
            page_size=settings.watch_endpoint.replay_batch_size,
            send_timeout_sec=settings.watch_endpoint.send_timeout_sec,
            draining=lambda: self.draining,
        )
        return [*sessions.routes(), *configuration.routes(), *states.routes()]

    def _about(self, catalog: Catalog) -> list[BaseRoute]:
        settings = self.settings
        homepage = settings.application.homepage
        static_path = settings.application.static_files_path
        shared_port = settings.metrics.enabled and settings.metrics.port is None
        return about.routes(
            version=version("playhead"),
            catalog=catalog,
            readiness=about.Readiness(
                self._connection.ping,
                tail_lag_ms=self.tail.lag_ms,
                durability=self._connection.durability.describe,
                draining=lambda: self.draining,
                captures=self.capture_watch.report,
            ),
            document=build_document(
                catalog,
                version=version("playhead"),
                auth_mode=settings.auth.mode if settings.auth.enabled else None,
                metrics=shared_port,
                metrics_path=settings.metrics.path,
                lock_replays=settings.playback.lock_replays,
            ),
            homepage=about.Homepage(
                client_documentation_url=homepage.client_documentation_url,
                client_repository_url=homepage.client_repository_url,
                server_documentation_url=homepage.server_documentation_url,
                server_repository_url=homepage.server_repository_url,
            ),
            static_path=None if static_path is None else Path(static_path),
            metrics=self.metrics if shared_port else None,
            metrics_path=settings.metrics.path,
        )

    def _on_death(self, name: str, error: BaseException) -> None:
        """A task that must not end has ended: the process goes, rather than being half alive."""
        logger.critical("background_task_died", task=name, exc_info=error)
        self.metrics.background_failures(name).inc()
        self.failed.set()

    def spawn(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run what lasts as long as the process."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._on_death(name, error)

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        return task

    async def drain(self) -> None:
        """Turn away new streams and readiness, close the open ones with their reason."""
        self.draining = True
        self.metrics.draining.set(1)
        logger.info("draining", streams=len(self.streams))
        await self.streams.drain(
            self.settings.drain.window_sec,
            self.settings.drain.timeout_sec,
            on_left=lambda left: logger.warning("streams_cut_off", streams=left),
        )


@asynccontextmanager
async def open_gateway(settings: Settings, catalog: Catalog) -> AsyncIterator[Gateway]:
    """A gateway that can serve. Raises StoreConfigurationError and StoreUnavailable with a sentence."""
    async with AsyncExitStack() as stack:
        embedded: EmbeddedServer | None = None
        url = settings.store.url
        if url is None:
            embedded = await stack.enter_async_context(EmbeddedServer(settings.store.data_dir))
            url = embedded.url
        connection = Connection(url)
        stack.push_async_callback(connection.close)
        await connection.open()
        gateway = Gateway(settings, catalog, connection)
        gateway.metrics.set_durability(connection.durability.describe())
        stack.push_async_callback(gateway.access.aclose)
        stack.push_async_callback(gateway.tail.close)
        await gateway.server_time.measure()
        stack.push_async_callback(gateway.players.close)
        stack.push_async_callback(gateway.locks.close)
        works: list[tuple[str, Callable[[], Coroutine[object, object, None]]]] = [
            ("streams", gateway.streams.run),
            ("retention", gateway.retainer.run),
            ("server time", gateway.server_time.run),
            ("sessions", gateway.sessions.run),
            ("capture watch", gateway.capture_watch.run),
        ]
        if settings.capture.enabled:
            works.append(("capture", gateway.captures.run))
        if embedded is not None:
            gateway.metrics.watch_restarts(embedded)
            works.append(("embedded server", embedded.failed))
        if gateway.writer is not None:
            await gateway.writer.check()
            stack.push_async_callback(gateway.writer.close)
            works.append(("playback writer", gateway.writer.run))
        tasks = [gateway.spawn(name, work()) for name, work in works]
        stack.push_async_callback(_end, tasks)
        yield gateway


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Before the connection closes: one that still ran would open it again."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _access(settings: Settings, metrics: Metrics) -> Authenticator | OpenAccess:
    auth = settings.auth
    if not auth.enabled:
        return OpenAccess()
    return Authenticator(
        auth.mode,
        auth.jwt_secret or "",
        auth.admin_roles,
        url=auth.auth_o_tron_url or "",
        timeout_ms=auth.timeout_ms,
        tenant_claim=auth.tenant_claim,
        count=lambda outcome: metrics.auth_outcomes(auth.mode, outcome).inc(),
    )


def _cors(settings: Settings) -> list[Middleware]:
    cors = settings.cors
    if not cors.allow_origins:
        return []
    return [
        Middleware(
            Cors,
            allow_origins=cors.allow_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=_CORS_HEADERS,
            allow_credentials=cors.allow_credentials,
            max_age=cors.max_age_sec,
            expose_headers=["X-Request-ID", "Retry-After", "Location"],
        )
    ]


def _retentions(catalog: Catalog) -> dict[str, Retention]:
    found: dict[str, Retention] = {}
    for event_type in catalog.event_types:
        schema = catalog.get(event_type)
        policy = schema.storage_policy if schema else None
        if policy is None:
            continue
        retention = Retention(policy.retention_time_ms, policy.max_messages, policy.max_bytes)
        if retention != Retention():
            found[event_type] = retention
    return found
