"""Aviso wire contract §4 and §11.1 over HTTP: who is let in where, and what is checked first."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml

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
from tests.contract.users import (
    ADMIN,
    GUARDED,
    NO_ADMIN,
    NO_READER,
    NO_WRITER,
    NOBODY,
    PROXY,
    assert_refused,
    attempt,
    bearer,
    body_of,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    async with start_gateway(
        auth=PROXY, notification_schema=GUARDED, metrics={"enabled": True}
    ) as running:
        yield running


@pytest.fixture
def api(guarded: RunningGateway, tenant: str) -> Api:
    return Api(guarded, tenant)


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


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Digest abc", "Basic YTpi", "nonsense", "Bearer a b"]
)
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
    params = {"event_type": "note", "from_id": "1"}
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
    assert_refused(await guarded.client.get(REPLAY, headers=other, params=params), 403, message)
    assert_refused(
        await guarded.client.post(
            NOTIFICATIONS, json=[body_of("notification", "note")], headers=other
        ),
        403,
        message,
    )


# -- start


@pytest.mark.parametrize(
    ("block", "accepted"),
    [
        ({"required": True}, False),
        ({"required": True, "read_roles": {"lab": ["reader"]}}, False),
        ({"required": False}, True),
    ],
)
async def test_a_guarded_stream_without_authentication_is_refused_at_start(
    tmp_path: Path, block: dict[str, object], accepted: bool
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"notification_schema": {"note": {"auth": block}}}))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if accepted:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert "notification_schema.note.auth.required: with auth.enabled false" in done.stderr
