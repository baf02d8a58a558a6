"""Rows of a state as text: JSON lines, and the data of `state` frames. Pure.

Made by replacing the few bytes between key and row of whole blocks of lines: neither a tab nor a
line feed stands raw in any JSON.
"""

from collections.abc import Iterator

import msgspec

# Of lines; as a frame they have twice as much at most, when the rows are tiny.
_FRAME_BYTES = 32 << 10

_encode = msgspec.json.Encoder().encode


def json_lines(table: str, lines: bytes) -> bytes:
    """`{"table":…,"key":…,"row":…}` for each line `key<TAB>row`."""
    start = b'{"table":%b,"key":' % _encode(table)
    rows = lines[:-1].replace(b"\t", b',"row":').replace(b"\n", b"}\n" + start)
    return b"%b%b}\n" % (start, rows)


def last_line(at: str, rows: int) -> bytes:
    """Without it a state was cut off."""
    return _encode({"complete": True, "at": at, "rows": rows}) + b"\n"


def frame_data(table: str, lines: bytes) -> Iterator[bytes]:
    """`{"table":…,"rows":[{"key":…,"row":…},…]}`, of 64 KiB at most unless one row is larger."""
    name = _encode(table)
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + _FRAME_BYTES) + 1
        if end <= start:
            end = lines.index(b"\n", start) + 1
        rows = lines[start : end - 1].replace(b"\t", b',"row":').replace(b"\n", b'},{"key":')
        yield b'{"table":%b,"rows":[{"key":%b}]}' % (name, rows)
        start = end
