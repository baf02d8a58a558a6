"""The last known row of a key: what fills in the large values that an update left unchanged.

Asked in turn: rows that passed by just now, the newest event of the row in the log, and the source,
whose answer counts only if the transaction at hand wrote what is there.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import structlog

from store.capture_record import CHANGE
from store.change_stream import ChangeStream, Transaction
from store.connection import Connection, log_key, rows_key
from store.errors import SourceUnavailable, StoreError
from store.event import StreamKey
from store.json_members import members
from store.pgsource import PgSource
from store.pgtypes import select_list
from store.rows import MISSING, Change, TableCodec

logger = structlog.get_logger(__name__)

# PostgreSQL stores values apart in rows of more than 2 kB; some have a quarter of that as JSON.
KEPT_BYTES = 400
CACHE_BYTES = 64 << 20
_LARGEST = 8 << 20


def field_of(key: bytes) -> bytes:
    """The name of a row in the log's index of large rows."""
    return hashlib.blake2b(key, digest_size=16).digest()


class LastRows:
    """Rows of one source, told of every change of the tables that need it."""

    def __init__(self, source: PgSource, connection: Connection) -> None:
        self._source = source
        self._connection = connection
        self._rows: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()
        self._bytes = 0

    def note(self, change: Change) -> bool:
        """Remember a row's newest form, or that it has none; whether it is worth being found again."""
        if self._rows:
            for key in (change.key, change.old_key):
                if key is not None:
                    self._forget((change.table, key))
        after = change.after
        if after is None or change.key is None or change.unchanged or len(after) < KEPT_BYTES:
            return False
        if len(after) <= _LARGEST:
            self._rows[change.table, change.key] = after
            self._bytes += len(after)
            while self._bytes > CACHE_BYTES:
                self._bytes -= len(self._rows.popitem(last=False)[1])
        return True

    def forget_table(self, table: str) -> None:
        for place in [place for place in self._rows if place[0] == table]:
            self._forget(place)

    async def forget_columns(self, table: str, tenants: Iterable[str]) -> None:
        """The rows of a table are of no use any more, in the log neither."""
        self.forget_table(table)
        for tenant in tenants:
            key = rows_key(StreamKey(tenant, CHANGE), self._source.settings.name, table)
            await self._connection.execute("UNLINK", key)

    def _forget(self, place: tuple[str, bytes]) -> None:
        self._bytes -= len(self._rows.pop(place, b""))

    async def fill(
        self,
        codec: TableCodec,
        parts: list[bytes],
        key: bytes,
        stream: ChangeStream,
        transaction: Transaction,
    ) -> list[bytes]:
        """The parts with what is known of the missing ones, of the row that had this key."""
        row = self._rows.get((codec.name, key)) or await self._logged(stream, codec.name, key)
        if row is not None:
            parts = _filled(codec, parts, row)
        if MISSING in parts:
            parts = await self._ask(codec, parts, transaction)
        return parts

    async def _logged(self, stream: ChangeStream, table: str, key: bytes) -> bytes | None:
        held = stream.held
        if held is not None and held.table == table and held.key == key and held.after is not None:
            return held.after
        # What is not in the log yet cannot be found there.
        await stream.flush()
        found = await self._connection.execute(
            "HGET", rows_key(stream.stream, self._source.settings.name, table), field_of(key)
        )
        if found is None:
            return None
        entries = await self._connection.execute("XRANGE", log_key(stream.stream), found, found)
        # Retention may have taken it.
        return _after(entries[0][1][1]) if entries else None

    async def _ask(
        self, codec: TableCodec, parts: list[bytes], transaction: Transaction
    ) -> list[bytes]:
        if not codec.key:
            return parts
        missing = set(codec.missing(parts))
        columns = [column for column in codec.typed_columns if column.name in missing]
        try:
            row = await self._source.row_now(
                codec.sql_name,
                select_list(columns, "t"),
                codec.key_of(parts),
                codec.key,
                transaction.xid,
            )
        except SourceUnavailable:
            raise
        except StoreError as error:
            # The table is another one by now, or not to be read by this role.
            logger.warning("row_not_found", table=codec.name, error=str(error))
            return parts
        return parts if row is None else _filled(codec, parts, row.encode())


def _after(event: bytes) -> bytes:
    for name in ("data", "payload", "after"):
        event = members(event)[name]
    return event


def _filled(codec: TableCodec, parts: Iterable[bytes], row: bytes) -> list[bytes]:
    known = members(row)
    return [
        known.get(name, MISSING) if part is MISSING else part
        for name, part in zip(codec.columns, parts, strict=True)
    ]
