"""Every message of protocol 1 is decoded to what it says, and nothing else is taken for one."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.pgoutput import (
    EPOCH_US,
    UNCHANGED,
    Begin,
    Commit,
    DecodeError,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Row,
    Truncate,
    Type,
    Update,
    decode,
)


def row(*values: object) -> bytes:
    parts = [pack(">h", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            assert isinstance(value, bytes)
            parts.append(b"t" + pack(">i", len(value)) + value)
    return b"".join(parts)


RELATION = (
    b"R" + pack(">I", 7) + b"public\0vehicle\0d" + pack(">h", 2)
    + b"\1id\0" + pack(">Ii", 23, -1)
    + b"\0name\0" + pack(">Ii", 1043, 24)
)  # fmt: skip

MESSAGES: list[tuple[bytes, Message]] = [
    (b"B" + pack(">QqI", 0x16B374D848, 5_000_000, 742), Begin(0x16B374D848, EPOCH_US + 5_000_000, 742)),
    (b"C" + pack(">BQQq", 0, 10, 20, -1), Commit(10, 20, EPOCH_US - 1)),
    (b"O" + pack(">Q", 99) + b"upstream\0", Origin(99, "upstream")),
    (
        RELATION,
        Relation(
            *(7, "public", "vehicle", "d"),
            (RelationColumn(True, "id", 23, -1), RelationColumn(False, "name", 1043, 24)),
        ),
    ),
    (
        b"R" + pack(">I", 8) + b"\0pg_thing\0f" + pack(">h", 0),
        Relation(8, "pg_catalog", "pg_thing", "f", ()),
    ),
    (b"Y" + pack(">I", 99) + b"public\0mood\0", Type(99, "public", "mood")),
    (b"I" + pack(">I", 7) + b"N" + row(b"1", None), Insert(7, [b"1", None])),
    (b"I" + pack(">I", 7) + b"N" + row(), Insert(7, [])),
    (b"U" + pack(">I", 7) + b"N" + row(b"1", UNCHANGED), Update(7, None, False, [b"1", UNCHANGED])),
    (
        b"U" + pack(">I", 7) + b"K" + row(b"1", None) + b"N" + row(b"2", b""),
        Update(7, [b"1", None], False, [b"2", b""]),
    ),
    (
        b"U" + pack(">I", 7) + b"O" + row(b"1", b"a") + b"N" + row(b"1", b"b"),
        Update(7, [b"1", b"a"], True, [b"1", b"b"]),
    ),
    (b"D" + pack(">I", 7) + b"K" + row(b"1", None), Delete(7, [b"1", None], False)),
    (b"D" + pack(">I", 7) + b"O" + row(b"1", b"x\0\xff"), Delete(7, [b"1", b"x\0\xff"], True)),
    (b"T" + pack(">IBII", 2, 3, 7, 8), Truncate((7, 8), True, True)),
    (b"T" + pack(">IB", 0, 0), Truncate((), False, False)),
    (
        b"M" + pack(">BQ", 1, 77) + b"audit\0" + pack(">I", 3) + b"a\0b",
        LogicalMessage(True, 77, "audit", b"a\0b"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("encoded", "message"), MESSAGES)
def test_a_message_is_decoded_to_what_it_says(encoded: bytes, message: Message) -> None:
    assert decode(encoded) == message


@pytest.mark.parametrize(("encoded", "message"), MESSAGES)
def test_a_message_cut_anywhere_or_with_bytes_behind_it_is_refused(
    encoded: bytes, message: Message
) -> None:
    for end in range(len(encoded)):
        with pytest.raises(DecodeError):
            decode(encoded[:end])
    with pytest.raises(DecodeError):
        decode(encoded + b"\0")


@pytest.mark.parametrize(
    "encoded",
    [
        b"S" + pack(">IB", 1, 1),  # the start of a stream is protocol 2
        b"I" + pack(">I", 7) + b"K" + row(b"1"),
        b"U" + pack(">I", 7) + b"X" + row(b"1"),
        b"U" + pack(">I", 7) + b"K" + row(b"1") + b"K" + row(b"1"),
        b"D" + pack(">I", 7) + b"N" + row(b"1"),
        b"I" + pack(">I", 7) + b"N" + pack(">h", 1) + b"b" + pack(">i", 1) + b"1",
        b"I" + pack(">I", 7) + b"N" + pack(">h", 1) + b"t" + pack(">i", -1),
        b"O" + pack(">Q", 1) + b"\xff\0",
    ],
)
def test_what_protocol_1_does_not_have_is_refused(encoded: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(encoded)


VALUES = st.lists(st.none() | st.just(UNCHANGED) | st.binary(max_size=40), max_size=12)


@given(VALUES, st.none() | VALUES, st.booleans(), st.integers(0, 2**32 - 1))
def test_rows_come_back_as_they_were_written(
    new: Row, old: Row | None, whole: bool, oid: int
) -> None:
    before = b"" if old is None else (b"O" if whole else b"K") + row(*old)
    encoded = b"U" + pack(">I", oid) + before + b"N" + row(*new)
    assert decode(encoded) == Update(oid, old, whole and old is not None, new)


@given(st.binary(max_size=60), st.sampled_from(MESSAGES), st.integers(0, 60))
def test_garbage_is_decoded_or_refused_and_nothing_else(
    garbage: bytes, example: tuple[bytes, Message], at: int
) -> None:
    encoded = example[0][: at + 1] + garbage
    try:
        decode(encoded)
    except DecodeError:
        return
