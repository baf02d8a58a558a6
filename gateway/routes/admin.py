"""The three administrative routes (Aviso wire contract §10): wipe a stream, wipe all, delete one.

Each acts on the log of one tenant and needs the admin role. A stream is named by its event type or
the base of its topic, whatever the case; event types without a schema are known from the log.
Deleting and wiping are idempotent, and numbers given out before are never given out again.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from gateway.auth import Access
from gateway.errors import ApiError
from gateway.metrics import BackendOperation, Metrics
from gateway.routes.request import read_body
from gateway.schema.catalog import Catalog
from gateway.schema.errors import clip
from gateway.schema.jsontext import find_json_fault
from store.errors import StoreError, StoreUnavailable
from store.event import StreamKey
from store.log import EventLog

logger = structlog.get_logger(__name__)

_LABEL = "Invalid Admin Request"
_SEQUENCE = re.compile(r"\+?0*([0-9]{0,20})")
_HIGHEST_SEQUENCE = 2**64 - 1
# One name in JSON; names of configured event types have at most 255 bytes.
_BODY_LIMIT = 64 << 10
# A tenant may have any number of event types without a schema; a message is for reading.
_NAMES_IN_A_MESSAGE = 50


class _Failed(Exception):
    """The log refused; the message is for the answer."""


def routes(log: EventLog, catalog: Catalog, access: Access, metrics: Metrics) -> list[BaseRoute]:
    """The administrative routes."""
    admin = _Admin(log, catalog, access, metrics)
    return [
        Route("/api/v1/admin/wipe/stream", admin.wipe_stream, methods=["DELETE"]),
        Route("/api/v1/admin/wipe/all", admin.wipe_all, methods=["DELETE"]),
        Route(
            # An event type without a schema may hold a slash, hence `path`.
            "/api/v1/admin/notification/{notification_id:path}",
            admin.delete_notification,
            methods=["DELETE"],
        ),
    ]


class _Admin:
    def __init__(self, log: EventLog, catalog: Catalog, access: Access, metrics: Metrics) -> None:
        self._log = log
        self._catalog = catalog
        self._access = access
        self._metrics = metrics

    async def wipe_stream(self, request: Request) -> JSONResponse:
        tenant = await self._tenant(request)
        name = await _stream_name(request)
        event_type = await self._find(tenant, name)
        if event_type is None:
            known = await self._known(tenant)
            suffix = f". Known event types: {known}" if known else ""
            return _answer(request, 404, f"Stream not found: {clip(name)}{suffix}")
        try:
            with self._failing("wipe_stream", "Failed to wipe stream"):
                await self._log.wipe(StreamKey(tenant, event_type))
        except _Failed as failure:
            return _answer(request, 500, str(failure))
        return _answer(request, 200, f"Successfully wiped stream: {name}")

    async def wipe_all(self, request: Request) -> JSONResponse:
        tenant = await self._tenant(request)
        try:
            with self._failing("wipe_all", "Failed to wipe all data"):
                for event_type in await self._log.streams(tenant):
                    await self._log.wipe(StreamKey(tenant, event_type))
        except _Failed as failure:
            return _answer(request, 500, str(failure))
        return _answer(request, 200, "Successfully wiped all data")

    async def delete_notification(self, request: Request) -> JSONResponse:
        tenant = await self._tenant(request)
        notification_id: str = request.path_params["notification_id"]

        def answer(status: int, message: str) -> JSONResponse:
            return _answer(request, status, message, notification_id=notification_id)

        try:
            name, sequence = _parse_id(notification_id.strip())
        except ValueError as error:
            return answer(400, str(error))
        event_type = await self._find(tenant, name)
        deleted = False
        try:
            if event_type is not None:
                with self._failing("delete_message", "Failed to delete notification"):
                    deleted = await self._log.delete(StreamKey(tenant, event_type), sequence)
        except _Failed as failure:
            return answer(500, str(failure))
        if not deleted:
            return answer(404, "Notification not found")
        return answer(200, "Notification deleted")

    async def _tenant(self, request: Request) -> str:
        """The tenant an admin's request means; anybody else is refused here."""
        user = await self._access.require_admin(request.headers)
        tenant = self._access.tenant_for(user, request.headers, request.state.tenant)
        logger.info(
            "administrative_request",
            path=request.url.path,
            user=None if user is None else f"{user.realm}/{user.username}",
            tenant=tenant,
            request_id=request.state.request_id,
        )
        return tenant

    async def _find(self, tenant: str, name: str) -> str | None:
        """The event type that a name means, or None.

        The exact event type comes before what is only alike; names without a schema that differ
        in case alone mean nobody unless they are exact, lest the wrong one is wiped.
        """
        logged = await self._log.streams(tenant)
        if name in logged:
            return name
        schema = self._catalog.find(name)
        if schema is not None:
            return schema.event_type
        alike = [event_type for event_type in logged if event_type.lower() == name.lower()]
        return alike[0] if len(alike) == 1 else None

    async def _known(self, tenant: str) -> str:
        names = sorted({*self._catalog.event_types, *await self._log.streams(tenant)})
        more = ["..."] if len(names) > _NAMES_IN_A_MESSAGE else []
        return ", ".join(names[:_NAMES_IN_A_MESSAGE] + more)

    @contextmanager
    def _failing(self, operation: BackendOperation, what: str) -> Iterator[None]:
        """Time and count a call to the log; what it refuses for good becomes the answer's message."""
        try:
            with self._metrics.backend(operation):
                yield
        except StoreUnavailable:
            raise
        except StoreError as error:
            logger.exception("log_refused", operation=operation)
            raise _Failed(f"{what}: {error}") from error


