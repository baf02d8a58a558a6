"""Live entries: blocking readers that hand each new entry of the streams they follow to one listener.

Every entry after the position a stream was followed from arrives once, in order. A lost server is
waited for and read on from the last position; a log that was replaced meanwhile is told as reset.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from store.connection import Connection, Dedicated, log_key
from store.errors import StoreError, StoreUnavailable
from store.event import Entry, Gap, GapReason, Position, StreamKey
from store.log import FIRST_COUNT, EventLog, next_count

BLOCK_MS = 1000
READ_COUNT = 1000
# Streams that share one blocking read; each XREAD names them all, so a reader is kept small.
SHARDS = 8
_BACKOFF_SEC = (0.05, 1.0)
_UNBLOCK_RETRY_SEC = 0.01

logger = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who follows one stream. The next read waits for the answer, so it must be quick."""

    async def on_entries(self, entries: Sequence[Entry], position: Position, epoch: bytes) -> None:
        """New entries, oldest first; `position` is the last one's."""

    def on_gap(self, gap: Gap, before: Position) -> None:
        """Entries that come next were removed before they could be read.

        `before` is the place just before the first one there is, which comes next.
        """

    def on_reset(self) -> None:
        """The log is another one: its epoch changed. The stream is no longer followed."""


class Tail:
    """All live reading of one process: one connection a shard (or a cluster slot), none when idle."""

    def __init__(
        self,
        connection: Connection,
        log: EventLog,
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`on_failure` is told when a reader ends that should never end."""
        self._connection = connection
        self._log = log
        self._on_failure = on_failure
        self._readers: dict[int, _Reader] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def follow(
        self, stream: StreamKey, position: Position, epoch: bytes, listener: Listener
    ) -> None:
        """Deliver every entry after `position` to the listener, until `leave`."""
        group = self._connection.reader_group(stream, SHARDS)
        reader = self._readers.get(group)
        if reader is None:
            reader = _Reader(self._connection, self._log, self._on_failure)
            self._readers[group] = reader
        await reader.add(stream, _Followed(position, epoch, listener))

    def leave(self, stream: StreamKey) -> None:
        group = self._connection.reader_group(stream, SHARDS)
        reader = self._readers.get(group)
        if reader is None:
            return
        reader.remove(stream)
        if reader.idle:
            del self._readers[group]
            # Kept until it has ended: a task that nobody holds may be collected before.
            stopping = reader.stop()
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    def lag_ms(self) -> int:
        """How long ago the slowest reader last heard from its server, over its waiting time."""
        now = time.monotonic()
        return max((reader.lag_ms(now) for reader in self._readers.values()), default=0)

    async def close(self) -> None:
        tasks = [reader.stop() for reader in self._readers.values()]
        self._readers.clear()
        await asyncio.gather(*tasks, *self._stopping, return_exceptions=True)


class _Followed:
    """One stream as a reader knows it."""

    __slots__ = ("epoch", "listener", "position", "seen")

    def __init__(self, position: Position, epoch: bytes, listener: Listener) -> None:
        self.position = position
        self.epoch = epoch
        self.listener = listener
        self.seen = False


class _Reader:
    """One blocking connection and the streams it reads."""

    def __init__(
        self, connection: Connection, log: EventLog, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._connection = connection
        self._log = log
        self._on_failure = on_failure
        self._streams: dict[StreamKey, _Followed] = {}
        self._client_id: int | None = None
        self._reading: frozenset[StreamKey] = frozenset()
        self._changed = asyncio.Event()
        self._heard = time.monotonic()
        self._count = FIRST_COUNT
        self._stopped = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._on_failure(failure)

    @property
    def idle(self) -> bool:
        return not self._streams

    def lag_ms(self, now: float) -> int:
        return max(0, int((now - self._heard) * 1000) - BLOCK_MS)

    def stop(self) -> asyncio.Task[None]:
        # A library that swallows the cancellation must not leave a reader that waits for ever.
        self._stopped = True
        self._changed.set()
        # The connection is this reader's own and is closed, so a read cut off poisons nothing.
        self._task.cancel()
        return self._task

    async def add(self, stream: StreamKey, followed: _Followed) -> None:
        self._streams[stream] = followed
        self._changed.set()
        # A read that blocks does not know the new stream: wake it, again until it does, because
        # the wake-up may come before the read has reached the server.
        while (
            stream not in self._reading
            and self._streams.get(stream) is followed
            and self._client_id is not None
        ):
            with suppress(StoreUnavailable):
                await self._connection.unblock(stream, self._client_id)
            await asyncio.sleep(_UNBLOCK_RETRY_SEC)

    def remove(self, stream: StreamKey) -> None:
        self._streams.pop(stream, None)
        # A read under way has this stream at a position that nobody cares for now: who follows it
        # again has to wake that read.
        self._reading -= {stream}

    async def _run(self) -> None:
        delay = _BACKOFF_SEC[0]
        while not self._stopped:
            try:
                if not self._streams:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                anchor = next(iter(self._streams))
                async with self._connection.dedicated(anchor, BLOCK_MS) as dedicated:
                    await self._confirm()
                    self._client_id = dedicated.client_id
                    delay = _BACKOFF_SEC[0]
                    await self._read(dedicated)
            except StoreError as error:
                self._lost()
                logger.warning("tail_lost", error=str(error), retry_in_sec=round(delay, 2))
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spread, no secret
                delay = min(delay * 2, _BACKOFF_SEC[1])
                with suppress(StoreError):
                    await self._connection.rediscover()
            finally:
                self._lost()

    def _lost(self) -> None:
        self._client_id = None
        self._reading = frozenset()

    async def _confirm(self) -> None:
        """After a (re)connect: is what we read still the history? A failover can lose writes."""
        for stream, followed in list(self._streams.items()):
            epoch = await self._log.confirm(stream, followed.position, followed.epoch)
            # One followed before it existed was made meanwhile, not made anew.
            if followed.epoch and epoch != followed.epoch:
                self._reset(stream, followed)

    def _reset(self, stream: StreamKey, followed: _Followed) -> None:
        if self._streams.get(stream) is followed:
            del self._streams[stream]
            followed.listener.on_reset()

    async def _read(self, dedicated: Dedicated) -> None:
        while self._streams and not self._stopped:
            streams = list(self._streams.items())
            keys = [log_key(stream) for stream, _ in streams]
            ids = [followed.position.entry_id for _, followed in streams]
            self._reading = frozenset(self._streams)
            reply = await dedicated.execute(
                "XREAD", "COUNT", self._count, "BLOCK", BLOCK_MS, "STREAMS", *keys, *ids
            )
            self._heard = time.monotonic()
            if not reply:
                continue
            self._count = min(next_count(entries, self._count, READ_COUNT) for _, entries in reply)
            by_key = {key.encode(): pair for key, pair in zip(keys, streams, strict=True)}
            for key, entries in reply:
                stream, followed = by_key[key]
                if self._streams.get(stream) is followed:
                    await self._deliver(stream, followed, entries)

    async def _deliver(
        self, stream: StreamKey, followed: _Followed, entries: Sequence[Entry]
    ) -> None:
        first_ms, first = Position.parse(entries[0][0])
        expected = followed.position.sequence + 1
        if first < expected:
            # Numbers began again: the log was destroyed and made anew behind our back.
            self._reset(stream, followed)
            return
        if first > expected or not followed.seen:
            head = await self._log.head(stream)
            # A log that did not exist when it was followed has its epoch from its first entry on.
            followed.epoch = followed.epoch or head.epoch
            if not head.epoch or head.epoch != followed.epoch:
                # Destroyed and made anew, and its numbers do not tell: they are past ours already,
                # or nothing had been read that they could be compared with.
                self._reset(stream, followed)
                return
            followed.seen = True
            if head.floor >= expected and first > expected:
                gap = Gap(GapReason.EXPIRED, expected, first)
                followed.listener.on_gap(gap, Position(first_ms, first - 1))
        followed.position = Position.parse(entries[-1][0])
        await followed.listener.on_entries(entries, followed.position, followed.epoch)
