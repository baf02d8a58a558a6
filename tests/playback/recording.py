"""A recording of database changes as capture writes them, and what the tables held at any time of it."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

from store.event import Appended, Draft, Envelope, StreamKey
from store.log import EventLog
from store.pgtypes import SESSION_SETTINGS

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[str, list[str]]

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
# A name that needs its quotes, a column that does, one that is generated, an identity, no key at all.
DDL = """
CREATE TYPE mood AS ENUM ('calm', 'rough');
CREATE TABLE ship (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, load numeric,
  at timestamptz, tags integer[], doc jsonb, raw bytea, sea mood,
  short text GENERATED ALWAYS AS (left(name, 3)) STORED);
CREATE TABLE "Port of Call" (country text, code text, "full name" text, PRIMARY KEY (country, code));
CREATE TABLE visit (ship integer REFERENCES ship ON DELETE CASCADE, note text);
CREATE TABLE never (id integer PRIMARY KEY);
"""
SHIP, PORT, VISIT = "public.ship", 'public."Port of Call"', "public.visit"
COLUMNS = {
    SHIP: ("id", "name", "load", "at", "tags", "doc", "raw", "sea"),
    PORT: ("country", "code", "full name"),
    VISIT: ("ship", "note"),
}
KEYS = {SHIP: ("id",), PORT: ("country", "code"), VISIT: COLUMNS[VISIT]}


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def key_of(table: str, row: Row) -> Row:
    return {name: row[name] for name in KEYS[table]}


@dataclass
class Recording:
    """Random transactions of one source from a time on; `begin` is before the first of them."""

    random: random.Random
    begin_ms: int
    source: str = "fleet"
    now_ms: int = 0
    xid: int = 700
    tables: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    # Each change with its time: table, the row that goes (all of them: '*'), the row that comes.
    history: list[tuple[int, str, Row | str | None, Row | None]] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    next_id: int = 1

    def __post_init__(self) -> None:
        self.now_ms = self.begin_ms

    def at(self, ms: int) -> Rows:
        """The rows as they were when everything of this time had been committed."""
        tables: dict[str, Counter[str]] = {name: Counter() for name in COLUMNS}
        for then, table, gone, came in self.history:
            if then > ms:
                break
            if gone == "*":
                tables[table].clear()
            elif gone is not None:
                tables[table][text_of(gone)] -= 1
            if came is not None:
                tables[table][text_of(came)] += 1
        return {name: sorted(rows.elements()) for name, rows in tables.items()}

    def run(self, transactions: int, pause_ms: int) -> None:
        """Transactions at random distances of up to `pause_ms`; some at the same time."""
        for _ in range(transactions):
            self.now_ms += self.random.choice([0, *[self.random.randint(1, pause_ms)] * 4])
            self.commit([self._change() for _ in range(self.random.choice([1, 1, 1, 2, 3, 8]))])

    def commit(self, changes: list[dict[str, Any]]) -> None:
        """One transaction of now."""
        self.xid += 1
        for index, change in enumerate(changes):
            more = {
                "xid": self.xid,
                "lsn": f"0/{self.xid:X}",
                "index": index,
                "last": index == len(changes) - 1,
                "source": self.source,
                "committed": "2024-01-01T00:00:00.000000+00:00",
            }
            about = {"table": change.pop("table"), "op": change.pop("op")}
            key = change["key"]
            about["key"] = "*" if key is None else text_of(list(key.values()))
            body = {"identifier": about, "payload": {**change, **more}}
            head = b'{"data":%b,"id":"change@' % text_of(body).encode()
            self.drafts.append(Draft(b"change", head, self.now_ms))

    def _change(self) -> dict[str, Any]:
        table = self.random.choice([SHIP, SHIP, SHIP, PORT, VISIT])
        rows = self.tables[table]
        kind = self.random.random()
        if kind < 0.004:
            rows.clear()
            self.history.append((self.now_ms, table, "*", None))
            return {"table": table, "op": "t", "before": None, "after": None, "key": None}
        if not rows or kind < 0.4:
            return self.insert(table, self.fresh(table))
        row = self.random.choice(rows)
        return (
            self.delete(table, row)
            if kind < 0.55
            else self.update(table, row, self._new(table, row))
        )

    def insert(self, table: str, row: Row) -> dict[str, Any]:
        self.tables[table].append(row)
        self.history.append((self.now_ms, table, None, row))
        return {"table": table, "op": "c", "before": None, "after": row, "key": key_of(table, row)}

    def delete(self, table: str, row: Row) -> dict[str, Any]:
        self.tables[table].remove(row)
        self.history.append((self.now_ms, table, row, None))
        key = key_of(table, row)
        return {"table": table, "op": "d", "before": key, "after": None, "key": key}

    def update(self, table: str, row: Row, new: Row) -> dict[str, Any]:
        rows = self.tables[table]
        rows[rows.index(row)] = new
        self.history.append((self.now_ms, table, row, new))
        key, old = key_of(table, new), key_of(table, row)
        found = {"table": table, "op": "u", "before": None, "after": new, "key": key}
        return {**found, "old_key": old} if old != key else found

    def _new(self, table: str, row: Row) -> Row:
        new = self.fresh(table)
        if self.random.random() < 0.15:
            return new  # another key
        return {**new, **key_of(table, row)} if table != VISIT else {**row, "note": new["note"]}

    def fresh(self, table: str) -> Row:
        pick = self.random
        self.next_id += 1
        if table == SHIP:
            return {
                "id": self.next_id,
                "name": pick.choice(["Anna", 'O\'Hara \\ "x"', "Zürich ⛵", ""])
                + str(self.next_id),
                "load": pick.choice([None, 0, 12.5, -3]),
                "at": pick.choice([None, "2024-02-29T23:59:59.5+00:00", "infinity"]),
                "tags": pick.choice([None, [], [1, None, 3]]),
                "doc": pick.choice([None, {"a": [1, 2]}, "text", 7]),
                "raw": pick.choice([None, "\\x00ff27"]),
                "sea": pick.choice([None, "calm", "rough"]),
            }
        if table == PORT:
            return {
                "country": "NL",
                "code": f"P{self.next_id}",
                "full name": pick.choice([None, "x"]),
            }
        return {"ship": pick.randint(1, 3), "note": pick.choice([None, "in", "out"])}

    async def publish(self, log: EventLog, tenant: str) -> None:
        outcomes = await log.append(StreamKey(tenant, "change"), ENVELOPE, self.drafts)
        assert all(isinstance(each, Appended) for each in outcomes), outcomes


async def connect(dsn: str) -> Any:
    settings = SESSION_SETTINGS | {"search_path": "public"}
    return await asyncpg.connect(dsn, server_settings=settings)


async def create_tables(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(DDL)
    finally:
        await connection.close()


async def read_rows(connection: Any) -> Rows:
    """What the target's tables hold, in the form of `Recording.at`."""
    found: Rows = {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for table, columns in COLUMNS.items():
            listed = ", ".join('"' + name + '"' for name in columns)
            rows = await connection.fetch(
                f"SELECT to_json(r)::text AS row FROM (SELECT {listed} FROM {table}) r"
            )
            found[table] = sorted(_plain(row["row"]) for row in rows)
    return found


def _plain(row: str) -> str:
    return text_of(json.loads(row))
