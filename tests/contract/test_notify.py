"""Aviso wire contract §3 and §5.1: what is published, and how it comes back."""

import json
import re
from typing import Any
from uuid import UUID

import pytest

from tests.contract.api import LABELS, NOTIFICATION, Api, assert_error, notifications
from tests.contract.schemas import SQUARE, STORED_STORM, STORM

pytestmark = pytest.mark.asyncio(loop_scope="session")

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def refused(api: Api, event_type: str, identifier: object, **more: object) -> dict[str, Any]:
    body = {"event_type": event_type, "identifier": identifier, **more}
    response = await api.post(NOTIFICATION, body)
    return assert_error(response, 400, "INVALID_NOTIFICATION_REQUEST", LABELS["notification"])


async def test_the_answer_names_request_time_and_place(api: Api) -> None:
    body = {"event_type": "note", "identifier": {"author": "ada"}}
    for sequence in (1, 2):
        response = await api.post(NOTIFICATION, body)
        answer = response.json()
        assert response.status_code == 200
        assert set(answer) == {"status", "request_id", "processed_at", "id", "sequence"}
        assert answer["status"] == "success"
        assert UUID(answer["request_id"]).version == 4
        assert answer["request_id"] == response.headers["x-request-id"]
        assert INSTANT.fullmatch(answer["processed_at"])
        assert (answer["id"], answer["sequence"]) == (f"note@{sequence}", sequence)


@pytest.mark.parametrize("name", list(STORM))
async def test_every_field_must_be_there_whatever_required_says(api: Api, name: str) -> None:
    identifier = {key: value for key, value in STORM.items() if key != name}
    found = await refused(api, "storm", identifier)
    assert found["message"] == f"Required field '{name}' missing for notify operation"
    assert found["details"] == found["message"]


@pytest.mark.parametrize("event_type", ["area", "zone", "cloud"])
async def test_a_spatial_field_must_be_there_too(api: Api, event_type: str) -> None:
    found = await refused(api, event_type, {"name": "a"})
    field = "point_cloud" if event_type == "cloud" else "polygon"
    assert found["message"] == f"Required field '{field}' missing for notify operation"


@pytest.mark.parametrize("name", ["colour", "Author", "polygon", "point_cloud", "author.eq", ""])
async def test_a_key_the_schema_does_not_have_is_named(api: Api, name: str) -> None:
    found = await refused(api, "note", {"author": "ada", name: "1"})
    assert found["message"] == f"Unknown field '{name}' provided for notify operation"


@pytest.mark.parametrize("event_type", ["note", "area", "cloud", "no_schema"])
@pytest.mark.parametrize("value", ["1,2", [1, 2], None, {}])
async def test_a_point_cannot_be_published(api: Api, event_type: str, value: object) -> None:
    found = await refused(api, event_type, {"point": value, "name": "a"})
    assert found["message"] == (
        "identifier.point is only supported for watch/replay endpoints, not /notification"
    )


@pytest.mark.parametrize("name", ["severity", "anomaly", "region", "name", "run"])
@pytest.mark.parametrize("value", [{"gt": 1}, {}, {"eq": 1}])
async def test_a_constraint_cannot_be_published(api: Api, name: str, value: object) -> None:
    found = await refused(api, "storm", {**STORM, name: value})
    assert (
        found["message"]
        == f"Field '{name}' constraint object is not supported for notify operation"
    )


@pytest.mark.parametrize("name", list(STORM))
async def test_a_null_cannot_be_published(api: Api, name: str) -> None:
    found = await refused(api, "storm", {**STORM, name: None})
    assert found["message"] == f"Field '{name}' cannot be null"


@pytest.mark.parametrize("name", list(STORM))
async def test_an_array_is_no_scalar(api: Api, name: str) -> None:
    found = await refused(api, "storm", {**STORM, name: ["1"]})
    message = f"Field '{name}' must be a scalar value or constraint object, got array"
    assert found["message"] == message


@pytest.mark.parametrize("payload", [{}, {"payload": None}])
async def test_a_required_payload_must_be_there_and_not_null(
    api: Api, payload: dict[str, object]
) -> None:
    found = await refused(api, "order", {"shop": "a", "version": "1"}, **payload)
    assert found["message"] == (
        "Payload is required for notify operation based on schema configuration"
    )


async def test_what_is_refused_is_not_stored(api: Api) -> None:
    await refused(api, "note", {"author": ""})
    assert await api.publish() == 1
    assert await api.found() == [1]


