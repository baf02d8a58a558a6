"""One source's transactions into the log: messages in, changes out to the streams of their tenants.

Knows nothing of slots and rounds: `copy` takes what there is up to a place, and when it returns all of
it is in the log. Told again what it was told before, it stores nothing twice.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog
from msgspec import structs

from store.capture_record import CHANGE, CaptureRecord, Shape
from store.change_stream import ChangeStream, Renderer, Transaction
from store.connection import Connection
from store.errors import StoreError
from store.event import KeptRow, Mark, StreamKey
from store.last_rows import LastRows, field_of
from store.log import EventLog
from store.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    Relation,
    Row,
    Truncate,
    Update,
    decode,
)
from store.pgsource import PgSource
from store.pgtypes import Kind
from store.rows import MISSING, TableCodec

logger = structlog.get_logger(__name__)

_NEEDED = b"BR"

# What is collected for all tenants together before it is stored.
_UNSENT_BYTES = 16 << 20
_FLUSHED_TOGETHER = 16

# Told when a table is another one than before, once everything of before is in the log.
OnReshaped = Callable[[Shape, Shape], Awaitable[None]]


class Copier:
    """Lives as long as one connection to the source. `shapes` are its tables as they were last seen."""

    def __init__(
        self,
        source: PgSource,
        log: EventLog,
        connection: Connection,
        record: CaptureRecord,
        *,
        generation: int,
        shapes: dict[int, Shape],
        tenants: set[str],
        renderer: Renderer,
        on_stored: Callable[[int], None],
        on_reshaped: OnReshaped,
    ) -> None:
        self._shapes = shapes
        self.tenants = tenants
        # Up to here everything was told to be in the log, so nothing may be put before it.
        self.through_ms = 0
        self._source = source
        self._settings = source.settings
        self._log = log
        self._connection = connection
        self._record = record
        self._generation = generation
        self._renderer = renderer
        self._on_stored = on_stored
        self._on_reshaped = on_reshaped
        self._kinds: dict[int, Kind] = {}
        self._known: dict[bytes, TableCodec] = {}
        self._codecs: dict[int, TableCodec] = {}
        self._streams: dict[str, ChangeStream] = {}
        self._touched: dict[str, ChangeStream] = {}
        self._last_rows = LastRows(source, connection)
        self._transaction = Transaction(0, 0, 0, 0)
        self._strays: set[str] = set()

    async def copy(self, after_lsn: int, upto_lsn: int) -> int:
        """Store what was committed from one place to before another; the number of messages read.

        What the slot still has of before the first place is passed over.
        """
        count, unsent, passing = 0, 0, False
        self._codecs.clear()
        async with aclosing(self._source.peek(upto_lsn)) as pages:
            async for page in pages:
                count += len(page)
                for data in page:
                    # A table is described once, with its first change, passed over or not.
                    if passing and data[0] not in _NEEDED:
                        continue
                    message = decode(data)
                    if isinstance(message, (Update, Insert, Delete)):
                        await self._change(message)
                        unsent += len(data)
                    elif isinstance(message, Begin):
                        passing = message.lsn < after_lsn
                        self._begin(message)
                    elif isinstance(message, Commit):
                        self._commit()
                    elif isinstance(message, Relation):
                        await self._relation(data, message)
                    elif isinstance(message, Truncate):
                        await self._truncate(message)
                if unsent > _UNSENT_BYTES:
                    await self._flush()
                    unsent = 0
        await self._flush()
        return count

    def close(self) -> None:
        for stream in self._streams.values():
            stream.cancel()

    def marks(self) -> dict[str, Mark]:
        """How far the log has each tenant's changes."""
        return {name: each.mark for name, each in self._streams.items() if each.mark is not None}

    async def _flush(self) -> None:
        waiting = [stream for stream in self._streams.values() if stream.waiting]
        for start in range(0, len(waiting), _FLUSHED_TOGETHER):
            together = waiting[start : start + _FLUSHED_TOGETHER]
            await asyncio.gather(*(stream.flush() for stream in together))

    def _begin(self, message: Begin) -> None:
        time_ms = max(message.committed_us // 1000, self.through_ms + 1)
        self._transaction = Transaction(message.lsn, message.xid, message.committed_us, time_ms)

    def _commit(self) -> None:
        for stream in self._touched.values():
            stream.end()
        self._touched.clear()

    async def _change(self, message: Insert | Update | Delete) -> None:
        codec = self._codec(message.relation)
        if not isinstance(message, Insert) and message.whole and not codec.whole:
            message = message._replace(whole=False)
        if isinstance(message, Insert):
            owned = codec.insert(message)
        elif isinstance(message, Delete):
            owned = codec.delete(message)
        else:
            row = codec.new_row(message)
            parts = codec.parts(row)
            if MISSING in parts:
                parts = await self._fill(codec, message, row, parts)
            owned = codec.update(message, row, parts)
        for tenant, change in owned:
            tenant = tenant or self._owner(codec)  # noqa: PLW2901
            stream = self._streams.get(tenant) or await self._open(tenant)
            kept: KeptRow | None = None
            if codec.partial:
                keep = self._last_rows.note(change)
                if change.key is not None and stream.may_have(codec.name, keep):
                    kept = await stream.kept_row(codec.name, field_of(change.key), keep)
            stream.add(self._transaction, change, kept)
            self._touched[tenant] = stream
            if stream.full:
                await stream.send()

    def _codec(self, oid: int) -> TableCodec:
        codec = self._codecs.get(oid)
        if codec is None:
            raise StoreError(f"source '{self._settings.name}' did not describe its table {oid}")
        return codec

    def _owner(self, codec: TableCodec) -> str:
        if self._settings.tenant_column is not None and codec.name not in self._strays:
            self._strays.add(codec.name)
            logger.warning(
                "rows_without_tenant",
                source=self._settings.name,
                table=codec.name,
                column=self._settings.tenant_column,
                given_to=self._settings.tenant,
            )
        return self._settings.tenant

    async def _open(self, tenant: str) -> ChangeStream:
        if tenant not in self.tenants:
            await self._record.add_tenant(tenant)
            self.tenants.add(tenant)
        await self._record.tell_through(tenant, self.through_ms)
        key = StreamKey(tenant, CHANGE)
        stream = self._streams[tenant] = ChangeStream(
            self._log,
            self._connection,
            key,
            source=self._settings.name,
            generation=self._generation,
            mark=await self._record.mark(key),
            renderer=self._renderer,
            on_stored=self._on_stored,
        )
        return stream

    async def _fill(
        self, codec: TableCodec, message: Update, row: Row, parts: list[bytes]
    ) -> list[bytes]:
        """Large values that were left unchanged, from the row as it was known before."""
        key = codec.key_of(parts) if message.old is None else codec.key_of(codec.parts(message.old))
        tenant = codec.left_tenant(message, codec.tenant(row)) or self._settings.tenant
        stream = self._streams.get(tenant) or await self._open(tenant)
        return await self._last_rows.fill(codec, parts, key, stream, self._transaction)

    async def _truncate(self, message: Truncate) -> None:
        """Of all tenants that ever had a row: whose the rows were is not told."""
        tenants = {self._settings.tenant}
        if self._settings.tenant_column is not None:
            # Some are known by a snapshot alone: they had rows before capture began.
            self.tenants |= await self._record.tenants()
            tenants = self.tenants
        for oid in dict.fromkeys(message.relations):
            codec = self._codec(oid)
            self._last_rows.forget_table(codec.name)
            for tenant in sorted(tenants):
                stream = self._streams.get(tenant) or await self._open(tenant)
                row = await stream.kept_row(codec.name, b"", False) if codec.partial else None
                stream.add(self._transaction, codec.truncate(), row)
                self._touched[tenant] = stream
                if stream.full:
                    await stream.send()

    # -- tables as they were

    async def _relation(self, data: bytes, message: Relation) -> None:
        oid, codec = message.oid, self._known.get(data)
        whole, key = await self._identity(message)
        if codec is None or (codec.whole, codec.key) != (whole, key):
            unknown = {column.type_oid for column in message.columns} - self._kinds.keys()
            if unknown:
                self._kinds |= await self._source.kinds(sorted(unknown))
            codec = TableCodec(message, self._kinds, key, whole, self._settings.tenant_column)
            self._known[data] = codec
        self._codecs[oid] = codec
        columns = [f"{each.name} {each.type_oid}" for each in codec.typed_columns]
        shape = Shape(codec.name, list(codec.key), columns, self._transaction.lsn)
        before = self._shapes.get(oid)
        if before is not None:
            # A transaction of before that is read again had the table as it was then.
            if shape.lsn <= before.lsn or shape == structs.replace(before, lsn=shape.lsn):
                return
            await self._flush()
            if not set(before.columns) <= set(columns):
                # Large values may have been written anew, of which no change tells.
                await self._last_rows.forget_columns(codec.name, self.tenants)
            await self._on_reshaped(before, shape)
        self._shapes[oid] = shape
        await self._record.save_shapes(self._shapes)

    async def _identity(self, message: Relation) -> tuple[bool, tuple[str, ...]]:
        """Whether old rows are whole; the key, or the primary one where that is the row or nothing."""
        if message.identity in "di":
            return False, tuple(column.name for column in message.columns if column.key)
        found = await self._source.full_identity(message.oid)
        if found is None:
            # Dropped meanwhile: its last changes are of the key that is known.
            before = self._shapes.get(message.oid)
            found = True, tuple(before.key) if before else ()
        whole, key = found
        names = [column.name for column in message.columns]
        key = tuple(name for name in names if name in key) if set(key) <= set(names) else ()
        return whole and message.identity == "f", key
