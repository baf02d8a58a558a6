"""Playback sessions over HTTP: init, start, stop, seek, end, reset, and the stream of one."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.auth import Access, User
from gateway.census import Streams
from gateway.errors import ApiError, shutting_down
from gateway.metrics import Metrics
from gateway.playback.cursor import SessionCursor
from gateway.playback.players import Players
from gateway.playback.range import RangeError, Ranges, Wanted
from gateway.playback.session_stream import SessionStream
from gateway.playback.writer import Writer
from gateway.routes.request import RETRY_MS, locked, parse_body, read_body
from gateway.routes.tenancy import Tenancy
from gateway.schema.catalog import Catalog
from gateway.schema.policy import StreamAuth
from gateway.stream import StreamResponse
from store.captured import CHANGE
from store.event import rfc3339
from store.server_time import ServerTime
from store.session import Answer, Outcome, Session, Sessions
from store.state import States

_LABEL = "Invalid Session Request"
_ANY_USER = StreamAuth(required=True)
_ROUTE = "/v1/replay/{id}/stream"


class _Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant_id: str | None = None


class _Init(_Tenant, frozen=True, forbid_unknown_fields=True):
    replay_requested_timestamp: str | None = None
    replay_end_timestamp: str | None = None
    event_types: list[str] | None = None
    session_id: str | None = None


class _Start(_Tenant, frozen=True, forbid_unknown_fields=True):
    replay_speed: float = 1.0


class _Seek(_Tenant, frozen=True, forbid_unknown_fields=True):
    timestamp: str | None = None


_Body = TypeVar("_Body", bound=_Tenant)


@dataclass(frozen=True, slots=True)
class SpeedLimits:
    """Speeds that may be asked for; `fastest` allows 0, as fast as can be sent."""

    lowest: float
    highest: float
    fastest: bool

    def admit(self, speed: float) -> None:
        if (speed == 0 and self.fastest) or self.lowest <= speed <= self.highest:
            return
        raise _invalid(
            f"replay_speed must be from {self.lowest:g} to {self.highest:g}"
            f"{', or 0' if self.fastest else ''}, got: {speed:g}"
        )


@dataclass(frozen=True, slots=True)
class SessionRoutes:
    """`/v1/replay/…`."""

    catalog: Catalog
    sessions: Sessions
    ranges: Ranges
    players: Players
    writer: Writer | None
    states: States
    streams: Streams
    access: Access
    tenancy: Tenancy
    server_time: ServerTime
    metrics: Metrics
    speeds: SpeedLimits
    send_timeout_sec: float
    body_limit: int
    draining: Callable[[], bool]

    def routes(self) -> list[BaseRoute]:
        verbs: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("start", self.start),
            ("stop", self.stop),
            ("seek", self.seek),
            ("end", self.end),
        ]
        return [
            Route("/v1/replay/init", self.init, methods=["POST"]),
            Route("/v1/replay/reset", self.reset, methods=["POST"]),
            Route("/v1/replay/current-session", self.current, methods=["GET"]),
            Route("/v1/replay/sessions", self.active, methods=["GET"]),
            Route(_ROUTE, self.stream, methods=["GET"]),
            *(Route(f"/v1/replay/{{id}}/{name}", verb, methods=["PUT"]) for name, verb in verbs),
        ]

    # -- verbs

    async def init(self, request: Request) -> Response:
        body, user, tenant = await self._read(request, _Init)
        if body.replay_requested_timestamp is None:
            raise _invalid("replay_requested_timestamp is required: an RFC 3339 time")
        wanted = Wanted(
            body.replay_requested_timestamp, body.replay_end_timestamp, body.event_types
        )
        try:
            found = await self.ranges.resolve(
                tenant,
                wanted,
                int(self.server_time.now_ms()),
                partial(self._require_read, user),
            )
        except RangeError as error:
            raise _invalid(str(error)) from error
        outcome = await self.sessions.init(
            tenant,
            body.session_id or str(uuid4()),
            start_ms=found.start_ms,
            end_ms=found.end_ms,
            event_types=found.event_types,
            again=body.session_id is not None,
            failure=found.failure,
            owned=self.writer is not None and CHANGE in found.event_types,
        )
        session = _require(await self._done(tenant, outcome), body.session_id or "")
        answer = _answer(session, "Replay session initialised", status=201)
        answer.headers["Location"] = f"/v1/replay/{session.view.id}"
        return answer

    async def start(self, request: Request) -> Response:
        body, _, tenant = await self._read(request, _Start)
        self.speeds.admit(body.replay_speed)
        session_id = request.path_params["id"]
        outcome = await self.sessions.start(tenant, session_id, body.replay_speed)
        outcome = await self._done(tenant, outcome)
        return _answer(_require(outcome, session_id), "Replay started")

    async def stop(self, request: Request) -> Response:
        _, _, tenant = await self._read(request, _Tenant)
        session_id = request.path_params["id"]
        outcome = await self._done(tenant, await self.sessions.stop(tenant, session_id))
        return _answer(_require(outcome, session_id), "Replay stopped")

    async def seek(self, request: Request) -> Response:
        body, _, tenant = await self._read(request, _Seek)
        if body.timestamp is None:
            raise _invalid("timestamp is required: an RFC 3339 time")
        try:
            ms = self.ranges.read_time("timestamp", body.timestamp)
        except RangeError as error:
            raise _invalid(str(error)) from error
        session_id = request.path_params["id"]
        outcome = await self.sessions.seek(tenant, session_id, ms)
        if outcome.answer is Answer.RANGE and outcome.session is not None:
            clock = outcome.session.clock
            raise _invalid(
                f"timestamp must be from {rfc3339(clock.start_ms)} to {rfc3339(clock.end_ms)}, "
                f"got: '{body.timestamp}'"
            )
        outcome = await self._done(tenant, outcome)
        return _answer(_require(outcome, session_id), "Replay moved")

    async def end(self, request: Request) -> Response:
        _, _, tenant = await self._read(request, _Tenant)
        session_id = request.path_params["id"]
        outcome = await self.sessions.end(tenant, session_id)
        if outcome.answer is Answer.MISSING:
            holder = await self.sessions.tenant_of(session_id)
            if holder is not None and holder != tenant:
                raise ApiError(
                    403, "FORBIDDEN", "forbidden", "The session belongs to another tenant"
                )
        outcome = await self._done(tenant, outcome)
        return _answer(_require(outcome, session_id), "Replay ended")

    async def reset(self, request: Request) -> Response:
        body, user = await self._read_body(request, _Tenant)
        tenant = await self._tenant_or_only(request, user, body.tenant_id)
        resetting = self.sessions if self.writer is None else self.writer
        outcome = await resetting.reset(tenant)
        return _answer(outcome.session, "Replay reset")

    async def current(self, request: Request) -> Response:
        user = await self._authenticate(request)
        tenant = await self._tenant_or_only(request, user, None)
        session = await self.sessions.get(tenant)
        return _answer(session, "Active replay session" if session else "No active replay session")

    async def _done(self, tenant: str, outcome: Outcome) -> Outcome:
        """What came of a verb when the work that it asked for is done, or has taken long."""
        return outcome if self.writer is None else await self.writer.wait(tenant, outcome)

    async def active(self, request: Request) -> Response:
        """The sessions of all tenants, for an administrator; of the one that is named."""
        user = await self.access.require_admin(request.headers)
        active = await self.sessions.active()
        if self.tenancy.names(request, user, None):
            tenant = self.tenancy.of(request, user, None)
            active = [session for session in active if session.view.tenant_id == tenant]
        return _enveloped([session.session for session in active], "Active replay sessions")

    # -- the stream

    async def stream(self, request: Request) -> Response:
        if self.draining():
            raise shutting_down()
        user = await self._authenticate(request)
        tenant = self.tenancy.of(request, user, None)
        session_id = request.path_params["id"]
        text = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
        try:
            cursor = SessionCursor.parse(text) if text else None
        except ValueError as error:
            raise _invalid(str(error)) from error
        session = await self.sessions.get(tenant)
        if session is None or session.view.id != session_id:
            raise _not_found(session_id)
        self._require_read(user, session.view.event_types)
        name = f"{user.realm}/{user.username}" if user else None
        stream = SessionStream(
            session,
            cursor=cursor,
            players=self.players,
            may_read=partial(self._may_read, user),
            states=self.states,
            request_id=request.state.request_id,
            retry_ms=random.randint(*RETRY_MS),  # noqa: S311 - spread, no secret
            census=self.streams,
            send_timeout_sec=self.send_timeout_sec,
            lifetime=self.metrics.stream(_ROUTE, "session", name),
            on_events=self.metrics.events_sent(_ROUTE, "session").inc,
            on_error=self.metrics.stream_errors(_ROUTE, "session").inc,
            on_catch_up=self.metrics.catch_ups.inc,
        )
        return StreamResponse(stream)

    # -- who asks, and for whom

    async def _authenticate(self, request: Request) -> User | None:
        user = await self.access.authenticate(request.headers)
        self.access.require_read(user, _ANY_USER)
        return user

    async def _read_body(self, request: Request, kind: type[_Body]) -> tuple[_Body, User | None]:
        body = parse_body(await read_body(request, self.body_limit), kind, _LABEL)
        return body, await self._authenticate(request)

    async def _read(self, request: Request, kind: type[_Body]) -> tuple[_Body, User | None, str]:
        body, user = await self._read_body(request, kind)
        return body, user, self.tenancy.of(request, user, body.tenant_id)

    async def _tenant_or_only(self, request: Request, user: User | None, named: str | None) -> str:
        """The tenant named, or that of the only active session there is."""
        if self.tenancy.names(request, user, named):
            return self.tenancy.of(request, user, named)
        active = await self.sessions.active()
        if len(active) > 1:
            raise _invalid(f"tenant_id is required: {len(active)} tenants have an active session")
        return active[0].view.tenant_id if active else self.tenancy.default

    def _may_read(self, user: User | None, event_types: Sequence[str]) -> bool:
        try:
            self._require_read(user, event_types)
        except ApiError:
            return False
        return True

    def _require_read(self, user: User | None, event_types: Sequence[str]) -> None:
        for event_type in event_types:
            schema = self.catalog.get(event_type)
            self.access.require_read(user, schema.auth if schema else None)


def _require(outcome: Outcome, session_id: str) -> Session:
    session = outcome.session
    if outcome.answer is Answer.MISSING:
        raise _not_found(session_id)
    if outcome.answer in (Answer.ONE_SHOT, Answer.ACTIVE):
        raise locked(session)
    assert session is not None  # noqa: S101 - every other answer comes with one
    if outcome.answer is Answer.STATE:
        raise ApiError(
            409,
            "REPLAY_WRONG_STATE",
            "Replay Wrong State",
            f"The session cannot do that while its status is {session.view.status}",
            omit_details=True,
            extra={"details": session.session},
        )
    return session


def _not_found(session_id: str) -> ApiError:
    return ApiError(
        404,
        "SESSION_NOT_FOUND",
        "Session Not Found",
        f"The tenant has no active session '{session_id[:100]}'",
    )


def _invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_SESSION_REQUEST", _LABEL, message)


def _answer(session: Session | None, message: str, *, status: int = 200) -> Response:
    if session is not None and session.working:
        message = "The session is at work on that; ask current-session how it goes"
    return _enveloped(None if session is None else session.session, message, status)


def _enveloped(
    data: msgspec.Raw | list[msgspec.Raw] | None, message: str, status: int = 200
) -> Response:
    content = {"data": data, "message": message, "sent_at": rfc3339(int(time.time() * 1000))}
    return Response(msgspec.json.encode(content), status, media_type="application/json")
