"""Aviso wire contract §4 and §13: every error code, its label, and exactly its keys."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from store.connection import Connection, log_key
from store.event import StreamKey
from tests.conftest import RunningGateway, Start
from tests.contract.api import (
    LABELS,
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
from tests.servers import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOTE = {"event_type": "note", "identifier": {"author": "ada"}}
FIVE = ["code", "details", "error", "message", "request_id"]

operations = pytest.mark.parametrize("operation", ["notification", "watch", "replay"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def strict(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    async with start_gateway(notification_schema=SCHEMAS) as running:
        yield running


async def test_an_error_is_compact_json_with_sorted_keys(api: Api) -> None:
    response = await api.post(WATCH, content=b"{")
    body = response.json()
    assert list(body) == FIVE
    assert response.text == json.dumps(body, separators=(",", ":"))
    assert all(isinstance(value, str) for value in body.values())


@operations
@pytest.mark.parametrize("name", ["tempest", "Storm", "STORM", "weather", "storm ", "", "a@b"])
async def test_strict_mode_refuses_unknown_event_types_with_five_keys(
    strict: RunningGateway, tenant: str, operation: str, name: str
) -> None:
    api = Api(strict, tenant)
    body: dict[str, Any] = {"event_type": name, "identifier": {"x": None}, "to_id": "x"}
    response = await api.post(PATHS[operation], body)
    found = assert_error(response, 400, "UNKNOWN_EVENT_TYPE", "unknown_event_type")
    assert found["message"] == f"unknown event type '{name}'"
    assert list(found) == ["code", "configured_event_types", "error", "message", "request_id"]
    assert found["configured_event_types"] == sorted([*SCHEMAS, "earthquake", "extreme_event"])


@pytest.mark.parametrize("path", [WATCH, REPLAY])
async def test_strict_mode_holds_for_get_too(strict: RunningGateway, path: str) -> None:
    response = await strict.client.get(path, params={"event_type": "tempest", "from_id": "1"})
    assert_error(response, 400, "UNKNOWN_EVENT_TYPE", "unknown_event_type")


@operations
@pytest.mark.parametrize("schema", [None, {}])
async def test_strict_with_no_schema_refuses_everything(
    start_gateway: Start, schema: dict[str, object] | None, operation: str
) -> None:
    nothing = dict.fromkeys(("extreme_event", "earthquake"))
    async with start_gateway(
        notification_schema=None if schema is None else nothing, notification_schema_strict=True
    ) as gateway:
        response = await gateway.client.post(PATHS[operation], json=NOTE)
        found = assert_error(response, 400, "UNKNOWN_EVENT_TYPE", "unknown_event_type")
        assert found["configured_event_types"] == []


async def test_without_a_schema_everything_is_taken_unless_told_otherwise(
    start_gateway: Start,
) -> None:
    async with start_gateway(notification_schema=None) as gateway:
        assert (await gateway.client.post(NOTIFICATION, json=NOTE)).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/api/v1", "/api/v1/watch/", "/api/v2/watch"])
async def test_an_unknown_path_is_not_found_in_the_same_shape(api: Api, path: str) -> None:
    found = assert_error(await api.send("GET", path), 404, "NOT_FOUND", "Not Found")
    assert list(found) == FIVE
    assert path in found["message"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", NOTIFICATION, {"POST"}),
        ("PUT", NOTIFICATION, {"POST"}),
        ("GET", NOTIFICATIONS, {"POST"}),
        ("DELETE", WATCH, {"GET", "HEAD", "POST"}),
        ("PATCH", REPLAY, {"GET", "HEAD", "POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("POST", "/ready", {"GET", "HEAD"}),
        ("POST", "/api/v1/schema", {"GET", "HEAD"}),
        ("DELETE", "/api/v1/schema/note", {"GET", "HEAD"}),
        ("GET", "/api/v1/admin/wipe/all", {"DELETE"}),
        ("POST", "/api/v1/admin/wipe/stream", {"DELETE"}),
        ("GET", "/api/v1/admin/notification/note@1", {"DELETE"}),
        ("OPTIONS", WATCH, {"GET", "HEAD", "POST"}),
        ("TRACE", "/", {"GET", "HEAD"}),
        ("BREW", NOTIFICATION, {"POST"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    api: Api, method: str, path: str, allow: set[str]
) -> None:
    response = await api.send(method, path)
    if method == "BREW":
        # The HTTP parser knows the registered methods only.
        assert_error(response, 400, "INVALID_HTTP")
        return
    found = assert_error(response, 405, "METHOD_NOT_ALLOWED", "Method Not Allowed")
    assert list(found) == FIVE
    assert set(response.headers["allow"].split(", ")) == allow


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "", "json"])
async def test_a_wipe_wants_json_by_its_media_type(api: Api, content_type: str) -> None:
    response = await api.send(
        "DELETE",
        "/api/v1/admin/wipe/stream",
        content='{"stream_name":"note"}',
        headers={"Content-Type": content_type},
    )
    found = assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert list(found) == FIVE
    assert f"'{content_type}'" in found["message"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ('{"stream_name":"\\ud800"}', "INVALID_JSON"),
        ("[]", "INVALID_REQUEST_SHAPE"),
        ("{}", "INVALID_REQUEST_SHAPE"),
        ('{"stream_name":null}', "INVALID_REQUEST_SHAPE"),
        ('{"stream_name":["note"]}', "INVALID_REQUEST_SHAPE"),
        ('{"stream_name":"note","x":1}', "UNKNOWN_FIELD"),
    ],
)
async def test_a_bad_body_of_a_wipe_is_refused_in_the_same_shape(
    api: Api, content: str, code: str
) -> None:
    response = await api.send(
        "DELETE",
        "/api/v1/admin/wipe/stream",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert list(assert_error(response, 400, code)) == FIVE


async def test_limits_are_told_with_their_size(start_gateway: Start) -> None:
    async with start_gateway(
        limits={"body_bytes": 1000, "header_bytes": 2048, "query_bytes": 100, "bulk_items": 3}
    ) as gateway:
        client = gateway.client
        for path in (NOTIFICATION, NOTIFICATIONS, WATCH, REPLAY):
            large = await client.post(path, content=b"x" * 1001)
            found = assert_error(large, 413, "BODY_TOO_LARGE")
            assert list(found) == FIVE
            assert "1000 bytes" in found["message"]
            chunked = await client.post(path, content=_chunks(11))
            assert_error(chunked, 413, "BODY_TOO_LARGE")
            exact = await client.post(path, content=b"x" * 1000)
            assert_error(exact, 400, "INVALID_JSON")
        query = await client.get(WATCH, params={"event_type": "x" * 100})
        assert list(assert_error(query, 414, "QUERY_TOO_LARGE")) == FIVE
        headers = await client.get(WATCH, headers={"X-Large": "x" * 2048})
        assert list(assert_error(headers, 431, "HEADERS_TOO_LARGE")) == FIVE
        many = await client.post(NOTIFICATIONS, json=[{}] * 4)
        found = assert_error(many, 413, "BODY_TOO_LARGE")
        assert "3 notifications" in found["message"]


async def _chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


# -- the backend


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


async def test_a_lost_backend_is_503_with_retry_after(
    start_gateway: Start, own_valkey: Valkey, tenant: str
) -> None:
    async with start_gateway(
        url=own_valkey.url, notification_schema=SCHEMAS, notification_schema_strict=False
    ) as gateway:
        api = Api(gateway, tenant)
        await api.publish()
        own_valkey.kill()
        requests: list[tuple[str, str, object]] = [
            ("POST", NOTIFICATION, NOTE),
            ("POST", WATCH, NOTE),
            ("POST", REPLAY, ask("note", from_id="1")),
            ("POST", REPLAY, ask("note", from_date="1")),
            ("GET", f"{WATCH}?event_type=note", None),
            ("DELETE", "/api/v1/admin/wipe/all", None),
            ("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "note"}),
            ("DELETE", "/api/v1/admin/notification/note@1", None),
        ]
        for method, path, body in requests:
            response = await api.send(method, path, body)
            found = assert_error(response, 503, "BACKEND_UNAVAILABLE", "Backend Unavailable")
            assert list(found) == FIVE
            assert int(response.headers["retry-after"]) >= 1
        bulk = await api.post(NOTIFICATIONS, [NOTE, {"event_type": "note"}])
        found = assert_error(bulk, 503, "BACKEND_UNAVAILABLE", "Backend Unavailable")
        assert int(bulk.headers["retry-after"]) >= 1
        assert [item["code"] for item in found["results"]] == [
            "BACKEND_UNAVAILABLE",
            "INVALID_REQUEST_SHAPE",
        ]
        ready = await api.send("GET", "/ready")
        assert ready.status_code == 503
        assert (ready.json()["status"], ready.json()["backend_connected"]) == ("not_ready", False)
        assert (await api.send("GET", "/health")).status_code == 200
        # What needs no backend is refused for what it is.
        assert_error(await api.post(NOTIFICATION, content=b"{"), 400, "INVALID_JSON")
        own_valkey.start()
        assert (await api.send("GET", "/ready")).json()["status"] == "ready"
        assert await api.publish() == 2


async def test_a_log_of_another_kind_is_500_with_the_codes_of_storage_and_stream(
    api: Api, backend: Connection
) -> None:
    """Something else was written under the log's key: no retry will help."""
    key = log_key(StreamKey(api.tenant, "note"))
    await backend.execute("SET", key, "not a stream")
    failed = await api.post(NOTIFICATION, NOTE)
    found = assert_error(failed, 500, "NOTIFICATION_STORAGE_FAILED", "Notification Storage Failed")
    assert list(found) == FIVE
    for path in (WATCH, REPLAY):
        failed = await api.post(path, ask("note", {"author": "a.b"}, from_id="1"))
        found = assert_error(
            failed, 500, "SSE_STREAM_INITIALIZATION_FAILED", "SSE stream creation failed"
        )
        assert list(found) == [*FIVE, "topic"]
        assert found["topic"] == "note.a.b"
    wipe = await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "note"})
    assert wipe.status_code == 500
    assert wipe.json()["success"] is False
    assert wipe.json()["message"].startswith("Failed to wipe")
    await backend.execute("DEL", key)


async def test_every_label_is_that_of_its_endpoint(api: Api) -> None:
    for operation, path in PATHS.items():
        response = await api.post(path, content=b"{")
        assert_error(response, 400, "INVALID_JSON", LABELS[operation])
    response = await api.post(NOTIFICATIONS, content=b"[")
    assert_error(response, 400, "INVALID_JSON", LABELS["notification"])
