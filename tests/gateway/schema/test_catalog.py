"""The schema configuration of §6: what is read from it, what refuses the start, what §10 shows."""

import json

import pytest

from gateway.schema.catalog import Catalog
from gateway.schema.errors import SchemaError
from gateway.schema.policy import StoragePolicy, StreamAuth

TEXT = {"type": "StringHandler", "required": False}
POLYGON = {"type": "PolygonHandler", "required": False}
CLOUD = {"type": "PointCloudHandler", "required": False}


def read(block: object, event_type: str = "mars") -> Catalog:
    return Catalog.parse({event_type: block}, None)


def test_a_full_block_is_read() -> None:
    catalog = read(
        {
            "payload": {"required": True},
            "topic": {"base": "diss.X", "key_order": ["b", "a"]},
            "endpoint": {"base": "old", "key_order": ["a"]},
            "identifier": {"b": TEXT, "a": TEXT},
            "storage_policy": {"max_messages": 5},
            "auth": {"required": True, "read_roles": {"realm": ["reader"]}},
            "max_historical_notifications": 7,
        }
    )
    schema = catalog.get("mars")
    assert schema is not None
    assert (schema.event_type, schema.base, schema.base_token) == ("mars", "diss.X", "diss%2EX")
    assert schema.key_order == ("b", "a")
    assert list(schema.fields) == ["a", "b"]
    assert schema.payload_required is True
    assert schema.storage_policy == StoragePolicy(max_messages=5)
    assert schema.auth == StreamAuth(required=True, read_roles={"realm": ("reader",)})
    assert schema.max_historical_notifications == 7
    assert (schema.spatial, schema.shape) == (None, None)


def test_an_empty_block_is_an_event_type_without_fields() -> None:
    schema = read({}).get("mars")
    assert schema is not None
    assert (schema.base, schema.key_order, dict(schema.fields)) == ("mars", (), {})
    assert schema.payload_required is None
    optional = (schema.storage_policy, schema.auth, schema.max_historical_notifications)
    assert optional == (None, None, None)


def test_without_a_topic_block_the_base_is_the_event_type_and_the_keys_are_sorted() -> None:
    schema = read({"identifier": {"b": TEXT, "polygon": POLYGON, "a": TEXT}}).get("mars")
    assert schema is not None
    assert (schema.base, schema.key_order) == ("mars", ("a", "b"))
    assert (schema.spatial, schema.shape) == ("polygon", schema.fields["polygon"])


def test_a_polygon_may_stand_in_the_key_order() -> None:
    topic = {"base": "area", "key_order": ["polygon", "a"]}
    schema = read({"topic": topic, "identifier": {"a": TEXT, "polygon": POLYGON}}).get("mars")
    assert schema is not None
    assert schema.key_order == ("polygon", "a")


def test_a_schema_of_only_a_cloud_needs_no_key_order() -> None:
    schema = read({"identifier": {"point_cloud": CLOUD}}).get("mars")
    assert schema is not None
    assert (schema.key_order, schema.spatial) == ((), "point_cloud")


