"""One tenant's changes of one source on their way into the log: collected, then stored each once.

Transactions stay whole: small ones go in one call, of a large one the log knows that it is open until
its last change is there. What the log has already is left out, whoever stored it.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from store.connection import Connection, rows_key
from store.errors import StoreUnavailable
from store.event import ChangeDraft, Changes, Envelope, KeptRow, Mark, StreamKey
from store.lanes import BATCH_BYTES, BATCH_DRAFTS
from store.log import EventLog
from store.rows import Change


class Transaction(NamedTuple):
    """A committed transaction of the source.

    ``lsn`` is the place of its commit, ``time_ms`` its time in the log.
    """

    lsn: int
    xid: int
    committed_us: int
    time_ms: int


class Renderer(Protocol):
    """Makes changes into what is stored."""

    @property
    def envelope(self) -> Envelope:
        """What surrounds sequence and time in each."""

    def render(
        self, change: Change, transaction: Transaction, number: int, last: bool
    ) -> ChangeDraft:
        """The change with this number of its transaction, perhaps the last one of it."""


class ChangeStream:
    """Fed by one task. `add` every change of a transaction, then `end` it."""

    def __init__(
        self,
        log: EventLog,
        connection: Connection,
        stream: StreamKey,
        *,
        source: str,
        generation: int,
        mark: Mark | None,
        renderer: Renderer,
        on_stored: Callable[[int], None],
    ) -> None:
        self.stream = stream
        self.mark = mark
        self._log = log
        self._connection = connection
        self._source = source
        self._generation = generation
        self._renderer = renderer
        self._on_stored = on_stored
        # The newest change that was collected: nothing up to it is taken again.
        self._taken = mark or Mark(-1, 0, 0)
        self._transaction: Transaction | None = None
        self._number = 0
        # Of a transaction that is newer than all that was collected no change is there already.
        self._new = False
        self._held: tuple[Change, KeptRow | None] | None = None
        self._drafts: list[ChangeDraft] = []
        self._rows: list[KeptRow] = []
        self._bytes = 0
        # The drafts up to this many belong to transactions whose end is among them, and their mark.
        self._whole = 0
        self._whole_mark = self._taken
        # Where the transaction begins that has not ended: a draft's number, 0 for an earlier call.
        self._opened: int | None = None
        self._sending: asyncio.Task[None] | None = None
        # Whether rows of a table are in the index; where none are, none need be forgotten.
        self._indexed: dict[str, bool] = {}

    # -- collecting

    @property
    def full(self) -> bool:
        return len(self._drafts) >= BATCH_DRAFTS or self._bytes >= BATCH_BYTES

    @property
    def waiting(self) -> bool:
        """Whether anything is not known to be in the log."""
        return bool(self._drafts) or self._sending is not None

    @property
    def held(self) -> Change | None:
        """The newest change: it is taken when it is known whether it is its transaction's last."""
        return None if self._held is None else self._held[0]

    def add(self, transaction: Transaction, change: Change, row: KeptRow | None) -> None:
        held = self._held
        self._held = (change, row)
        if transaction is not self._transaction:
            self._transaction, self._number = transaction, 0
            self._new = (self._generation, transaction.lsn) > self._taken[:2]
        elif held is not None:
            self._take(*held, transaction, False)

    def end(self) -> None:
        """The transaction has no more changes of this tenant."""
        transaction, held = self._transaction, self._held
        self._held = self._transaction = None
        if held is None or transaction is None:
            return
        self._take(*held, transaction, True)
        mark = Mark(self._generation, transaction.lsn, self._number - 1)
        if mark > self._taken:
            self._taken = self._whole_mark = mark
            self._whole, self._opened = len(self._drafts), None

    def _take(
        self, change: Change, row: KeptRow | None, transaction: Transaction, last: bool
    ) -> None:
        number = self._number
        self._number = number + 1
        if not self._new and (self._generation, transaction.lsn, number) <= self._taken:
            return
        draft = self._renderer.render(change, transaction, number, last)
        self._drafts.append(draft)
        self._bytes += len(draft.head)
        if row is not None:
            self._rows.append(row._replace(draft=len(self._drafts)))
        if self._opened is None:
            self._opened = len(self._drafts) if number == 0 else 0

    # -- the index of large rows

    def may_have(self, table: str, keep: bool) -> bool:
        """Whether `kept_row` has anything to say."""
        return keep or self._indexed.get(table, True)

    async def kept_row(self, table: str, field: bytes, keep: bool) -> KeptRow | None:
        """What to add with a change whose row may be asked for, or was."""
        indexed = self._indexed.get(table)
        if indexed is None:
            key = rows_key(self.stream, self._source, table)
            indexed = bool(await self._connection.execute("EXISTS", key))
        self._indexed[table] = indexed or keep
        return KeptRow(table, field, 0, keep) if indexed or keep else None

    # -- storing

    async def send(self) -> None:
        """Begin to store what is collected; what was sent before is in the log when this returns."""
        await self.settle()
        if self._drafts:
            self._sending = asyncio.create_task(self._store(self._cut()))
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Return when everything sent is in the log."""
        if self._sending is not None:
            sending, self._sending = self._sending, None
            await sending

    async def flush(self) -> None:
        """Return when everything collected is in the log."""
        while self._drafts:
            await self.send()
        await self.settle()

    def cancel(self) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def _cut(self) -> Changes:
        """All that is whole, else the beginning of a transaction that does not fit a call."""
        count, mark, opened = self._whole, self._whole_mark, None
        if not count and self._transaction is not None:
            # Its newest change is held, so the newest that was taken is the one before.
            mark = Mark(self._generation, self._transaction.lsn, self._number - 1)
            count, opened, self._taken = len(self._drafts), self._opened, mark
        drafts, self._drafts = self._drafts[:count], self._drafts[count:]
        rows = [row for row in self._rows if row.draft <= count]
        self._rows = [row._replace(draft=row.draft - count) for row in self._rows[len(rows) :]]
        self._bytes = sum(len(draft.head) for draft in self._drafts)
        self._whole = 0
        if opened is not None:
            self._opened = 0
        elif self._opened:
            self._opened -= count
        return Changes(self._source, self.mark, mark, drafts, opened, rows)

    async def _store(self, changes: Changes) -> None:
        found = await self._log.append_changes(self.stream, self._renderer.envelope, changes)
        if not found.stored:
            # An answer that was lost, or another process that has not heard that it is no owner.
            raise StoreUnavailable(
                f"source '{self._source}' stands at {found.mark} in the changes of tenant "
                f"{self.stream.tenant}, not at {changes.expected}; reading on from there"
            )
        self.mark = changes.mark
        self._on_stored(len(changes.drafts))
