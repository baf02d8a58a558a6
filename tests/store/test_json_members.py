"""The members of an object are found whatever their values are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.json_members import _scan, members, object_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_both_readers_find_the_same(row: dict[str, object]) -> None:
    text = json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()
    assert dict(_scan(text)) == members(text)
    assert {name: json.loads(value) for name, value in members(text).items()} == row
    assert json.loads(object_of(members(text))) == row


@pytest.mark.parametrize(
    "value", [b'"\\ud800"', b'{"\\udc00":[]}', b"[" * 5000 + b"]" * 5000, b"1e400000", b'"\\\\"']
)
def test_values_that_a_strict_reader_refuses_are_found_as_they_are(value: bytes) -> None:
    text = b'{"a":1,"odd":%b,"z":"}"}' % value
    assert members(text) == {"a": b"1", "odd": value, "z": b'"}"'}
    assert list(members(text)) == ["a", "odd", "z"]


@pytest.mark.parametrize("text", [b"", b"[1]", b'{"a":1', b'{"a":"', b"7", b"{a:1}"])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="is no"):
        members(text)
