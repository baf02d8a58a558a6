"""Who asks, when authentication is on: tokens, guarded event types, and the shape of a refusal."""

import time
from typing import Any

import httpx
import jwt

from tests.contract.api import PATHS, Api, ask, assert_error
from tests.contract.schemas import SCHEMAS

SECRET = "a secret of at least thirty-two bytes"
FOUR = ["code", "error", "message", "request_id"]
PROXY: dict[str, Any] = {
    "enabled": True,
    "mode": "trusted_proxy",
    "jwt_secret": SECRET,
    "admin_roles": {"ops": ["admin"]},
}


def stream_schema(name: str, **auth: object) -> dict[str, object]:
    identifier = {"author": {"type": "StringHandler", "required": False}}
    return {name: {"identifier": identifier, "auth": {"required": True, **auth}}}


GUARDED: dict[str, object] = {
    "note": SCHEMAS["note"],
    **stream_schema("guarded"),
    **stream_schema("readers", read_roles={"lab": ["reader"]}),
    **stream_schema("writers", write_roles={"lab": ["writer"]}),
    **stream_schema("every_role", read_roles={"lab": ["*"]}, write_roles={"lab": ["*"]}),
}


def token(
    role: str | None = None, realm: str = "lab", *, secret: str = SECRET, **claims: object
) -> str:
    described = {
        "sub": "ada",
        "exp": time.time() + 86_400,  # the suite may run long after this module was read
        "realm": realm,
        "roles": [role] if role else [],
        **claims,
    }
    return jwt.encode(described, secret, algorithm="HS256")


def bearer(role: str | None = None, realm: str = "lab", **more: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(role, realm, **more)}"}


ADMIN = bearer("admin", "ops")


def body_of(operation: str, event_type: str) -> dict[str, object]:
    start = {"from_id": "1"} if operation == "replay" else {}
    return ask(event_type, {"author": "ada"}, **start)


async def attempt(
    api: Api, operation: str, event_type: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    """The answer; of a stream its head alone."""
    request = api.http.build_request(
        "POST",
        PATHS[operation],
        json=body_of(operation, event_type),
        headers={**api.headers, **(headers or {})},
    )
    response = await api.http.send(request, stream=True)
    if response.headers["content-type"] != "text/event-stream":
        await response.aread()
    await response.aclose()
    return response


def assert_refused(
    response: httpx.Response, status: int, message: str, challenges: tuple[str, ...] = ("Bearer",)
) -> None:
    code, label = {
        401: ("UNAUTHORIZED", "unauthorized"),
        403: ("FORBIDDEN", "forbidden"),
        503: ("SERVICE_UNAVAILABLE", "service_unavailable"),
    }[status]
    found = assert_error(response, status, code, label)
    assert list(found) == FOUR, "no details on auth errors"
    assert found["message"] == message
    expected = list(challenges) if status == 401 else []
    assert response.headers.get_list("www-authenticate") == expected


NOBODY = "Authentication is required for this stream"
NO_READER = "User does not have required read role for this stream"
NO_WRITER = "User does not have required write role for this stream"
NO_ADMIN = "Only administrators can write to this stream"
