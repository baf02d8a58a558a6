"""What the gateway says about itself: Aviso wire contract §1, §10, and the readiness of ours."""

from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest
from jsonschema_rs import Draft202012Validator

from tests.conftest import RunningGateway, Start
from tests.servers import Valkey, running

NOTHING = {"notification_schema": None, "notification_schema_strict": False}


class TestHealth:
    async def test_it_says_that_the_process_answers(self, gateway: RunningGateway) -> None:
        answer = await gateway.client.get("/health")
        assert answer.status_code == 200
        assert answer.text == '{"status":"ok"}'
        assert UUID(answer.headers["x-request-id"]).version == 4

    @pytest.mark.parametrize(
        "path", ["/", "/health", "/ready", "/api/v1/schema", "/swagger-ui/", "/metrics"]
    )
    async def test_head_answers_as_get_without_a_body(
        self, gateway: RunningGateway, path: str
    ) -> None:
        answer = await gateway.client.head(path)
        assert answer.status_code == 200
        assert answer.content == b""
        assert (
            answer.headers["content-type"]
            == (await gateway.client.get(path)).headers["content-type"]
        )


class TestReady:
    async def test_a_round_trip_makes_it_ready(self, gateway: RunningGateway) -> None:
        answer = await gateway.client.get("/ready")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        report = answer.json()
        assert set(report) == {
            *("status", "backend_connected", "round_trip_ms", "tail_lag_ms"),
            *("durability", "draining"),
        }
        assert report["status"] == "ready"
        assert report["backend_connected"] is True
        assert report["draining"] is False
        assert report["round_trip_ms"] > 0
        assert report["tail_lag_ms"] >= 0
        assert report["durability"]["appendfsync"] == "always"

    async def test_a_server_that_hangs_makes_it_not_ready(
        self, start_gateway: Start, tmp_path: Path
    ) -> None:
        """Mercure said 200 while its Redis hung: the port was open, the process was not."""
        valkey = Valkey(tmp_path / "valkey")
        with running(valkey):
            async with start_gateway(url=valkey.url) as gateway:
                assert (await gateway.client.get("/ready")).status_code == 200
                valkey.pause()
                answer = await gateway.client.get("/ready")
                assert answer.status_code == 503
                report = answer.json()
                assert report["status"] == "not_ready"
                assert report["backend_connected"] is False
                assert report["round_trip_ms"] is None
                assert (await gateway.client.get("/health")).status_code == 200
                valkey.resume()
                assert (await gateway.client.get("/ready")).status_code == 200

    async def test_a_server_that_is_gone_makes_it_not_ready(
        self, start_gateway: Start, tmp_path: Path
    ) -> None:
        valkey = Valkey(tmp_path / "valkey")
        with running(valkey):
            async with start_gateway(url=valkey.url) as gateway:
                valkey.kill()
                answer = await gateway.client.get("/ready")
                assert answer.status_code == 503
                assert answer.json()["backend_connected"] is False

    async def test_a_draining_gateway_is_not_ready_though_connected(
        self, gateway: RunningGateway
    ) -> None:
        gateway.gateway.draining = True
        answer = await gateway.client.get("/ready")
        assert answer.status_code == 503
        report = answer.json()
        assert report["status"] == "not_ready"
        assert report["backend_connected"] is True
        assert report["draining"] is True


