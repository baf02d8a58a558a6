"""Appends of many callers, stream by stream, gathered into few calls of the server.

Who comes while an append of the stream is under way goes with the next one, which leaves when that
has ended, or at once if it is large. One caller's drafts are stored in their order, and every caller
learns what became of each.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog

from store.errors import StoreError, StoreUnavailable
from store.event import Appended, Draft, Envelope, Refused, StreamKey

logger = structlog.get_logger(__name__)

# What became of one draft. A StoreError: not known to be stored, and not known not to be.
Outcome: TypeAlias = Appended | Refused | StoreError
Store: TypeAlias = Callable[[StreamKey, Envelope, Sequence[Draft]], Awaitable[list[Outcome]]]

# One call holds the server for about 5 us a draft: 500 are 2.5 ms, and no more than 4 MB.
BATCH_DRAFTS = 500
BATCH_BYTES = 4 << 20
# While the server works on one batch the next is on its way, if it is worth a call of its own: of
# fewer drafts it takes more of the time to make small batches than it saves.
_AT_ONCE = 2
_WORTH_A_CALL = 100


class _Call:
    """One caller's drafts: how many have left for the server, and what became of them."""

    __slots__ = ("_found", "_unknown", "done", "drafts", "taken")

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.drafts = drafts
        self.taken = 0
        self.done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._found: dict[int, Sequence[Outcome]] = {}
        self._unknown = len(drafts)

    def settle(self, start: int, outcomes: Sequence[Outcome]) -> None:
        """What became of the drafts from a number on, from 0."""
        self._found[start] = outcomes
        self._unknown -= len(outcomes)
        if not self._unknown and not self.done.done():
            self.done.set_result([each for key in sorted(self._found) for each in self._found[key]])


@dataclass(slots=True)
class _Batch:
    """Some calls' next drafts, one after the other: of which call, from which number on, how many."""

    drafts: list[Draft] = field(default_factory=list)
    parts: list[tuple[_Call, int, int]] = field(default_factory=list)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        at = 0
        for call, start, count in self.parts:
            call.settle(start, outcomes[at : at + count])
            at += count


class _Lane:
    """Calls of one stream that wait, and the tasks that take them to the server."""

    def __init__(
        self,
        stream: StreamKey,
        envelope: Envelope,
        store: Store,
        on_idle: Callable[["_Lane"], None],
    ) -> None:
        self.envelope = envelope
        self._on_idle = on_idle
        self.stream = stream
        self._store = store
        self._waiting: deque[_Call] = deque()
        self._count = 0
        self._drains: set[asyncio.Task[None]] = set()
        # Who took the first part of the call in front: its rest must not overtake that.
        self._parted_by: asyncio.Task[None] | None = None

    def add(self, call: _Call) -> None:
        self._waiting.append(call)
        self._count += len(call.drafts)
        if not self._drains or (len(self._drains) < _AT_ONCE and self._count >= _WORTH_A_CALL):
            self._drains.add(asyncio.get_running_loop().create_task(self._drain()))

    async def _drain(self) -> None:
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - this is a task
        batch = _Batch()
        try:
            while self._waiting and self._parted_by in (None, me):
                batch = self._cut(me)
                batch.settle(await self._try(batch.drafts))
        except asyncio.CancelledError:
            # Nobody may wait for ever.
            for call in (*(call for call, _, _ in batch.parts), *self._waiting):
                call.done.cancel()
            self._forget_waiting()
            raise
        finally:
            self._drains.discard(me)
            if not self._drains:
                self._on_idle(self)

    async def _try(self, drafts: Sequence[Draft]) -> list[Outcome]:
        try:
            outcomes = await self._store(self.stream, self.envelope, drafts)
            if len(outcomes) != len(drafts):  # else somebody would wait for ever
                raise ValueError(f"{len(outcomes)} outcomes of {len(drafts)} drafts")
            return outcomes
        except StoreError as error:
            if isinstance(error, StoreUnavailable):
                self._give_up(error)
            return [error] * len(drafts)
        except Exception as error:
            # A defect is told to who waits for this batch; the next one may do better.
            logger.exception("append_failed", stream=self.stream)
            return [StoreError(f"the append failed: {error}")] * len(drafts)

    def _give_up(self, error: StoreUnavailable) -> None:
        """Who waits met the same silence: a time-out each would add up."""
        for call in self._waiting:
            call.settle(call.taken, [error] * (len(call.drafts) - call.taken))
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._count, self._parted_by = 0, None

    def _cut(self, me: asyncio.Task[None]) -> _Batch:
        """Take the next batch off the front."""
        batch, size = _Batch(), 0
        self._parted_by = None
        while self._waiting:
            call = self._waiting[0]
            before = len(batch.drafts)
            for draft in call.drafts[call.taken : call.taken + BATCH_DRAFTS - before]:
                size += draft.size
                if batch.drafts and size > BATCH_BYTES:
                    break
                batch.drafts.append(draft)
            count = len(batch.drafts) - before
            if count:
                batch.parts.append((call, call.taken, count))
                call.taken += count
            if call.taken < len(call.drafts):
                self._parted_by = me if call.taken else None
                break
            self._waiting.popleft()
        self._count -= len(batch.drafts)
        return batch


class Lanes:
    """The lanes of one process."""

    def __init__(self, store: Store) -> None:
        """`store` makes one call of the server, which stores drafts or raises a StoreError."""
        self._store = store
        self._lanes: dict[StreamKey, _Lane] = {}

    async def append(
        self, stream: StreamKey, envelope: Envelope, drafts: Sequence[Draft]
    ) -> list[Outcome]:
        """One outcome a draft, in order."""
        lane = self._lanes.get(stream)
        if lane is None or lane.envelope != envelope:
            lane = _Lane(stream, envelope, self._store, self._on_idle)
            self._lanes[stream] = lane
        call = _Call(drafts)
        lane.add(call)
        return await call.done

    def _on_idle(self, lane: _Lane) -> None:
        if self._lanes.get(lane.stream) is lane:
            del self._lanes[lane.stream]
