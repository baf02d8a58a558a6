"""An operator captures a database, in the gateway or beside it; people watch its changes."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.captures import CaptureProcess, eventually
from tests.conftest import RunningGateway, Start
from tests.event_stream import get, open_stream
from tests.journeys.playhead import Playhead
from tests.servers import Valkey

WATCH = "/api/v1/watch"


@pytest.fixture
async def database_with_vehicles(database: str) -> str:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE vehicle (id int PRIMARY KEY, speed int)")
    await connection.close()
    return database


@pytest.fixture
def source(database_with_vehicles: str) -> dict[str, Any]:
    return {"name": f"f{uuid4().hex[:10]}", "dsn": database_with_vehicles}


@pytest.fixture
async def gateway(
    start_gateway: Start, source: dict[str, Any], tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    async with start_gateway(
        capture={"enabled": True, "sources": [source]},
        snapshots={"url": f"file://{tmp_path}/snapshots"},
        notification_schema={"change": {"storage_policy": {"max_messages": 5}}},
    ) as running:
        yield running


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def ready(gateway: RunningGateway, source: dict[str, Any]) -> dict[str, Any]:
    answer = await gateway.client.get("/ready")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()["capture"][source["name"]]
    return found


async def test_changes_of_a_table_are_watched_filtered_and_replayed(
    gateway: RunningGateway, source: dict[str, Any]
) -> None:
    async def capturing() -> bool:
        return bool((await ready(gateway, source))["state"] == "capturing")

    await eventually(capturing, "the source is captured")
    params = {
        "event_type": "change",
        "identifier.table": "public.vehicle",
        "identifier.op.in": "u,d",
        "identifier.key": "7",
    }
    async with open_stream(gateway.port, get(WATCH, params, gateway.tenant)) as stream:
        await stream.until(lambda frame: True)
        await execute(
            source["dsn"],
            "INSERT INTO vehicle VALUES (7, 10), (8, 20)",
            "UPDATE vehicle SET speed = speed + 1",
            "DELETE FROM vehicle WHERE id = 7",
        )
        changed, deleted = await stream.events(2)
    assert changed.data["data"]["payload"]["after"] == {"id": 7, "speed": 11}
    assert deleted.data["data"]["payload"]["before"] == {"id": 7}
    assert deleted.data["source"] == changed.data["source"]
    params = {"event_type": "change", "from_id": "1", "identifier.op": "c"}
    async with open_stream(gateway.port, get("/api/v1/replay", params, gateway.tenant)) as stream:
        frames = await stream.rest()
    keys = [f.data["data"]["identifier"]["key"] for f in frames if f.kind == "event"]
    assert keys == ["7", "8"]


async def test_nobody_publishes_a_change_but_everybody_finds_its_schema(
    gateway: RunningGateway,
) -> None:
    body = {"event_type": "change", "identifier": {"table": "t", "op": "c", "key": "1"}}
    answer = await gateway.client.post("/api/v1/notification", json={**body, "payload": {}})
    assert answer.status_code == 400
    assert "nobody can publish one" in answer.json()["message"]
    schema = (await gateway.client.get("/api/v1/schema/change")).json()["schema"]
    assert set(schema["identifier"]) == {"table", "op", "key"}
    document = (await gateway.client.get("/api-docs/openapi.json")).json()
    assert "change" in json.dumps(document)


async def test_the_metrics_tell_how_far_capture_is(
    start_gateway: Start, source: dict[str, Any], tmp_path: Path
) -> None:
    async with start_gateway(
        capture={"enabled": True, "sources": [source]},
        snapshots={"url": f"file://{tmp_path}/snapshots"},
        metrics={"enabled": True},
    ) as gateway:

        async def figures() -> dict[str, float]:
            text = (await gateway.client.get("/metrics")).text
            return {
                sample.name: sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.labels.get("source") == source["name"]
            }

        async def captured() -> bool:
            found = await figures()
            return found["playhead_capture_up"] == 1 and (
                found["playhead_captured_changes_total"] == 3
            )

        async def up() -> bool:
            return (await figures()).get("playhead_capture_up") == 1

        await eventually(up, "capture is up")
        await execute(source["dsn"], "INSERT INTO vehicle SELECT i, i FROM generate_series(1, 3) i")
        await eventually(captured, "three changes are counted")
        found = await figures()
        assert found["playhead_capture_lag_bytes"] >= 0
        assert 0 <= found["playhead_capture_lag_seconds"] < 60


async def test_capture_runs_in_a_process_of_its_own_beside_the_gateway(
    start_gateway: Start, source: dict[str, Any], valkey: Valkey, tmp_path: Path
) -> None:
    async with start_gateway(capture={"sources": [source]}) as gateway:
        assert (await ready(gateway, source))["state"] == "unknown"
        process = CaptureProcess(tmp_path, valkey.url, [{**source, "tenant": gateway.tenant}])
        process.start()
        try:

            async def capturing() -> bool:
                return bool((await ready(gateway, source))["state"] == "capturing")

            await eventually(capturing, "the other process captures")
            request = get(WATCH, {"event_type": "change"}, gateway.tenant)
            async with open_stream(gateway.port, request) as stream:
                await stream.until(lambda frame: True)
                await execute(source["dsn"], "INSERT INTO vehicle VALUES (1, 1)")
                [frame] = await stream.events(1)
            assert frame.data["id"] == "change@1"
        finally:
            assert await asyncio.to_thread(process.stop) == 0


def write(path: Path, source: dict[str, Any], url: str) -> str:
    content = {
        "store": {"url": url},
        "capture": {"sources": [source]},
        "snapshots": {"url": f"file://{path.parent}/snapshots"},
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def test_check_asks_the_sources_and_capture_refuses_what_cannot_be(
    source: dict[str, Any], valkey: Valkey, tmp_path: Path
) -> None:
    path = write(tmp_path / "config.yaml", source, valkey.url)
    with Playhead("", "check", "--config", path) as good:
        assert await asyncio.to_thread(good.wait) == 0
    assert f"Source {source['name']} can be captured." in good.lines
    assert "  publication 'playhead' does not exist; capture makes it" in good.lines
    assert ["capture.sources", source["name"], "file"] in [line.split()[:3] for line in good.lines]
    assert not any("host=" in line for line in good.lines), "no address, which may have a password"
    bad = write(tmp_path / "bad.yaml", {**source, "tables": ["public.nowhere"]}, valkey.url)
    with Playhead("", "check", "--config", bad) as refused:
        assert await asyncio.to_thread(refused.wait) == 1
    sentence = "there is no table public.nowhere to publish"
    assert f"Source {source['name']} cannot be captured: {sentence}" in refused.lines
    with Playhead("", "check", "--no-sources", "--config", bad) as offline:
        assert await asyncio.to_thread(offline.wait) == 0
    with Playhead("", "capture", "--config", bad) as command:
        assert await asyncio.to_thread(command.wait) == 1
    assert command.notes[-1] == f"playhead: source '{source['name']}': {sentence}"


async def test_capture_ends_at_ctrl_c(
    source: dict[str, Any], valkey: Valkey, tmp_path: Path
) -> None:
    path = write(tmp_path / "config.yaml", source, valkey.url)
    with Playhead("", "capture", "--config", path) as command:
        await asyncio.to_thread(command.wait_for_note, "capture_begins")
        command.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(command.wait) == 0


def test_capture_without_a_source_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("{}")
    with Playhead("", "capture", "--config", str(path)) as command:
        assert command.wait() == 2
    assert command.notes == ["playhead: there is nothing to capture in capture.sources"]
