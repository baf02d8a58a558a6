"""The outer layers of every request: id, count, access log and last resort; then limits and tenant.

Pure ASGI: what is wrapped here is passed on unbuffered. Past it write event streams, which have
their connection lent, and answers of lines, by `server_send`.
"""

import time
from itertools import count
from random import getrandbits
from uuid import uuid4

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError, unavailable
from gateway.metrics import UNMATCHED, Metrics
from gateway.tenant import parse_tenant

logger = structlog.get_logger(__name__)

# nginx's number for a client that closed before its answer; never sent to anybody.
_CLIENT_GONE = 499

_STATUS_CODES = {
    404: ("NOT_FOUND", "Not Found"),
    405: ("METHOD_NOT_ALLOWED", "Method Not Allowed"),
}


_numbers = count(getrandbits(46))
_ID_START = f"{uuid4()}"[:24]


def make_request_id() -> str:
    """A UUID, to find a request by: one of version 4 at start, then counted on, which is quick."""
    return f"{_ID_START}{next(_numbers) & 0xFFFFFFFFFFFF:012x}"


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, access_log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = make_request_id()
        scope["state"].update(request_id=request_id, server_send=send)
        method: str = scope["method"]
        started = time.perf_counter()
        self._metrics.request_started(method)
        status = 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                headers.append((b"x-request-id", request_id.encode()))
                message = {**message, "headers": headers}
                self._finish(scope, method, status, time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except Exception:
            # Starlette has answered 500 where it could and raises on, for this log line.
            logger.exception("request_failed", path=scope["path"], request_id=request_id)
        finally:
            if status == 0:
                self._finish(scope, method, _CLIENT_GONE, time.perf_counter() - started)

    def _finish(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        pattern = getattr(route, "path_format", None) or UNMATCHED
        self._metrics.request_finished(pattern, method, status, seconds)
        if self._access_log:
            client = scope.get("client")
            logger.info(
                "request",
                method=method,
                path=scope["path"],  # without the query, which may hold a secret
                status=status,
                ms=round(seconds * 1000, 2),
                client=client[0] if client else None,
                request_id=scope["state"]["request_id"],
            )


class Admission:
    """Refuses what is too large or names no tenant. Inside of CORS, so that a page can read why."""

    def __init__(
        self, app: ASGIApp, *, default_tenant: str, header_bytes: int, query_bytes: int
    ) -> None:
        self._app = app
        self._default_tenant = default_tenant
        self._header_bytes = header_bytes
        self._query_bytes = query_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            error = self._check(scope)
            if error is not None:
                app = answer(error, scope["state"]["request_id"])
        await app(scope, receive, send)

    def _check(self, scope: Scope) -> ApiError | None:
        size, tenant = 0, None
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name == b"x-tenant-id" and tenant is None:
                tenant = value.decode("latin-1")
        if size > self._header_bytes:
            return ApiError(
                431,
                "HEADERS_TOO_LARGE",
                "Request Header Fields Too Large",
                f"The request headers may have {self._header_bytes} bytes, got: {size}",
            )
        query_size = len(scope["query_string"])
        if query_size > self._query_bytes:
            return ApiError(
                414,
                "QUERY_TOO_LARGE",
                "URI Too Long",
                f"The query string may have {self._query_bytes} bytes, got: {query_size}",
            )
        try:
            scope["state"]["tenant"] = parse_tenant(tenant, self._default_tenant)
        except ApiError as error:
            return error
        return None


def answer(error: ApiError, request_id: str) -> Response:
    """The one shape in which errors leave the gateway."""
    response = Response(
        msgspec.json.encode(error.body(request_id)),
        status_code=error.status,
        media_type="application/json",
    )
    for name, value in error.headers:
        response.headers.append(name, value)
    return response


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class alone
    return answer(error, request.state.request_id)


async def on_unavailable(request: Request, error: Exception) -> Response:
    logger.warning("log_unavailable", error=str(error), request_id=request.state.request_id)
    return answer(unavailable(), request.state.request_id)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """It left before it had sent its body: nobody is left to answer, but it is counted."""
    return Response(status_code=_CLIENT_GONE)


async def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
    code, label = _STATUS_CODES.get(error.status_code, ("BAD_REQUEST", "Bad Request"))
    message = {
        404: f"No route has the path '{request.url.path[:200]}'",
        405: f"{request.method} is not allowed for '{request.url.path[:200]}'",
    }.get(error.status_code, str(error.detail))
    refused = ApiError(error.status_code, code, label, message, headers=error.headers or {})
    return answer(refused, request.state.request_id)


async def on_defect(request: Request, error: Exception) -> Response:
    refused = ApiError(
        500,
        "INTERNAL_ERROR",
        "internal_error",
        "The server failed to handle this request; its log has the request id",
        omit_details=True,
    )
    return answer(refused, request.state.request_id)
