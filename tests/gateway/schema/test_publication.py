"""What is stored for a publication: the topic, canonical identifiers, the payload as sent (§3)."""

import json

import pytest

from gateway.schema.catalog import Catalog
from gateway.schema.errors import Rejected
from gateway.schema.query import (
    Publication,
    parse,
    publication,
)

SCHEMA: dict[str, object] = {
    "mars": {
        "payload": {"required": True},
        "topic": {"base": "diss", "key_order": ["time", "class", "expver", "step", "date"]},
        "identifier": {
            "class": {"type": "EnumHandler", "values": ["od", "rd"], "required": True},
            "expver": {"type": "ExpverHandler", "required": False, "default": "1"},
            "date": {"type": "DateHandler", "required": False},
            "time": {"type": "TimeHandler", "required": False},
            "step": {"type": "IntHandler", "required": False},
        },
    },
    "level": {"identifier": {"level": {"type": "FloatHandler", "required": False}}},
    "area": {
        "topic": {"base": "area", "key_order": ["name", "polygon"]},
        "identifier": {
            "name": {"type": "StringHandler", "required": False, "max_length": 8},
            "polygon": {"type": "PolygonHandler", "required": True},
        },
    },
    "place": {"identifier": {"polygon": {"type": "PolygonHandler", "required": False}}},
    "quake": {
        "identifier": {
            "net": {"type": "StringHandler", "required": False},
            "point_cloud": {"type": "PointCloudHandler", "required": True, "max_points": 3},
        }
    },
    "swarm": {"identifier": {"point_cloud": {"type": "PointCloudHandler", "required": False}}},
}
CATALOG = Catalog.parse(SCHEMA, False)
MARS = {"class": "OD", "expver": 1, "date": "2025-01-01", "time": 9, "step": "007"}
RING = [[0, 0], [0, 10], [10, 10], [0, 0]]


def write(event_type: str, identifier: object, **rest: object) -> bytes:
    return json.dumps({"event_type": event_type, "identifier": identifier, **rest}).encode()


def publish(event_type: str, identifier: object, **rest: object) -> Publication:
    body = write(event_type, identifier, **rest)
    return publication(parse(body, "notification", CATALOG, bulk_item=True), CATALOG)


def refuse_publication(event_type: str, identifier: object, **rest: object) -> Rejected:
    with pytest.raises(Rejected) as caught:
        publish(event_type, identifier, **rest)
    assert caught.value.kind == "INVALID"
    return caught.value


def test_a_publication_is_a_topic_and_canonical_json() -> None:
    assert publish("mars", MARS, payload={"a": [1.0, None]}) == Publication(
        event_type="mars",
        topic=b"diss.0900.od.0001.7.20250101",
        identifier=b'{"class":"od","date":"20250101","expver":"0001","step":"7","time":"0900"}',
        payload=b'{"a":[1.0,null]}',
        time_ms=None,
    )


@pytest.mark.parametrize(
    ("sent", "topic", "text"),
    [
        ("4", b"level.4", "4"),
        ("1.0", b"level.1", "1"),
        ("1e2", b"level.100", "100"),
        ('"42.50"', b"level.42%2E5", "42.5"),
        ("-0.0", b"level.0", "0"),
    ],
)
def test_numbers_are_read_by_their_json_text_and_stored_as_text(
    sent: str, topic: bytes, text: str
) -> None:
    body = f'{{"event_type":"level","identifier":{{"level":{sent}}}}}'.encode()
    stored = publication(parse(body, "notification", CATALOG), CATALOG)
    assert (stored.topic, json.loads(stored.identifier)) == (topic, {"level": text})


def test_a_polygon_is_stored_as_an_array_and_its_place_in_the_topic_stays_empty() -> None:
    for polygon in (RING, "(0,0,0,10,10,10,0,0)"):
        stored = publish("area", {"polygon": polygon, "name": "a.b"})
        assert stored.topic == b"area.a%2Eb.>0.0,0.0,10.0,10.0"
        assert stored.identifier == (
            b'{"name":"a.b","polygon":[[0.0,0.0],[0.0,10.0],[10.0,10.0],[0.0,0.0]]}'
        )


def test_a_cloud_is_stored_as_an_array_and_never_in_the_topic() -> None:
    stored = publish("quake", {"point_cloud": [[46.2035, -122.197], [1, 2]], "net": "uw"})
    assert stored.topic == b"quake.uw>1.0,-122.197,46.2035,2.0"
    assert stored.identifier == b'{"net":"uw","point_cloud":[[46.2035,-122.197],[1.0,2.0]]}'
    assert publish("swarm", {"point_cloud": [[1, 2]]}).topic == b"swarm>1.0,2.0,1.0,2.0"


def test_without_schema_identifiers_are_stored_as_text_sorted_by_key() -> None:
    body = b"""{"event_type":"my.note","identifier":{"b":1e2,"a":"x.y","c":true,"d=":1.0,"":-0}}"""
    stored = publication(parse(body, "notification", CATALOG), CATALOG)
    assert stored.topic == b"my%2Enote.=-0.a=x%2Ey.b=1e2.c=true.d%3D=1%2E0"
    assert stored.identifier == b'{"":"-0","a":"x.y","b":"1e2","c":"true","d=":"1.0"}'
    assert stored.payload == b"null"


def test_without_schema_an_event_may_have_no_identifier() -> None:
    stored = publish("note", {})
    assert (stored.topic, stored.identifier) == (b"note", b"{}")


def test_any_unicode_is_kept_in_keys_and_values() -> None:
    stored = publish("note", {"ключ\n": "值\u0000😀"})
    assert json.loads(stored.identifier) == {"ключ\n": "值\u0000😀"}
    assert stored.topic == "note.ключ\n=值\u0000😀".encode()


