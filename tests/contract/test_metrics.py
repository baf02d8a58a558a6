"""Aviso wire contract §11.2: every series by name and label, and that requests move it."""

import asyncio
import re
import socket
import time
from pathlib import Path

import httpx
import jwt
import pytest

from store.connection import Connection, log_key
from store.event import StreamKey
from tests.conftest import Start, example_configuration, merge
from tests.contract.api import NOTIFICATION, NOTIFICATIONS, REPLAY, WATCH, Api, ask
from tests.contract.schemas import SCHEMAS
from tests.servers import GatewayProcess, Valkey, running

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = "a secret of at least thirty-two bytes"
NOTE = {"event_type": "note", "identifier": {"author": "ada"}}
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


async def scrape(api: Api) -> dict[str, float]:
    """Every sample: `name{label="value",...}` without the prefix, labels as they come."""
    response = await api.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for line in response.text.splitlines():
        if line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        assert SAMPLE.fullmatch(line), line
        found[name.removeprefix("playhead_")] = float(value)
    return found


class Moves:
    """What a block adds to the counters."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._before: dict[str, float] = {}
        self.found: dict[str, float] = {}

    async def __aenter__(self) -> "Moves":
        self._before = await scrape(self._api)
        return self

    async def __aexit__(self, *_: object) -> None:
        after = await scrape(self._api)
        self.found = {
            name: value - self._before.get(name, 0)
            for name, value in after.items()
            if value != self._before.get(name, 0)
        }

    def __getitem__(self, name: str) -> float:
        return self.found.get(name, 0.0)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("build_info", "version"),
        ("http_requests_total", "route,method,status_code"),
        ("http_request_duration_seconds_count", "route,method"),
        ("http_requests_in_flight", "method"),
        ("backend_operations_total", "backend,operation,outcome"),
        ("backend_operation_duration_seconds_count", "backend,operation,outcome"),
        ("notifications_total", "event_type,status"),
        ("sse_connections_active", "route,event_type"),
        ("sse_connections_total", "route,event_type"),
        ("sse_events_sent_total", "route,event_type"),
        ("sse_connection_duration_seconds_count", "route"),
        ("auth_requests_total", "mode,outcome"),
    ],
)
async def test_every_series_of_the_contract_is_there_under_our_prefix(
    api: Api, name: str, labels: str
) -> None:
    await api.publish()
    await api.replay()
    found = [
        set(re.findall(r'(\w+)="', each))
        for each in await scrape(api)
        if each.partition("{")[0] == name
    ]
    assert found, name
    assert all(each == set(labels.split(",")) for each in found)


async def test_the_process_and_its_version_show_themselves(api: Api) -> None:
    found = await scrape(api)
    assert found["process_resident_memory_bytes"] > 0
    [version] = [name for name in found if name.startswith("build_info")]
    assert found[version] == 1
    assert (await api.http.get("/")).text.count(version.split('"')[1])


async def test_alerts_find_their_series_before_anything_happened(start_gateway: Start) -> None:
    async with start_gateway(notification_schema=SCHEMAS) as gateway:
        found = await scrape(Api(gateway, gateway.tenant))
    expected = [
        *(
            f'notifications_total{{event_type="{event_type}",status="{status}"}}'
            for event_type in SCHEMAS
            for status in ("success", "error")
        ),
        *(
            f'notifications_total{{event_type="unknown",status="{status}"}}'
            for status in ("error", "rejected")
        ),
        *(
            f'auth_requests_total{{mode="{mode}",outcome="{outcome}"}}'
            for mode in ("direct", "trusted_proxy")
            for outcome in ("success", "unauthorized", "forbidden", "service_unavailable")
        ),
    ]
    assert {name: found.get(name) for name in expected} == dict.fromkeys(expected, 0.0)


async def test_notifications_are_counted_by_type_and_outcome(api: Api, backend: Connection) -> None:
    async with Moves(api) as moves:
        await api.publish()
        await api.publish("loose", {})
        await api.post(NOTIFICATION, {"event_type": "note", "identifier": {"author": ""}})
        await api.post(NOTIFICATION, content=b"{")
        await api.post(NOTIFICATION, {"event_type": "note"})
        await api.post(
            NOTIFICATIONS,
            [NOTE, {"event_type": "note", "identifier": {}}, {"event_type": "loose"}, 5],
        )
        key = log_key(StreamKey(api.tenant, "order"))
        await backend.execute("SET", key, "no stream")
        order = {"event_type": "order", "identifier": {"shop": "a", "version": "1"}, "payload": 1}
        assert (await api.post(NOTIFICATION, order)).status_code == 500
        await backend.execute("DEL", key)
    expected = {
        ("note", "success"): 2,
        ("generic", "success"): 1,
        ("note", "rejected"): 2,
        ("unknown", "rejected"): 4,
        ("order", "error"): 1,
    }
    for (event_type, status), count in expected.items():
        name = f'notifications_total{{event_type="{event_type}",status="{status}"}}'
        assert moves[name] == count, (name, moves.found)


async def test_calls_to_the_backend_are_counted_and_timed(api: Api, backend: Connection) -> None:
    async with Moves(api) as moves:
        await api.publish_many(12)
        await api.replay()
        await api.send("DELETE", "/api/v1/admin/notification/note@1")
        await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "note"})
        await api.send("DELETE", "/api/v1/admin/wipe/all")
        key = log_key(StreamKey(api.tenant, "area"))
        await backend.execute("SET", key, "no stream")
        await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "area"})
        await backend.execute("DEL", key)
    for operation in ("publish", "get_batch", "delete_message", "wipe_stream", "wipe_all"):
        labels = f'{{backend="redis",operation="{operation}",outcome="ok"}}'
        assert moves[f"backend_operations_total{labels}"] >= 1, operation
        assert moves[f"backend_operation_duration_seconds_count{labels}"] >= 1
        assert moves[f"backend_operation_duration_seconds_sum{labels}"] > 0
    failed = '{backend="redis",operation="wipe_stream",outcome="error"}'
    assert moves[f"backend_operations_total{failed}"] == 1


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/health", "/health", 200),
        ("GET", "/api/v1/schema/note", "/api/v1/schema/{event_type}", 200),
        ("GET", "/api/v1/schema/nothing", "/api/v1/schema/{event_type}", 404),
        (
            "DELETE",
            "/api/v1/admin/notification/x@1",
            "/api/v1/admin/notification/{notification_id}",
            404,
        ),
        ("GET", NOTIFICATION, NOTIFICATION, 405),
        ("POST", NOTIFICATION, NOTIFICATION, 400),
        ("GET", "/no/such/path", "unmatched", 404),
    ],
)
async def test_requests_are_counted_by_the_pattern_of_their_route(
    api: Api, method: str, path: str, route: str, status: int
) -> None:
    async with Moves(api) as moves:
        await api.send(method, path)
    counted = f'http_requests_total{{method="{method}",route="{route}",status_code="{status}"}}'
    assert moves[counted] == 1, moves.found
    timed = f'http_request_duration_seconds_count{{method="{method}",route="{route}"}}'
    assert moves[timed] == 1


async def test_streams_are_counted_while_they_are_open_and_after(api: Api) -> None:
    await api.publish_many(3)
    labels = f'{{event_type="note",route="{WATCH}"}}'
    async with Moves(api) as moves:
        async with api.watch(from_id="1") as stream:
            await stream.until("replay_completed")
            await api.publish()
            await stream.notification()
            assert (await scrape(api))[f"sse_connections_active{labels}"] >= 1
        await eventually(api, f"sse_connections_active{labels}", 0)
    assert moves[f"sse_connections_total{labels}"] == 1
    assert moves[f"sse_events_sent_total{labels}"] == 4
    assert moves[f'sse_connection_duration_seconds_count{{route="{WATCH}"}}'] == 1
    async with Moves(api) as moves:
        await api.replay("loose")
        await api.replay()
    generic = f'{{event_type="generic",route="{REPLAY}"}}'
    assert moves[f"sse_connections_total{generic}"] == 1
    assert moves[f'sse_events_sent_total{{event_type="note",route="{REPLAY}"}}'] == 4


async def eventually(api: Api, name: str, value: float) -> None:
    """A stream is counted out when the server has noticed that its client left."""
    async with asyncio.timeout(60):
        while (await scrape(api))[name] != value:
            await asyncio.sleep(0.01)


async def test_connection_durations_have_the_buckets_of_the_contract(api: Api) -> None:
    await api.replay()
    found = await scrape(api)
    name = "sse_connection_duration_seconds_bucket"
    bounds = [
        float(each.split('le="')[1].split('"')[0])
        for each in found
        if each.startswith(name) and f'route="{REPLAY}"' in each
    ]
    assert bounds[:-1] == [
        *(1, 5, 15, 30, 60, 300, 900, 1800),
        *(3600, 7200, 14400, 28800, 43200, 86400),
    ]


async def test_users_and_authentication_are_counted(start_gateway: Start) -> None:
    auth = {
        "enabled": True,
        "mode": "trusted_proxy",
        "jwt_secret": SECRET,
        "admin_roles": {"ops": ["admin"]},
    }
    claims = {"sub": "ada", "realm": "lab", "roles": [], "exp": time.time() + 600}
    user = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}
    async with start_gateway(auth=auth, notification_schema=SCHEMAS) as gateway:
        api = Api(gateway, gateway.tenant)
        users = f'sse_unique_users_active{{route="{WATCH}"}}'
        async with Moves(api) as moves:
            body = ask("note")
            async with (
                api.stream(WATCH, body, headers=user) as first,
                api.stream(WATCH, body, headers=user) as second,
            ):
                await first.next()
                await second.next()
                assert (await scrape(api))[users] == 1
            await eventually(api, users, 0)
            bad = {"Authorization": "Bearer nonsense"}
            await api.post(NOTIFICATION, NOTE, headers=bad)
            await api.send("DELETE", "/api/v1/admin/wipe/all", headers=user)
        outcomes = {
            outcome: moves[f'auth_requests_total{{mode="trusted_proxy",outcome="{outcome}"}}']
            for outcome in ("success", "unauthorized", "forbidden", "service_unavailable")
        }
        assert outcomes["unauthorized"] == 1
        assert outcomes["forbidden"] == 1
        assert outcomes["service_unavailable"] == 0


async def test_an_error_frame_is_counted(start_gateway: Start, backend: Connection) -> None:
    async with start_gateway(
        notification_schema=SCHEMAS,
        watch_endpoint={
            **{"replay_batch_size": 1, "replay_batch_delay_ms": 100, "backend_patience_sec": 0},
        },
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(12)
        key = log_key(StreamKey(api.tenant, "note"))
        async with Moves(api) as moves:
            async with api.stream(REPLAY, ask("note", from_id="1")) as stream:
                await stream.notification()
                await backend.execute("DEL", key)
                await backend.execute("SET", key, "no stream")
                frames = await stream.rest()
            assert "error" in [frame.event for frame in frames]
        assert moves[f'sse_stream_errors_total{{event_type="note",route="{REPLAY}"}}'] == 1
        await backend.execute("DEL", key)


async def test_metrics_are_where_the_settings_say_and_only_there(start_gateway: Start) -> None:
    async with start_gateway(metrics={"path": "/numbers"}) as gateway:
        assert (await gateway.client.get("/numbers")).status_code == 200
        assert (await gateway.client.get("/metrics")).status_code == 404
    async with start_gateway(metrics={"enabled": False}) as gateway:
        assert (await gateway.client.get("/metrics")).status_code == 404
    async with start_gateway(metrics=None) as gateway:
        assert (await gateway.client.get("/metrics")).status_code == 404


async def test_metrics_may_have_a_port_of_their_own(valkey: Valkey, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    content = example_configuration()
    merge(content, {"store": {"url": valkey.url}, "metrics": {"port": port}})
    process = GatewayProcess(tmp_path / "gateway", content)
    with running(process):
        scraped = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert "playhead_build_info" in scraped.text
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 404
        assert httpx.get(f"{process.url}/metrics").status_code == 404
