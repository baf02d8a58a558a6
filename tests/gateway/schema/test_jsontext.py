"""JSON text: kinds, numbers by their text, and everything that is not RFC 8259 in UTF-8."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.jsontext import (
    TOO_DEEP,
    compact,
    find_json_fault,
    is_too_deep,
    kind_of,
    scalar_text,
)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (b'"a\\u00e9"', "string", "aé"),
        (b'""', "string", ""),
        (b"4", "number", "4"),
        (b"-0", "number", "-0"),
        (b"1.0", "number", "1.0"),
        (b"1e2", "number", "1e2"),
        (b"1E+400", "number", "1E+400"),
        (b"123456789012345678901234567890", "number", "123456789012345678901234567890"),
        (b"true", "boolean", "true"),
        (b"false", "boolean", "false"),
        (b"null", "null", None),
        (b"[1]", "array", None),
        (b"{}", "object", None),
    ],
)
def test_a_value_has_a_kind_and_a_scalar_has_its_text_as_sent(
    value: bytes, kind: str, text: str | None
) -> None:
    assert kind_of(value) == kind
    assert scalar_text(value) == text


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}}",
        b"{} x",
        b'{"a":}',
        b'{"a" 1}',
        b"[1,]",
        b"{'a':1}",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"tru",
        b'"\x01"',
        b'"\n"',
        b'"\\x"',
        b'"\\u12g4"',
        b'"\\ud800"',
        b'"\\ud800x"',
        b'"\\ud800\\u0041"',
        b'"\\ud83d\\ud83d"',
        b'"\\udc00"',
        b'\xef\xbb\xbf{"byte":"order mark"}',
    ],
)
def test_what_is_not_json_has_a_fault_that_names_the_place(body: bytes) -> None:
    fault = find_json_fault(body)
    assert fault is not None
    assert fault.startswith(("JSON is malformed", "Input data was truncated"))


@pytest.mark.parametrize("body", [b"", b"  \r\n\t"])
def test_an_empty_body_is_called_empty(body: bytes) -> None:
    assert find_json_fault(body) == "the body is empty"


@pytest.mark.parametrize(
    ("body", "place"),
    [(b'"\xff"', 1), (b'{"a":"\xc3"}', 6), (b'"\xed\xa0\x80"', 1), (b'["\xc0\xaf"]', 2)],
)
def test_invalid_utf8_is_refused_also_where_only_raw_pieces_are_kept(
    body: bytes, place: int
) -> None:
    assert find_json_fault(body) == f"invalid UTF-8 (byte {place})"


@pytest.mark.parametrize("body", [b' {"a" : [1, 2.50]} ', b"4", b'"\\ud83d\\ude00"', b"1e400"])
def test_json_has_no_fault(body: bytes) -> None:
    assert find_json_fault(body) is None


@pytest.mark.parametrize(
    "deep",
    [
        b"[" * 129 + b"]" * 129,
        b'{"a":' * 129 + b"1" + b"}" * 129,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 100_000,
    ],
)
def test_nesting_deeper_than_128_levels_is_refused_and_never_a_recursion_error(
    deep: bytes,
) -> None:
    assert find_json_fault(deep) == TOO_DEEP


@pytest.mark.parametrize(
    "shallow",
    [
        b"[" * 128 + b"]" * 128,
        b"[" + b",".join([b"[{}]"] * 500) + b"]",
        b'["' + b"[" * 5000 + b'"]',
        b'["\\"' + b"{" * 5000 + b'\\\\"]',
    ],
)
def test_many_brackets_are_not_deep_when_they_close_or_stand_in_strings(shallow: bytes) -> None:
    assert not is_too_deep(shallow)
    assert find_json_fault(shallow) is None


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{ "a" : [ 1.50 , 1e400 ] }', b'{"a":[1.50,1e400]}'),
        (b'"\\u00e9 \\/ \xc3\xa9  x"', b'"\\u00e9 \\/ \xc3\xa9  x"'),
        (b"[\n]", b"[]"),
        (b"null", b"null"),
    ],
)
def test_compacting_takes_space_away_and_nothing_else(sent: bytes, kept: bytes) -> None:
    assert compact(sent) == kept


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_compact_json_reads_back_as_the_same_value(value: object) -> None:
    body = json.dumps(value, indent=2).encode()
    assert find_json_fault(body) is None
    small = compact(body)
    assert json.loads(small) == value
    assert compact(small) == small