def test_the_time_of_a_publication_is_in_milliseconds() -> None:
    assert publish("note", {}, time="2018-01-31T01:49:59.650Z").time_ms == 1_517_363_399_650
    assert publish("note", {}, time=None).time_ms is None
    refusal = refuse_publication("note", {}, time="1969-12-31T23:59:59Z")
    assert refusal.message.startswith("time must be a valid datetime. Got: '1969-12-31T23:59:59Z'.")
    assert refusal.details == "it is before 1970-01-01T00:00:00Z"


def test_a_start_on_a_publication_is_accepted_and_ignored() -> None:
    assert publish("note", {}, from_id="x", from_date="y").topic == b"note"


@pytest.mark.parametrize("name", ["to_id", "to_date"])
def test_an_end_on_a_publication_is_refused(name: str) -> None:
    message = "to_id and to_date are only supported for the replay endpoint, not /notification"
    assert refuse_publication("note", {}, **{name: "5"}).message == message
    assert publish("note", {}, **{name: None})


P = {"payload": 1}


@pytest.mark.parametrize(
    ("event_type", "identifier", "rest", "message"),
    [
        ("mars", MARS | {"x": 1}, P, "Unknown field 'x' provided for notify operation"),
        ("mars", {"class": "od"}, P, "Required field 'date' missing for notify operation"),
        ("mars", {}, P, "Required field 'class' missing for notify operation"),
        ("mars", MARS | {"step": None}, P, "Field 'step' cannot be null"),
        (
            "mars",
            MARS | {"step": {"gt": 1}},
            P,
            "Field 'step' constraint object is not supported for notify operation",
        ),
        (
            "mars",
            MARS | {"step": [1]},
            P,
            "Field 'step' must be a scalar value or constraint object, got array",
        ),
        ("mars", MARS | {"step": "1.5"}, P, "Field 'step' must be a valid integer, got: '1.5'"),
        (
            "mars",
            MARS | {"class": "ea"},
            P,
            "Field 'class' has invalid value 'ea'. Allowed: [od, rd]",
        ),
        (
            "mars",
            MARS,
            {},
            "Payload is required for notify operation based on schema configuration",
        ),
        (
            "mars",
            MARS,
            {"payload": None},
            "Payload is required for notify operation based on schema configuration",
        ),
        ("area", {"name": "", "polygon": RING}, {}, "Field 'name' cannot be empty"),
        (
            "area",
            {"name": "123456789", "polygon": RING},
            {},
            "Field 'name' exceeds maximum length of 8 characters, got: 9",
        ),
        ("area", {"name": "x"}, {}, "Required field 'polygon' missing for notify operation"),
        ("place", {"polygon": None}, {}, "Field 'polygon' cannot be null"),
        (
            "place",
            {"polygon": {"eq": 1}},
            {},
            "field 'polygon' must be a valid polygon: expected a string or an array of [lat,lon] "
            "pairs, got object",
        ),
        (
            "place",
            {"polygon": "0,0"},
            {},
            "field 'polygon' must be a valid polygon: a polygon needs at least 4 points, got 1",
        ),
        ("quake", {"net": "x"}, {}, "Required field 'point_cloud' missing for notify operation"),
        (
            "quake",
            {"net": "x", "point_cloud": [[1, 2]], "polygon": RING},
            {},
            "Unknown field 'polygon' provided for notify operation",
        ),
        (
            "quake",
            {"net": "x", "point_cloud": [[1, 2]] * 4},
            {},
            "field 'point_cloud' point cloud contains 4 points, maximum is 3",
        ),
        (
            "quake",
            {"net": "x", "point_cloud": "1,2"},
            {},
            "field 'point_cloud' must be a JSON array of [lat,lon] points",
        ),
        (
            "quake",
            {"net": "x", "point_cloud": []},
            {},
            "field 'point_cloud' point cloud must contain at least one point",
        ),
        (
            "quake",
            {"net": "x", "point_cloud": [[1, 2], [91, 0]]},
            {},
            "field 'point_cloud' point 1 is invalid: latitude 91.0 is outside [-90, 90]",
        ),
        *(
            (
                event_type,
                {"point": "1,2"},
                {},
                "identifier.point is only supported for watch/replay endpoints, not /notification",
            )
            for event_type in ("mars", "area", "quake", "note")
        ),
        ("note", {"a": None}, {}, "Field 'a' cannot be null"),
        ("note", {"a": ""}, {}, "Field 'a' cannot be empty"),
        (
            "note",
            {"a": [1]},
            {},
            "Field 'a' must be a scalar value or constraint object, got array",
        ),
        (
            "note",
            {"a": {"eq": 1}},
            {},
            "Field 'a' constraint object is not supported for notify operation",
        ),
    ],
)
def test_a_wrong_publication_is_refused(
    event_type: str, identifier: object, rest: dict[str, object], message: str
) -> None:
    assert refuse_publication(event_type, identifier, **rest).message == message


def test_details_are_the_innermost_cause() -> None:
    refusal = refuse_publication("place", {"polygon": "0,0,0,1,95,1,0,0"})
    assert refusal.message == (
        "field 'polygon' must be a valid polygon: point 2 is invalid: "
        "latitude 95.0 is outside [-90, 90]"
    )
    assert refusal.details == "latitude 95.0 is outside [-90, 90]"
    plain = refuse_publication("note", {"a": ""})
    assert plain.details == plain.message


def test_a_default_stands_for_an_empty_expver() -> None:
    assert b".0001." in publish("mars", MARS | {"expver": ""}, payload=1).topic
