"""Tokens come back as they went in, separators never occur inside one, nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.topic import (
    build,
    build_schemaless,
    decode_pair,
    decode_token,
    encode_pair,
    encode_token,
    format_box,
    parse_box,
    split,
)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("od", "od"),
        ("", ""),
        ("1.5", "1%2E5"),
        ("*", "%2A"),
        (">", "%3E"),
        ("%", "%25"),
        ("%2E", "%252E"),
        ("a.b*c>d%e", "a%2Eb%2Ac%3Ed%25e"),
        ("über=/ \n", "über=/ \n"),
        ("-0", "-0"),
    ],
)
def test_only_four_characters_are_encoded(text: str, token: str) -> None:
    assert encode_token(text) == token
    assert decode_token(token.encode()) == text


@pytest.mark.parametrize(
    "token", [b"%", b"%2", b"%zz", b"%2G", b"a%", b"%+1", b"% 1", b"%2%2E", b"%0x", b"%\xc3\xa9"]
)
def test_a_broken_escape_is_refused(token: bytes) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal|invalid literal"):
        decode_token(token)


@pytest.mark.parametrize("token", [b"\xff", b"%FF", b"\xed\xa0\x80"])
def test_a_token_that_is_not_utf8_is_refused(token: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_token(token)


def test_decoding_is_one_pass() -> None:
    assert decode_token(b"%252E") == "%2E"
    assert decode_token(b"%2e") == "."


@given(st.text())
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    token = encode_token(text)
    assert decode_token(token.encode()) == text
    assert not set(token) & set(".*>")


@given(st.text(), st.text())
def test_any_pair_survives_encoding_and_decoding(key: str, value: str) -> None:
    assert decode_pair(encode_pair(key, value).encode()) == (key, value)


def test_a_token_without_equals_sign_is_no_pair() -> None:
    with pytest.raises(ValueError, match="no '='"):
        decode_pair(b"od")


def test_a_topic_is_the_base_and_its_tokens() -> None:
    topic = build("diss", ["od", encode_token("42.5")])
    assert topic == b"diss.od.42%2E5"
    assert split(topic) == ([b"diss", b"od", b"42%2E5"], None)


def test_a_bounding_box_follows_the_topic() -> None:
    topic = build("area", ["x"], (-1.5, 0.0, 46.2035, 180.0))
    assert topic == b"area.x>-1.5,0.0,46.2035,180.0"
    assert split(topic) == ([b"area", b"x"], (-1.5, 0.0, 46.2035, 180.0))


def test_a_topic_without_schema_holds_pairs_sorted_by_key() -> None:
    topic = build_schemaless("my.type", {"b": "x=y", "a=": "1.0", "": "é"})
    assert topic == "my%2Etype.=é.a%3D=1%2E0.b=x=y".encode()
    tokens, box = split(topic)
    assert [decode_pair(token) for token in tokens[1:]] == [
        ("", "é"),
        ("a=", "1.0"),
        ("b", "x=y"),
    ]
    assert box is None


def test_a_topic_without_schema_and_without_pairs_is_the_event_type() -> None:
    assert build_schemaless("note", {}) == b"note"


@given(st.dictionaries(st.text(), st.text(min_size=1)))
def test_any_pairs_come_back_from_the_topic_in_order(values: dict[str, str]) -> None:
    tokens, _ = split(build_schemaless("t", values))
    assert [decode_pair(token) for token in tokens[1:]] == sorted(values.items())


COORDINATES = st.floats(-180, 180)


@given(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES))
def test_a_bounding_box_comes_back_to_the_last_bit(
    box: tuple[float, float, float, float],
) -> None:
    assert parse_box(format_box(box).encode()) == box


@pytest.mark.parametrize("text", [b"", b"1,2,3", b"1,2,3,4,5", b"a,b,c,d"])
def test_what_is_no_bounding_box_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"unpack|float"):
        parse_box(text)
