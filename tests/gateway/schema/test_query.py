"""What a watch or a replay asks for, and the order in which a wrong one is refused (§2, step 7)."""

import json

import pytest

from gateway.schema.catalog import Catalog
from gateway.schema.errors import Rejected
from gateway.schema.query import (
    FromSequence,
    Operation,
    Publication,
    Query,
    ToTime,
    parse,
    publication,
    query,
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
READINGS: tuple[Operation, ...] = ("watch", "replay")


def write(event_type: str, identifier: object, **rest: object) -> bytes:
    return json.dumps({"event_type": event_type, "identifier": identifier, **rest}).encode()


def publish(event_type: str, identifier: object, **rest: object) -> Publication:
    body = write(event_type, identifier, **rest)
    return publication(parse(body, "notification", CATALOG, bulk_item=True), CATALOG)


def ask(operation: Operation, event_type: str, identifier: object, **rest: object) -> Query:
    if operation == "replay":
        rest.setdefault("from_id", "0")
    return query(
        parse(write(event_type, identifier, **rest), operation, CATALOG), operation, CATALOG
    )


def refuse_query(
    operation: Operation, event_type: str, identifier: object, **rest: object
) -> Rejected:
    with pytest.raises(Rejected) as caught:
        ask(operation, event_type, identifier, **rest)
    assert caught.value.kind == "INVALID"
    return caught.value


@pytest.mark.parametrize("operation", READINGS)
@pytest.mark.parametrize(
    ("event_type", "identifier", "topic"),
    [
        ("mars", {"class": "OD"}, "diss.*.od.*.*.*"),
        (
            "mars",
            {"class": "od", "time": "9", "expver": 1, "step": 7, "date": "2025-001"},
            "diss.0900.od.0001.7.20250101",
        ),
        ("mars", {"class": {"in": ["od"]}, "step": {"gt": 4}}, "diss.*.*.*.*.*"),
        ("level", {"level": 42.5}, "level.42.5"),
        ("area", {"name": "a.b", "polygon": RING}, "area.a.b.*"),
        ("area", {"point": "1,2"}, "area.*.*"),
        ("place", {"point": "1,2"}, "place"),
        ("place", {}, "place"),
        ("quake", {"polygon": RING}, "quake.*"),
        ("swarm", {}, "swarm"),
        ("note", {"b": "2", "a": 1.5}, "note.1.5.2"),
        ("note", {"b": "2", "point": "1,2"}, "note.2"),
        ("note", {}, "note"),
    ],
)
def test_the_topic_of_a_query_is_the_decoded_pattern(
    operation: Operation, event_type: str, identifier: object, topic: str
) -> None:
    asked = ask(operation, event_type, identifier)
    assert (asked.event_type, asked.topic) == (event_type, topic)


def test_a_query_carries_its_limits() -> None:
    asked = ask("replay", "note", {}, from_id="5", to_date="6")
    assert (asked.start, asked.end) == (FromSequence(5), ToTime(6000))
    assert (ask("watch", "note", {}).start, ask("watch", "note", {}).end) == (None, None)


@pytest.mark.parametrize("operation", READINGS)
@pytest.mark.parametrize(
    ("event_type", "identifier", "message"),
    [
        ("mars", {"class": "od", "x": 1}, "Unknown field 'x' provided for {} operation"),
        ("mars", {"x": 1}, "Unknown field 'x' provided for {} operation"),
        ("mars", {}, "Required field 'class' missing for {} operation"),
        ("mars", {"class": None}, "Field 'class' cannot be null"),
        (
            "mars",
            {"class": ["od"]},
            "Field 'class' must be a scalar value or constraint object, got array",
        ),
        ("mars", {"class": "od", "step": ""}, "Field 'step' must be a valid integer, got: ''"),
        (
            "mars",
            {"class": "od", "step": {}},
            "Field 'step' constraint must contain exactly one op",
        ),
        (
            "mars",
            {"class": "od", "date": {"eq": "20250101"}},
            "Field 'date' does not support constraint filters; expected scalar value",
        ),
        ("mars", {"class": "od", "polygon": RING}, "Unknown field 'polygon' provided for {} oper"),
        ("mars", {"class": "od", "point_cloud": [[1, 2]]}, "Unknown field 'point_cloud' provided"),
        (
            "area",
            {"polygon": RING, "point": "1,2"},
            "Cannot specify both identifier.polygon and identifier.point. "
            "Provide only one spatial filter.",
        ),
        (
            "note",
            {"polygon": "x", "point": "x"},
            "Cannot specify both identifier.polygon and identifier.point. "
            "Provide only one spatial filter.",
        ),
        (
            "area",
            {"point": "1"},
            "identifier.point must be a valid 'lat,lon' coordinate pair: expected exactly two",
        ),
        (
            "area",
            {"point": {"eq": "1,2"}},
            "identifier.point must be a valid 'lat,lon' coordinate pair: expected a string or an",
        ),
        (
            "note",
            {"point": None},
            "identifier.point must be a valid 'lat,lon' coordinate pair: expected a string or an",
        ),
        ("area", {}, "Required field 'polygon' missing for {} operation"),
        ("area", {"name": "x"}, "Required field 'polygon' missing for {} operation"),
        ("area", {"polygon": None}, "Field 'polygon' cannot be null"),
        ("area", {"polygon": 4}, "field 'polygon' must be a valid polygon: expected a string or"),
        (
            "area",
            {"polygon": {"intersects": RING}},
            "field 'polygon' must be a valid polygon: expected a string or an array",
        ),
        (
            "quake",
            {"polygon": "0,0"},
            "field 'polygon' must be a valid polygon: a polygon needs at least 4 points, got 1",
        ),
        ("quake", {}, "Required field 'point_cloud' missing for {} operation"),
        (
            "quake",
            {"point_cloud": [[1, 2]]},
            "identifier.point_cloud is only supported for notify",
        ),
        ("quake", {"point": "1,2"}, "identifier.point is not supported for point-cloud schemas"),
        ("note", {"a": None}, "Field 'a' cannot be null"),
        ("note", {"a": ""}, "Field 'a' cannot be empty"),
        ("note", {"a": [1]}, "Field 'a' must be a scalar value or constraint object, got array"),
        ("note", {"a": {"eq": 1}}, "Field 'a' constraint object is not supported without schema"),
        (
            "note",
            {"point": [1, 2]},
            "Field 'point' must be a scalar value or constraint object, go",
        ),
    ],
)
def test_a_wrong_query_is_refused(
    operation: Operation, event_type: str, identifier: object, message: str
) -> None:
    refusal = refuse_query(operation, event_type, identifier)
    assert refusal.message.startswith(message.format(operation))


def test_spatial_keys_come_before_limits_and_limits_before_fields() -> None:
    wrong = {"polygon": 1, "point": 1, "class": None}
    assert refuse_query("replay", "mars", wrong, from_id="x").message.startswith("Cannot specify")
    del wrong["polygon"]
    assert refuse_query("replay", "mars", wrong, from_id="x").message.startswith("identifier.point")
    del wrong["point"]
    assert refuse_query("replay", "mars", wrong, from_id="x").message.startswith("from_id must be")
    assert refuse_query("replay", "mars", wrong, from_id="0").message.startswith("Field 'class'")


@pytest.mark.parametrize("operation", READINGS)
def test_a_point_stands_for_a_required_polygon_and_a_polygon_for_a_required_cloud(
    operation: Operation,
) -> None:
    assert ask(operation, "area", {"point": "1,2"})
    assert ask(operation, "quake", {"polygon": RING})


def test_what_is_published_is_found_by_the_same_values_in_any_notation() -> None:
    stored = publish("mars", MARS, payload=1)
    for identifier in (MARS, {"class": "od", "time": "09:00", "expver": "0001", "step": 7}):
        wanted = ask("watch", "mars", identifier).filter
        assert wanted.matches(stored.topic, b"")
