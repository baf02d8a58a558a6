"""What a database really held at any time, by its own account and without any part of Playhead.

Triggers note each change of a row in a table that is not captured, in the same transaction. A slot
that reads only that table tells in which order, and when, the transactions were committed.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

# Rows by table and text, with how often they are there.
Rows: TypeAlias = Counter[tuple[str, str]]

_UNIX_2000_US = 946_684_800_000_000
_BEGIN = struct.Struct(">cqqi")
_SETTINGS = (
    "SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' "
    "SET extra_float_digits = 1 SET bytea_output = 'hex'"
)
SCHEMA = f"""
CREATE TABLE ledger (number bigserial, xid bigint DEFAULT pg_current_xact_id()::text::bigint,
                     tab text, old text, new text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql {_SETTINGS} AS $$
DECLARE
  name text := TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    INSERT INTO ledger (tab) VALUES (name);
  ELSIF TG_OP = 'INSERT' THEN
    INSERT INTO ledger (tab, new) VALUES (name, to_json(NEW)::text);
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO ledger (tab, old, new) VALUES (name, to_json(OLD)::text, to_json(NEW)::text);
  ELSE
    INSERT INTO ledger (tab, old) VALUES (name, to_json(OLD)::text);
  END IF;
  RETURN NULL;
END $$;
CREATE PUBLICATION ledger FOR TABLE ledger;
"""
# After that, in a transaction of its own.
SLOT = "SELECT pg_create_logical_replication_slot('ledger', 'pgoutput')"
_ORDER = """
SELECT data FROM pg_logical_slot_peek_binary_changes(
  'ledger', NULL, NULL, 'proto_version', '1', 'publication_names', 'ledger')
WHERE get_byte(data, 0) = ascii('B')
"""


def noting(table: str) -> str:
    """SQL that has the changes of a table noted."""
    return (
        f"CREATE TRIGGER note_row AFTER INSERT OR UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION note();"
        f"CREATE TRIGGER note_truncate AFTER TRUNCATE ON {table} EXECUTE FUNCTION note();"
    )


@dataclass(frozen=True, slots=True)
class Change:
    """Of a row from old to new; both None when its table was truncated."""

    table: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Transaction:
    xid: int
    committed_ms: int
    changes: list[Change]


async def read_ledger(connection: asyncpg.Connection) -> list[Transaction]:
    """All transactions, in the order of their commits."""
    changes: dict[int, list[Change]] = defaultdict(list)
    for row in await connection.fetch("SELECT xid, tab, old, new FROM ledger ORDER BY number"):
        changes[row["xid"]].append(Change(row["tab"], row["old"], row["new"]))
    found = []
    for record in await connection.fetch(_ORDER):
        _, _, committed_us, xid = _BEGIN.unpack(record["data"])
        committed_ms = (committed_us + _UNIX_2000_US) // 1000
        found.append(Transaction(xid, committed_ms, changes.pop(xid)))
    assert not changes, "committed, but in no order"
    return found


def rows_at(
    ledger: Iterable[Transaction], times_ms: Mapping[int, int], asked_ms: Iterable[int]
) -> Iterator[tuple[int, Rows]]:
    """The rows of each asked time, in ascending order. `times_ms` by xid is when it counts as done."""
    rows: Rows = Counter()
    left = list(ledger)
    left.reverse()
    for ms in sorted(asked_ms):
        while left and times_ms[left[-1].xid] <= ms:
            for change in left.pop().changes:
                _apply(change, rows)
        yield ms, rows


def _apply(change: Change, rows: Rows) -> None:
    if change.old is None and change.new is None:
        for known in [known for known in rows if known[0] == change.table]:
            del rows[known]
    if change.old is not None:
        old = (change.table, change.old)
        rows[old] -= 1
        assert rows[old] >= 0, "the ledger contradicts itself"
        if not rows[old]:
            del rows[old]
    if change.new is not None:
        rows[change.table, change.new] += 1
