"""The members of a JSON object as they are written, whatever is in their values. Pure.

PostgreSQL's `json` holds what a strict reader refuses, half a surrogate pair or ten thousand brackets,
and a row with such a value is one to be read like any other.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_name = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)


def members(text: bytes) -> dict[str, bytes]:
    """By name, in their order. Raises ValueError for what is no JSON object."""
    try:
        return {name: bytes(value) for name, value in _decode(text).items()}
    except (msgspec.DecodeError, RecursionError):
        return dict(_scan(text))


def object_of(found: Mapping[str, bytes]) -> bytes:
    """What `members` reads, written without blanks."""
    return b"{%b}" % b",".join(b"%b:%b" % (_encode(name), value) for name, value in found.items())


def _scan(text: bytes) -> Iterator[tuple[str, bytes]]:
    depth, start, name = 0, 0, None
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in b"{[":
            depth += 1
            start = token.end() if depth == 1 else start
        elif depth == 1 and sign == b":":
            name, start = text[start : token.start()], token.end()
        elif depth == 1 and sign in b",}" and name is not None:
            try:
                yield _decode_name(name), text[start : token.start()]
            except msgspec.DecodeError as error:
                raise ValueError(f"{name!r} is no name of a member") from error
            start, name = token.end(), None
        if sign in b"}]":
            depth -= 1
    if depth or text[:1] != b"{":
        raise ValueError("it is no JSON object")
