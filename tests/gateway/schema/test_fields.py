"""Every row of the handler table of §6: what is accepted, its canonical text, what is refused."""

import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.errors import Fault, SchemaError
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
    TextField,
    TimeHandler,
    format_float,
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
    ("field", "text", "canonical"),
    [
        (STRING, "Any Thing ", "Any Thing "),
        (STRING, " ", " "),
        (STRING, "\x00\n", "\x00\n"),
        (SHORT, "abcd", "abcd"),
        (SHORT, "éé", "éé"),
        (DATE, "2025-02-28", "20250228"),
        (DATE, "20250228", "20250228"),
        (DATE, "2025-001", "20250101"),
        (DATE, "2024-366", "20241231"),
        (DATE, "2024-060", "20240229"),
        (DATE, "0001-01-01", "00010101"),
        (DATE, "9999-365", "99991231"),
        (ISO_DATE, "20250228", "2025-02-28"),
        (ISO_DATE, "2025-02-28", "2025-02-28"),
        (ISO_DATE, "2025-059", "2025-02-28"),
        (TIME, "9", "0900"),
        (TIME, "09", "0900"),
        (TIME, "0", "0000"),
        (TIME, "23", "2300"),
        (TIME, "9:05", "0905"),
        (TIME, "09:05", "0905"),
        (TIME, "0905", "0905"),
        (TIME, "2359", "2359"),
        (ENUM, "od", "od"),
        (ENUM, "OD", "od"),
        (ENUM, "rd", "rd"),
        (ENUM, "Rd", "rd"),
        (EXPVER, "1", "0001"),
        (EXPVER, "0", "0000"),
        (EXPVER, "+5", "0005"),
        (EXPVER, "0001", "0001"),
        (EXPVER, "000000000000000012", "0012"),
        (EXPVER, "12345", "12345"),
        (EXPVER, "4294967295", "4294967295"),
        (EXPVER, "4294967296", "4294967296"),
        (EXPVER, "99999999999", "99999999999"),
        (EXPVER, "Prod", "prod"),
        (EXPVER, "+", "+"),
        (EXPVER, "-1", "-1"),
        (EXPVER, "1.0", "1.0"),
        (DEFAULT_EXPVER, "", "0007"),
        (DEFAULT_EXPVER, "2", "0002"),
        (INT, "4", "4"),
        (INT, "+4", "4"),
        (INT, "-0004", "-4"),
        (INT, "000", "0"),
        (INT, "-0", "0"),
        (INT, "0" * 5000 + "7", "7"),
        (INT, str(2**63 - 1), str(2**63 - 1)),
        (INT, str(-(2**63)), str(-(2**63))),
        (RANGED_INT, "-5", "-5"),
        (RANGED_INT, "100", "100"),
        (FLOAT, "1.0", "1"),
        (FLOAT, "1e1", "10"),
        (FLOAT, "42.50", "42.5"),
        (FLOAT, "-0", "0"),
        (FLOAT, "-0.0", "0"),
        (FLOAT, "+.5", "0.5"),
        (FLOAT, "5.", "5"),
        (FLOAT, "0.1", "0.1"),
        (FLOAT, "1e21", "1000000000000000000000"),
        (FLOAT, "1.5e-7", "0.00000015"),
        (FLOAT, "1e-400", "0"),
        (FLOAT, "123456789.123456789", "123456789.12345679"),
        (RANGED_FLOAT, "-0.5", "-0.5"),
        (RANGED_FLOAT, "1E+21", "1000000000000000000000"),
    ],
)
def test_a_value_has_one_canonical_text(field: TextField, text: str, canonical: str) -> None:
    assert field.canonical(text) == canonical
    assert field.canonical(canonical) == canonical


