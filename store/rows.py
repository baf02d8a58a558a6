"""From pgoutput's rows to captured changes: rows and keys as JSON, the tenant each belongs to. Pure.

A `TableCodec` is made once for a table as it was at some point of the transaction log, then turns
each change of it into one or two `Change`s (two where an update moves a row to another tenant).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, cast

from store.errors import StoreError
from store.pgoutput import UNCHANGED, Delete, Insert, Relation, Row, Update
from store.pgtypes import (
    Column,
    Kind,
    converter,
    quote_identifier,
    string,
    table_name,
    tenant_of,
)

# What a large value that was left unchanged is, until it is known: no JSON is empty.
MISSING: Final = b""
NULL: Final = b"null"
# Of all rows, as a truncate's key.
EVERY_KEY: Final = "*"

_INTEGERS = (20, 21, 23)
# Types of a fixed length, which are never stored apart: the integers, bool, oid, the floats, dates and
# times, interval, money, macaddr and uuid.
_FIXED = (*_INTEGERS, 16, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 790, 829, 2950)


class RowError(StoreError):
    """A change does not fit the table it names."""


class Change(NamedTuple):
    """One change of one row, or of all (op t), as a tenant sees it.

    ``op`` is c, u, d or t; ``key_text`` is the key in one line for topics and filters. ``before`` is
    the old row, or its key columns where that is all there is. ``unchanged`` names the columns that
    ``after`` lacks, since an update left them alone and nobody knows their value.
    """

    table: str
    op: str
    key_text: str
    key: bytes | None
    old_key: bytes | None
    before: bytes | None
    after: bytes | None
    unchanged: tuple[str, ...] = ()


class Owned(NamedTuple):
    """A change and whose it is; None where the row names no tenant."""

    tenant: str | None
    change: Change


class TableCodec:
    """The rows of one table. `key`: of its columns, in their order; () where rows have none.

    `whole`: old rows have all columns, as with REPLICA IDENTITY FULL.
    """

    def __init__(
        self,
        relation: Relation,
        kinds: Mapping[int, Kind],
        key: Sequence[str],
        whole: bool,
        tenant_column: str | None,
    ) -> None:
        self.oid = relation.oid
        self.name = table_name(relation.schema, relation.name)
        self.sql_name = f"{quote_identifier(relation.schema)}.{quote_identifier(relation.name)}"
        self.columns = tuple(column.name for column in relation.columns)
        self.typed_columns = tuple(
            Column(column.name, column.type_oid, kinds[column.type_oid])
            for column in relation.columns
        )
        places = {name: place for place, name in enumerate(self.columns)}
        self.key = tuple(key)
        self.whole = whole
        self._key_places = tuple(places[name] for name in self.key)
        self._tenant_place = None if tenant_column is None else places.get(tenant_column)
        self._names = tuple(string(name.encode()) for name in self.columns)
        self._template = _object_template(self._names)
        self._key_template = _object_template([self._names[place] for place in self._key_places])
        self._converters: tuple[Callable[[bytes], bytes] | None, ...] = tuple(
            None if column.type_oid in _INTEGERS else converter(column.kind)
            for column in self.typed_columns
        )
        # Whether an update may come without a value that is stored apart.
        self.partial = not whole and any(
            column.type_oid not in _FIXED for column in self.typed_columns
        )

    # -- values as JSON

    def parts(self, row: Row) -> list[bytes]:
        """The JSON of each value; MISSING for one that was left unchanged."""
        if len(row) != len(self._converters):
            raise RowError(f"a row of {self.name} has {len(row)} values, not {len(self.columns)}")
        if UNCHANGED in row:
            known = self.parts([None if value is UNCHANGED else value for value in row])
            return [
                MISSING if value is UNCHANGED else part
                for value, part in zip(row, known, strict=True)
            ]
        return [
            NULL if value is None else value if convert is None else convert(value)
            for value, convert in zip(
                cast("list[bytes | None]", row), self._converters, strict=True
            )
        ]

    def row(self, parts: Sequence[bytes]) -> bytes:
        """The row as a JSON object, without what is missing."""
        if MISSING not in parts:
            return self._template % tuple(parts)
        members = [
            b"%b:%b" % (name, part)
            for name, part in zip(self._names, parts, strict=True)
            if part is not MISSING
        ]
        return b"{%b}" % b",".join(members)

    def missing(self, parts: Sequence[bytes]) -> tuple[str, ...]:
        return tuple(
            name for name, part in zip(self.columns, parts, strict=True) if part is MISSING
        )

    def key_of(self, parts: Sequence[bytes]) -> bytes:
        """The key as a JSON object: of the whole row where the table has none."""
        if not self._key_places:
            return self.row(parts)
        return self._key_template % tuple([parts[place] for place in self._key_places])

    def key_text(self, row: Row, parts: Sequence[bytes]) -> str:
        """The key in one line: the value's text, a JSON array of several, a digest of a whole row."""
        places = self._key_places
        if len(places) == 1:
            value = row[places[0]]
            return value.decode() if isinstance(value, bytes) else ""
        if places:
            return (b"[%b]" % b",".join([parts[place] for place in places])).decode()
        return hashlib.blake2b(self.row(parts), digest_size=16).hexdigest()

    def tenant(self, row: Row) -> str | None:
        if self._tenant_place is None:
            return None
        value = row[self._tenant_place]
        return tenant_of(value) if isinstance(value, bytes) else None

    # -- changes

    def insert(self, message: Insert) -> list[Owned]:
        parts = self.parts(message.new)
        change = Change(
            *(self.name, "c", self.key_text(message.new, parts), self.key_of(parts), None),
            *(None, self.row(parts)),
        )
        return [Owned(self.tenant(message.new), change)]

    def new_row(self, message: Update) -> Row:
        """An update's new row, unchanged values filled in from the old one where that has them."""
        old, new = message.old, message.new
        if old is None or UNCHANGED not in new:
            return new
        # Of an old key the columns outside the key are not there, which looks like null.
        has = range(len(new)) if message.whole else self._key_places
        return [
            old[place] if value is UNCHANGED and place in has else value
            for place, value in enumerate(new)
        ]

    def update(self, message: Update, row: Row, new: Sequence[bytes]) -> list[Owned]:
        """`row` is `new_row`, `new` its parts with the missing ones filled in as far as known."""
        key = self.key_of(new)
        tenant = self.tenant(row)
        after, unchanged = self.row(new), self.missing(new) if MISSING in new else ()
        text = self.key_text(row, new)
        if message.old is None:
            change = Change(self.name, "u", text, key, None, None, after, unchanged)
            return [Owned(tenant, change)]
        old = self.parts(message.old)
        old_key = self.key_of(old)
        before = self.row(old) if message.whole else old_key
        left = self.left_tenant(message, tenant)
        if left != tenant:
            gone_text = self.key_text(message.old, old)
            gone = Change(self.name, "d", gone_text, old_key, None, before, None)
            come = Change(self.name, "c", text, key, None, None, after, unchanged)
            return [Owned(left, gone), Owned(tenant, come)]
        moved = old_key if old_key != key else None
        return [Owned(tenant, Change(self.name, "u", text, key, moved, before, after, unchanged))]

    def left_tenant(self, message: Update, tenant: str | None) -> str | None:
        """The tenant of the old row; the new one's, `tenant`, where the old row does not tell."""
        place = self._tenant_place
        if place is None or message.old is None:
            return tenant
        if not message.whole and self.columns[place] not in self.key:
            return tenant
        return self.tenant(message.old)

    def delete(self, message: Delete) -> list[Owned]:
        parts = self.parts(message.old)
        key = self.key_of(parts)
        before = self.row(parts) if message.whole else key
        text = self.key_text(message.old, parts)
        change = Change(self.name, "d", text, key, None, before, None)
        return [Owned(self.tenant(message.old), change)]

    def truncate(self) -> Change:
        return Change(self.name, "t", EVERY_KEY, None, None, None, None)


def _object_template(names: Sequence[bytes]) -> bytes:
    """A JSON object with a place for each value; a percent sign in a name is only that."""
    return b"{%b}" % b",".join(name.replace(b"%", b"%%") + b":%b" for name in names)
