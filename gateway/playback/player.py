"""Plays one session on this gateway: the log's range against the session's clock, for all who watch.

Each gateway plays for its own watchers; nothing is relayed. An event leaves when it is due, never
before, in the total order of `store.merge`. Sends come from one task, so that what a watcher is told
of the session and what it is sent of the log keep their order.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway import sse
from gateway.playback.clock import due_ms, played_through_ms, playhead_ms
from gateway.playback.cursor import SessionCursor
from gateway.ring import Ring
from store.errors import StoreError, StoreUnavailable
from store.event import Entry, Gap, Position, rfc3339
from store.log import EventLog
from store.merge import Item, Place, merge
from store.server_time import ServerTime
from store.session import Clock, Session, Sessions, feed, parse
from store.tail import Tail

TICK_SEC = 1.0
# What comes due within this time leaves in one send; well under the 25 ms that 99 % keep to.
_STEP_SEC = 0.004
_RETRY_SEC = 0.2
_TOUCH_SEC = 10.0
_SENDS_BEFORE_YIELD = 256
_AFTER_ALL_KINDS = 1 << 31

logger = structlog.get_logger(__name__)


class Watcher(Protocol):
    """One client's stream of the session."""

    def push(self, body: bytes, events: int) -> bool:
        """Take bytes at once. False: it blocked, and is no member any more."""

    def on_ended(self) -> None:
        """The session is over."""


@dataclass(frozen=True, slots=True)
class PlayerLimits:
    page_size: int
    ring_events: int
    ring_bytes: int


