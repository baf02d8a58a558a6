"""Changes folded into what they leave behind: the rows that differ from those of a snapshot. Pure.

A transaction is taken whole, when its last change has come. A table without a key is a multiset:
its rows are counted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from store.errors import StoreError
from store.json_members import members, object_of
from store.visibility import Visibility, parse_lsn

_RAW_NULL = b"null"
_ROWS = ("before", "after", "key", "old_key")


class _Payload(msgspec.Struct, frozen=True):
    before: msgspec.Raw
    after: msgspec.Raw
    key: msgspec.Raw
    xid: int
    source: str
    last: bool
    lsn: str
    old_key: msgspec.Raw = msgspec.Raw(_RAW_NULL)
    unchanged: tuple[str, ...] = ()


class _Identifier(msgspec.Struct, frozen=True):
    table: str
    op: str


class _Data(msgspec.Struct, frozen=True):
    identifier: _Identifier
    payload: _Payload


class _Event(msgspec.Struct, frozen=True):
    data: _Data


_decode = msgspec.json.Decoder(_Event).decode
_decode_data = msgspec.json.Decoder(_Data).decode


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one row; of all rows of its table when `op` is t. Rows and keys are JSON or None.

    `unchanged` columns are missing in `after`: they are what they were before.
    """

    source: str
    table: str
    op: str
    key: bytes | None
    old_key: bytes | None
    before: bytes | None
    after: bytes | None
    xid: int
    lsn: str
    last: bool
    unchanged: tuple[str, ...] = ()


def read_change(event: bytes) -> Change | None:
    """A change as it is stored in the log, or None for an event that somebody published.

    Raises StoreError for a captured one that cannot be read: without it a state would be wrong.
    """
    try:
        data = _decode(event).data
    except (msgspec.DecodeError, RecursionError) as error:
        if b'"lsn":' not in event or b'"xid":' not in event:
            return None
        try:
            data = _read_odd(event)
        except (KeyError, ValueError, msgspec.DecodeError):
            raise StoreError(f"a captured change cannot be read: {error}") from error
    payload = data.payload
    return Change(
        source=payload.source,
        table=data.identifier.table,
        op=data.identifier.op,
        key=_value(payload.key),
        old_key=_value(payload.old_key),
        before=_value(payload.before),
        after=_value(payload.after),
        xid=payload.xid,
        lsn=payload.lsn,
        last=payload.last,
        unchanged=payload.unchanged,
    )


def _read_odd(event: bytes) -> _Data:
    """One with a value that the strict decoder refuses, as PostgreSQL's `json` may hold them."""
    data = members(members(event)["data"])
    payload = members(data["payload"])
    rows = {name: msgspec.Raw(payload[name]) for name in _ROWS if name in payload}
    payload |= dict.fromkeys(rows, _RAW_NULL)
    found = _decode_data(object_of(data | {"payload": object_of(payload)}))
    return replace(found, payload=replace(found.payload, **rows))


def _value(raw: msgspec.Raw) -> bytes | None:
    text = bytes(raw)
    return None if text == _RAW_NULL else text


@dataclass(frozen=True, slots=True)
class _Partial:
    """A row that lacks columns: they stand in the snapshot, in the row of this key."""

    row: bytes
    unchanged: frozenset[str]
    base_key: bytes


def _fill(row: bytes, unchanged: Set[str], before: bytes) -> bytes:
    """A row with the columns that it lacks, in the order of the row before."""
    known = members(row)
    old = members(before)
    names = [name for name in old if name in known or name in unchanged]
    names += [name for name in known if name not in old]
    return object_of({name: known.get(name) or old[name] for name in names})


@dataclass(frozen=True, slots=True)
class Base:
    """What a source's changes are folded onto.

    It has what `visible` sees of the transactions that were committed before `lsn`, and nothing of
    later: ids of transactions come again, places in the write-ahead log do not. `multisets` has the tables of the snapshot and whether they are without a key; changes of
    `excluded` tables are passed over, since their rows of before are not known.
    """

    visible: Visibility | None
    lsn: int
    after_sequence: int
    multisets: Mapping[str, bool]
    excluded: Set[str]


