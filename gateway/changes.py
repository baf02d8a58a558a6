"""Captured changes as events: their topic and their stored JSON. Pure.

The rendering is made once, when a change is captured; what is the same for a table or a transaction is
made once for that.
"""

from datetime import UTC, datetime, timedelta

import msgspec

from gateway.cloudevent import Renderer
from gateway.schema.catalog import EventSchema
from gateway.schema.topic import encode_token
from store.capture_record import format_lsn
from store.change_stream import Transaction
from store.event import ChangeDraft, Envelope
from store.rows import Change

_encode = msgspec.json.Encoder().encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ChangeRenderer:
    """Of one source."""

    def __init__(self, source: str, schema: EventSchema, renderer: Renderer) -> None:
        self._envelope = renderer.envelope(schema.event_type)
        self._before_id = b"}}" + renderer.before_id(schema.event_type)
        self._base_token = schema.base_token
        self._source = _encode(source)
        # By table and operation: the topic up to the key, the JSON between the key and the old row.
        self._tables: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        self._transaction: Transaction | None = None
        self._place = self._ending = b""

    @property
    def envelope(self) -> Envelope:
        return self._envelope

    def render(
        self, change: Change, transaction: Transaction, number: int, last: bool
    ) -> ChangeDraft:
        """The change with this number of its transaction, perhaps the last one of it."""
        if transaction is not self._transaction:
            self._begin(transaction)
        parts = self._tables.get((change.table, change.op)) or self._about(change.table, change.op)
        topic, about = parts
        old_key = b"" if change.old_key is None else b',"old_key":%b' % change.old_key
        unchanged = b"" if not change.unchanged else b',"unchanged":%b' % _encode(change.unchanged)
        head = b'{"data":{"identifier":{"key":%b%b%b,"after":%b,"key":%b%b%b%d,"last":%b%b%b%b' % (
            _encode(change.key_text),
            about,
            change.before or b"null",
            change.after or b"null",
            change.key or b"null",
            old_key,
            self._place,
            number,
            b"true" if last else b"false",
            self._ending,
            unchanged,
            self._before_id,
        )
        return ChangeDraft(
            transaction.time_ms, topic + encode_token(change.key_text).encode(), head
        )

    def _about(self, table: str, op: str) -> tuple[bytes, bytes]:
        topic = f"{self._base_token}.{encode_token(table)}.{op}."
        about = b',"op":"%b","table":%b},"payload":{"before":' % (op.encode(), _encode(table))
        made = self._tables[table, op] = topic.encode(), about
        return made

    def _begin(self, transaction: Transaction) -> None:
        committed = _EPOCH + timedelta(microseconds=transaction.committed_us)
        text = committed.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
        lsn = format_lsn(transaction.lsn)
        self._transaction = transaction
        self._place = b',"xid":%d,"lsn":"%b","index":' % (transaction.xid, lsn.encode())
        self._ending = b',"source":%b,"committed":"%b"' % (self._source, text.encode())