P = "notification_schema.mars"


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (None, f"{P}: expected a mapping, got nothing"),
        ([], f"{P}: expected a mapping, got a list"),
        ("x", f"{P}: expected a mapping, got text"),
        (True, f"{P}: expected a mapping, got a boolean"),
        (1.5, f"{P}: expected a mapping, got a number"),
        ({"topics": {}}, f"{P}.topics: unknown key. Allowed: payload, topic, endpoint, identifier"),
        ({True: 1}, f"{P}: the key True must be text; write it in quotes"),
        ({"payload": {}}, f"{P}.payload.required: this key is required"),
        ({"payload": {"required": 1}}, f"{P}.payload.required: expected `bool`, got `int`"),
        (
            {"payload": {"required": True, "type": "x"}},
            f"{P}.payload.type: unknown key. Allowed: required",
        ),
        ({"payload": True}, f"{P}.payload: expected `object | null`, got `bool`"),
        ({"identifier": []}, f"{P}.identifier: expected `object`, got `array`"),
        (
            {"identifier": {"a": [{"type": "StringHandler"}]}},
            f"{P}.identifier.a: expected a mapping, got a list",
        ),
        (
            {"identifier": {"a": TEXT | {"max": 1}}},
            f"{P}.identifier.a.max: unknown key. Allowed: required, description, max_length",
        ),
        ({"topic": {"base": "b"}}, f"{P}.topic.key_order: this key is required"),
        ({"topic": {"key_order": ["a"]}}, f"{P}.topic.base: this key is required"),
        (
            {"topic": {"base": "b", "key_order": ["a"], "x": 1}},
            f"{P}.topic.x: unknown key. Allowed: base, key_order",
        ),
        (
            {"topic": {"base": " ", "key_order": ["a"]}, "identifier": {"a": TEXT}},
            f"{P}.topic.base: the base ' ' must not be empty",
        ),
        (
            {"topic": {"base": "b@c", "key_order": ["a"]}, "identifier": {"a": TEXT}},
            f"{P}.topic.base: the base 'b@c' must not contain '@'",
        ),
        (
            {"topic": {"base": "b", "key_order": []}, "identifier": {"a": TEXT}},
            f"{P}.topic.key_order: must not be empty",
        ),
        (
            {"topic": {"base": "b", "key_order": ["a", "a"]}, "identifier": {"a": TEXT}},
            f"{P}.topic.key_order: 'a' is listed twice",
        ),
        (
            {"topic": {"base": "b", "key_order": ["a", "c"]}, "identifier": {"a": TEXT}},
            f"{P}.topic.key_order: 'c' is not declared in identifier",
        ),
        (
            {"topic": {"base": "b", "key_order": ["a"]}, "identifier": {"a": TEXT, "c": TEXT}},
            f"{P}.topic.key_order: the identifier 'c' is missing",
        ),
        (
            {
                "topic": {"base": "b", "key_order": ["a", "point_cloud"]},
                "identifier": {"a": TEXT, "point_cloud": CLOUD},
            },
            f"{P}.topic.key_order: 'point_cloud' cannot be part of the topic",
        ),
        (
            {"topic": {"base": "b", "key_order": ["a", "point"]}, "identifier": {"a": TEXT}},
            f"{P}.topic.key_order: 'point' is not declared in identifier",
        ),
        (
            {"identifier": {"polygon": POLYGON, "point_cloud": CLOUD}},
            f"{P}.identifier: polygon and point_cloud cannot both be declared",
        ),
        (
            {"max_historical_notifications": 0},
            f"{P}.max_historical_notifications: expected `int` >= 1",
        ),
        (
            {"max_historical_notifications": "unlimited"},
            f"{P}.max_historical_notifications: expected `int | null`, got `str`",
        ),
    ],
)
def test_a_wrong_block_refuses_the_start_with_the_path_to_change(
    block: object, sentence: str
) -> None:
    with pytest.raises(SchemaError) as caught:
        read(block)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("event_type", "reason"),
    [
        ("", "must not be empty"),
        (" \t", "must not be empty"),
        ("a@b", "must not contain '@'"),
        ("a\x00b", "must not contain control characters"),
        ("a\nb", "must not contain control characters"),
        ("a\x85b", "must not contain control characters"),
        ("é" * 128, "must not be longer than 255 bytes, got 256"),
        ("\ud800", "must be valid Unicode"),
    ],
)
def test_an_event_type_that_no_notification_id_could_carry_is_refused(
    event_type: str, reason: str
) -> None:
    with pytest.raises(SchemaError, match=reason):
        read({}, event_type)


@pytest.mark.parametrize("event_type", ["a", "é" * 127, "int.ecmwf/x y:z", "*", ">", "%40"])
def test_other_event_types_are_fine(event_type: str) -> None:
    assert read({}, event_type).event_types == (event_type,)