@dataclass(slots=True)
class TableFold:
    """What became of one table. `cleared`: nothing of the snapshot's rows is left.

    Whether one that was made since is a multiset its first row tells, which then is its own key.
    """

    multiset: bool | None
    cleared: bool = False
    rows: dict[bytes, bytes | _Partial | None] = field(default_factory=dict)
    counts: Counter[bytes] = field(default_factory=Counter)
    # Which rows wait for columns, by the key of the snapshot's row that has them.
    waiting: dict[bytes, bytes] = field(default_factory=dict)

    def apply(self, change: Change) -> None:
        if change.op == "t":
            self.cleared = True
            self.rows.clear()
            self.counts.clear()
            self.waiting.clear()
            return
        if self.multiset is None:
            self.multiset = change.after is not None and change.key == change.after
        if self.multiset:
            self._count(change)
        elif change.op == "d":
            if change.key is not None:
                self.rows[change.key] = None
        elif change.key is not None:
            row = self._filled(change, change.key) if change.unchanged else change.after
            if change.old_key is not None:
                self.rows[change.old_key] = None
            self.rows[change.key] = row

    def _filled(self, change: Change, key: bytes) -> bytes | _Partial:
        """The new row with the columns that the change does not tell, or what waits for them."""
        row, unchanged = change.after or b"{}", frozenset(change.unchanged)
        base_key = change.old_key or key
        before = self.rows.get(base_key)
        if isinstance(before, _Partial):
            row = _fill(row, unchanged, before.row)
            unchanged, base_key = unchanged & before.unchanged, before.base_key
        elif before is not None:
            return _fill(row, unchanged, before)
        if unchanged and not self.cleared:
            self.waiting[base_key] = key
        return _Partial(row, unchanged, base_key)

    def _count(self, change: Change) -> None:
        before = change.before or change.old_key
        if change.op == "d":
            before = before or change.key
        elif change.after is not None and (change.op == "c" or before is not None):
            # Without the row of before nothing of it has changed.
            self.counts[change.after] += 1
        if change.op != "c" and before is not None:
            self.counts[before] -= 1

    def patch(self, lines: bytes) -> bytes:
        """Lines of the snapshot as they are now; each must be given once."""
        if self.cleared:
            return b""
        if self.multiset:
            return self._patch_counted(lines) if self.counts else lines
        if not self.rows:
            return lines
        rows = self.rows
        kept: list[bytes] = []
        for line in lines.split(b"\n"):
            key, _, before = line.partition(b"\t")
            if key not in rows:
                kept.append(line)
                continue
            if key in self.waiting:
                self._complete(self.waiting.pop(key), before)
            row = rows[key]
            if not isinstance(row, _Partial):  # which has another row to wait for
                del rows[key]
                if row is not None:
                    kept.append(b"%b\t%b" % (key, row))
        return b"\n".join(kept)

    def _complete(self, key: bytes, before: bytes) -> None:
        row = self.rows.get(key)
        if isinstance(row, _Partial):
            self.rows[key] = _fill(row.row, row.unchanged, before)

    def _patch_counted(self, lines: bytes) -> bytes:
        counts = self.counts
        kept: list[bytes] = []
        for line in lines.split(b"\n"):
            row = line.partition(b"\t")[0]
            if counts.get(row, 0) < 0:
                counts[row] += 1
            else:
                kept.append(line)
        return b"\n".join(kept)

    def rest(self) -> Iterator[bytes]:
        """Lines of the rows that the snapshot did not have."""
        if self.multiset:
            return (b"%b\t%b\n" % (row, row) for row in self.counts.elements())
        rows = self.rows.items()
        return (
            b"%b\t%b\n" % (key, row.row if isinstance(row, _Partial) else row)
            for key, row in rows
            if row is not None
        )


class Fold:
    """Every table of every source that has changed. Sources without a base are passed over.

    With `anything` a source that is not among the bases is folded onto nothing.
    """

    def __init__(
        self, bases: Mapping[str, Base], tables: Set[str] | None, *, anything: bool = False
    ) -> None:
        self._bases = bases
        self._default = Base(None, 0, 0, {}, frozenset()) if anything else None
        self.sources = None if anything else frozenset(bases)
        self._wanted = tables
        self._open: dict[str, list[Change]] = {}
        # Sources whose changes are all of later than the base by now.
        self._past: set[str] = set()
        self.tables: dict[tuple[str, str], TableFold] = {}

    def add(self, event: bytes, sequence: int) -> None:
        """The next event of the log."""
        change = read_change(event)
        if change is None:
            return
        base = self._bases.get(change.source, self._default)
        if base is None or sequence <= base.after_sequence:
            return
        if change.source not in self._past:
            if parse_lsn(change.lsn) >= base.lsn:
                self._past.add(change.source)
            elif base.visible is not None and base.visible.sees(change.xid):
                return
        pending = self._open.setdefault(change.source, [])
        if change.table not in base.excluded and (
            self._wanted is None or change.table in self._wanted
        ):
            pending.append(change)
        if change.last:
            for each in pending:
                place = (each.source, each.table)
                if place not in self.tables:
                    self.tables[place] = TableFold(base.multisets.get(each.table))
                self.tables[place].apply(each)
            pending.clear()
