"""Plays one session on this gateway: the log's range against the session's clock, for all who watch.

Each gateway plays for its own watchers; nothing is relayed. An event leaves when it is due, never
before, in the total order of `store.merge`. Sends come from one task, so that what a watcher is told
of the session and what it is sent of the log keep their order.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from gateway import sse
from gateway.playback.ahead import ReadAhead
from gateway.playback.audience import Audience, Watcher
from gateway.playback.clock import due_ms, played_through_ms, playhead_ms
from gateway.playback.cursor import SessionCursor
from gateway.ring import Ring
from store.captured import CHANGE
from store.errors import StoreUnavailable
from store.event import Entry, Gap, Position, rfc3339
from store.log import EventLog
from store.merge import Item, Merge, Place
from store.server_time import ServerTime
from store.session import Clock, Session, Sessions, feed, parse
from store.tail import Tail

TICK_SEC = 1.0
# What comes due within this time leaves in one send; well under the 25 ms that 99 % keep to.
_STEP_SEC = 0.004
_RETRY_SEC = 0.2
_SETTLE_SEC = 0.02
# The feed tells a change with all its steps; only what it has lost is taken from the record.
_FEED_PATIENCE_SEC = 1.0

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PlayerLimits:
    page_size: int
    ring_events: int
    ring_bytes: int


class Player:
    """One session as this gateway plays it, from its feed and the log alone.

    `on_failure` is called when it ends by a defect; `failed` is then set, and its watchers told.
    """

    def __init__(
        self,
        session: Session,
        *,
        log: EventLog,
        tail: Tail,
        sessions: Sessions,
        time: ServerTime,
        limits: PlayerLimits,
        on_failure: Callable[[], None],
    ) -> None:
        self.session = session
        self.view = session.view
        self.users: dict[Watcher, None] = {}
        self.done = False
        self.failed = False
        # The last event sent may have others of its time, which come before anything else does.
        self.split = False
        self._log = log
        self._tail = tail
        self._sessions = sessions
        self._time = time
        self._limits = limits
        self._on_failure = on_failure
        self._audience = Audience()
        self._heard: list[bytes] = []
        self._news: deque[Session] = deque()
        self._changed = asyncio.Event()
        self._told = asyncio.Event()
        self._settle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._followed = False
        self._over = False
        # Not in the server's time, which may be set back: then neither would come for as long.
        self._next_tick = 0.0
        self._settled = 0.0
        self._enter_run(start_of(session))

    # -- where it stands

    @property
    def clock(self) -> Clock:
        return self.session.clock

    @property
    def run_start(self) -> Place:
        """Before the first event of this run."""
        return Place.before_ms(self.clock.run_start_ms)

    def cursor_of(self, watcher: Watcher) -> SessionCursor:
        """Up to where a member has been sent everything."""
        return SessionCursor(self.clock.run, self._audience.place_of(watcher, self.place))

    @property
    def stateful(self) -> bool:
        """Whether who joins is owed the rows at the playhead."""
        return CHANGE in self.view.event_types

    def describe(self, place: Place, *, owed: bool = False, retry_ms: int | None = None) -> bytes:
        """The `session` frame of now, for who stands at this place."""
        playhead = int(playhead_ms(self.clock, self._time.now_ms()))
        frame_id = SessionCursor(self.clock.run, place, owed).text(place)
        return sse.session(self.session.at(playhead), frame_id=frame_id, retry_ms=retry_ms)

    def _enter_run(self, place: Place) -> None:
        self.place = place
        self.split = False
        self._ring: Ring[Place] = Ring(place, self._limits.ring_events, self._limits.ring_bytes)
        self._ahead = ReadAhead(
            self.read(place, self.clock.end_ms),
            low_events=self._limits.page_size,
            on_read=self._changed.set,
        )
        self._audience.reset()

    # -- watchers

    def join(self, watcher: Watcher, cursor: SessionCursor, revision: int) -> bool:
        """Be served as a member. False when it has not caught up, with the log or the session."""
        clock = self.clock
        if self.done or cursor.run != clock.run or revision != clock.revision:
            return False
        return self._audience.join(watcher, cursor.place, self.place)

    def part(self, watcher: Watcher) -> None:
        self._audience.part(watcher)

    async def reach(self, revision: float, timeout_sec: float) -> None:
        """Wait until the watchers have been told of this revision, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_sec):
                while self.clock.revision < revision and not self.done:
                    await self._told.wait()

    async def proceed(self, timeout_sec: float) -> None:
        """Wait until it is known what follows the place that parts events of one time, or so long."""
        place = self.place
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_sec):
                while self.split and self.place == place and not self.done:
                    await self._told.wait()

    def recent(self, after: Place, max_bytes: int) -> tuple[list[bytes], Place] | None:
        """Frames that were sent after a place, and up to where. None: the log has to be read."""
        found = self._ring.after(after, None, max_bytes)
        if found is None:
            return None
        frames, place = found
        return frames, self.place if place >= self._ring.newest else place

    def read(self, after: Place, through_ms: int) -> Merge:
        """The session's events after a place, not paced."""
        return Merge(
            self._log,
            self.view.tenant_id,
            self.view.event_types,
            after,
            through_ms,
            page_size=self._limits.page_size,
        )

    def frame(self, item: Item) -> bytes:
        """An item of this run as every watcher of the session gets it."""
        kind = self.view.event_types[item.place.kind]
        if item.entry is None:
            assert item.gap is not None  # noqa: S101 - an item is one or the other
            return sse.gap(kind, item.gap)
        name = b"change" if kind == CHANGE else sse.REPLAY
        return sse.played_frame(
            name, b"%d-%d-%d-%d" % (self.clock.run, *item.place), item.entry[1][1]
        )

    # -- its life

    async def start(self) -> None:
        """Follow the session and play. Raises StoreUnavailable; `stop` is owed in any case."""
        await self._follow()
        while self._news:
            # Before anybody watches: who opens a stream now is told the steps that come after.
            await self._tell(self._news.popleft())
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep())
                await self._play()
                keeping.cancel()
        except Exception:
            # A defect must end the streams of this session audibly, and leave the others alone.
            logger.exception("player_failed", session=self.view.id, tenant=self.view.tenant_id)
            self.failed = True
            self._on_failure()
        finally:
            self._finish()
            await self._ahead.close()

    def _finish(self) -> None:
        self.done = True
        self._tell_waiting()
        for watcher in list(self.users):
            watcher.on_ended()

    async def stop(self) -> None:
        """End, whatever it is at; who still watches is told."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
            if not self.done:  # it was never begun
                self._finish()
                await self._ahead.close()
        finally:
            # Last: the task itself might have followed once more.
            self._tail.leave(feed(self.view.tenant_id))

    # -- the feed

    async def _follow(self) -> None:
        stream = feed(self.view.tenant_id)
        head = await self._log.head(stream)
        # Between the two: what it does not have yet is in the feed, with all its steps.
        self._hear(await self._sessions.get(self.view.tenant_id, touch=True))
        self._followed = True
        await self._tail.follow(stream, head.last, head.epoch, self)

    def _hear(self, session: Session | None) -> None:
        """What the record says, which comes after all that the feed has told so far."""
        self._read_feed()
        if session is None or session.view.id != self.view.id:
            self._over = True
        else:
            self._news.append(session)
        self._changed.set()

    async def on_entries(self, entries: Sequence[Entry], position: Position, epoch: bytes) -> None:
        # Not parsed here: one that cannot be would end the reader of other tenants' feeds as well.
        self._heard += [event for _, (_, event) in entries]
        self._changed.set()

    def _read_feed(self) -> None:
        heard, self._heard = self._heard, []
        for event in heard:
            session = parse(event)
            if session.view.id == self.view.id:
                self._news.append(session)
                self._over = self._over or session.view.status == "DB_END_OK"
            elif session.view.status == "DB_INIT_REQUESTED":
                self._over = True

    def on_gap(self, gap: Gap, before: Position) -> None:
        self._settle.set()

    def on_reset(self) -> None:
        self._followed = False
        self._settle.set()

    async def _keep(self) -> None:
        """Keep the session from idling away, have it settled at its end, follow its feed again."""
        while not self._over:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sessions.touch_sec):
                    await self._settle.wait()
            self._settle.clear()
            try:
                if self._followed:
                    await self._look()
                else:
                    await self._follow()
            except StoreUnavailable as error:
                logger.warning("session_not_kept", error=str(error))
                await asyncio.sleep(_RETRY_SEC)
                self._settle.set()

    async def _look(self) -> None:
        session = await self._sessions.get(self.view.tenant_id, touch=True)
        ours = session is not None and session.view.id == self.view.id
        revision = session.clock.revision if session is not None and ours else math.inf
        await self.reach(revision, _FEED_PATIENCE_SEC)
        self._hear(session)

    # -- playing

    async def _play(self) -> None:
        self._next_tick = time.monotonic()
        while True:
            self._changed.clear()
            self._read_feed()
            if self._over and not self._news:
                return
            self._ahead.collect()
            now = self._time.now_ms()
            through = played_through_ms(self.clock, now)
            if self._news and not self.split:
                owed = self._owed_before(self._news[0])
                if owed is None:
                    await self._tell(self._news.popleft())
                    continue
                through = owed
            if (passed := time.monotonic()) >= self._next_tick and not self.split:
                self._next_tick = max(self._next_tick + TICK_SEC, passed)
                await self._tick(now)
            await self._advance(through)
            await self._wait()

    async def _tick(self, now_ms: float) -> None:
        playhead = rfc3339(int(playhead_ms(self.clock, now_ms)))
        run, speed = self.clock.run, self.clock.speed
        await self._audience.send_control(
            lambda place: sse.system_time(
                playhead, speed, frame_id=SessionCursor(run, place).text(place)
            ),
            self.place,
        )

    def _owed_before(self, session: Session) -> int | None:
        """The time up to which events have to be sent before a change is told; None: tell it.

        What was played before a stop comes before it, unless the log cannot be read now. A database
        that is played into may have come further than a stop was asked for.
        """
        clock = self.clock
        if self._over or self._ahead.delayed or not (clock.playing or session.stopped_after(clock)):
            return None
        if any(news.clock.run != self.clock.run for news in self._news):
            return None
        through = session.clock.through_ms
        return None if self.place >= Place.after_ms(through) else through

    async def _tell(self, session: Session) -> None:
        """Take over a change of the session and tell the members."""
        if session.clock.revision <= self.clock.revision:
            return
        sought = session.clock.run != self.clock.run
        retyped = session.view.event_types != self.view.event_types
        self.session, self.view = session, session.view
        if retyped:
            for watcher in list(self.users):
                watcher.on_types(self.view.event_types)
        left = self._ahead
        if sought:
            # At once: who joins while the next line waits must not meet the old run.
            self._enter_run(self.run_start)
            if self.stateful:
                self._audience.on_sought()
        self._tell_waiting()
        try:
            await self._audience.send_control(self.describe, self.place)
        finally:
            if sought:
                await left.close()

    def _tell_waiting(self) -> None:
        told, self._told = self._told, asyncio.Event()
        told.set()

    async def _advance(self, through_ms: int) -> None:
        """Send what is due, as far as it is known."""
        items = self._ahead.take(max(through_ms, self.place.ms) if self.split else through_ms)
        frames = [self.frame(item) for item in items]
        places = [item.place for item in items]
        was_split = self.split
        if items:
            self.place = places[-1]
            self._ring.add(places, [None] * len(items), frames)
        if items or self._ahead.known:
            self.split = self._ahead.split
        if self._ahead.known:
            self.place = max(self.place, Place.after_ms(through_ms))
        if was_split:
            self._tell_waiting()
        await self._audience.send_events(places, frames, self.place)

    async def _wait(self) -> None:
        """Until something changes, an event or the next tick is due, or the end is reached."""
        if self._news and not self.split and self._owed_before(self._news[0]) is None:
            return
        now, passed = self._time.now_ms(), time.monotonic()
        # In mid time no tick is sent, however long the rest of it takes to be read.
        pauses = [TICK_SEC if self.split else self._next_tick - passed]
        next_ms = self._ahead.next_ms
        if next_ms is not None and (due := due_ms(self.clock, next_ms)) is not None:
            pauses.append((due - now) / 1000)
        if (end := due_ms(self.clock, self.clock.end_ms)) is not None:
            pause = max((end - now) / 1000, self._settled + _SETTLE_SEC - passed)
            if pause <= 0:
                # The server stops it there, and says so in the feed; asked again if it is not yet.
                self._settled = passed
                self._settle.set()
            pauses.append(max(pause, _SETTLE_SEC))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(_STEP_SEC, min(pauses))):
                await self._changed.wait()


def start_of(session: Session) -> Place:
    """Behind all that had been played when the session was described, and before what comes then."""
    clock = session.clock
    through = played_through_ms(clock, clock.told_ms)
    return max(Place.before_ms(clock.run_start_ms), Place.after_ms(through))