DATE_SENTENCE = "must be a valid date (YYYY-MM-DD, YYYYMMDD or YYYY-DDD), got: '{}'"
TIME_SENTENCE = "must be a valid time (HH, HH:MM or HHMM), got: '{}'"
INT_SENTENCE = "must be a valid integer, got: '{}'"
FLOAT_SENTENCE = "must be a valid number, got: '{}'"
FINITE_SENTENCE = "must be a finite number, got: '{}'"
ENUM_SENTENCE = "has invalid value '{}'. Allowed: [od, RD, Straße]"


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        (STRING, "", "cannot be empty"),
        (SHORT, "abcde", "exceeds maximum length of 4 characters, got: 5"),
        (SHORT, "ééé", "exceeds maximum length of 4 characters, got: 6"),
        *(
            (DATE, text, DATE_SENTENCE)
            for text in (
                "",
                "2025-02-29",
                "2025-13-01",
                "20250001",
                "2025-366",
                "2025-000",
                "2025-00",
                "2025-1-01",
                "202501-01",
                "2025-0101",
                "2025/01/01",
                "0000-01-01",
                "0000-001",
                "20250101 ",
                "٢٠٢٥0101",
                "today",
            )
        ),
        *(
            (TIME, text, TIME_SENTENCE)
            for text in ("", "24", "2400", "0960", "12:60", "123", "12:5", "12:345", "1:2:3", "٩")
        ),
        (ENUM, "", ENUM_SENTENCE),
        (ENUM, "ea", ENUM_SENTENCE),
        (ENUM, "od ", ENUM_SENTENCE),
        (EXPVER, "", "cannot be empty"),
        *(
            (INT, text, INT_SENTENCE)
            for text in ("", "1.5", "1.0", "1e2", " 1", "1_0", "+", "--1", "٤", str(2**63), "x")
        ),
        (INT, str(-(2**63) - 1), INT_SENTENCE),
        (RANGED_INT, "101", "value 101 is outside allowed range [-5, 100]"),
        (RANGED_INT, "-0006", "value -6 is outside allowed range [-5, 100]"),
        *(
            (FLOAT, text, FLOAT_SENTENCE)
            for text in ("", ".", "1,5", "1_0.0", " 1", "1e", "0x10", "٤", "e5", "1.5f")
        ),
        *(
            (FLOAT, text, FINITE_SENTENCE)
            for text in ("nan", "NaN", "inf", "-Infinity", "+inf", "1e400", "-1e309")
        ),
        (
            RANGED_FLOAT,
            "-0.50001",
            "value -0.50001 is outside allowed range [-0.5, 1000000000000000000000]",
        ),
    ],
)
def test_another_value_is_refused_and_shown(field: TextField, text: str, sentence: str) -> None:
    with pytest.raises(Fault) as caught:
        field.canonical(text)
    assert caught.value.predicate == sentence.format(text)


def test_a_long_value_is_cut_in_the_message() -> None:
    for field in (DATE, TIME, ENUM, INT, FLOAT):
        with pytest.raises(Fault) as caught:
            field.canonical("9" * 100_000)
        assert len(caught.value.predicate) < 400


ALL_TEXT_FIELDS: list[TextField] = [STRING, DATE, ISO_DATE, TIME, ENUM, DEFAULT_EXPVER, INT, FLOAT]


@given(st.sampled_from(ALL_TEXT_FIELDS), st.text(max_size=12) | st.from_regex(r"[0-9:.+e-]{0,9}"))
def test_canonical_text_is_a_fixed_point_whatever_was_sent(field: TextField, text: str) -> None:
    try:
        once = field.canonical(text)
    except Fault:
        return
    assert field.canonical(once) == once


@given(st.dates())
def test_every_date_has_one_text_in_all_three_forms(day: date) -> None:
    forms = {day.isoformat(), day.isoformat().replace("-", "")}
    forms.add(f"{day.year:04}-{day.timetuple().tm_yday:03}")
    assert {DATE.canonical(form) for form in forms} == {day.isoformat().replace("-", "")}


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 5), st.booleans())
def test_every_64_bit_integer_is_read_with_zeros_and_sign(
    number: int, zeros: int, plus: bool
) -> None:
    sign = "-" if number < 0 else "+" * plus
    assert INT.canonical(f"{sign}{'0' * zeros}{abs(number)}") == str(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_to_the_last_bit_without_exponent(number: float) -> None:
    text = FLOAT.canonical(repr(number))
    assert float(text) == number
    assert "e" not in text
    assert not text.endswith(".0")
    assert FLOAT.canonical(f"{number:.17e}") == text == format_float(number)


def test_a_polygon_says_what_is_wrong_with_it_and_why() -> None:
    field = PolygonHandler(required=True)
    assert field.parse(b'"0,0,0,1,1,1,0,0"') == ((0, 0), (0, 1), (1, 1), (0, 0))
    with pytest.raises(Fault) as caught:
        field.parse(b'"0,0,0,1,95,1,0,0"')
    cause = "latitude 95.0 is outside [-90, 90]"
    assert caught.value.predicate == f"must be a valid polygon: point 2 is invalid: {cause}"
    assert caught.value.cause == cause


def test_a_cloud_has_at_most_its_own_maximum_of_points() -> None:
    field = PointCloudHandler(required=True, max_points=2)
    assert field.parse(b"[[1,2],[1,2]]") == ((1.0, 2.0), (1.0, 2.0))
    with pytest.raises(Fault, match="contains 3 points, maximum is 2"):
        field.parse(b"[[1,2],[1,2],[1,2]]")


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
        ("x", {"type": "EnumHandler", "required": True, "values": []}, "x.values: expected `array`"),
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
