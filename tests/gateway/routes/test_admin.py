"""Aviso wire contract §10: wiping and deleting, by tenant, by role, and everything that is refused."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from store.connection import Connection, log_key
from store.event import StreamKey
from tests.conftest import RunningGateway, Start
from tests.servers import Valkey, running

SECRET = "a secret of at least thirty-two bytes"
STORM = {"region": "north", "run_time": "12", "severity": 3, "anomaly": 1.5}
PERMISSIVE = {"notification_schema_strict": False}


async def publish(
    client: httpx.AsyncClient, event_type: str = "extreme_event", **headers: str
) -> str:
    identifier: dict[str, Any] = {"name": "x"}
    if event_type == "extreme_event":
        identifier = {**STORM, "polygon": "1,1,1,2,2,2,1,1"}
    answer = await client.post(
        "/api/v1/notification",
        json={"event_type": event_type, "identifier": identifier},
        headers=headers,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def read(
    client: httpx.AsyncClient, event_type: str = "extreme_event", **headers: str
) -> list[str]:
    """The `id:` lines of a replay of everything, without their epochs."""
    parameters = {"event_type": event_type, "from_id": "0"}
    if event_type == "extreme_event":
        parameters |= {"identifier.region": "north", "identifier.run_time": "12"}
        parameters |= {"identifier.severity": "3"}
    answer = await client.get("/api/v1/replay", params=parameters, headers=headers)
    assert answer.status_code == 200, answer.text
    frames = answer.text.split("\n\n")
    return [
        line.removeprefix("id: ").partition("-")[0]
        for frame in frames
        if "event: replay\n" in frame
        for line in frame.splitlines()
        if line.startswith("id: ")
    ]


async def wipe(client: httpx.AsyncClient, name: object, **headers: str) -> httpx.Response:
    return await client.request(
        "DELETE", "/api/v1/admin/wipe/stream", json={"stream_name": name}, headers=headers
    )


def content(answer: httpx.Response) -> dict[str, Any]:
    """The body of an answer without the request id, which must be that of the header."""
    body: dict[str, Any] = answer.json()
    assert body.pop("request_id") == answer.headers["x-request-id"]
    return body


class TestWipeStream:
    @pytest.mark.parametrize("name", ["extreme_event", "Extreme_EVENT"])
    async def test_a_stream_is_wiped_by_event_type_in_any_case(
        self, gateway: RunningGateway, name: str
    ) -> None:
        await publish(gateway.client)
        answer = await wipe(gateway.client, name)
        assert answer.status_code == 200
        assert content(answer) == {
            "success": True,
            "message": f"Successfully wiped stream: {name}",
        }
        assert await read(gateway.client) == []

    @pytest.mark.parametrize("name", ["storms", "STORMS"])
    async def test_a_stream_is_wiped_by_the_base_of_its_topic(
        self, start_gateway: Start, name: str
    ) -> None:
        schema = {"extreme_event": {"topic": {"base": "storms"}}}
        async with start_gateway(notification_schema=schema) as gateway:
            await publish(gateway.client)
            assert (await wipe(gateway.client, name)).status_code == 200
            assert await read(gateway.client) == []

    async def test_numbers_given_out_before_are_never_given_out_again(
        self, gateway: RunningGateway
    ) -> None:
        for _ in range(3):
            await publish(gateway.client)
        await wipe(gateway.client, "extreme_event")
        assert await publish(gateway.client) == "extreme_event@4"

    async def test_a_configured_stream_without_events_is_wiped_too(
        self, gateway: RunningGateway
    ) -> None:
        assert (await wipe(gateway.client, "earthquake")).status_code == 200

    async def test_a_stream_without_a_schema_is_known_from_the_log(
        self, start_gateway: Start
    ) -> None:
        async with start_gateway(**PERMISSIVE) as gateway:
            await publish(gateway.client, "Greeting/of the day")
            answer = await wipe(gateway.client, "greeting/OF THE DAY")
            assert answer.status_code == 200
            assert await read(gateway.client, "Greeting/of the day") == []

    async def test_names_that_differ_in_case_alone_must_be_exact(
        self, start_gateway: Start
    ) -> None:
        async with start_gateway(**PERMISSIVE) as gateway:
            await publish(gateway.client, "greeting")
            await publish(gateway.client, "Greeting")
            assert (await wipe(gateway.client, "GREETING")).status_code == 404
            assert (await wipe(gateway.client, "Greeting")).status_code == 200
            assert await read(gateway.client, "greeting") == ["1"]
            assert await read(gateway.client, "Greeting") == []

    async def test_an_unknown_stream_is_told_with_those_that_are_known(
        self, start_gateway: Start
    ) -> None:
        async with start_gateway(**PERMISSIVE) as gateway:
            await publish(gateway.client, "greeting")
            answer = await wipe(gateway.client, "nonsense")
        assert answer.status_code == 404
        assert content(answer) == {
            "success": False,
            "message": "Stream not found: nonsense. "
            "Known event types: earthquake, extreme_event, greeting",
        }

    async def test_nothing_known_is_nothing_told(self, start_gateway: Start) -> None:
        async with start_gateway(notification_schema=None) as gateway:
            answer = await wipe(gateway.client, "nonsense")
        assert content(answer)["message"] == "Stream not found: nonsense"

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "INVALID_JSON"),
            (b"{", "INVALID_JSON"),
            (b'{"stream_name":"\\ud800"}', "INVALID_JSON"),
            (b"\xff", "INVALID_JSON"),
            (b"[" * 100_000, "BODY_TOO_LARGE"),
            (b"[" * 10_000, "INVALID_JSON"),
            (b"[]", "INVALID_REQUEST_SHAPE"),
            (b'"extreme_event"', "INVALID_REQUEST_SHAPE"),
            (b"{}", "INVALID_REQUEST_SHAPE"),
            (b'{"stream_name":null}', "INVALID_REQUEST_SHAPE"),
            (b'{"stream_name":5}', "INVALID_REQUEST_SHAPE"),
            (b'{"stream_name":"extreme_event","force":true}', "UNKNOWN_FIELD"),
        ],
    )
    async def test_a_wrong_body_is_refused_in_the_one_shape(
        self, gateway: RunningGateway, body: bytes, code: str
    ) -> None:
        answer = await gateway.client.request(
            "DELETE",
            "/api/v1/admin/wipe/stream",
            content=body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == (413 if code == "BODY_TOO_LARGE" else 400)
        refused = content(answer)
        assert set(refused) == {"code", "error", "message", "details"}
        assert refused["code"] == code

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
    async def test_another_content_type_is_refused(
        self, gateway: RunningGateway, content_type: str
    ) -> None:
        answer = await gateway.client.request(
            "DELETE",
            "/api/v1/admin/wipe/stream",
            content=b'{"stream_name":"extreme_event"}',
            headers={"Content-Type": content_type},
        )
        assert answer.status_code == 415
        assert content(answer)["code"] == "UNSUPPORTED_MEDIA_TYPE"

    @pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "a/b+json", None])
    async def test_every_way_to_say_json_is_taken(
        self, gateway: RunningGateway, content_type: str | None
    ) -> None:
        answer = await gateway.client.request(
            "DELETE",
            "/api/v1/admin/wipe/stream",
            content=b'{"stream_name":"extreme_event"}',
            headers={} if content_type is None else {"Content-Type": content_type},
        )
        assert answer.status_code == 200


class TestWipeAll:
    async def test_everything_of_the_tenant_is_wiped(self, start_gateway: Start) -> None:
        async with start_gateway(**PERMISSIVE) as gateway:
            await publish(gateway.client)
            await publish(gateway.client, "greeting")
            answer = await gateway.client.delete("/api/v1/admin/wipe/all")
            assert answer.status_code == 200
            assert content(answer) == {
                "success": True,
                "message": "Successfully wiped all data",
            }
            assert await read(gateway.client) == []
            assert await read(gateway.client, "greeting") == []

    async def test_an_empty_log_is_wiped_too(self, gateway: RunningGateway) -> None:
        assert (await gateway.client.delete("/api/v1/admin/wipe/all")).status_code == 200


class TestDelete:
    @pytest.mark.parametrize(
        "notification_id",
        ["extreme_event@2", "EXTREME_event@2", "extreme_event@+2", " extreme_event@002 "],
    )
    async def test_one_event_is_deleted(
        self, gateway: RunningGateway, notification_id: str
    ) -> None:
        for _ in range(3):
            await publish(gateway.client)
        answer = await gateway.client.delete(f"/api/v1/admin/notification/{notification_id}")
        assert answer.status_code == 200
        assert content(answer) == {
            "success": True,
            "message": "Notification deleted",
            "notification_id": notification_id,
        }
        assert await read(gateway.client) == ["1", "3"]
        again = await gateway.client.delete(f"/api/v1/admin/notification/{notification_id}")
        assert again.status_code == 404

    async def test_the_id_that_publishing_answered_is_taken(self, start_gateway: Start) -> None:
        async with start_gateway(**PERMISSIVE) as gateway:
            notification_id = await publish(gateway.client, "a/b %41")
            path = httpx.URL("/api/v1/admin/notification/").join(
                notification_id.replace("%", "%25").replace(" ", "%20")
            )
            answer = await gateway.client.delete(path)
            assert answer.status_code == 200
            assert content(answer)["notification_id"] == "a/b %41@1"

    @pytest.mark.parametrize(
        "notification_id",
        ["extreme_event@1", "extreme_event@18446744073709551615", "nonsense@1", "earthquake@1"],
    )
    async def test_what_is_not_there_is_not_found(
        self, gateway: RunningGateway, notification_id: str
    ) -> None:
        answer = await gateway.client.delete(f"/api/v1/admin/notification/{notification_id}")
        assert answer.status_code == 404
        assert content(answer) == {
            "success": False,
            "message": "Notification not found",
            "notification_id": notification_id,
        }

    @pytest.mark.parametrize(
        ("notification_id", "message"),
        [
            ("extreme_event", "must be in '<stream>@<sequence>' format"),
            ("", "must be in '<stream>@<sequence>' format"),
            ("@1", "must be in '<stream>@<sequence>' format"),
            ("extreme_event@", "must be in '<stream>@<sequence>' format"),
            ("extreme_event@x", "sequence must be a positive integer"),
            ("extreme_event@-1", "sequence must be a positive integer"),
            ("extreme_event@1.0", "sequence must be a positive integer"),
            ("extreme_event@1@2", "sequence must be a positive integer"),
            ("extreme_event@١", "sequence must be a positive integer"),
            ("extreme_event@18446744073709551616", "sequence must be a positive integer"),
            ("extreme_event@" + "9" * 5000, "sequence must be a positive integer"),
            ("extreme_event@0", "sequence must be greater than zero"),
            ("extreme_event@000", "sequence must be greater than zero"),
        ],
    )
    async def test_what_is_no_id_is_refused(
        self, gateway: RunningGateway, notification_id: str, message: str
    ) -> None:
        answer = await gateway.client.delete(f"/api/v1/admin/notification/{notification_id}")
        assert answer.status_code == 400
        assert content(answer) == {
            "success": False,
            "message": f"notification_id {message}",
            "notification_id": notification_id,
        }


class TestTenants:
    async def test_a_tenant_reaches_its_own_log_alone(self, gateway: RunningGateway) -> None:
        other = {"X-Tenant-ID": str(uuid4())}
        client = gateway.client
        for _ in range(2):
            await publish(client)
            await publish(client, **other)
        path = "/api/v1/admin/notification/extreme_event@1"
        assert (await client.delete(path, headers=other)).status_code == 200
        assert await read(client) == ["1", "2"]
        assert await read(client, **other) == ["2"]
        assert (await wipe(client, "extreme_event", **other)).status_code == 200
        assert await read(client) == ["1", "2"]
        assert (await client.delete("/api/v1/admin/wipe/all", headers=other)).status_code == 200
        assert await read(client) == ["1", "2"]

    async def test_names_of_another_tenant_are_not_told(self, start_gateway: Start) -> None:
        async with start_gateway(**PERMISSIVE) as gateway:
            await publish(gateway.client, "secret project")
            answer = await wipe(gateway.client, "secret project", **{"X-Tenant-ID": str(uuid4())})
        assert answer.status_code == 404
        assert content(answer)["message"].endswith("Known event types: earthquake, extreme_event")


class TestFaults:
    async def test_a_log_that_refuses_is_told_with_its_reason(
        self, gateway: RunningGateway, connection: Connection
    ) -> None:
        key = log_key(StreamKey(gateway.tenant, "extreme_event"))
        await publish(gateway.client)
        await connection.execute("DEL", key)
        await connection.execute("SET", key, "no stream")
        answers = [
            await wipe(gateway.client, "extreme_event"),
            await gateway.client.delete("/api/v1/admin/wipe/all"),
            await gateway.client.delete("/api/v1/admin/notification/extreme_event@1"),
        ]
        assert [answer.status_code for answer in answers] == [500, 500, 500]
        messages = [content(answer)["message"] for answer in answers]
        assert messages[0].startswith("Failed to wipe stream: ")
        assert messages[1].startswith("Failed to wipe all data: ")
        assert messages[2].startswith("Failed to delete notification: ")

    async def test_a_log_that_is_away_asks_to_come_back(
        self, start_gateway: Start, tmp_path: Path
    ) -> None:
        valkey = Valkey(tmp_path / "valkey")
        with running(valkey):
            async with start_gateway(url=valkey.url) as gateway:
                await publish(gateway.client)
                valkey.kill()
                answers = [
                    await wipe(gateway.client, "extreme_event"),
                    await gateway.client.delete("/api/v1/admin/wipe/all"),
                    await gateway.client.delete("/api/v1/admin/notification/extreme_event@1"),
                ]
        for answer in answers:
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert content(answer)["code"] == "BACKEND_UNAVAILABLE"


AUTH = {
    "enabled": True,
    "mode": "trusted_proxy",
    "jwt_secret": SECRET,
    "admin_roles": {"ops": ["admin"]},
    "tenant_claim": "tenant",
}


def credentials(**claims: object) -> dict[str, str]:
    described = {"exp": int(time.time()) + 600, "sub": "boss", "realm": "ops", "roles": ["admin"]}
    token = jwt.encode({**described, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


class TestRoles:
    async def test_only_an_admin_may(self, start_gateway: Start) -> None:
        async with start_gateway(auth=AUTH) as gateway:
            for path in ("wipe/stream", "wipe/all", "notification/nonsense"):

                async def ask(headers: dict[str, str], path: str = path) -> httpx.Response:
                    return await gateway.client.request(
                        "DELETE",
                        f"/api/v1/admin/{path}",
                        json={"stream_name": "extreme_event"},
                        headers=headers,
                    )

                missing = await ask({})
                assert missing.status_code == 401
                assert missing.headers.get_list("www-authenticate") == ["Bearer"]
                assert content(missing) == {
                    "code": "UNAUTHORIZED",
                    "error": "unauthorized",
                    "message": "Authorization header is required",
                }
                forbidden = await ask(credentials(roles=["reader"]))
                assert forbidden.status_code == 403
                assert content(forbidden)["code"] == "FORBIDDEN"
                assert (await ask(credentials())).status_code in {200, 400}

    async def test_both_challenges_are_sent_in_direct_mode(self, start_gateway: Start) -> None:
        direct = {**AUTH, "mode": "direct", "auth_o_tron_url": "http://127.0.0.1:1"}
        async with start_gateway(auth=direct) as gateway:
            missing = await gateway.client.delete("/api/v1/admin/wipe/all")
            assert missing.headers.get_list("www-authenticate") == ["Bearer", "Basic"]
            silent = await gateway.client.delete("/api/v1/admin/wipe/all", headers=credentials())
            assert silent.status_code == 503
            assert content(silent)["code"] == "SERVICE_UNAVAILABLE"

    async def test_a_bound_admin_reaches_the_own_tenant_alone(self, start_gateway: Start) -> None:
        own, other = str(uuid4()), str(uuid4())
        async with start_gateway(auth=AUTH) as gateway:
            client = gateway.client
            for tenant in (own, other):
                await publish(client, **{"X-Tenant-ID": tenant})
            bound = credentials(tenant=own)
            refused = await wipe(client, "extreme_event", **bound, **{"X-Tenant-ID": other})
            assert refused.status_code == 403
            assert content(refused)["code"] == "FORBIDDEN"
            assert (await wipe(client, "extreme_event", **bound)).status_code == 200
            assert await read(client, **{"X-Tenant-ID": own}) == []
            assert await read(client, **{"X-Tenant-ID": other}) == ["1"]
