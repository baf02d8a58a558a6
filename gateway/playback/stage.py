"""What a session's statuses ask of the playback database: its state restored, played on, cleaned up.

What another gateway had begun is gone on with from the place that the database itself tells.
"""

import asyncio
from collections.abc import Sequence, Set

from gateway.metrics import Metrics
from gateway.playback.ahead import ReadAhead
from gateway.playback.clock import due_ms, played_through_ms
from store.captured import CHANGE
from store.errors import TargetError
from store.event import Position, StreamKey, rfc3339
from store.fold import read_change
from store.log import EventLog
from store.merge import Item, Merge, Place
from store.playback_db import PlaybackDatabase
from store.playback_script import Script
from store.playback_target import Target
from store.server_time import ServerTime
from store.session import Session
from store.state import State, States

# What comes due within this time goes in one round trip; well under the 25 ms that 99 % keep to.
_STEP_SEC = 0.004
_BATCH_BYTES = 1 << 20


class Stage:
    """The tables of one tenant, held by one token, and what is played there.

    A session that does not play captured changes leaves them empty. Raises what `PlaybackDatabase`,
    `States` and `EventLog` raise; `leave` is owed, also after an error before anything is tried again.
    """

    def __init__(
        self,
        tenant: str,
        token: int,
        *,
        database: PlaybackDatabase,
        states: States,
        log: EventLog,
        time: ServerTime,
        page_size: int,
        metrics: Metrics,
    ) -> None:
        self._tenant = tenant
        self._token = token
        self._database = database
        self._states = states
        self._log = log
        self._time = time
        self._page_size = page_size
        self._metrics = metrics
        self._target: Target | None = None
        self._wake = asyncio.Event()
        self._interrupted = False
        # How often something was carried out.
        self.served = 0

    def interrupt(self) -> None:
        """End `play`, when what is on its way has arrived."""
        self._interrupted = True
        self._wake.set()

    def resume(self) -> None:
        """`play` may go on."""
        self._interrupted = False

    async def leave(self) -> None:
        target, self._target = self._target, None
        if target is not None:
            await target.close()

    @property
    def reached_ms(self) -> int:
        """Up to when the changes have been carried out, as far as that is known."""
        return 0 if self._target is None else max(0, self._target.progress.ms)

    async def _hold(self) -> Target:
        if self._target is None:
            self._target = await self._database.hold(self._tenant, self._token)
        return self._target

    async def _state_of(self, ms: int, tables: Set[str]) -> State:
        return await self._states.open(self._tenant, ms, tables)

    # -- what the statuses ask for

    async def restore(self, session: Session) -> None:
        """Have the state of the run's start, but for the changes of its very time."""
        clock, target = session.clock, await self._hold()
        held = target.progress
        if (held.session, held.run) == (session.view.id, clock.run):
            return  # done by a gateway that could not say so
        if CHANGE not in session.view.event_types:
            await target.clean(self._state_of)
            return
        await self._restore(target, session)

    async def _restore(self, target: Target, session: Session) -> None:
        clock, stream = session.clock, StreamKey(self._tenant, CHANGE)
        at_ms = clock.run_start_ms - 1
        # Before the state is read: what a trim takes from here on is missed when it comes to it.
        head = await self._log.head(stream)
        state = await self._states.open(self._tenant, at_ms)
        last = await self._log.at_time(stream, at_ms)
        sequence = head.floor if last is None else last.sequence
        await target.restore(session.view.id, clock.run, state, sequence, self._state_of)

    async def require(self, session: Session) -> None:
        """That everything is there that this run of the session has left there."""
        await self._require(session, session.clock.run)

    async def _require(self, session: Session, run: int | None) -> None:
        if CHANGE not in session.view.event_types:
            return
        held = (await self._hold()).progress
        if held.session != session.view.id or run not in {None, held.run}:
            raise TargetError(
                "the playback database does not hold what this session left there: initialise it "
                "again"
            )

    async def forward(self, session: Session) -> None:
        """Carry out everything up to the run's start, but for the changes of its very time."""
        await self._require(session, None)
        if CHANGE not in session.view.event_types:
            return
        target, through_ms = await self._hold(), session.clock.through_ms
        if target.progress.ms > through_ms:
            await self._restore(target, session)  # it has come further than it was known to have
        await self._roll(session, through_ms)

    async def halt(self, session: Session) -> None:
        """Carry out everything up to where the session stands, or a little further."""
        await self._require(session, None)
        if CHANGE in session.view.event_types:
            reached_ms = (await self._hold()).progress.ms
            await self._roll(session, max(session.clock.through_ms, reached_ms))

    async def _roll(self, session: Session, through_ms: int) -> None:
        # What capture brings later would be missing for as long as the session stands there.
        behind = await self._states.behind(self._tenant, through_ms)
        if behind is not None:
            raise behind
        target = await self._hold()
        script = target.script()
        ahead = self._read_from(target, through_ms)
        try:
            while True:
                self._wake.clear()
                ahead.collect()
                await self._carry_out(target, script, ahead.take(through_ms), session)
                if ahead.known and ahead.next_ms is None:
                    break
                await self._wake.wait()
        finally:
            await ahead.close()
        if script.unfinished:
            # Its rest will never come, or comes when it is played on.
            await self.leave()
            target = await self._hold()
        await target.settle(session.clock.run, None if script.unfinished else through_ms)

    async def play(self, session: Session) -> None:
        """Carry out what comes due, until interrupted."""
        if CHANGE not in session.view.event_types:
            while not self._interrupted:
                self._wake.clear()
                await self._wake.wait()
            return
        await self.require(session)
        clock, target = session.clock, await self._hold()
        script = target.script()
        ahead = self._read_from(target, clock.end_ms)
        try:
            while not self._interrupted:
                self._wake.clear()
                ahead.collect()
                items = ahead.take(played_through_ms(clock, self._time.now_ms()))
                await self._carry_out(target, script, items, session)
                if not items:
                    await self._wait(session, ahead.next_ms)
        finally:
            await ahead.close()
        if script.unfinished:
            await self.leave()  # it may be in the middle of a transaction

    async def _wait(self, session: Session, next_ms: int | None) -> None:
        due = None if next_ms is None else due_ms(session.clock, next_ms)
        pause = None
        if due is not None:
            pause = max(_STEP_SEC, (due - self._time.now_ms()) / 1000)
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return

    async def clean(self, session: Session | None = None) -> None:
        """Remove what was written for the tenant, whatever session it was."""
        await (await self._hold()).clean(self._state_of)

    # -- changes

    def _read_from(self, target: Target, through_ms: int) -> ReadAhead:
        held = target.progress
        exact = Place(held.ms, 0, held.sequence)
        merge = Merge(
            self._log,
            self._tenant,
            [CHANGE],
            exact if held.sequence else Place.after_ms(held.ms),
            through_ms,
            page_size=self._page_size,
        )
        return ReadAhead(merge, low_events=self._page_size, on_read=self._wake.set)

    async def _carry_out(
        self, target: Target, script: Script, items: Sequence[Item], session: Session
    ) -> None:
        for item in items:
            if item.entry is None:
                raise TargetError(
                    f"changes before {rfc3339(item.place.ms)} that were still to be played are no "
                    "longer kept"
                )
            change = read_change(item.entry[1][1])
            if change is None:
                continue
            script.add(change, Position(item.place.ms, item.place.sequence))
            if script.size >= _BATCH_BYTES:
                await self._send(target, script, session)
        await self._send(target, script, session)

    async def _send(self, target: Target, script: Script, session: Session) -> None:
        batch = script.take()
        if batch is None:
            return
        await target.apply(batch)
        self.served += 1
        self._metrics.changes_applied.inc(batch.changes)
        if not session.clock.playing or session.clock.speed == 0:
            return
        now = self._time.now_ms()
        for ms in batch.times_ms:
            due = due_ms(session.clock, ms)
            if due is not None:
                self._metrics.apply_lateness.observe(max(0.0, now - due) / 1000)
