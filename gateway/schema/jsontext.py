"""JSON as text: what kind of value a piece is, its scalar text as sent, and what may not pass.

Numbers keep their text (1.0 stays "1.0", 1e2 stays "1e2"): nothing here goes through a float.
"""

import re
from array import array
from itertools import accumulate
from typing import Final, Literal

import msgspec

JsonKind = Literal["string", "number", "boolean", "null", "array", "object"]

# serde_json, which Aviso parses with, stops at 128 too: what one server stores both can read.
MAX_DEPTH: Final = 128
TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"

_KINDS: Final[dict[int, JsonKind]] = {
    ord('"'): "string",
    ord("{"): "object",
    ord("["): "array",
    ord("t"): "boolean",
    ord("f"): "boolean",
    ord("n"): "null",
    **dict.fromkeys(b"-0123456789", "number"),
}
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_decode_string = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode


def kind_of(value: bytes) -> JsonKind:
    """The kind of a JSON value that was checked before; ``value`` has no space around it."""
    return _KINDS[value[0]]


def decode_string(value: bytes) -> str:
    """The text of a JSON string."""
    return _decode_string(value)


def scalar_text(value: bytes) -> str | None:
    """A string as it is, a number by its JSON text, ``true``/``false``; None for anything else."""
    kind = _KINDS[value[0]]
    if kind == "string":
        return _decode_string(value)
    if kind in ("number", "boolean"):
        return value.decode()
    return None


def compact(value: bytes | msgspec.Raw) -> bytes:
    """The same JSON without insignificant space, every number and string as it was written."""
    return msgspec.json.format(value, indent=-1)


def find_json_fault(body: bytes) -> str | None:
    """Why ``body`` is not JSON (RFC 8259, UTF-8, at most 128 levels), or None when it is."""
    if not body.strip(b" \t\r\n"):
        return "the body is empty"
    try:
        body.decode()
        _decode_any(body)
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 (byte {error.start})"
    except msgspec.DecodeError as error:
        return str(error)
    except RecursionError:
        return TOO_DEEP
    return TOO_DEEP if is_too_deep(body) else None


def is_too_deep(body: bytes) -> bool:
    """Whether valid JSON nests deeper than 128 levels.

    Readers of a stored event have stacks of different depth: without a limit of its own a payload
    that could be published might not be readable.
    """
    # Each level has two brackets: the small and the plain are known without a look at their nesting.
    if len(body) <= 2 * MAX_DEPTH or body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", body).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(array("b", brackets)), default=0) > MAX_DEPTH