class Player:
    """One session as this gateway plays it, from its feed and the log alone."""

    def __init__(
        self,
        session: Session,
        *,
        log: EventLog,
        tail: Tail,
        sessions: Sessions,
        time: ServerTime,
        limits: PlayerLimits,
    ) -> None:
        self.session = session
        self.view = session.view
        self.users: dict[Watcher, None] = {}
        self.over = False
        self._log = log
        self._tail = tail
        self._sessions = sessions
        self._time = time
        self._limits = limits
        self._members: dict[Watcher, None] = {}
        self._news: list[Session] = []
        self._changed = asyncio.Event()
        self._settle = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._followed = False
        self._enter_run(self._newest())

    # -- where it stands

    @property
    def clock(self) -> Clock:
        return self.session.clock

    @property
    def cursor(self) -> SessionCursor:
        """What a watcher that has been sent everything stands at."""
        return SessionCursor(self.clock.run, self.place)

    @property
    def run_start(self) -> Place:
        """Before the first event of this run."""
        return Place(self.clock.run_start_ms, -1, 0)

    def _newest(self) -> Place:
        """Behind all that has been played by now: where one who comes anew begins."""
        through = played_through_ms(self.clock, self._time.now_ms())
        return Place(through, _AFTER_ALL_KINDS, 0)

    def _enter_run(self, place: Place) -> None:
        self.place = place
        self.ring: Ring[Place] = Ring(place, self._limits.ring_events, self._limits.ring_bytes)
        self._source: AsyncGenerator[list[Item], None] | None = None
        self._ahead: deque[Item] = deque()
        self._exhausted = False

    def describe(self, cursor: SessionCursor, *, retry_ms: int | None = None) -> bytes:
        """The `session` frame of now, for who stands at this cursor."""
        frame_id = cursor.text(cursor.place)
        return sse.session(bytes(self.session.session), frame_id=frame_id, retry_ms=retry_ms)

    # -- watchers

    def join(self, watcher: Watcher, cursor: SessionCursor, revision: int) -> bool:
        """Be served as a member. False when it has not caught up, with the log or the session."""
        if self.over or cursor != self.cursor or revision != self.clock.revision:
            return False
        self._members[watcher] = None
        return True

    def part(self, watcher: Watcher) -> None:
        self._members.pop(watcher, None)

    async def _sweep(self, body: bytes, events: int) -> None:
        # Who joins while it gives way stands at what is being sent already.
        for sent, watcher in enumerate(list(self._members), 1):
            if watcher in self._members:
                watcher.push(body, events)
            if sent % _SENDS_BEFORE_YIELD == 0:
                await asyncio.sleep(0)

    # -- the feed

    async def start(self) -> None:
        """Follow the session and play. Raises StoreUnavailable."""
        await self._follow()
        self._tasks = [asyncio.create_task(self._play()), asyncio.create_task(self._keep())]

    async def _follow(self) -> None:
        stream = feed(self.view.tenant_id)
        head = await self._log.head(stream)
        await self._tail.follow(stream, head.last, head.epoch, self)
        self._followed = True
        # After following: what changed before is in here, what changes later in the feed.
        self._hear(await self._sessions.get(self.view.tenant_id, touch=True))

    def _hear(self, session: Session | None) -> None:
        if session is None or session.view.id != self.view.id:
            self.over = True
        else:
            self._news.append(session)
        self._changed.set()

    async def on_entries(self, entries: Sequence[Entry], position: Position, epoch: bytes) -> None:
        for _, (_, event) in entries:
            session = parse(event)
            if session.view.id == self.view.id:
                self._news.append(session)
                self.over = self.over or session.view.status == "DB_END_OK"
            elif session.view.status == "DB_INIT_REQUESTED":
                self.over = True
        self._changed.set()

    def on_gap(self, gap: Gap) -> None:
        self._settle.set()

    def on_reset(self) -> None:
        self._followed = False
        self._settle.set()

    async def _keep(self) -> None:
        """Keep the session from idling away, have it settled at its end, follow its feed again."""
        while not self.over:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TOUCH_SEC):
                    await self._settle.wait()
            self._settle.clear()
            try:
                if self._followed:
                    self._hear(await self._sessions.get(self.view.tenant_id, touch=True))
                else:
                    await self._follow()
            except StoreError as error:
                logger.warning("session_not_kept", error=str(error))
                await asyncio.sleep(_RETRY_SEC)
                self._settle.set()

    # -- playing

    async def _play(self) -> None:
        next_tick = self._time.now_ms()
        while not self.over or self._news:
            self._changed.clear()
            if self._news:
                await self._tell(self._news.pop(0))
                continue
            now = self._time.now_ms()
            if now >= next_tick:
                next_tick = max(next_tick + TICK_SEC * 1000, now)
                await self._sweep(self._tick(now), 0)
            if await self._emit_due(played_through_ms(self.clock, now)):
                await asyncio.sleep(_STEP_SEC)
            elif self._ahead or self._exhausted:
                await self._wait(next_tick)
            else:
                await self._read_ahead()
        for watcher in list(self.users):
            watcher.on_ended()

    def _tick(self, now_ms: float) -> bytes:
        playhead = rfc3339(int(playhead_ms(self.clock, now_ms)))
        frame_id = self.cursor.text(self.place)
        return sse.system_time(playhead, self.clock.speed, frame_id=frame_id)

    async def _tell(self, session: Session) -> None:
        """Take over a change of the session and tell the members."""
        if session.clock.revision <= self.clock.revision:
            return
        sought = session.clock.run != self.clock.run
        self.session, self.view = session, session.view
        if sought:
            if self._source is not None:
                await self._source.aclose()
            self._enter_run(self.run_start)
        await self._sweep(self.describe(self.cursor), 0)

    async def _emit_due(self, through_ms: int) -> bool:
        items: list[Item] = []
        while self._ahead and self._ahead[0].place.ms <= through_ms:
            items.append(self._ahead.popleft())
        if not items:
            return False
        cursor = self.cursor
        frames = [self.frame(item, cursor) for item in items]
        self.place = items[-1].place
        self.ring.add([item.place for item in items], [None] * len(items), frames)
        await self._sweep(b"".join(frames), len(frames))
        return True

    def frame(self, item: Item, cursor: SessionCursor) -> bytes:
        """An item as every watcher of the session gets it."""
        kind = self.view.event_types[item.place.kind]
        if item.entry is None:
            assert item.gap is not None  # noqa: S101 - an item is one or the other
            return sse.gap(kind, item.gap)
        name = b"change" if kind == "change" else sse.REPLAY
        frame_id = cursor.text(item.place).encode()
        return sse.played_frame(name, frame_id, item.entry[1][1])

    def read(self, after: Place, through_ms: int) -> AsyncGenerator[list[Item], None]:
        """The session's events after a place, not paced."""
        return merge(
            self._log,
            self.view.tenant_id,
            self.view.event_types,
            after,
            through_ms,
            page_size=self._limits.page_size,
        )

    async def _read_ahead(self) -> None:
        try:
            if self._source is None:
                self._source = self.read(self.place, self.clock.end_ms)
            self._ahead += await anext(self._source)
        except StopAsyncIteration:
            self._exhausted = True
        except StoreUnavailable as error:
            logger.warning("playback_delayed", error=str(error))
            self._source = None
            await asyncio.sleep(_RETRY_SEC)

    async def _wait(self, next_tick_ms: float) -> None:
        """Until something changes, an event or the next tick is due, or the end is reached."""
        now = self._time.now_ms()
        times = [next_tick_ms]
        if self._ahead and (due := due_ms(self.clock, self._ahead[0].place.ms)) is not None:
            times.append(due)
        if (end := due_ms(self.clock, self.clock.end_ms)) is not None:
            if end <= now:
                self._settle.set()  # the server stops it there, and says so in the feed
            else:
                times.append(end)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(_STEP_SEC, (min(times) - now) / 1000)):
                await self._changed.wait()

    async def stop(self) -> None:
        if self._followed:
            self._tail.leave(feed(self.view.tenant_id))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._source is not None:
            async with aclosing(self._source):
                return