def test_the_catalog_must_be_a_mapping_with_text_keys() -> None:
    with pytest.raises(SchemaError, match=r"^notification_schema: expected a mapping, got a list"):
        Catalog.parse([], None)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=r"^notification_schema: the key 1 must be text"):
        Catalog.parse({1: {}}, None)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"topic": {"base": "Diss", "key_order": ["a"]}, "identifier": {"a": TEXT}}, "dISS"),
        ({}, "ONE"),
    ],
)
def test_a_base_is_unique_whatever_its_case(one: object, other: str) -> None:
    block = {"topic": {"base": other, "key_order": ["a"]}, "identifier": {"a": TEXT}}
    with pytest.raises(SchemaError, match=r"two\.topic\.base: '\w+' is already the base of 'one'"):
        Catalog.parse({"one": one, "two": block}, None)


@pytest.mark.parametrize(
    ("raw", "strict", "effective"),
    [
        (None, None, False),
        ({}, None, False),
        ({"a": {}}, None, True),
        (None, True, True),
        ({}, True, True),
        ({"a": {}}, True, True),
        ({"a": {}}, False, False),
        (None, False, False),
    ],
)
def test_strict_when_asked_or_when_there_is_a_schema(
    raw: dict[str, object] | None, strict: bool | None, effective: bool
) -> None:
    assert Catalog.parse(raw, strict).strict is effective


def test_event_types_are_sorted() -> None:
    assert Catalog.parse({"b": {}, "a": {}, "C": {}}, None).event_types == ("C", "a", "b")
    assert Catalog.parse(None, None).event_types == ()


def test_an_event_type_is_got_by_its_exact_name_and_found_by_name_or_base_in_any_case() -> None:
    topic = {"base": "Diss", "key_order": ["a"]}
    catalog = Catalog.parse(
        {"Dissemination": {"topic": topic, "identifier": {"a": TEXT}}, "mars": {}}, None
    )
    assert catalog.get("dissemination") is None
    assert catalog.get("Diss") is None
    for name in ("Dissemination", "dissemination", "DISS", "diss"):
        found = catalog.find(name)
        assert found is not None
        assert found.event_type == "Dissemination"
    assert catalog.find("other") is None


def test_an_event_type_is_found_before_the_base_of_another_and_exact_case_first() -> None:
    fields = {"a": TEXT}
    catalog = Catalog.parse(
        {
            "one": {"topic": {"base": "two", "key_order": ["a"]}, "identifier": fields},
            "two": {"topic": {"base": "three", "key_order": ["a"]}, "identifier": fields},
            "TWO": {"topic": {"base": "four", "key_order": ["a"]}, "identifier": fields},
        },
        None,
    )
    names = {name: catalog.find(name) for name in ("two", "TWO", "three")}
    assert {name: found.event_type for name, found in names.items() if found} == {
        "two": "two",
        "TWO": "TWO",
        "three": "two",
    }


def test_a_schema_is_shown_by_payload_and_identifier_and_nothing_else() -> None:
    catalog = read(
        {
            "payload": {"required": False},
            "topic": {"base": "x", "key_order": ["step", "class"]},
            "identifier": {
                "step": {"type": "IntHandler", "required": False, "range": [0, 9]},
                "class": {"type": "StringHandler", "required": True, "description": "the class"},
            },
            "storage_policy": {"max_messages": 1},
            "auth": {"required": True},
        }
    )
    assert json.loads(json.dumps(catalog.describe("mars"))) == {
        "payload": {"required": False},
        "identifier": {
            "class": {
                "type": "StringHandler",
                "required": True,
                "description": "the class",
                "max_length": None,
            },
            "step": {"type": "IntHandler", "required": False, "range": [0, 9]},
        },
    }


def test_a_schema_without_payload_block_shows_null() -> None:
    assert read({}).describe("mars") == {"payload": None, "identifier": {}}


def test_an_unknown_event_type_has_no_description() -> None:
    with pytest.raises(KeyError):
        read({}).describe("other")
