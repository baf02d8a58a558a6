"""Aviso wire contract §1: the routes there are, and what every answer has."""

from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import Start
from tests.contract.api import NOTIFICATION, REPLAY, WATCH, Api, ask, assert_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOTE = {"event_type": "note", "identifier": {"author": "ada"}}


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", NOTIFICATION, NOTE, (200, "application/json")),
        ("GET", "/api/v1/schema", None, (200, "application/json")),
        ("GET", "/api/v1/schema/note", None, (200, "application/json")),
        ("GET", "/api/v1/schema/nothing", None, (404, "application/json")),
        ("DELETE", "/api/v1/admin/wipe/all", None, (200, "application/json")),
        ("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "note"}, (200, "application/json")),
        ("DELETE", "/api/v1/admin/notification/note@1", None, (404, "application/json")),
        ("GET", "/health", None, (200, "application/json")),
        ("GET", "/ready", None, (200, "application/json")),
        ("GET", "/", None, (200, "text/html; charset=utf-8")),
        ("GET", "/swagger-ui/", None, (200, "text/html; charset=utf-8")),
        ("GET", "/api-docs/openapi.json", None, (200, "application/json")),
        ("GET", "/no/such/path", None, (404, "application/json")),
        ("POST", "/health", None, (405, "application/json")),
        ("POST", REPLAY, {}, (400, "application/json")),
        ("GET", WATCH, None, (400, "application/json")),
    ],
)
async def test_every_answer_has_its_status_media_type_and_request_id(
    api: Api, method: str, path: str, body: object, expected: tuple[int, str]
) -> None:
    status, media_type = expected
    response = await api.send(method, path, body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == media_type
    assert UUID(response.headers["x-request-id"]).version == 4
    if media_type == "application/json" and "request_id" in response.json():
        assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_a_request_id_is_made_for_each_request_and_an_inbound_one_is_not_taken(
    api: Api,
) -> None:
    given = "5a1e8f2e-0000-4000-8000-000000000000"
    answers = [await api.send("GET", "/health", headers={"X-Request-ID": given}) for _ in range(2)]
    first, second = (UUID(answer.headers["x-request-id"]) for answer in answers)
    assert first != second
    assert str(first) != given


async def test_streams_carry_the_request_id_in_header_first_frame_and_last_frame(api: Api) -> None:
    async with api.stream(REPLAY, ask("note", from_id="0")) as stream:
        frames = await stream.rest()
    request_id = stream.headers["x-request-id"]
    assert UUID(request_id).version == 4
    assert frames[0].data["request_id"] == frames[-1].data["request_id"] == request_id


async def test_health_is_constant(api: Api) -> None:
    response = await api.send("GET", "/health")
    assert response.json() == {"status": "ok"}


async def test_ready_tells_of_the_backend_and_more(api: Api) -> None:
    answer = (await api.send("GET", "/ready")).json()
    assert answer["status"] == "ready"
    assert answer["backend_connected"] is True
    assert answer["draining"] is False
    assert answer["round_trip_ms"] > 0
    assert set(answer) == {
        *("status", "backend_connected", "draining"),
        *("round_trip_ms", "tail_lag_ms", "durability"),
    }


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "nonsense", ""])
@pytest.mark.parametrize("path", [NOTIFICATION, WATCH, REPLAY])
async def test_the_content_type_of_a_body_is_not_looked_at(
    api: Api, path: str, content_type: str
) -> None:
    body = '{"event_type":"note","identifier":{"author":"ada"},"from_id":"1"}'
    headers = {**api.headers, "Content-Type": content_type}
    async with api.http.stream("POST", path, content=body, headers=headers) as response:
        assert response.status_code == 200


async def test_the_home_page_names_the_version_and_leads_to_the_api(api: Api) -> None:
    page = (await api.send("GET", "/")).text
    assert "Playhead 0." in page
    assert 'href="swagger-ui/"' in page


async def test_the_home_page_has_the_configured_links_escaped(start_gateway: Start) -> None:
    links = {
        "client_documentation_url": "https://clients.example/docs?a=1&b=2",
        "client_repository_url": "https://clients.example/git",
        "server_documentation_url": "https://server.example/docs",
        "server_repository_url": "https://server.example/git",
    }
    async with start_gateway(application={"homepage": links}) as gateway:
        page = (await gateway.client.get("/")).text
    assert 'href="https://clients.example/docs?a=1&amp;b=2"' in page
    for name in list(links)[1:]:
        assert f'href="{links[name]}"' in page


async def test_static_files_and_a_home_page_of_ones_own(
    start_gateway: Start, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<title>Ours {{SERVER_VERSION}}</title>")
    (tmp_path / "style.css").write_text("body {}")
    async with start_gateway(application={"static_files_path": str(tmp_path)}) as gateway:
        page = await gateway.client.get("/")
        style = await gateway.client.get("/static/style.css")
        missing = await gateway.client.get("/static/nothing.css")
        escape = await gateway.client.get("/static/%2e%2e/%2e%2e/etc/passwd")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<title>Ours 0.")
    assert style.text == "body {}"
    assert_error(missing, 404, "NOT_FOUND")
    assert_error(escape, 404, "NOT_FOUND")


async def test_the_api_page_and_its_document(api: Api) -> None:
    document = (await api.send("GET", "/api-docs/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {NOTIFICATION, WATCH, REPLAY}
    page = (await api.send("GET", "/swagger-ui/")).text
    assert "openapi.json" in page
