"""Aviso wire contract §5: the headers of a stream, and every frame byte by byte."""

import json
import re
from typing import Any

import pytest

from tests.conftest import Start
from tests.contract.api import REPLAY, WATCH, Api, ask
from tests.contract.reader import Frame
from tests.contract.schemas import SCHEMAS, STORM

pytestmark = pytest.mark.asyncio(loop_scope="session")

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def assert_frame(frame: Frame, event: str, expected: dict[str, Any]) -> None:
    """Exactly these keys, sorted, compact; `...` is an instant."""
    data = frame.data
    assert frame.event == event
    assert list(data) == sorted(expected)
    assert frame.text == json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    for name, value in expected.items():
        if value is ...:
            assert INSTANT.fullmatch(data[name]), (name, data[name])
        else:
            assert data[name] == value, name


@pytest.mark.parametrize("path", [WATCH, REPLAY])
async def test_the_headers_of_a_stream(api: Api, path: str) -> None:
    async with api.stream(path, ask("note", from_id="1")) as stream:
        headers = stream.headers
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"].split(", ")[0] == "no-cache"
    assert headers["connection"] == "keep-alive"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["x-accel-buffering"] == "no"
    assert "x-request-id" in headers
    assert "content-encoding" not in headers


async def test_the_bytes_of_a_posted_stream(api: Api) -> None:
    """event, id of a notification, data, blank line; no retry, no comment, no carriage return."""
    await api.publish(payload="x")
    async with api.http.stream(
        "POST", REPLAY, json=ask("note", from_id="1"), headers=api.headers
    ) as response:
        body = await response.aread()
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    names = [[line.partition(": ")[0] for line in block.split("\n")] for block in blocks]
    assert names == [
        ["event", "data"],
        ["event", "id", "data"],
        ["event", "data"],
        ["event", "data"],
    ]
    assert b"\r" not in body


async def test_connection_established(api: Api) -> None:
    async with api.watch("storm", {"region": "NORTH", "run": "9"}) as stream:
        frame = await stream.next()
        assert_frame(
            frame,
            "live-notification",
            {
                "type": "connection_established",
                "topic": "weather.north.0900.*.*.*.*.*.*.*.*",
                "timestamp": ...,
                "connection_will_close_in_seconds": 3600,
                "request_id": stream.headers["x-request-id"],
            },
        )
        assert '"type":"connection_established"' in frame.text
        # The first heartbeat follows at once.
        heartbeat = await stream.next()
        assert_frame(
            heartbeat,
            "heartbeat",
            {"timestamp": ..., "topic": "weather.north.0900.*.*.*.*.*.*.*.*", "sequence": 0},
        )


async def test_a_replay_from_a_sequence_to_its_end(api: Api) -> None:
    await api.publish("storm", STORM)
    async with api.stream(REPLAY, ask("storm", {"severity": 4}, from_id="1", to_id="9")) as stream:
        started, storm, completed, closing = await stream.rest()
    topic = "weather.*.*.4.*.*.*.*.*.*.*"
    request_id = stream.headers["x-request-id"]
    assert_frame(
        started,
        "replay-control",
        {
            "type": "replay_started",
            "topic": topic,
            "from_sequence": 1,
            "from_date": None,
            "end_sequence": 1,
            "batch_size": 5,
            "timestamp": ...,
            "request_id": request_id,
        },
    )
    assert storm.event == "replay"
    assert re.fullmatch(r"1-[0-9a-f]+", storm.id or "")
    assert storm.data["id"] == "storm@1"
    assert_frame(
        completed,
        "replay-control",
        {"type": "replay_completed", "topic": topic, "timestamp": ...},
    )
    assert_frame(
        closing,
        "connection-closing",
        {
            "reason": "end_of_stream",
            "message": "Stream completed",
            "timestamp": ...,
            "topic": topic,
            "request_id": request_id,
        },
    )


