"""Aviso wire contract §4 and §11.1 over HTTP: who is let in where, and what is checked first."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio

from tests.conftest import RunningGateway, Start
from tests.contract.api import (
    NOTIFICATION,
    NOTIFICATIONS,
    PATHS,
    REPLAY,
    WATCH,
    Api,
    ask,
    assert_error,
)
from tests.contract.schemas import SCHEMAS

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = "a secret of at least thirty-two bytes"
FOUR = ["code", "error", "message", "request_id"]
PROXY: dict[str, Any] = {
    "enabled": True,
    "mode": "trusted_proxy",
    "jwt_secret": SECRET,
    "admin_roles": {"ops": ["admin"]},
}
FIELD = {"topic": {"base": "?", "key_order": ["k"]}, "identifier": SCHEMAS["note"]["identifier"]}


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


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    async with start_gateway(
        auth=PROXY, notification_schema=GUARDED, metrics={"enabled": True}
    ) as running:
        yield running


@pytest.fixture
def api(guarded: RunningGateway, tenant: str) -> Api:
    return Api(guarded, tenant)


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


@pytest.mark.parametrize("operation", ["notification", "watch", "replay"])
async def test_a_public_stream_asks_nobody(api: Api, operation: str) -> None:
    for headers in ({}, bearer("reader"), ADMIN):
        assert (await attempt(api, operation, "note", headers)).status_code == 200


@pytest.mark.parametrize("operation", ["notification", "watch", "replay"])
@pytest.mark.parametrize("event_type", ["guarded", "readers", "writers", "every_role"])
async def test_a_guarded_stream_wants_a_user(api: Api, operation: str, event_type: str) -> None:
    assert_refused(await attempt(api, operation, event_type), 401, NOBODY)


@pytest.mark.parametrize("operation", ["watch", "replay"])
@pytest.mark.parametrize(
    ("event_type", "headers", "refusal"),
    [
        ("guarded", bearer(), None),
        ("guarded", bearer("any", "elsewhere"), None),
        ("readers", bearer("reader"), None),
        ("readers", ADMIN, None),
        ("readers", bearer("writer"), NO_READER),
        ("readers", bearer("reader", "elsewhere"), NO_READER),
        ("readers", bearer("reader", realm=""), NO_READER),
        ("writers", bearer(), None),
        ("every_role", bearer("x"), None),
        ("every_role", bearer(), None),
        ("every_role", bearer("x", "elsewhere"), NO_READER),
    ],
)
async def test_who_may_read(
    api: Api, operation: str, event_type: str, headers: dict[str, str], refusal: str | None
) -> None:
    response = await attempt(api, operation, event_type, headers)
    if refusal is None:
        assert response.status_code == 200
    else:
        assert_refused(response, 403, refusal)


@pytest.mark.parametrize(
    ("event_type", "headers", "refusal"),
    [
        ("guarded", bearer("writer"), NO_ADMIN),
        ("guarded", ADMIN, None),
        ("readers", bearer("reader"), NO_ADMIN),
        ("writers", bearer("writer"), None),
        ("writers", ADMIN, None),
        ("writers", bearer("reader"), NO_WRITER),
        ("writers", bearer("writer", "elsewhere"), NO_WRITER),
        ("every_role", bearer("x"), None),
        ("every_role", bearer("x", "elsewhere"), NO_WRITER),
    ],
)
async def test_who_may_write_one_and_many(
    api: Api, event_type: str, headers: dict[str, str], refusal: str | None
) -> None:
    response = await attempt(api, "notification", event_type, headers)
    bulk = await api.post(NOTIFICATIONS, [body_of("notification", event_type)], headers=headers)
    [result] = bulk.json()["results"]
    if refusal is None:
        assert response.status_code == 200
        assert result["status"] == "success"
    else:
        assert_refused(response, 403, refusal)
        assert (result["code"], result["message"]) == ("FORBIDDEN", refusal)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer a.b.c"},
        bearer(secret="another secret of thirty-two bytes"),
        bearer(exp=time.time() - 60),
        {"Authorization": "bearer nonsense"},
    ],
)
async def test_invalid_credentials_are_refused_everywhere_but_on_schemas(
    api: Api, headers: dict[str, str]
) -> None:
    message = "Invalid or expired token"
    for operation in PATHS:
        assert_refused(await attempt(api, operation, "note", headers), 401, message)
    for path in (WATCH, REPLAY):
        params = {"event_type": "note", "from_id": "1"}
        refused = await api.send("GET", path, params=params, headers=headers)
        assert_refused(refused, 401, message)
    bulk = await api.post(NOTIFICATIONS, [body_of("notification", "note")], headers=headers)
    assert_refused(bulk, 401, message)
    wiped = await api.send("DELETE", "/api/v1/admin/wipe/all", headers=headers)
    assert_refused(wiped, 401, message)
    for path in ("/api/v1/schema", "/api/v1/schema/note", "/health", "/ready", "/"):
        assert (await api.send("GET", path, headers=headers)).status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Digest abc", "Basic YTpi", "nonsense", "Bearer a b"])
async def test_a_malformed_header_is_ignored_except_on_admin_routes(api: Api, value: str) -> None:
    headers = {"Authorization": value}
    assert (await attempt(api, "watch", "note", headers)).status_code == 200
    assert_refused(await attempt(api, "watch", "guarded", headers), 401, NOBODY)
    response = await api.send("DELETE", "/api/v1/admin/wipe/all", headers=headers)
    assert_error(response, 401, "UNAUTHORIZED", "unauthorized")


async def test_admin_routes_want_an_admin(api: Api) -> None:
    requests = [
        ("/api/v1/admin/wipe/all", None),
        ("/api/v1/admin/wipe/stream", {"stream_name": "note"}),
        ("/api/v1/admin/notification/note@1", None),
    ]
    for path, body in requests:
        missing = await api.send("DELETE", path, body)
        assert_refused(missing, 401, "Authorization header is required")
        wrong = await api.send("DELETE", path, body, headers=bearer("admin"))
        assert_refused(wrong, 403, "User does not have required administrative role")
        assert (await api.send("DELETE", path, body, headers=ADMIN)).status_code in (200, 404)


# -- the order of checks


@pytest.mark.parametrize("operation", ["notification", "watch", "replay"])
async def test_shape_and_event_type_come_before_credentials_and_the_rest_after(
    api: Api, operation: str
) -> None:
    path = PATHS[operation]
    invalid = {"Authorization": "Bearer nonsense"}

    async def post(body: object) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await api.post(path, content=content, headers=invalid)

    assert_error(await post(b"{"), 400, "INVALID_JSON")
    assert_error(await post({"event_type": "x", "x": 1}), 400, "UNKNOWN_FIELD")
    assert_error(await post({"event_type": "guarded"}), 400, "INVALID_REQUEST_SHAPE")
    assert_error(await post(ask("unknown", {"x": None})), 400, "UNKNOWN_EVENT_TYPE")
    wrong = ask("guarded", {"no_such": None}, from_id="x", to_id="x")
    assert_refused(await post(wrong), 401, "Invalid or expired token")
    assert_refused(await api.post(path, wrong), 401, NOBODY)


async def test_a_published_point_is_refused_before_credentials(api: Api) -> None:
    response = await api.post(NOTIFICATION, ask("guarded", {"point": "1,2"}))
    assert_error(response, 400, "INVALID_NOTIFICATION_REQUEST")
    bulk = await api.post(NOTIFICATIONS, [ask("guarded", {"point": "1,2"})])
    assert bulk.json()["results"][0]["code"] == "INVALID_NOTIFICATION_REQUEST"


# -- tokens bound to a tenant


async def test_a_token_bound_to_a_tenant_means_that_one_and_no_other(
    guarded: RunningGateway, api: Api, tenant: str
) -> None:
    bound = bearer(tenant_id=tenant)
    path = {"params": {"event_type": "note", "from_id": "1"}}
    published = await guarded.client.post(
        NOTIFICATION, json=body_of("notification", "note"), headers=bound
    )
    assert published.status_code == 200
    assert await api.found() == [1]
    other = {**bound, "X-Tenant-ID": guarded.tenant}
    message = "Token does not give access to the tenant of X-Tenant-ID"
    assert_refused(
        await guarded.client.post(
            NOTIFICATION, json=body_of("notification", "note"), headers=other
        ),
        403,
        message,
    )
    assert_refused(await guarded.client.get(REPLAY, headers=other, **path), 403, message)
    assert_refused(
        await guarded.client.post(
            NOTIFICATIONS, json=[body_of("notification", "note")], headers=other
        ),
        403,
        message,
    )


# -- direct mode: a service decides


class _Service(ThreadingHTTPServer):
    """Stands where the authentication service would."""

    daemon_threads = True
    status = 200
    answer: bytes = b""
    authorization: str | None = None
    seen: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: _Service

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.path} {self.headers['Authorization']}")
        self.send_response(self.server.status)
        if self.server.authorization is not None:
            self.send_header("Authorization", self.server.authorization)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def service() -> Iterator[_Service]:
    with _Service(("127.0.0.1", 0), _Handler) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_direct_mode_asks_the_service_and_tells_what_it_decides(
    start_gateway: Start, service: _Service
) -> None:
    url = f"http://127.0.0.1:{service.server_port}"
    auth = {**PROXY, "mode": "direct", "auth_o_tron_url": url, "timeout_ms": 2000}
    both = ("Bearer", "Basic")
    async with start_gateway(auth=auth, notification_schema=GUARDED) as gateway:
        api = Api(gateway, gateway.tenant)

        async def read(authorization: str | None) -> httpx.Response:
            headers = {} if authorization is None else {"Authorization": authorization}
            return await asyncio.wait_for(attempt(api, "watch", "readers", headers), 10)

        assert_refused(await read(None), 401, NOBODY, both)
        service.authorization = f"Bearer {token('reader')}"
        for authorization in ("Basic YWRhOnB3", "Bearer opaque"):
            assert (await read(authorization)).status_code == 200
            assert service.seen[-1] == f"/authenticate {authorization}"
        service.authorization = None
        for answer in (
            *({"token": token("reader")}, {"jwt": token("reader")}),
            {"access_token": token("reader")},
        ):
            service.answer = json.dumps(answer).encode()
            assert (await read("Bearer opaque")).status_code == 200
        service.answer = token("reader").encode()
        assert (await read("Bearer opaque")).status_code == 200
        service.answer = token("writer").encode()
        assert_refused(await read("Bearer opaque"), 403, NO_READER)
        service.answer = token("reader", exp=1).encode()
        assert_refused(await read("Bearer opaque"), 401, "Invalid or expired token", both)
        away = "Authentication service temporarily unavailable"
        for status, expected, message in (
            (401, 401, "Invalid or expired token"),
            (403, 403, "Token validation was denied"),
            (500, 503, away),
            (302, 503, away),
        ):
            service.status = status
            assert_refused(await read("Bearer opaque"), expected, message, both)
        service.status, service.answer = 200, b"{}"
        assert_refused(await read("Bearer opaque"), 503, away)
