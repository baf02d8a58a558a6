"""The durable log: append, range, look-up by sequence and by time, delete, wipe, retention.

Every change is one atomic server-side function. Appended means stored, with a dense sequence; a
reader gets every entry after its position once, in order, or is told of the gap.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import structlog

from store.connection import (
    TENANTS_KEY,
    Connection,
    log_key,
    meta_key,
    promise_key,
    rows_key,
    streams_key,
)
from store.errors import StoreError
from store.event import (
    Appended,
    Changes,
    Draft,
    Entry,
    Envelope,
    Gap,
    GapReason,
    Head,
    Mark,
    Marked,
    Page,
    Position,
    Refusal,
    Refused,
    Retention,
    StreamKey,
)
from store.lanes import Lanes, Outcome
from store.link import Argument
from store.topic_index import Selection, indexed_keys, labels_of

logger = structlog.get_logger(__name__)

# What is read at a time has about 1 MB whatever the size of the events, as the ones before tell;
# the first read cannot know, and begins with few. 500 events of 400 bytes are within it.
READ_BYTES = 1 << 20
FIRST_COUNT = 16
GROWTH = 8

_REFUSALS = {2: Refusal.BEFORE_LAST, 3: Refusal.IN_FUTURE, 4: Refusal.KEY_REUSED}


class EventLog:
    """The logs of all tenants on one server or cluster.

    Raises StoreUnavailable when the server is away.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        idempotency_window_ms: int,
        on_batch: Callable[[int], None] = lambda size: None,
        observe_page: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._connection = connection
        self._window_ms = idempotency_window_ms
        self._on_batch = on_batch
        self._observe_page = observe_page
        self._lanes = Lanes(self._append_batch)
        # Streams whose names are on the server's lists, with the epoch that was last appended to.
        self._registered: dict[StreamKey, bytes] = {}

    # -- writing

    async def append(
        self, stream: StreamKey, envelope: Envelope, drafts: Sequence[Draft]
    ) -> list[Outcome]:
        """Store drafts in order; concurrent callers share one server-side call.

        Answers one outcome a draft, in order. Drafts of one caller stay in order; many are several
        calls, each atomic, so that some may be stored and others not.
        """
        if not drafts:
            return []
        try:
            if stream not in self._registered:
                await self._register(stream)
        except StoreError as error:
            return [error] * len(drafts)
        return await self._lanes.append(stream, envelope, drafts)

    async def _register(self, stream: StreamKey) -> None:
        # Before the first append: a crash in between leaves a name without a log, never a log
        # that retention and wipe do not know.
        await self._connection.execute("SADD", streams_key(stream.tenant), stream.event_type)
        await self._connection.execute("SADD", TENANTS_KEY, stream.tenant)
        self._registered[stream] = b""

    async def _note_epoch(self, stream: StreamKey, epoch: bytes) -> None:
        """A log that was made anew may have lost its place on the lists too (FLUSHALL)."""
        if self._registered.get(stream, epoch) not in (b"", epoch):
            del self._registered[stream]  # so that the next append tries again if this fails
            with suppress(StoreError):
                await self._register(stream)
        if stream in self._registered:
            self._registered[stream] = epoch

    async def _append_batch(
        self, stream: StreamKey, envelope: Envelope, drafts: Sequence[Draft]
    ) -> list[Outcome]:
        keys = [*indexed_keys(stream)]
        labels = labels_of([draft.topic for draft in drafts])
        args: list[Argument] = [
            self._window_ms,
            envelope.middle,
            envelope.tail,
            labels,
            len(drafts),
        ]
        own: list[Argument] = []
        for number, draft in enumerate(drafts, 1):
            args += (draft.topic, draft.head)
            time_ms, promise = draft.time_ms, draft.idempotency
            if promise is not None:
                keys.append(promise_key(stream, promise.key))
            elif time_ms is None:
                continue
            own += (
                number,
                b"" if time_ms is None else time_ms,
                promise.fingerprint if promise else b"",
            )
        reply = await self._connection.call("append", keys, *args, *own)
        self._on_batch(len(drafts))
        epoch: bytes = reply[0]
        await self._note_epoch(stream, epoch)
        outcomes: list[Outcome] = []
        for at in range(1, len(reply), 4):
            status, count, ms, first = reply[at], reply[at + 1], int(reply[at + 2]), reply[at + 3]
            if status in _REFUSALS:
                outcomes.append(Refused(_REFUSALS[status], ms))
                continue
            repeated, sequences = status == 1, range(int(first), int(first) + count)
            outcomes += [Appended(ms, each, epoch, repeated) for each in sequences]
        return outcomes

    async def append_changes(
        self, stream: StreamKey, envelope: Envelope, changes: Changes
    ) -> Marked:
        """Store captured changes, all of them, unless the stream has another mark than expected.

        A time before the last event's becomes that event's.
        """
        if stream not in self._registered:
            await self._register(stream)
        tables = {row.table: 0 for row in changes.rows}
        rows = (rows_key(stream, changes.source, table) for table in tables)
        keys = [*indexed_keys(stream), *rows]
        tables = {table: number for number, table in enumerate(tables, 1)}
        opened = changes.opened
        args: list[Argument] = [
            changes.source,
            changes.expected.text if changes.expected else b"",
            changes.mark.text,
            b"" if opened is None else opened or b"keep",
            envelope.middle,
            envelope.tail,
            labels_of([draft.topic for draft in changes.drafts]),
            len(changes.drafts),
        ]
        for draft in changes.drafts:
            args += draft
        for row in changes.rows:
            args += (tables[row.table], row.field, row.draft if row.kept else 0)
        reply = await self._connection.call("append_changes", keys, *args)
        stored, epoch, mark, last_ms, last_sequence = reply
        if stored:
            self._on_batch(len(changes.drafts))
            await self._note_epoch(stream, epoch)
        position = Position(int(last_ms), int(last_sequence))
        return Marked(bool(stored), Mark.parse(mark), position, epoch)

    async def delete(self, stream: StreamKey, sequence: int) -> bool:
        """Remove one event; its sequence stays taken. False when it was not there."""
        return bool(await self._connection.call("delete", indexed_keys(stream), sequence))

    async def wipe(self, stream: StreamKey) -> bool:
        """Remove every event; sequences go on. False when the log does not exist."""
        return bool(await self._connection.call("wipe", indexed_keys(stream)))

    async def trim(self, stream: StreamKey, retention: Retention) -> int:
        """Remove what retention no longer keeps; the number of events removed."""
        limits = (retention.max_age_ms, retention.max_count, retention.max_bytes)
        args = ("" if limit is None else limit for limit in limits)
        return int(await self._connection.call("trim", indexed_keys(stream), *args))

    # -- looking up

    async def head(self, stream: StreamKey) -> Head:
        reply = await self._connection.call("head", _keys(stream))
        epoch, floor, last_ms, last_sequence, first = reply
        return Head(epoch, int(floor), Position(int(last_ms), int(last_sequence)), int(first))

    async def before_sequence(self, stream: StreamKey, sequence: int) -> Position | None:
        """The position just before the first event kept whose sequence is this or higher.

        None when there is none: the whole log lies before it.
        """
        found = await self._connection.call("at_sequence", indexed_keys(stream), sequence)
        return None if found is None else _just_before(found)

    async def before_time(self, stream: StreamKey, ms: int) -> Position | None:
        """The position just before the first event kept at this time (ms, UTC) or later."""
        entries = await self._connection.execute(
            "XRANGE", log_key(stream), max(ms, 0), "+", "COUNT", 1
        )
        return _just_before(entries[0][0]) if entries else None

    async def at_time(self, stream: StreamKey, ms: int) -> Position | None:
        """The newest event kept at this time (ms, UTC) or earlier, or None."""
        if ms < 0:
            return None
        entries = await self._connection.execute("XREVRANGE", log_key(stream), ms, "-", "COUNT", 1)
        return Position.parse(entries[0][0]) if entries else None

    async def confirm(self, stream: StreamKey, position: Position, epoch: bytes) -> bytes:
        """The epoch, another than this one if the log lost the history the position was read from.

        The position must be an entry's own, not one between entries. Empty: there is no log.
        """
        current: bytes = await self._connection.call(
            "confirm", indexed_keys(stream), position.ms, position.sequence, epoch
        )
        return current

    async def streams(self, tenant: str) -> list[str]:
        """The event types that this tenant has logs of, sorted."""
        names = await self._connection.execute("SMEMBERS", streams_key(tenant))
        return sorted(name.decode() for name in names)

    async def tenants(self) -> list[str]:
        names = await self._connection.execute("SMEMBERS", TENANTS_KEY)
        return sorted(name.decode() for name in names)

    # -- reading

    async def range(
        self,
        stream: StreamKey,
        after: Position,
        until: Position,
        *,
        epoch: bytes,
        page_size: int,
        topics: Sequence[bytes] = (),
    ) -> AsyncGenerator[Page, None]:
        """Every event after one position up to and including another, in pages.

        The next page is fetched while this one is used. The last page stands at `until`. A page
        whose gap says `reset` ends the range: the log is another one. A page has `page_size` events
        at most, and fewer where they are large. With `topics` events of other topics may be left
        out; a topic is named up to its shape.
        """
        count = min(page_size, FIRST_COUNT)
        selection = Selection(self._connection, stream, topics) if topics else None

        async def read(after: Position, count: int) -> Page:
            if selection is not None and selection.may_help(after, until):
                with self._observe_page():
                    selected = await selection.page(after, until, epoch, count)
                if selected is not None:
                    return selected
            return await self._page(stream, after, until, epoch, count)

        fetch = asyncio.ensure_future(read(after, count))
        try:
            while True:
                page = await fetch
                ended = page.position.sequence >= until.sequence
                reset = page.gap is not None and page.gap.reason is GapReason.RESET
                if not ended and not reset:
                    count = next_count(page.entries, count, page_size)
                    fetch = asyncio.ensure_future(read(page.position, count))
                    # A task has its first step in the next turn. Without one the server would be
                    # asked only when this page is used up.
                    await asyncio.sleep(0)
                yield page
                if ended or reset:
                    return
        finally:
            if not fetch.cancel() and not fetch.cancelled():
                fetch.exception()  # read, so that a failed prefetch of a left range is no complaint

    async def _page(
        self, stream: StreamKey, after: Position, until: Position, epoch: bytes, count: int
    ) -> Page:
        if after >= until:
            return Page((), until, epoch)
        # The floor is read after the entries: a trim that took some of them is then seen. The epoch
        # outlives a log that was destroyed until it is made anew: an empty page would look complete.
        entries: Sequence[Entry]
        with self._observe_page():
            entries, exists, (now_epoch, floor) = await self._connection.pipeline(
                ("XRANGE", log_key(stream), b"(" + after.entry_id, until.entry_id, "COUNT", count),
                ("EXISTS", log_key(stream)),
                ("HMGET", meta_key(stream), "epoch", "floor"),
            )
        now_epoch = (now_epoch or b"") if exists else b""
        if now_epoch != epoch:
            return Page((), until, now_epoch, Gap(GapReason.RESET, after.sequence + 1, 1))
        position = until if len(entries) < count else Position.parse(entries[-1][0])
        gap = None
        if int(floor or 0) > after.sequence:
            first = Position.parse(entries[0][0]).sequence if entries else int(floor) + 1
            if first > after.sequence + 1:
                gap = Gap(GapReason.EXPIRED, after.sequence + 1, first)
        return Page(entries, position, epoch, gap)


def next_count(entries: Sequence[Entry], count: int, limit: int) -> int:
    """How many entries to ask for after these, of which `count` were asked for."""
    size = sum(len(event) for _, (_, event) in entries)
    if not size:
        return min(count, limit)
    return max(1, min(limit, GROWTH * count, READ_BYTES * len(entries) // size))


def _keys(stream: StreamKey) -> tuple[str, str]:
    return log_key(stream), meta_key(stream)


def _just_before(entry_id: bytes) -> Position:
    ms, sequence = Position.parse(entry_id)
    return Position(ms, sequence - 1)