class TestSchema:
    async def test_the_catalogue_shows_every_event_type(self, gateway: RunningGateway) -> None:
        answer = (await gateway.client.get("/api/v1/schema")).json()
        assert set(answer) == {"status", "schema", "event_types", "total_schemas"}
        assert answer["status"] == "success"
        assert answer["event_types"] == ["earthquake", "extreme_event"]
        assert answer["total_schemas"] == 2
        shown = answer["schema"]["extreme_event"]
        assert set(shown) == {"payload", "identifier"}
        assert shown["payload"] == {"required": False}
        assert shown["identifier"]["severity"] == {
            "type": "IntHandler",
            "required": True,
            "description": "Severity from 1 to 7.",
            "range": [1, 7],
        }

    async def test_one_event_type_is_shown_as_in_the_catalogue(
        self, gateway: RunningGateway
    ) -> None:
        everything = (await gateway.client.get("/api/v1/schema")).json()
        answer = (await gateway.client.get("/api/v1/schema/earthquake")).json()
        assert answer == {
            "status": "success",
            "event_type": "earthquake",
            "schema": everything["schema"]["earthquake"],
        }

    @pytest.mark.parametrize("name", ["nonsense", "EARTHQUAKE", "a/b", "earthquake/", "\0", "é"])
    async def test_an_unknown_event_type_is_told_with_those_there_are(
        self, gateway: RunningGateway, name: str
    ) -> None:
        answer = await gateway.client.get(f"/api/v1/schema/{quote(name)}")
        assert answer.status_code == 404
        assert answer.json() == {
            "status": "error",
            "message": f"Event type '{name}' not found",
            "available_types": ["earthquake", "extreme_event"],
            "request_id": answer.headers["x-request-id"],
        }

    async def test_no_schema_at_all_is_said(self, start_gateway: Start) -> None:
        async with start_gateway(**NOTHING) as gateway:
            everything = await gateway.client.get("/api/v1/schema")
            one = await gateway.client.get("/api/v1/schema/mars")
        assert everything.status_code == 200
        assert everything.json() == {
            "status": "success",
            "schema": {},
            "event_types": [],
            "total_schemas": 0,
            "message": "No notification schema configured",
        }
        assert one.status_code == 404
        assert one.json() == {
            "status": "error",
            "message": "No notification schema configured",
            "request_id": one.headers["x-request-id"],
        }

    async def test_it_is_public_whatever_credentials_come(self, start_gateway: Start) -> None:
        auth = {
            "enabled": True,
            "mode": "trusted_proxy",
            "jwt_secret": "x" * 32,
            "admin_roles": {"ops": ["admin"]},
        }
        headers = {"Authorization": "Bearer nonsense"}
        async with start_gateway(auth=auth) as gateway:
            for path in ("/api/v1/schema", "/api/v1/schema/earthquake", "/ready", "/"):
                assert (await gateway.client.get(path, headers=headers)).status_code == 200


