"""The messages of PostgreSQL's `pgoutput` plug-in, protocol version 1 without streaming. Pure.

`decode` takes one message and gives one struct; a message that is cut, too long or of another
protocol is a DecodeError, never a guess. Source: PostgreSQL documentation, "Logical Replication
Message Formats".
"""

import struct
from collections.abc import Callable
from enum import Enum
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

# Times of PostgreSQL count from 2000-01-01 UTC.
EPOCH_US: Final = 946_684_800_000_000


class DecodeError(ValueError):
    """The bytes are no message of this protocol."""


class Unchanged(Enum):
    """The mark of a large value (TOAST) that an update left as it was: it is not in the message."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED

# A value's text form, None for null.
Value: TypeAlias = bytes | Unchanged | None
Row: TypeAlias = list[Value]


class Begin(NamedTuple):
    """Of a transaction: where its commit record is, its commit time (µs since 1970, UTC), its id."""

    lsn: int
    committed_us: int
    xid: int


class Commit(NamedTuple):
    lsn: int
    end_lsn: int
    committed_us: int


class Origin(NamedTuple):
    lsn: int
    name: str


class RelationColumn(NamedTuple):
    """`key`: part of the replica identity; of REPLICA IDENTITY FULL every column is."""

    key: bool
    name: str
    type_oid: int
    modifier: int


class Relation(NamedTuple):
    """A table as it was when the changes that follow were made. `identity`: d, n, f or i."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


class Type(NamedTuple):
    oid: int
    schema: str
    name: str


class Insert(NamedTuple):
    relation: int
    new: Row


class Update(NamedTuple):
    """`old` is the whole old row when `whole`, else the old key (others null), None if unchanged."""

    relation: int
    old: Row | None
    whole: bool
    new: Row


class Delete(NamedTuple):
    """`old` is the whole old row when `whole`, else the old key (others null)."""

    relation: int
    old: Row
    whole: bool


class Truncate(NamedTuple):
    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class LogicalMessage(NamedTuple):
    transactional: bool
    lsn: int
    prefix: str
    content: bytes


Message: TypeAlias = (
    Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage
)

_BEGIN: Final = Struct(">QqI")
_COMMIT: Final = Struct(">BQQq")
_INT: Final = Struct(">i").unpack_from
_SHORT: Final = Struct(">h").unpack_from
_OID: Final = Struct(">I").unpack_from
_LSN: Final = Struct(">Q").unpack_from
_COLUMN: Final = Struct(">Ii")
_TRUNCATE: Final = Struct(">IB")

_NULL, _TEXT, _UNCHANGED, _BINARY = b"ntub"
_NEW, _KEY, _OLD = b"NKO"


def decode(message: bytes) -> Message:
    """The message in these bytes, all of them. Raises DecodeError."""
    decoder = _DECODERS.get(message[:1])
    if decoder is None:
        raise DecodeError(f"there is no pgoutput message {message[:1]!r} in protocol version 1")
    try:
        found, end = decoder(message)
    except (ValueError, IndexError, struct.error) as error:
        raise DecodeError(f"a pgoutput message {message[:1]!r} is cut off or broken") from error
    if end != len(message):
        raise DecodeError(f"a pgoutput message {message[:1]!r} has bytes that do not belong to it")
    return found


def _text(message: bytes, start: int) -> tuple[str, int]:
    end = message.index(b"\0", start)
    return message[start:end].decode(), end + 1


def _row(message: bytes, start: int) -> tuple[Row, int]:
    """The hottest loop of capture: once a column of every change."""
    (count,) = _SHORT(message, start)
    at = start + 2
    row: Row = []
    for _ in range(count):
        kind = message[at]
        at += 1
        if kind == _TEXT:
            begin = at + 4
            at = begin + _INT(message, at)[0]
            row.append(message[begin:at])
        elif kind == _NULL:
            row.append(None)
        elif kind == _UNCHANGED:
            row.append(UNCHANGED)
        else:
            raise DecodeError(f"a value of kind {bytes((kind,))!r}, which was not asked for")
    # A length that points past the end leaves a short slice, and one below zero goes back.
    if at > len(message) or at < start:
        raise DecodeError("a row is longer than its message")
    return row, at


def _insert(message: bytes) -> tuple[Message, int]:
    if message[5] != _NEW:
        raise DecodeError("an insert without a new row")
    row, end = _row(message, 6)
    return Insert(_OID(message, 1)[0], row), end


def _update(message: bytes) -> tuple[Message, int]:
    kind, old, at = message[5], None, 5
    if kind != _NEW:
        if kind not in (_KEY, _OLD):
            raise DecodeError("an update with neither an old nor a new row")
        old, at = _row(message, 6)
    if message[at] != _NEW:
        raise DecodeError("an update without a new row")
    new, end = _row(message, at + 1)
    return Update(_OID(message, 1)[0], old, kind == _OLD, new), end


def _delete(message: bytes) -> tuple[Message, int]:
    kind = message[5]
    if kind not in (_KEY, _OLD):
        raise DecodeError("a delete without an old row")
    row, end = _row(message, 6)
    return Delete(_OID(message, 1)[0], row, kind == _OLD), end


def _begin(message: bytes) -> tuple[Message, int]:
    lsn, time, xid = _BEGIN.unpack_from(message, 1)
    return Begin(lsn, time + EPOCH_US, xid), 1 + _BEGIN.size


def _commit(message: bytes) -> tuple[Message, int]:
    _, lsn, end_lsn, time = _COMMIT.unpack_from(message, 1)
    return Commit(lsn, end_lsn, time + EPOCH_US), 1 + _COMMIT.size


def _origin(message: bytes) -> tuple[Message, int]:
    name, end = _text(message, 9)
    return Origin(_LSN(message, 1)[0], name), end


def _relation(message: bytes) -> tuple[Message, int]:
    schema, at = _text(message, 5)
    name, at = _text(message, at)
    identity = chr(message[at])
    (count,) = _SHORT(message, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        key = bool(message[at] & 1)
        column, at = _text(message, at + 1)
        type_oid, modifier = _COLUMN.unpack_from(message, at)
        at += _COLUMN.size
        columns.append(RelationColumn(key, column, type_oid, modifier))
    # Tables of pg_catalog are written without a schema.
    found = Relation(_OID(message, 1)[0], schema or "pg_catalog", name, identity, tuple(columns))
    return found, at


def _type(message: bytes) -> tuple[Message, int]:
    schema, at = _text(message, 5)
    name, at = _text(message, at)
    return Type(_OID(message, 1)[0], schema or "pg_catalog", name), at


def _truncate(message: bytes) -> tuple[Message, int]:
    count, options = _TRUNCATE.unpack_from(message, 1)
    end = 1 + _TRUNCATE.size + 4 * count
    if end > len(message):
        raise DecodeError("a truncate with fewer tables than it counts")
    relations = tuple(_OID(message, at)[0] for at in range(1 + _TRUNCATE.size, end, 4))
    return Truncate(relations, bool(options & 1), bool(options & 2)), end


def _logical_message(message: bytes) -> tuple[Message, int]:
    prefix, at = _text(message, 10)
    (size,) = _OID(message, at)
    content = message[at + 4 : at + 4 + size]
    found = LogicalMessage(bool(message[1] & 1), _LSN(message, 2)[0], prefix, content)
    return found, at + 4 + size


_DECODERS: Final[dict[bytes, Callable[[bytes], tuple[Message, int]]]] = {
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"B": _begin,
    b"C": _commit,
    b"R": _relation,
    b"T": _truncate,
    b"Y": _type,
    b"O": _origin,
    b"M": _logical_message,
}
