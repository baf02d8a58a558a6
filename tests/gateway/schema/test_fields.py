"""Every row of the handler table of §6: what is accepted, its canonical text, what is refused."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.errors import Fault
from gateway.schema.fields import (
    DateHandler,
    EnumHandler,
    ExpverHandler,
    FloatHandler,
    IntHandler,
    PointCloudHandler,
    PolygonHandler,
    StringHandler,
    TextField,
    TimeHandler,
    format_float,
)

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
