"""Aviso wire contract §9 and §13: event types without a schema, published, watched and replayed."""

import re
from typing import Any

import pytest

from tests.contract.api import NOTIFICATION, PATHS, REPLAY, Api, ask, assert_error, notifications

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_event_without_schema_is_delivered_like_any_other(api: Api) -> None:
    async with api.watch("sensor", {"room": "5"}) as live, api.watch("sensor") as every:
        established = await live.next()
        assert established.data["topic"] == "sensor.5"
        assert (await every.next()).data["topic"] == "sensor"
        await api.publish("sensor", {"room": 5, "kind": "Heat", "on": True}, {"value": 1.50})
        await api.publish("sensor", {"room": 6}, None)
        first = await live.notification()
        assert (await every.notifications(2))[1].sequence == 2
    assert first.event == "live-notification"
    # Identifiers as given, in canonical text: nothing is folded or padded.
    assert first.data["data"] == {
        "identifier": {"kind": "Heat", "on": "true", "room": "5"},
        "payload": {"value": 1.5},
    }
    assert first.data["id"] == "sensor@1"
    assert first.data["type"] == "int.ecmwf.aviso.sensor"
    assert first.data["dataschema"].endswith("/schema/sensor")
    [replayed] = notifications(await api.replay("sensor", {"room": "5"}))
    assert replayed.text == first.text


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"a": "1"}, [1, 2, 3]),
        ({"a": 1}, [1, 2, 3]),
        ({"a": "1", "b": "2"}, [2]),
        ({"b": "2", "a": "1"}, [2]),
        ({"b": "2"}, [2]),
        ({"b": "1"}, []),
        ({"a": "01"}, []),
        ({"A": "1"}, []),
        ({"a.b": "1"}, [3]),
        ({"a=b": "1"}, []),
        ({"c": "x=y.z"}, [4]),
        ({"c": "x"}, []),
        ({"c": "*"}, []),
    ],
    ids=str,
)
async def test_a_filter_without_schema_wants_events_that_carry_all_its_values(
    api: Api, asked: dict[str, object], expected: list[int]
) -> None:
    """[?] Upstream needs the same set of keys; here a key that is not asked for may be any."""
    for identifier in ({"a": 1}, {"a": 1, "b": 2}, {"a": 1, "a.b": 1}, {"c": "x=y.z"}):
        await api.publish("loose", identifier)
    assert await api.found("loose", asked) == expected


@pytest.mark.parametrize(
    "name", ["a.b", "ünï", "x>y", "50%", "*", "sp ace", "slash/es", "~", "a" * 255]
)
async def test_an_event_type_may_hold_nearly_anything(api: Api, name: str) -> None:
    await api.publish(name, {"k": "v"})
    await api.publish(f"{name[:-1]}x", {"k": "v"})
    [event] = notifications(await api.replay(name))
    assert event.data["id"] == f"{name}@1"
    async with api.stream(REPLAY, params={"event_type": name, "from_id": "1"}) as stream:
        [by_get] = notifications(await stream.rest())
    assert by_get.text == event.text


@pytest.mark.parametrize("operation", ["notification", "watch", "replay"])
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "must not be empty"),
        ("   ", "must not be empty"),
        ("a@b", "must not contain '@'"),
        ("a\nb", "must not contain control characters"),
        ("a\x00", "must not contain control characters"),
        ("a" * 256, "must not be longer than 255 bytes"),
        ("ä" * 128, "must not be longer than 255 bytes"),
    ],
    ids=repr,
)
async def test_an_event_type_that_could_not_be_named_again_is_refused(
    api: Api, operation: str, name: str, fault: str
) -> None:
    response = await api.post(PATHS[operation], ask(name, {"a": "1"}))
    found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
    assert found["message"].startswith(f"event_type {fault}")


@pytest.mark.parametrize("operation", ["notification", "watch", "replay"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", "cannot be empty"),
        (None, "cannot be null"),
        ([], "must be a scalar value or constraint object, got array"),
        ([[1, 2]], "must be a scalar value or constraint object, got array"),
    ],
)
async def test_values_without_schema_are_scalars_that_are_not_empty(
    api: Api, operation: str, value: object, sentence: str
) -> None:
    response = await api.post(PATHS[operation], ask("loose", {"k": value}, from_id="1"))
    found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
    assert found["message"] == f"Field 'k' {sentence}"


async def test_a_constraint_object_cannot_be_published_without_schema(api: Api) -> None:
    response = await api.post(NOTIFICATION, ask("loose", {"k": {"gt": 1}}))
    found = assert_error(response, 400, "INVALID_NOTIFICATION_REQUEST")
    assert found["message"] == "Field 'k' constraint object is not supported for notify operation"


async def test_values_keep_their_text_without_schema(api: Api) -> None:
    values: dict[str, tuple[str, str]] = {
        "number": ("1.0", "1.0"),
        "exponent": ("1e2", "1e2"),
        "large": ("12345678901234567890123", "12345678901234567890123"),
        "flag": ("false", "false"),
        "text": ('" A "', " A "),
        "unicode": ('"\\u00e4"', "ä"),
    }
    identifier = ",".join(f'"{name}":{given}' for name, (given, _) in values.items())
    content = f'{{"event_type":"loose","identifier":{{{identifier}}}}}'
    assert (await api.post(NOTIFICATION, content=content)).status_code == 200
    [event] = notifications(await api.replay("loose"))
    stored: dict[str, Any] = event.data["data"]["identifier"]
    assert stored == {name: text for name, (_, text) in values.items()}
    for name, (_, text) in values.items():
        assert await api.found("loose", {name: text}) == [1]


async def test_a_payload_is_optional_without_schema(api: Api) -> None:
    await api.publish("loose", {})
    [event] = notifications(await api.replay("loose"))
    assert event.data["data"] == {"identifier": {}, "payload": None}


async def test_a_schema_without_topic_routes_by_all_its_keys(api: Api) -> None:
    """§9: upstream cannot render such events; here they are like all others."""
    await api.publish("swarm", {"point_cloud": [[1, 2]]})
    await api.publish("plain", {})
    assert await api.found("plain") == [1]
    frames = await api.replay("plain")
    assert frames[0].data["topic"] == "plain"
    assert re.fullmatch(r"int\.ecmwf\.aviso\.plain", frames[1].data["type"])


async def test_two_event_types_never_mix_even_when_one_looks_like_the_topic_of_the_other(
    api: Api,
) -> None:
    await api.publish("a", {"b": "c"})
    await api.publish("a.b=c", {})
    await api.publish("weather", {"region": "north"})
    assert await api.found("a") == [1]
    assert await api.found("a.b=c") == [1]
    assert await api.found("storm") == []
    assert await api.found("weather") == [1]


async def test_the_prefix_of_the_cloudevent_type_is_a_setting(start_gateway: Any) -> None:
    async with start_gateway(
        publish={"event_type_prefix": "org.example."},
        application={"base_url": "https://events.example/"},
        notification_schema=None,
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish("loose", {})
        [event] = notifications(await api.replay("loose"))
    assert event.data["type"] == "org.example.loose"
    assert event.data["source"] == "https://events.example"
    assert event.data["dataschema"] == "https://events.example/schema/loose"
