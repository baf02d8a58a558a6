"""A field as the configuration declares it: read, refused with its path, shown by GET /schema."""

import json

import pytest

from gateway.schema.errors import SchemaError
from gateway.schema.fields import (
    DateHandler,
    EnumHandler,
    ExpverHandler,
    Field,
    FloatHandler,
    IntHandler,
    PointCloudHandler,
    PolygonHandler,
    StringHandler,
    TimeHandler,
    read_field,
)

PATH = "notification_schema.mars.identifier.x"
STRING = StringHandler(required=True)
SHORT = StringHandler(required=True, max_length=4)
DATE = DateHandler(required=True)
ISO_DATE = DateHandler(required=True, canonical_format="%Y-%m-%d")
TIME = TimeHandler(required=True)
ENUM = EnumHandler(required=True, values=["od", "RD", "Straße"])
EXPVER = ExpverHandler(required=True)
DEFAULT_EXPVER = ExpverHandler(required=True, default="7")
INT = IntHandler(required=True)
RANGED_INT = IntHandler(required=True, range=(-5, 100))
FLOAT = FloatHandler(required=True)
RANGED_FLOAT = FloatHandler(required=True, range=(-0.5, 1e21))


@pytest.mark.parametrize(
    ("name", "raw", "field"),
    [
        ("x", {"type": "StringHandler", "required": True}, STRING),
        ("x", {"type": "StringHandler", "required": True, "max_length": 4}, SHORT),
        ("x", {"type": "DateHandler", "required": True}, DATE),
        (
            "x",
            {"type": "DateHandler", "required": True, "canonical_format": "%Y-%m-%d"},
            ISO_DATE,
        ),
        ("x", {"type": "TimeHandler", "required": True}, TIME),
        ("x", {"type": "EnumHandler", "required": True, "values": ["od", "RD", "Straße"]}, ENUM),
        ("x", {"type": "ExpverHandler", "required": True}, EXPVER),
        ("x", {"type": "ExpverHandler", "required": True, "default": "7"}, DEFAULT_EXPVER),
        ("x", {"type": "IntHandler", "required": True, "range": [-5, 100]}, RANGED_INT),
        (
            "x",
            {"type": "FloatHandler", "required": True, "range": [-0.5, 10**21]},
            RANGED_FLOAT,
        ),
        ("polygon", {"type": "PolygonHandler", "required": True}, PolygonHandler(required=True)),
        (
            "point_cloud",
            {"type": "PointCloudHandler", "required": False},
            PointCloudHandler(required=False, max_points=10_000),
        ),
        (
            "x",
            {"type": "TimeHandler", "required": False, "description": "of day"},
            TimeHandler(required=False, description="of day"),
        ),
    ],
)
def test_a_declaration_makes_a_field(name: str, raw: dict[str, object], field: Field) -> None:
    assert read_field(name, raw, PATH) == field


