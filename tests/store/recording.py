"""Changes written into the log as capture writes them, where a test needs no source database."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from store.captured import changes
from store.connection import Connection, meta_key
from store.event import Appended, Draft, Envelope
from store.log import EventLog

SOURCE = "fleet"
ENVELOPE = Envelope(
    middle=b'","source":"http://localhost","specversion":"1.0","time":"',
    tail=b'","type":"int.ecmwf.aviso.change"}',
)


@dataclass(frozen=True)
class Row:
    """A change to be recorded; rows and keys are JSON texts."""

    table: str
    op: str
    key: str | None
    after: str | None = None
    before: str | None = None
    old_key: str | None = None
    unchanged: Sequence[str] = ()


def inserted(table: str, key: int, text: str) -> Row:
    return Row(table, "c", key_of(key), after=row_of(key, text))


def updated(table: str, key: int, text: str, old: int | None = None) -> Row:
    old_key = None if old is None else key_of(old)
    return Row(table, "u", key_of(key), after=row_of(key, text), old_key=old_key)


def deleted(table: str, key: int) -> Row:
    return Row(table, "d", key_of(key), before=key_of(key))


def truncated(table: str) -> Row:
    return Row(table, "t", None)


def key_of(key: int) -> str:
    return f'{{"id":{key}}}'


def row_of(key: int, text: str) -> str:
    return f'{{"id":{key},"text":{json.dumps(text)}}}'


def payload(row: Row, *, xid: int, lsn: str, index: int, last: bool, source: str) -> str:
    parts = [f'"before":{row.before or "null"}', f'"after":{row.after or "null"}']
    parts.append(f'"key":{row.key or "null"}')
    if row.old_key is not None:
        parts.append(f'"old_key":{row.old_key}')
    parts += [f'"xid":{xid}', f'"lsn":"{lsn}"', f'"index":{index}', f'"last":{json.dumps(last)}']
    parts += [f'"source":"{source}"', '"committed":"2026-01-01T00:00:00.000000Z"']
    if row.unchanged:
        parts.append(f'"unchanged":{json.dumps(list(row.unchanged))}')
    return f"{{{','.join(parts)}}}"


def draft(row: Row, text: str, ms: int) -> Draft:
    identifier = json.dumps({"table": row.table, "op": row.op, "key": row.key or "*"})
    head = (
        f'{{"data":{{"identifier":{identifier},"payload":{text}}},'
        '"datacontenttype":"application/json","dataschema":"http://localhost/schema/change",'
        '"id":"change@'
    )
    return Draft(f"change.{row.table}.{row.op}".encode(), head.encode(), ms)


class Recording:
    """A tenant's log of changes. Transactions have ids and places in the source of their own."""

    def __init__(self, connection: Connection, log: EventLog, tenant: str) -> None:
        self.connection = connection
        self.log = log
        self.tenant = tenant
        self._xids = count(1000)
        self.lsn = 0x1000

    async def commit(
        self, ms: int, *rows: Row, source: str = SOURCE, xid: int | None = None, whole: bool = True
    ) -> None:
        """Record a transaction; without its last change when it is not `whole`."""
        await self._store(self._drafts(ms, rows, source, xid, whole=whole))

    async def commit_all(self, transactions: Sequence[tuple[int, Sequence[Row]]]) -> None:
        """Record many, each at its time, in few calls."""
        await self._store(
            [
                each
                for ms, rows in transactions
                for each in self._drafts(ms, rows, SOURCE, None, whole=True)
            ]
        )

    def _drafts(
        self, ms: int, rows: Sequence[Row], source: str, xid: int | None, *, whole: bool
    ) -> list[Draft]:
        xid = next(self._xids) if xid is None else xid
        self.lsn += 0x100
        lsn = f"0/{self.lsn:X}"
        ends = [whole and index == len(rows) - 1 for index in range(len(rows))]
        return [
            draft(
                row,
                payload(row, xid=xid, lsn=lsn, index=index, last=ends[index], source=source),
                ms,
            )
            for index, row in enumerate(rows)
        ]

    async def _store(self, drafts: list[Draft]) -> None:
        outcomes = await self.log.append(changes(self.tenant), ENVELOPE, drafts)
        assert all(isinstance(each, Appended) for each in outcomes), outcomes

    async def reach(self, ms: int, source: str = SOURCE) -> None:
        """Say that everything up to this time is recorded."""
        key = meta_key(changes(self.tenant))
        await self.connection.execute("HSET", key, f"through:{source}", ms)

    async def lose(self, ms: int, sequence: int) -> None:
        """Say that changes are missing from here on."""
        key = f"ph:{{{self.tenant}}}:breaks"
        await self.connection.execute("RPUSH", key, f"{ms}-{sequence}")
