"""What the routes share of a request: its body within the limit, its refusals."""

import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from gateway.errors import ApiError
from gateway.schema.errors import Rejected
from gateway.schema.query import Operation
from store.session import Session

# A browser reconnects after this many ms; random, so that a restart is not followed by a rush.
RETRY_MS = (2000, 6000)

_LABELS: dict[Operation, str] = {
    "notification": "Invalid Notification Request",
    "watch": "Invalid Watch Request",
    "replay": "Invalid Replay Request",
}

_Body = TypeVar("_Body", bound=msgspec.Struct)
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name, in lower case. Quick where Starlette's is not: when it is absent."""
    for each, value in request.scope["headers"]:
        if each == name:
            text: str = value.decode("latin-1")
            return text
    return None


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises ApiError 413 as soon as it is known to be over the limit."""
    declared = header(request, b"content-length") or ""
    if declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(f"{declared[:20]} bytes", limit)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        # Not request.stream(), a generator that costs as much as all else here.
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(f"more than {size} bytes", limit)
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(got: str, limit: int) -> ApiError:
    return ApiError(
        413,
        "BODY_TOO_LARGE",
        "Request Body Too Large",
        f"The request body may have {limit} bytes, got: {got}",
        headers={"Connection": "close"},
    )


def refused(rejected: Rejected, operation: Operation) -> ApiError:
    """The answer to a body that cannot be served (Aviso wire contract §4)."""
    if rejected.kind == "UNKNOWN_EVENT_TYPE":
        return ApiError(
            400,
            "UNKNOWN_EVENT_TYPE",
            "unknown_event_type",
            rejected.message,
            extra={"configured_event_types": list(rejected.configured_event_types)},
            omit_details=True,
        )
    code = rejected.kind if rejected.kind != "INVALID" else f"INVALID_{operation.upper()}_REQUEST"
    return ApiError(400, code, _LABELS[operation], rejected.message, rejected.details)


def invalid(operation: Operation, message: str) -> ApiError:
    """A refusal that the body has nothing to do with."""
    return ApiError(400, f"INVALID_{operation.upper()}_REQUEST", _LABELS[operation], message)


def locked(holder: Session | None) -> ApiError:
    """The tenant's lock is taken: by a session, told in the details, or by a one-shot replay."""
    if holder is None:
        message = "A one-shot replay of this tenant is running"
    else:
        message = f"The tenant has an active replay session: {holder.view.id}"
    return ApiError(
        409,
        "REPLAY_SESSION_ACTIVE",
        "Replay Session Active",
        message,
        headers={"Retry-After": "5"},
        omit_details=holder is not None,
        extra={} if holder is None else {"details": holder.session},
    )


def parse_body(body: bytes, kind: type[_Body], label: str) -> _Body:
    """A JSON body as a struct; an empty one is an empty object. Raises ApiError 400."""
    try:
        return msgspec.json.decode(body.strip() or b"{}", type=kind)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN_FIELD.search(str(error))
        if unknown is None:
            message = f"Request deserialization failed: {error}"
            raise ApiError(400, "INVALID_REQUEST_SHAPE", label, message, str(error)) from error
        allowed = ", ".join(f'"{name}"' for name in kind.__struct_fields__)
        cause = f"Unknown field '{unknown[1]}' in request. Allowed fields: [{allowed}]"
        message = f"Request contains unknown fields: {cause}"
        raise ApiError(400, "UNKNOWN_FIELD", label, message, cause) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        message = f"JSON parsing failed: {error}"
        raise ApiError(400, "INVALID_JSON", label, message, str(error)) from error