@pytest.mark.parametrize(
    ("name", "raw", "sentence"),
    [
        ("x", ["TimeHandler"], "x: expected a mapping, got a list"),
        ("x", None, "x: expected a mapping, got nothing"),
        ("x", {"required": True}, "x.type: this key is required. Known types: StringHandler, Date"),
        ("x", {"type": 4, "required": True}, "x.type: expected text, got a number"),
        ("x", {"type": "Time", "required": True}, "x.type: unknown type 'Time'. Known types: Str"),
        ("x", {"type": "PointHandler", "required": True}, "x.type: PointHandler cannot be declar"),
        ("point", {"type": "StringHandler", "required": True}, "x: 'point' is reserved"),
        ("x", {"type": "TimeHandler"}, "x.required: this key is required"),
        ("x", {"type": "TimeHandler", "required": "yes"}, "x.required: expected `bool`, got `str`"),
        ("x", {"type": "TimeHandler", "required": True, "rang": 1}, "x.rang: unknown key. Allowed"),
        ("x", {"type": "TimeHandler", "required": True, "range": [1, 2]}, "x.range: unknown key"),
        ("x", {"type": "TimeHandler", "required": True, 4: 5}, "x: the key 4 must be text"),
        ("x", {"type": "StringHandler", "required": True, "max_length": 0}, "x.max_length: expec"),
        ("x", {"type": "StringHandler", "required": True, "max_length": True}, "x.max_length: ex"),
        (
            "x",
            {"type": "DateHandler", "required": True, "canonical_format": "%d"},
            "x.canonical_format: invalid enum value '%d'",
        ),
        ("x", {"type": "EnumHandler", "required": True}, "x.values: this key is required"),
        (
            "x",
            {"type": "EnumHandler", "required": True, "values": []},
            "x.values: expected `array`",
        ),
        (
            "x",
            {"type": "EnumHandler", "required": True, "values": ["a", 1]},
            "x.values[1]: expected `str`, got `int`",
        ),
        (
            "x",
            {"type": "ExpverHandler", "required": True, "default": 1},
            "x.default: expected `str | null`, got `int`",
        ),
        ("x", {"type": "ExpverHandler", "required": True, "default": ""}, "x.default: expected"),
        (
            "x",
            {"type": "IntHandler", "required": True, "range": [1.5, 2]},
            "x.range[0]: expected `int`, got `float`",
        ),
        (
            "x",
            {"type": "IntHandler", "required": True, "range": [1]},
            "x.range: expected `array` of length 2",
        ),
        (
            "x",
            {"type": "IntHandler", "required": True, "range": [2, 1]},
            "x.range: the minimum 2 is above the maximum 1",
        ),
        (
            "x",
            {"type": "IntHandler", "required": True, "range": [0, 2**63]},
            "x.range: the bounds must be 64-bit integers",
        ),
        (
            "x",
            {"type": "FloatHandler", "required": True, "range": [0, float("inf")]},
            "x.range: the bounds must be finite numbers",
        ),
        (
            "x",
            {"type": "FloatHandler", "required": True, "range": [float("nan"), 1]},
            "x.range: the minimum nan is above the maximum 1",
        ),
        (
            "point_cloud",
            {"type": "PointCloudHandler", "required": True, "max_points": 10_001},
            "x.max_points: expected `int` <= 10000",
        ),
        (
            "point_cloud",
            {"type": "PointCloudHandler", "required": True, "max_points": 0},
            "x.max_points: expected `int` >= 1",
        ),
        (
            "cloud",
            {"type": "PointCloudHandler", "required": True},
            "x.type: PointCloudHandler is for a field named 'point_cloud'",
        ),
        (
            "point_cloud",
            {"type": "StringHandler", "required": True},
            "x.type: the field 'point_cloud' must have the type PointCloudHandler",
        ),
        (
            "shape",
            {"type": "PolygonHandler", "required": True},
            "x.type: PolygonHandler is for a field named 'polygon'",
        ),
        (
            "polygon",
            {"type": "StringHandler", "required": True},
            "x.type: the field 'polygon' must have the type PolygonHandler",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_path_to_change(
    name: str, raw: object, sentence: str
) -> None:
    with pytest.raises(SchemaError) as caught:
        read_field(name, raw, PATH)
    assert str(caught.value).startswith(PATH.removesuffix("x") + sentence)


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (STRING, {"max_length": None}),
        (SHORT, {"max_length": 4}),
        (DATE, {"canonical_format": "%Y%m%d"}),
        (TIME, {}),
        (ENUM, {"values": ["od", "RD", "Straße"]}),
        (EXPVER, {"default": None}),
        (DEFAULT_EXPVER, {"default": "7"}),
        (INT, {"range": None}),
        (RANGED_INT, {"range": [-5, 100]}),
        (FLOAT, {"range": None}),
        (PolygonHandler(required=True), {}),
        (PointCloudHandler(required=True), {"max_points": 10_000}),
    ],
)
def test_a_field_is_shown_with_its_options_unset_ones_as_null(
    field: Field, shown: dict[str, object]
) -> None:
    expected = {"type": type(field).__name__, "required": True, **shown}
    assert json.loads(json.dumps(field.describe())) == expected


def test_a_description_is_shown_only_when_there_is_one() -> None:
    assert TimeHandler(required=False, description="of day").describe() == {
        "type": "TimeHandler",
        "required": False,
        "description": "of day",
    }
