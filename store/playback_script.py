"""Changes as SQL text: one transaction of the source is one transaction of the playback database. Pure.

The text is a run of statements for one round trip. Each of its transactions moves the place up to
which everything is carried out, and fails if the work has been taken over.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from store.errors import TargetError
from store.event import Position
from store.fold import Change
from store.json_members import members, object_of
from store.playback_tables import Identity, TargetTable, find_tables

# A transaction that is larger is sent in parts, so that none has to fit into memory.
PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Scope:
    """Which changes are carried out: of these sources (None: any), not of the excluded tables.

    `tables` are those that have been written to.
    """

    tables: frozenset[str]
    excluded: frozenset[str]
    sources: frozenset[str] | None

    def takes(self, change: Change) -> bool:
        if self.sources is not None and change.source not in self.sources:
            return False
        return change.table not in self.excluded


@dataclass(frozen=True, slots=True)
class Batch:
    """Text for one round trip; `times_ms` are the event times of the transactions it ends.

    Everything up to `place` is carried out then, if it ends any. `claimed` are tables that had not
    been written to before.
    """

    text: str
    changes: int
    times_ms: list[int]
    place: Position | None
    claimed: frozenset[str]


class Script:
    """What is to be carried out on one connection; `prepared` has the statements it knows by now.

    The first change of a table that was not part of the state before finds it empty.

    Transactions of several sources that lie in each other in the log are carried out as one.
    """

    def __init__(
        self,
        tenant: str,
        tables: Mapping[str, TargetTable],
        scope: Scope,
        prepared: dict[str, bytes],
    ) -> None:
        self._tenant = tenant.encode()
        self._tables = tables
        self._scope = scope
        self._known = set(scope.tables)
        self._claimed: set[str] = set()
        self._prepared = prepared
        self._text: list[bytes] = []
        self._rows: dict[str, _Rows] = {}
        self._open: set[str] = set()
        self._size = 0
        self._changes = 0
        self._times_ms: list[int] = []
        self._place: Position | None = None
        # The first part of a transaction is sent, or about to be.
        self._begun = False

    @property
    def size(self) -> int:
        """Bytes that wait, about."""
        return self._size + sum(map(len, self._text))

    @property
    def unfinished(self) -> bool:
        """A transaction has begun whose last change has not come."""
        return bool(self._open)

    def add(self, change: Change, position: Position) -> None:
        """The next change of the log. Raises TargetError when the tables cannot take it."""
        if self._scope.takes(change):
            rows = self._rows.get(change.table)
            if rows is None:
                rows = self._rows[change.table] = _Rows(self._tenant, self._table(change.table))
            rows.add(change)
            self._size += len(change.after or b"") + len(change.key or b"")
            self._changes += 1
        if not change.last:
            self._open.add(change.source)
            if self._size >= PART_BYTES:
                self._send_rows()
            return
        self._open.discard(change.source)
        if not self._open:
            self._end(position)

    def take(self) -> Batch | None:
        """What is ready to be sent, whole transactions but for a large last one."""
        if not self._text:
            return None
        text, claimed = b"".join(self._text).decode(), frozenset(self._claimed)
        batch = Batch(text, self._changes, self._times_ms, self._place, claimed)
        self._text, self._changes, self._times_ms, self._place = [], 0, [], None
        self._claimed.clear()
        return batch

    def _table(self, name: str) -> TargetTable:
        table = find_tables(self._tables, [name])[name]
        if name not in self._known:
            # Who cleans up has to know of it.
            self._begin()
            self._text.append(b"EXECUTE ph_claim(%b);" % _literal(name.encode()))
            self._execute(table.clear_first, "uuid", [self._tenant])
            self._known.add(name)
            self._claimed.add(name)
        return table

    def _begin(self) -> None:
        if not self._begun:
            self._text.append(b"BEGIN;")
            self._begun = True

    def _end(self, position: Position) -> None:
        if self._rows or self._begun:
            self._send_rows()
            self._text.append(b"EXECUTE ph_advance(%d,%d);COMMIT;" % position)
            self._times_ms.append(position.ms)
            self._place = position
            self._begun = False

    def _send_rows(self) -> None:
        self._begin()
        for rows in self._rows.values():
            for sql, types, arguments in rows.statements():
                self._execute(sql, types, arguments)
        self._rows.clear()
        self._size = 0

    def _execute(self, sql: str, types: str, arguments: list[bytes]) -> None:
        if not arguments:
            self._text.append(b"%b;" % sql.encode())
            return
        name = self._prepared.get(sql)
        if name is None:
            name = self._prepared[sql] = b"ph_%d" % len(self._prepared)
            self._text.append(b"PREPARE %b(%b) AS %b;" % (name, types.encode(), sql.encode()))
        self._text.append(b"EXECUTE %b(%b);" % (name, b",".join(map(_literal, arguments))))


class _Rows:
    """What a transaction leaves behind in one table."""

    def __init__(self, tenant: bytes, table: TargetTable) -> None:
        self._tenant = tenant
        self._table = table
        self._cleared = False
        # By key, in the order they were touched; those that were not there before are fresh.
        self._rows: dict[bytes, bytes | None] = {}
        self._fresh: set[bytes] = set()
        # By key: the key it had before, and those of its columns that are known.
        self._patches: dict[bytes, tuple[bytes, bytes]] = {}
        # Of tables in which equal rows may be: how many more there are of each.
        self._counts: Counter[bytes] = Counter()

    def add(self, change: Change) -> None:
        if change.op == "t":
            self._cleared = True
            for each in (self._rows, self._fresh, self._patches, self._counts):
                each.clear()
            return
        key = change.key
        if key is None:
            raise TargetError(f"a change of table {change.table} in the log has no key")
        if self._table.identity_in(columns_of(key)) is None:
            self._count(change, key)
        elif change.op == "c":
            self._put(key, change.after)
        else:
            before = change.old_key or key
            if change.unchanged and self._rows.get(before) is None:
                self._patch(before, key, change.after or b"{}")
                return
            patched = self._patches.pop(before, None)
            row = change.after
            if row is not None and change.unchanged:
                row = _merge(self._rows[before] or b"{}", row)
            self._rows[patched[0] if patched else before] = None
            if change.op == "u":
                self._put(key, row)

    def _put(self, key: bytes, row: bytes | None) -> None:
        if key not in self._rows:
            self._fresh.add(key)
        self._rows[key] = row

    def _patch(self, before: bytes, key: bytes, row: bytes) -> None:
        """Columns are missing that are what they were: the row is changed where it is."""
        earlier = self._patches.pop(before, None)
        self._patches[key] = (earlier[0], _merge(earlier[1], row)) if earlier else (before, row)

    def _count(self, change: Change, key: bytes) -> None:
        if change.op != "d" and change.after != key:
            self._table.require_identity(columns_of(key))
        if change.op != "c":
            self._counts[change.old_key or key] -= 1
        if change.op != "d":
            self._counts[key] += 1

    def statements(self) -> list[tuple[str, str, list[bytes]]]:
        """SQL, types of its parameters and their values, in order: what was goes first."""
        found: list[tuple[str, str, list[bytes]]] = []
        if self._cleared:
            # Of the rows that are there nobody knows whose they are.
            alone = [self._tenant, self._table.name.encode()]
            found.append((self._table.close, "", []))
            found.append(("SELECT playhead.require_alone($1, $2)", "uuid,text", alone))
            found.append((self._table.clear, "", []))
        gone = [key for key in self._rows if key not in self._fresh and not self._cleared]
        for columns, keys in by_columns(gone).items():
            sql = self._table.delete(self._identity(columns))
            found.append((sql, "json", [_array(keys)]))
        for row, count in self._counts.items():
            if count < 0:
                sql = self._table.delete_equal(columns_of(row))
                found.append((sql, "text,bigint", [row, b"%d" % -count]))
        for before, row in self._patches.values():
            sql = self._table.update(self._identity(columns_of(before)), columns_of(row))
            found.append((sql, "json,json", [_array([row]), _array([before])]))
        kept = [row for row in self._rows.values() if row is not None]
        kept += self._counts.elements()
        for columns, rows in by_columns(kept).items():
            found.append((self._table.insert(columns), "json", [_array(rows)]))
        return found

    def _identity(self, key: tuple[str, ...]) -> Identity:
        identity = self._table.identity_in(key)
        assert identity is not None  # noqa: S101 - or its rows would have been counted
        return identity


def columns_of(row: bytes) -> tuple[str, ...]:
    """The names of the members of an object. Raises TargetError when it is none."""
    try:
        return tuple(members(row))
    except ValueError as error:
        raise TargetError(f"the log has a row that is no JSON object: {row[:80]!r}") from error


def _merge(row: bytes, changes: bytes) -> bytes:
    return object_of(members(row) | members(changes))


def by_columns(rows: list[bytes]) -> dict[tuple[str, ...], list[bytes]]:
    """Objects by the names of their members: those of one time may lack what came later."""
    found: dict[tuple[str, ...], list[bytes]] = {}
    for row in rows:
        found.setdefault(columns_of(row), []).append(row)
    return found


def _array(objects: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(objects)


def _literal(text: bytes) -> bytes:
    # As every session of the playback database has standard_conforming_strings on.
    return b"'%b'" % text.replace(b"'", b"''")