async def test_replay_started_without_an_end_says_null(api: Api) -> None:
    started, *_ = await api.replay(from_date="2026-02-25T12:00:00.5+01:00")
    assert started.data["end_sequence"] is None
    assert started.data["from_sequence"] is None
    assert started.data["from_date"] == "2026-02-25T11:00:00Z"
    async with api.watch(from_id="7") as stream:
        started = await stream.next()
    assert (started.data["end_sequence"], started.data["from_sequence"]) == (None, 7)


async def test_the_limit_frame(api: Api) -> None:
    await api.publish_many(4, "capped")
    *_, limit, closing = await api.replay("capped")
    assert_frame(
        limit,
        "replay-control",
        {
            "type": "notification_replay_limit_reached",
            "topic": "capped.*",
            "max_allowed": 3,
            "message": limit.data["message"],
            "timestamp": ...,
        },
    )
    assert "3" in limit.data["message"]
    assert closing.data["reason"] == "end_of_stream"


async def test_a_watch_at_its_maximum_duration_closes_with_that_reason(
    start_gateway: Start,
) -> None:
    async with start_gateway(
        notification_schema=SCHEMAS,
        watch_endpoint={"connection_max_duration_sec": 0.4},
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        async with api.watch() as stream:
            frames = await stream.rest()
        assert frames[0].data["connection_will_close_in_seconds"] == 0
        assert_frame(
            frames[-1],
            "connection-closing",
            {
                "reason": "max_duration_reached",
                "message": "Connection reached maximum duration",
                "timestamp": ...,
                "topic": "note.*",
                "request_id": stream.headers["x-request-id"],
            },
        )


async def test_gap_frame(api: Api) -> None:
    await api.publish_many(3)
    await api.send("DELETE", "/api/v1/admin/wipe/all")
    _, gap, *_ = await api.replay(from_id="2")
    assert_frame(
        gap,
        "gap",
        {
            "topic": "note.*",
            "reason": "expired",
            "expected": 2,
            "first_available": 4,
            "timestamp": ...,
        },
    )


async def test_the_topic_shows_values_decoded_and_constraints_as_any(api: Api) -> None:
    asked = {"name": "a.b*>%", "severity": {"gt": 1}, "level": 5.0}
    async with api.watch("storm", asked) as stream:
        topic = (await stream.next()).data["topic"]
    assert topic == "weather.*.*.*.*.*.*.*.5.*.a.b*>%"
    async with api.watch("area", {"polygon": "0,0,0,1,1,1,0,0"}) as stream:
        assert (await stream.next()).data["topic"] == "area.*"
    async with api.watch("legacy_area", {"polygon": "0,0,0,1,1,1,0,0"}) as stream:
        assert (await stream.next()).data["topic"] == "legacy_area.*.*"


@pytest.mark.parametrize(
    "value", ["a\nb", "a\r\ndata: x", "\r", "\n\nevent: gap\ndata: {}\n\n", "\x00"]
)
async def test_no_value_can_break_a_frame(api: Api, value: str) -> None:
    """Event injection: the reader of these tests fails on any line that is no field."""
    await api.publish("note", {"author": value}, {value: value})
    for identifier in ({}, {"author": value}):
        async with api.watch("note", identifier, from_id="1") as stream:
            note = await stream.notification()
            assert note.data["data"] == {"identifier": {"author": value}, "payload": {value: value}}
            assert stream.seen[0].data["topic"] == f"note.{identifier.get('author', '*')}"
            await api.publish("note", {"author": value})
            assert (await stream.notification()).data["data"]["identifier"] == {"author": value}
            await api.send("DELETE", "/api/v1/admin/wipe/all")
            await api.publish("note", {"author": value}, {value: value})
    event_type = "schemaless" + re.sub(r"[\x00-\x1f]", "", value)
    await api.publish(event_type, {value: value})
    [*_, event] = [each for each in await api.replay(event_type) if each.is_notification]
    assert event.data["data"]["identifier"] == {value: value}
    assert event.data["type"] == f"int.ecmwf.aviso.{event_type}"