class TestDocument:
    async def test_it_describes_this_gateway(self, gateway: RunningGateway) -> None:
        answer = await gateway.client.get("/api-docs/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        document = answer.json()
        assert document["openapi"] == "3.1.0"
        body = document["paths"]["/api/v1/notification"]["post"]["requestBody"]
        variants = body["content"]["application/json"]["schema"]["oneOf"]
        names = [variant["properties"]["event_type"]["const"] for variant in variants]
        assert names == ["earthquake", "extreme_event"]

    @pytest.mark.parametrize(
        ("path", "template"),
        [
            ("/health", "/health"),
            ("/ready", "/ready"),
            ("/api/v1/schema", "/api/v1/schema"),
            ("/api/v1/schema/earthquake", "/api/v1/schema/{event_type}"),
            ("/api/v1/schema/nonsense", "/api/v1/schema/{event_type}"),
        ],
    )
    async def test_answers_are_as_it_says(
        self, gateway: RunningGateway, path: str, template: str
    ) -> None:
        document = (await gateway.client.get("/api-docs/openapi.json")).json()
        answer = await gateway.client.get(path)
        described = document["paths"][template]["get"]["responses"][str(answer.status_code)]
        schema = described["content"]["application/json"]["schema"]
        validator = Draft202012Validator({**schema, "components": document["components"]})
        assert [error.message for error in validator.iter_errors(answer.json())] == []

    async def test_the_page_needs_nothing_from_elsewhere(self, gateway: RunningGateway) -> None:
        answer = await gateway.client.get("/swagger-ui/")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        assert "innerHTML" not in answer.text
        assert "../api-docs/openapi.json" in answer.text


class TestHome:
    async def test_the_built_in_page_leads_to_what_there_is(self, gateway: RunningGateway) -> None:
        answer = await gateway.client.get("/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        for path in ("swagger-ui/", "api/v1/schema", "ready"):
            assert f'href="{path}"' in answer.text
            assert (await gateway.client.get(f"/{path}")).status_code == 200

    async def test_configured_links_are_escaped(self, start_gateway: Start) -> None:
        homepage = {"server_documentation_url": 'https://docs.example/?a=1&b="2"'}
        async with start_gateway(application={"homepage": homepage}) as gateway:
            page = (await gateway.client.get("/")).text
        link = '<a href="https://docs.example/?a=1&amp;b=&quot;2&quot;">Server documentation</a>'
        assert link in page

    async def test_a_page_of_the_operators_own_comes_first(
        self, start_gateway: Start, tmp_path: Path
    ) -> None:
        (tmp_path / "index.html").write_text(
            "<p>{{SERVER_VERSION}} {{CLIENT_REPOSITORY_URL}} {{SERVER_REPOSITORY_URL}}</p>"
        )
        application = {
            "static_files_path": str(tmp_path),
            "homepage": {"client_repository_url": "https://code.example/client"},
        }
        async with start_gateway(application=application) as gateway:
            page = (await gateway.client.get("/")).text
            version = (await gateway.client.get("/api-docs/openapi.json")).json()["info"]["version"]
        assert page == f"<p>{version} https://code.example/client </p>"


class TestStatic:
    async def test_files_of_the_directory_are_served(
        self, start_gateway: Start, tmp_path: Path
    ) -> None:
        folder = tmp_path / "static"
        folder.mkdir()
        (folder / "style.css").write_text("p {}")
        (tmp_path / "secret").write_text("secret")
        async with start_gateway(application={"static_files_path": str(folder)}) as gateway:
            found = await gateway.client.get("/static/style.css")
            missing = await gateway.client.get("/static/nothing.css")
            outside = await gateway.client.get("/static/%2e%2e/secret")
        assert found.text == "p {}"
        assert found.headers["content-type"].startswith("text/css")
        for answer in (missing, outside):
            assert answer.status_code == 404
            assert answer.json()["code"] == "NOT_FOUND"

    @pytest.mark.parametrize("path", [None, "/does/not/exist"])
    async def test_no_directory_is_no_route(self, start_gateway: Start, path: str | None) -> None:
        async with start_gateway(application={"static_files_path": path}) as gateway:
            assert (await gateway.client.get("/static/style.css")).status_code == 404
            assert (await gateway.client.get("/")).status_code == 200


class TestMetrics:
    async def test_they_are_served_where_the_settings_say(self, start_gateway: Start) -> None:
        async with start_gateway(metrics={"enabled": True, "path": "/numbers"}) as gateway:
            await gateway.client.get("/api/v1/schema/earthquake")
            await gateway.client.get("/nonsense")
            answer = await gateway.client.get("/numbers")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        counted = "playhead_http_requests_total{method="
        route = f'{counted}"GET",route="/api/v1/schema/{{event_type}}",status_code="200"}} 1.0'
        assert route in answer.text
        assert f'{counted}"GET",route="unmatched",status_code="404"}} 1.0' in answer.text
        assert 'playhead_durability_info{appendfsync="always"' in answer.text

    @pytest.mark.parametrize("metrics", [{"enabled": False}, {"enabled": True, "port": 0}])
    async def test_the_main_port_has_none_otherwise(
        self, start_gateway: Start, metrics: dict[str, object]
    ) -> None:
        async with start_gateway(metrics=metrics) as gateway:
            answer = await gateway.client.get("/metrics")
        assert answer.status_code == 404
        assert answer.json()["code"] == "NOT_FOUND"


async def test_a_wrong_tenant_is_refused_on_every_route(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/api/v1/schema", headers={"X-Tenant-ID": "acme"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "INVALID_TENANT"
