"""Who works on the sessions that are played into a database: this gateway, where no other does.

A verb is worked on by the gateway that was asked for it, unless another is at it already. What has
been left by a gateway that died is found by looking now and then, and so is what a session left in
the database that has no session any more.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from uuid import uuid4

import structlog

from gateway.metrics import Metrics
from gateway.playback.stage import Stage
from gateway.playback.work import Work, WorkLimits
from store.errors import StoreError, TargetUnavailable, WorkLost
from store.log import EventLog
from store.playback_db import PlaybackDatabase
from store.server_time import ServerTime
from store.session import Answer, Outcome, Sessions
from store.state import States

_LEFTOVERS_SEC = 30.0
_HELD_SEC = 0.1
_PATIENCE_SEC = (0.01, 0.1)

logger = structlog.get_logger(__name__)


class Writer:
    """The work of this gateway on one playback database, of all tenants."""

    def __init__(
        self,
        database: PlaybackDatabase,
        *,
        sessions: Sessions,
        states: States,
        log: EventLog,
        time: ServerTime,
        limits: WorkLimits,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._states = states
        self._log = log
        self._time = time
        self._limits = limits
        self._metrics = metrics
        self._gateway = str(uuid4())
        self._asked: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._works: dict[str, Work] = {}
        # A lock was freed though rows are left.
        self._untidy = asyncio.Event()

    async def check(self) -> None:
        """Raises StoreConfigurationError. A database that is away may be back when it is needed."""
        try:
            await self._database.check()
        except TargetUnavailable as error:
            logger.warning("playback_database_unavailable", error=str(error))

    def _make_stage(self, tenant: str, token: int) -> Stage:
        return Stage(
            tenant,
            token,
            database=self._database,
            states=self._states,
            log=self._log,
            time=self._time,
            page_size=self._limits.page_size,
            metrics=self._metrics,
        )

    # -- verbs

    async def wait(self, tenant: str, outcome: Outcome) -> Outcome:
        """Work on what a verb asked for; the session as it is when that is done, or long enough."""
        session = outcome.session
        if outcome.answer is not Answer.OK or session is None or not session.working:
            return outcome
        self.wake(tenant)
        deadline = monotonic() + self._limits.patience_sec
        pause, longest = _PATIENCE_SEC
        while session.working and monotonic() < deadline:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)
            found = await self._sessions.get(tenant)
            if found is None or found.view.id != session.view.id:
                found = await self._sessions.last_told(tenant, session.view.id)
                return Outcome(outcome.answer, found or session)
            session = found
        return Outcome(outcome.answer, session)

    async def reset(self, tenant: str) -> Outcome:
        """Free the tenant's lock; what cannot be cleaned up in time is cleaned up later."""
        outcome = await self.wait(tenant, await self._sessions.reset(tenant, force=False))
        session = outcome.session
        if session is not None and session.view.status != "DB_END_OK":
            outcome = await self._sessions.reset(tenant)
            self._untidy.set()
        return outcome

    def wake(self, tenant: str) -> None:
        """There may be work."""
        self._asked.add(tenant)
        if tenant in self._works:
            self._works[tenant].doubt()
        if tenant not in self._tasks:
            self._tasks[tenant] = asyncio.create_task(self._serve(tenant))

    # -- work

    async def _serve(self, tenant: str) -> None:
        try:
            while tenant in self._asked:
                self._asked.discard(tenant)
                await self._try(tenant)
        finally:
            del self._tasks[tenant]

    async def _try(self, tenant: str) -> None:
        try:
            await self._work(tenant)
        except WorkLost as error:
            logger.warning("playback_work_lost", tenant=tenant, error=str(error))
        except StoreError as error:
            # The next look comes back to it.
            logger.warning("playback_work_left", tenant=tenant, error=str(error))
        except Exception:
            logger.exception("playback_writer_failed", tenant=tenant)
            self._metrics.background_failures("writer").inc()

    async def _work(self, tenant: str) -> None:
        deadline = monotonic() + self._limits.patience_sec
        while (taken := await self._sessions.take_work(tenant, self._gateway)) is None:
            session = await self._sessions.get(tenant)
            if session is None or not session.working or monotonic() > deadline:
                return
            await asyncio.sleep(_HELD_SEC)  # another is at it, or has died at it
        lease, session = taken
        if not session.view.status.endswith("_REQUESTED"):
            self._metrics.work_takeovers.inc()
            logger.info("playback_work_taken_over", tenant=tenant, status=session.view.status)
        work = self._works[tenant] = Work(
            lease,
            session,
            sessions=self._sessions,
            stage=self._make_stage(tenant, int(lease.token)),
            limits=self._limits,
            on_defect=self._metrics.background_failures("writer").inc,
        )
        try:
            await work.run()
        finally:
            del self._works[tenant]

    async def run(self) -> None:
        """Find what others have left, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_over())
            group.create_task(self._tidy())

    async def _take_over(self) -> None:
        seen: dict[str, int] = {}
        while True:
            await asyncio.sleep(self._limits.lease_sec / 3)
            try:
                seen = await self._look(seen)
            except StoreError as error:
                logger.warning("playback_not_looked_after", error=str(error))

    async def _tidy(self) -> None:
        pause = _LEFTOVERS_SEC
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._untidy.wait()
            self._untidy.clear()
            try:
                await self._clean_up()
                pause = _LEFTOVERS_SEC
            except StoreError as error:
                logger.warning("playback_leftovers_remain", error=str(error))
                pause = self._limits.lease_sec

    async def _look(self, seen: Mapping[str, int]) -> dict[str, int]:
        """The revisions of the sessions with work; those as they were seen before are waited for.

        What has just been asked for is left to the gateway that was asked.
        """
        found = {
            session.view.tenant_id: session.clock.revision
            for session in await self._sessions.active()
            if session.clock.owned and (session.working or session.clock.playing)
        }
        for tenant, revision in found.items():
            if seen.get(tenant) == revision:
                self.wake(tenant)
        return found

    async def _clean_up(self) -> None:
        """Remove the rows of sessions that are no more: their lock was freed before they could be."""
        failed: list[StoreError] = []
        for tenant in await self._database.leftovers():
            lease = await self._sessions.take_nothing(tenant, self._gateway)
            if lease is None:
                continue
            stage = self._make_stage(tenant, int(lease.token))
            try:
                await stage.clean()
            except StoreError as error:
                failed.append(error)  # those of others can be removed all the same
            else:
                logger.info("playback_leftovers_removed", tenant=tenant)
            finally:
                await stage.leave()
                await self._sessions.release_work(tenant, lease)
        if failed:
            raise failed[0]

    async def close(self) -> None:
        """Leave what is under way to the other gateways."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