PAYLOADS = [
    *("1", "-0", "1.0", "1e2", "1E400", "0.1000", "12345678901234567890123456789", "true", "[]"),
    *('""', '"text"', '{"b":1,"a":[null,{"x":1.50}]}', '{"a":1,"a":2}', "[1,[2,[3]]]"),
    *('"\\u0000\\u001f\\"\\\\"', '"\\ud83d\\ude00 \U0001f600"', '"line\\nbreak\\r\\u2028"'),
    *('"</script>"', '"event: x\\n\\ndata: y"', '"' + "x" * 100_000 + '"', '"\u2028\x85\x0b"'),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda text: text[:20])
async def test_a_payload_comes_back_as_it_was_sent(api: Api, payload: str) -> None:
    """Numbers with their digits, strings with their escapes, keys in their order."""
    content = f'{{"event_type":"note","identifier":{{"author":"a"}},"payload":{payload}}}'
    response = await api.post(NOTIFICATION, content=content)
    if any(ord(char) < 0x20 for char in payload):
        assert_error(response, 400, "INVALID_JSON")
        return
    assert response.status_code == 200, response.text
    [note] = notifications(await api.replay())
    assert f'"payload":{payload}}},' in note.text


async def test_space_between_the_tokens_of_a_payload_is_not_kept(api: Api) -> None:
    content = (
        b'{ "event_type" : "note" , "identifier" : { "author" : "a" } ,\r\n'
        b'"payload" : { "a" : [ 1 ,\r\n 2 ] , "b" : " x  y " } }\n'
    )
    assert (await api.post(NOTIFICATION, content=content)).status_code == 200
    [note] = notifications(await api.replay())
    assert '"payload":{"a":[1,2],"b":" x  y "}}' in note.text


async def test_an_event_is_a_cloudevent_with_exactly_these_keys_in_order(api: Api) -> None:
    await api.publish("storm", STORM, {"note": "hello"})
    [storm] = notifications(await api.replay("storm"))
    base_url = api.gateway.gateway.settings.application.base_url
    identifier = json.dumps(dict(sorted(STORED_STORM.items())), separators=(",", ":"))
    assert storm.text == (
        f'{{"data":{{"identifier":{identifier},"payload":{{"note":"hello"}}}},'
        '"datacontenttype":"application/json",'
        f'"dataschema":"{base_url}/schema/storm","id":"storm@1","source":"{base_url}",'
        f'"specversion":"1.0","time":"{storm.data["time"]}","type":"int.ecmwf.aviso.storm"}}'
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", storm.data["time"])


async def test_a_payload_left_out_comes_back_as_null(api: Api) -> None:
    body = {"event_type": "note", "identifier": {"author": "ada"}}
    await api.post(NOTIFICATION, body)
    [note] = notifications(await api.replay())
    assert note.data["data"] == {"identifier": {"author": "ada"}, "payload": None}


async def test_topic_values_come_back_as_text_and_shapes_as_arrays(api: Api) -> None:
    ring = "(0,0, 0,10, 10,10, 10,0, 0,0)"
    await api.publish("area", {"name": 5, "polygon": ring})
    await api.publish("cloud", {"name": True, "point_cloud": [[1, 2], [1.0, 2.0]]})
    [area] = notifications(await api.replay("area"))
    [cloud] = notifications(await api.replay("cloud"))
    assert area.data["data"]["identifier"] == {"name": "5", "polygon": SQUARE}
    assert cloud.data["data"]["identifier"] == {"name": "true", "point_cloud": [[1, 2], [1, 2]]}


async def test_the_filter_of_a_reading_is_not_part_of_what_it_gets(api: Api) -> None:
    await api.publish("area", {"name": "a", "polygon": SQUARE})
    wider = [[-1, -1], [-1, 11], [11, 11], [11, -1], [-1, -1]]
    for spatial in ({"polygon": wider}, {"point": "5,5"}):
        [area] = notifications(await api.replay("area", spatial))
        assert area.data["data"]["identifier"] == {"name": "a", "polygon": SQUARE}


@pytest.mark.parametrize(
    "value", ["*", "a.b", "a>b", "100%", "%2E", ">", ".", "%", "**", "..", " "]
)
async def test_a_value_may_hold_the_characters_of_a_topic(api: Api, value: str) -> None:
    """[?] of §5.1: upstream loses a literal `*`; here the canonical identifier is what is stored."""
    await api.publish("note", {"author": value})
    await api.publish("note", {"author": "other"})
    for limits in ({}, {"author": value}):
        first = notifications(await api.replay("note", limits))[0]
        assert first.data["data"]["identifier"] == {"author": value}
    assert await api.found("note", {"author": value}) == [1]
