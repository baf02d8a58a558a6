"""The topic of a stored event (Aviso wire contract §9): its routing values as one line of bytes.

    schema       base.token.token          tokens in key order, '.', '*', '>' and '%' encoded
    no schema    event_type.k=v.k=v        pairs sorted by key, '=' in a key encoded too
    with shape   ...>min_lat,min_lon,max_lat,max_lon

A raw '>' or '.' never occurs inside a token, so both separate. A spatial field that stands in the
key order keeps its place as an empty token: nobody is ever matched by the text of a polygon.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

Box = tuple[float, float, float, float]

_SPECIAL: Final = re.compile(r"[.*>%]")
_ESCAPE: Final = re.compile(rb"%(.{0,2})", re.DOTALL)


def encode_token(text: str) -> str:
    """One token: '.', '*', '>' and '%' as %2E %2A %3E %25, all else as it is."""
    if text.isalnum() or _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda match: f"%{ord(match[0]):02X}", text)


def decode_token(token: bytes) -> str:
    """The text of a token, decoded once and strictly.

    Raises ValueError on '%' without two hexadecimal digits and on bytes that are not UTF-8.
    """
    if b"%" not in token:
        return token.decode()
    return _ESCAPE.sub(_decode_escape, token).decode()


def encode_pair(key: str, text: str) -> str:
    """``key=value`` of an event without schema; the first raw '=' is the separator."""
    return f"{encode_token(key).replace('=', '%3D')}={encode_token(text)}"


def decode_pair(token: bytes) -> tuple[str, str]:
    """The key and the value of ``encode_pair``; ValueError when the token is no pair."""
    key, separator, value = token.partition(b"=")
    if not separator:
        raise ValueError(f"no '=' in the token {token!r}")
    return decode_token(key), decode_token(value)


def build(base_token: str, tokens: Iterable[str], box: Box | None = None) -> bytes:
    """The stored topic of an event with schema, from encoded tokens."""
    topic = ".".join((base_token, *tokens))
    return (topic if box is None else f"{topic}>{format_box(box)}").encode()


def build_schemaless(event_type: str, values: Mapping[str, str]) -> bytes:
    """The stored topic of an event without schema."""
    pairs = [encode_pair(key, values[key]) for key in sorted(values)]
    return ".".join((encode_token(event_type), *pairs)).encode()


def split(topic: bytes) -> tuple[list[bytes], Box | None]:
    """The encoded tokens of a stored topic, the base first, and its bounding box if it has one."""
    line, separator, box = topic.partition(b">")
    return line.split(b"."), parse_box(box) if separator else None


def format_box(box: Box) -> str:
    """``min_lat,min_lon,max_lat,max_lon``, digits enough to come back unchanged."""
    return ",".join(map(repr, box))


def parse_box(text: bytes) -> Box:
    """The bounding box of ``format_box``; ValueError when it is none."""
    min_lat, min_lon, max_lat, max_lon = map(float, text.split(b","))
    return min_lat, min_lon, max_lat, max_lon


def _decode_escape(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    # int() alone would take "+1" and " 1" for two hexadecimal digits.
    if len(digits) != 2 or not digits.isalnum():
        raise ValueError(f"'%' without two hexadecimal digits in the token {match.string!r}")
    return bytes((int(digits, 16),))