def _parse_id(notification_id: str) -> tuple[str, int]:
    """Stream and sequence of `<stream>@<sequence>`; no event type holds an `@`."""
    name, _, digits = notification_id.partition("@")
    if not name or not digits:
        raise ValueError("notification_id must be in '<stream>@<sequence>' format")
    match = _SEQUENCE.fullmatch(digits)
    sequence = -1 if match is None else int(match[1] or "0")
    if not 0 <= sequence <= _HIGHEST_SEQUENCE:
        raise ValueError("notification_id sequence must be a positive integer")
    if sequence == 0:
        raise ValueError("notification_id sequence must be greater than zero")
    return name, sequence


async def _stream_name(request: Request) -> str:
    """The one member of the body of a wipe."""
    content_type = request.headers.get("content-type", "application/json")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ApiError(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            _LABEL,
            f"The body must be application/json, got: '{clip(content_type)}'",
        )
    raw = await read_body(request, _BODY_LIMIT)
    fault = find_json_fault(raw)
    if fault is not None:
        raise _bad("INVALID_JSON", f"JSON parsing failed: {fault}", fault)
    body = msgspec.json.decode(raw)
    if not isinstance(body, dict):
        raise _bad("INVALID_REQUEST_SHAPE", "Request deserialization failed: expected an object")
    for key in body:
        if key != "stream_name":
            cause = f"Unknown field '{clip(key)}' in request. Allowed fields: [stream_name]"
            raise _bad("UNKNOWN_FIELD", f"Request contains unknown fields: {cause}", cause)
    name = body.get("stream_name")
    if not isinstance(name, str):
        cause = "missing field 'stream_name'" if name is None else "stream_name must be a string"
        raise _bad("INVALID_REQUEST_SHAPE", f"Request deserialization failed: {cause}", cause)
    return name


def _bad(code: str, message: str, cause: str | None = None) -> ApiError:
    return ApiError(400, code, _LABEL, message, cause)


def _answer(request: Request, status: int, message: str, **more: str) -> JSONResponse:
    return JSONResponse(
        {
            "success": status == 200,
            "message": message,
            **more,
            "request_id": request.state.request_id,
        },
        status,
    )
