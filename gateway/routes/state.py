"""`/v1/state`: every row as it was at a time. `/v1/changes`: what changed between two times."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import row_text, sse
from gateway.auth import Access, User
from gateway.census import Streams
from gateway.errors import ApiError, shutting_down
from gateway.metrics import Metrics
from gateway.playback.tables import parse_tables
from gateway.routes.tenancy import Tenancy
from gateway.row_stream import Body, LineResponse, RowStream
from gateway.schema.catalog import Catalog
from gateway.schema.errors import Fault
from gateway.schema.policy import StreamAuth
from gateway.schema.times import parse_event_time
from gateway.stream import StreamResponse
from store.captured import CHANGE, changes, read_captured
from store.connection import Connection
from store.errors import Behind, ObjectsUnavailable, OutOfRange
from store.event import ORIGIN, Head, Position, rfc3339
from store.fold import read_change
from store.log import EventLog
from store.server_time import ServerTime
from store.state import State, States

_ANY_USER = StreamAuth(required=True)
_LABEL = "Invalid State Request"
_STATE = "/v1/state"
_CHANGES = "/v1/changes"
# A clock a little ahead of the log's server asks for what has not happened yet.
_FUTURE_MS = 60_000
# Capture says twice a second how far it is: who asks for this very moment waits for that.
_PATIENCE_SEC = 2.0
_POLL_SEC = 0.1
_EVENT_STREAM = "text/event-stream"
_LINES = "application/x-ndjson"


class _Identifier(msgspec.Struct, frozen=True):
    table: str = ""


class _Data(msgspec.Struct, frozen=True):
    identifier: _Identifier


class _Event(msgspec.Struct, frozen=True):
    data: _Data


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(frozen=True, slots=True)
class StateRoutes:
    """`patience_sec`: so long a request waits for capture to come up to the time it asks for."""

    connection: Connection
    log: EventLog
    states: States
    catalog: Catalog
    streams: Streams
    access: Access
    tenancy: Tenancy
    server_time: ServerTime
    metrics: Metrics
    page_size: int
    send_timeout_sec: float
    draining: Callable[[], bool]
    patience_sec: float = _PATIENCE_SEC

    def routes(self) -> list[BaseRoute]:
        return [
            Route(_STATE, self.state, methods=["GET"]),
            Route(_CHANGES, self.changes, methods=["GET"]),
        ]

    async def state(self, request: Request) -> Response:
        user, tenant = await self._admit(request, {"at", "tables", "tenant_id"})
        at_ms = self._time(request, "at")
        tables = _tables(request)
        state = await self._open(tenant, at_ms, tables)
        unknown = sorted((tables or frozenset()) - set(state.tables))
        if unknown:
            known = ", ".join(state.known) or "none"
            raise _invalid(
                f"tables: there is no {', '.join(unknown)} in the state of {rfc3339(at_ms)}. "
                f"Known tables: {known}"
            )
        wants_events = _wants_events(request)
        body = _state_events(state) if wants_events else _state_lines(state)
        return self._answer(request, _STATE, user, body, events=wants_events)

    async def changes(self, request: Request) -> Response:
        user, tenant = await self._admit(request, {"from", "to", "tables", "tenant_id"})
        start_ms, end_ms = self._time(request, "from"), self._time(request, "to")
        if start_ms > end_ms:
            raise _invalid(
                f"from {rfc3339(start_ms)} must not be after to, which is {rfc3339(end_ms)}"
            )
        tables = _tables(request)
        await self._await_capture(tenant, end_ms)
        head = await self.log.head(changes(tenant))
        after = await self._start(tenant, start_ms, head)
        until = await self.log.at_time(changes(tenant), end_ms) or ORIGIN
        wants_events = _wants_events(request)
        reading = _Changes(self.log, tenant, head, after, until, self.page_size, tables)
        span = (rfc3339(start_ms), rfc3339(end_ms))
        body = reading.events() if wants_events else reading.lines(*span)
        return self._answer(request, _CHANGES, user, body, events=wants_events)

    # -- what is asked

    async def _admit(self, request: Request, known: set[str]) -> tuple[User | None, str]:
        if self.draining():
            raise shutting_down()
        schema = self.catalog.get(CHANGE)
        user = await self.access.authenticate(request.headers)
        for auth in (_ANY_USER, schema.auth if schema else None):
            self.access.require_read(user, auth)
        for name in request.query_params:
            if name not in known:
                allowed = ", ".join(sorted(known))
                raise _invalid(f"unknown parameter '{name[:100]}'. Allowed: {allowed}")
            # Of the tenant's all have to agree.
            if name != "tenant_id" and len(request.query_params.getlist(name)) > 1:
                raise _invalid(f"{name} must be given once")
        return user, self.tenancy.of(request, user, None)

    def _time(self, request: Request, name: str) -> int:
        text = request.query_params.get(name)
        if text is None:
            raise _invalid(f"{name} is required: an RFC 3339 time")
        try:
            ms = parse_event_time(text)
        except Fault as fault:
            raise _invalid(
                f"{name} must be an RFC 3339 time. Got: '{text[:100]}'. Error: {fault.predicate}"
            ) from None
        now_ms = int(self.server_time.now_ms())
        if ms > now_ms + _FUTURE_MS:
            raise _invalid(f"{name} {rfc3339(ms)} is in the future; it is {rfc3339(now_ms)} now")
        return ms

    # -- what there is

    async def _open(self, tenant: str, at_ms: int, tables: frozenset[str] | None) -> State:
        await self._await_capture(tenant, at_ms)
        try:
            return await self.states.open(tenant, at_ms, tables)
        except OutOfRange as error:
            raise _out_of_range(str(error)) from error
        except Behind as error:  # a source that began meanwhile
            raise _behind(error) from error
        except ObjectsUnavailable as error:
            raise ApiError(
                503,
                "SNAPSHOTS_UNAVAILABLE",
                "Snapshots Unavailable",
                "The snapshots cannot be read now; try again",
                headers={"Retry-After": "5"},
            ) from error

    async def _await_capture(self, tenant: str, ms: int) -> None:
        """Until the log has everything up to a time. Raises ApiError 503."""
        ends = asyncio.get_running_loop().time() + self.patience_sec
        while True:
            captured = await read_captured(self.connection, tenant)
            behind = captured.behind(ms)
            if behind is None:
                return
            if asyncio.get_running_loop().time() >= ends:
                raise _behind(behind) from behind
            await asyncio.sleep(_POLL_SEC)

    async def _start(self, tenant: str, start_ms: int, head: Head) -> Position:
        """The place before the first change of a time. Raises ApiError when some are gone."""
        found = await self.log.before_time(changes(tenant), start_ms)
        place = head.last if found is None else found
        if head.floor > 0:
            first = await self.log.before_time(changes(tenant), 0)
            earliest_ms = head.last.ms + 1 if first is None else first.ms
            if start_ms < earliest_ms:
                raise _out_of_range(
                    f"changes of {rfc3339(start_ms)} are no longer kept; "
                    f"the earliest valid time is {rfc3339(earliest_ms)}"
                )
        return place

    # -- the answer

    def _answer(
        self, request: Request, route: str, user: User | None, body: Body, *, events: bool
    ) -> Response:
        request_id = request.state.request_id
        name = f"{user.realm}/{user.username}" if user else None
        on_error = self.metrics.stream_errors(route, CHANGE).inc
        if events:
            stream = RowStream(
                body,
                topic=CHANGE,
                request_id=request_id,
                census=self.streams,
                send_timeout_sec=self.send_timeout_sec,
                lifetime=self.metrics.stream(route, CHANGE, name),
                on_error=on_error,
            )
            return StreamResponse(stream)
        return LineResponse(
            body,
            request_id=request_id,
            send_timeout_sec=self.send_timeout_sec,
            lifetime=self.metrics.stream(route, CHANGE, name),
            on_error=on_error,
        )


async def _state_lines(state: State) -> AsyncGenerator[bytes, None]:
    async for table, lines in state.blocks():
        yield row_text.json_lines(table, lines)
    yield row_text.last_line(rfc3339(state.at_ms), state.rows)


async def _state_events(state: State) -> AsyncGenerator[bytes, None]:
    async for table, lines in state.blocks():
        yield b"".join(sse.state_frame(data) for data in row_text.frame_data(table, lines))
    yield sse.state_complete(rfc3339(state.at_ms), state.rows)


@dataclass(frozen=True, slots=True)
class _Changes:
    """The changes behind one position up to another, of some tables or all."""

    log: EventLog
    tenant: str
    head: Head
    after: Position
    until: Position
    page_size: int
    tables: frozenset[str] | None

    async def lines(self, start: str, end: str) -> AsyncGenerator[bytes, None]:
        count = 0
        async for page in self._pages():
            count += len(page)
            yield b"".join(b"%b\n" % event for _, event in page)
        last = {"complete": True, "from": start, "to": end, "changes": count}
        yield msgspec.json.encode(last) + b"\n"

    async def events(self) -> AsyncGenerator[bytes, None]:
        async for page in self._pages():
            yield b"".join(
                sse.event_frame(sse.REPLAY, entry_id, self.head.epoch, event)
                for entry_id, event in page
            )
        yield sse.replay_completed(CHANGE)

    async def _pages(self) -> AsyncGenerator[list[tuple[bytes, bytes]], None]:
        pages = self.log.range(
            changes(self.tenant),
            self.after,
            self.until,
            epoch=self.head.epoch,
            page_size=self.page_size,
        )
        async for page in pages:
            if page.gap is not None:
                raise OutOfRange("changes were removed while they were read", None)
            found = [(entry_id, event) for entry_id, (_, event) in page.entries]
            if self.tables is not None:
                found = [each for each in found if _table_of(each[1]) in self.tables]
            if found:
                yield found


def _table_of(event: bytes) -> str:
    try:
        return _decode(event).data.identifier.table
    except (msgspec.DecodeError, RecursionError):
        # Published by somebody, or with a value that only PostgreSQL reads.
        change = read_change(event)
        return "" if change is None else change.table


def _tables(request: Request) -> frozenset[str] | None:
    text = request.query_params.get("tables")
    if text is None:
        return None
    tables, wrong = parse_tables(text)
    if wrong or not tables:
        named = ", ".join(f"'{entry[:100]}'" for entry in wrong) or "none"
        raise _invalid(f"tables must hold schema.table names, got: {named}")
    return frozenset(tables)


def _wants_events(request: Request) -> bool:
    """Whichever of the two is wanted more, or else named first; JSON lines for who names neither."""
    best, kind = 0.0, _LINES
    for part in ",".join(request.headers.getlist("accept")).split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        if name in (_EVENT_STREAM, _LINES) and _quality(parameters) > best:
            best, kind = _quality(parameters), name
    return kind == _EVENT_STREAM


def _quality(parameters: Iterable[str]) -> float:
    """RFC 9110 §12.4.2: how much a kind of answer is wanted, 1 where that is not said."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            with suppress(ValueError):
                return float(value)
    return 1.0


def _invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_STATE_REQUEST", _LABEL, message)


def _out_of_range(message: str) -> ApiError:
    return ApiError(400, "OUT_OF_RANGE", "Out Of Range", message)


def _behind(error: Behind) -> ApiError:
    return ApiError(
        503,
        "CAPTURE_BEHIND",
        "Capture Behind",
        f"{error}: they are up to {rfc3339(error.through_ms)}",
        headers={"Retry-After": "1"},
    )
