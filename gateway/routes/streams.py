"""Watch and replay, by POST as Aviso's clients ask and by GET for browsers and curl."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import sse
from gateway.auth import Authenticator, OpenAccess, User
from gateway.census import Streams
from gateway.errors import ApiError, shutting_down
from gateway.fanout import Fanout
from gateway.log_stream import LogStream, StreamLimits, StreamPlan
from gateway.metrics import Metrics
from gateway.playback.lease import ReplayLocks
from gateway.reading import Cursor, Reading, resolve
from gateway.routes.request import (
    RETRY_MS,
    invalid,
    locked,
    read_body,
    refused,
)
from gateway.schema.catalog import Catalog
from gateway.schema.errors import Rejected
from gateway.schema.query import (
    FromSequence,
    FromTime,
    Operation,
    Query,
    Request,
    parse,
    query,
    request_from_params,
)
from gateway.stream import StreamResponse
from store.errors import StoreError, StoreUnavailable
from store.event import StreamKey
from store.log import EventLog
from store.session import Lease

logger = structlog.get_logger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCK_LOST = "The lock of the tenant could not be kept for this replay; ask again"


@dataclass(frozen=True, slots=True)
class Streaming:
    """`/api/v1/watch` and `/api/v1/replay`."""

    catalog: Catalog
    log: EventLog
    fanout: Fanout
    streams: Streams
    access: Authenticator | OpenAccess
    metrics: Metrics
    limits: StreamLimits
    max_history: int
    body_limit: int
    draining: Callable[[], bool]
    locks: ReplayLocks | None

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/v1/watch", self.watch, methods=["GET", "POST"]),
            Route("/api/v1/replay", self.replay, methods=["GET", "POST"]),
        ]

    async def watch(self, http: HttpRequest) -> Response:
        return await self._open(http, "watch")

    async def replay(self, http: HttpRequest) -> Response:
        return await self._open(http, "replay")

    async def _open(self, http: HttpRequest, operation: Operation) -> Response:
        if self.draining():
            raise shutting_down()
        try:
            cursor = _cursor(http, operation)
            request = await self._parse(http, operation)
            schema = self.catalog.get(request.event_type)
            user = await self.access.authenticate(http.headers)
            self.access.require_read(user, schema.auth if schema else None)
            tenant = self.access.tenant_for(user, http.headers, http.state.tenant)
            if cursor is not None:
                # Where a client stands outweighs where it once wanted to begin; it may stand
                # past the end it asked for, which is an empty replay and no error.
                request = msgspec.structs.replace(request, from_id="0", from_date=None)
            asked = query(request, operation, self.catalog)
            if cursor is not None:
                asked = msgspec.structs.replace(asked, start=FromSequence(cursor.sequence + 1))
        except Rejected as rejected:
            raise refused(rejected, operation) from rejected
        stream = StreamKey(tenant, asked.event_type)
        reading = await self._resolve(stream, asked, cursor)
        cap = schema.max_historical_notifications if schema else None
        plan = StreamPlan(
            stream=stream,
            topic=asked.topic,
            match=asked.filter,
            reading=reading,
            watch=operation == "watch",
            max_history=cap or self.max_history,
            request_id=http.state.request_id,
            first_frame=self._first_frame(http, asked, reading),
            from_browser=http.method != "POST",
        )
        route = f"/api/v1/{operation}"
        name = f"{user.realm}/{user.username}" if user else None
        lease = await self._take_lock(operation, http, user, tenant)
        lifetime = self.metrics.stream(route, asked.event_type, name)
        if lease is not None and self.locks is not None:
            held = self.locks.hold(*lease, on_lost=lambda: opened.fail(_LOCK_LOST))
            lifetime = _both(lifetime, held)
        opened = LogStream(
            plan,
            log=self.log,
            fanout=self.fanout,
            census=self.streams,
            limits=self.limits,
            lifetime=lifetime,
            on_events=self.metrics.events_sent(route, asked.event_type).inc,
            on_error=self.metrics.stream_errors(route, asked.event_type).inc,
        )
        return StreamResponse(opened)

    async def _take_lock(
        self, operation: Operation, http: HttpRequest, user: User | None, tenant: str
    ) -> tuple[str, Lease] | None:
        """The session lock of a tenant that is named, for a replay (playback contract, the lock)."""
        named = "x-tenant-id" in http.headers or (user is not None and user.tenant is not None)
        if self.locks is None or operation != "replay" or not named or http.method == "HEAD":
            return None
        taken = await self.locks.take(tenant)
        if isinstance(taken, Lease):
            return tenant, taken
        raise locked(taken.session)

    async def _parse(self, http: HttpRequest, operation: Operation) -> Request:
        if http.method == "POST":
            return parse(await read_body(http, self.body_limit), operation, self.catalog)
        return request_from_params(http.query_params.multi_items(), operation, self.catalog)

    async def _resolve(self, stream: StreamKey, asked: Query, cursor: Cursor | None) -> Reading:
        try:
            return await resolve(self.log, stream, asked, cursor)
        except StoreUnavailable:
            raise
        except StoreError as error:
            logger.error("stream_not_opened", error=str(error))
            raise ApiError(
                500,
                "SSE_STREAM_INITIALIZATION_FAILED",
                "SSE stream creation failed",
                "The stream could not be opened; the server's log says why",
                extra={"topic": asked.topic},
            ) from error

    def _first_frame(self, http: HttpRequest, asked: Query, reading: Reading) -> bytes:
        browser = http.method != "POST"
        retry_ms = random.randint(*RETRY_MS) if browser else None  # noqa: S311 - spread, no secret
        if reading.after is None:
            return sse.connection_established(
                asked.topic,
                round(self.limits.max_duration_sec),
                http.state.request_id,
                frame_id=sse.cursor(reading.head.last, reading.head.epoch) if browser else None,
                retry_ms=retry_ms,
            )
        start = asked.start
        return sse.replay_started(
            asked.topic,
            http.state.request_id,
            from_sequence=start.sequence if isinstance(start, FromSequence) else None,
            from_date=_moment(start.ms) if isinstance(start, FromTime) else None,
            end_sequence=reading.end_sequence,
            batch_size=self.limits.page_size,
            retry_ms=retry_ms,
        )


@contextmanager
def _both(
    outer: AbstractContextManager[None], inner: AbstractContextManager[None]
) -> Iterator[None]:
    with outer, inner:
        yield


def _cursor(http: HttpRequest, operation: Operation) -> Cursor | None:
    """`Last-Event-ID`, else `?last_event_id=`: the header is what a browser learnt since."""
    text = http.headers.get("last-event-id") or http.query_params.get("last_event_id")
    if not text:
        return None
    try:
        return Cursor.parse(text)
    except ValueError as error:
        raise invalid(operation, str(error)) from error


def _moment(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
