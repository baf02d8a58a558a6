"""The work of one session that is played into a database, for as long as this gateway has the lease.

It walks from status to status; what fails, and does not pass in time, becomes KO with its reason.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import structlog

from gateway.playback.stage import Stage
from store.errors import Behind, StoreError, StoreUnavailable, TargetUnavailable, WorkLost
from store.session import Lease, Session, Sessions

# How soon a verb that another gateway was asked for is noticed.
_LOOK_SEC = 0.05
_RETRY_SEC = 0.2
# What is on its way into the database may arrive, before it is given up for a verb.
_GRACE_SEC = 5.0
_PASSING = (TargetUnavailable, StoreUnavailable, Behind)

_Result = TypeVar("_Result")
_Action: TypeAlias = Callable[[Session], Awaitable[None]]

logger = structlog.get_logger(__name__)


class _Failed(Exception):
    """It becomes KO, for this reason."""


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """`outage_sec`: how long what the work needs may be away before it fails.

    `patience_sec`: how long a verb is waited for before it is answered as it stands.
    """

    lease_sec: float
    outage_sec: float
    patience_sec: float
    page_size: int


class Work:
    """One hold on the work of a tenant's session. Ends when it is done, or lost.

    `on_defect` is called when it fails by one.
    """

    def __init__(
        self,
        lease: Lease,
        session: Session,
        *,
        sessions: Sessions,
        stage: Stage,
        limits: WorkLimits,
        on_defect: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._tenant = session.view.tenant_id
        self._session: Session | None = session
        self._sessions = sessions
        self._stage = stage
        self._limits = limits
        self._on_defect = on_defect
        self._changed = asyncio.Event()
        self._doubt = asyncio.Event()
        self._lost = False
        self._held_until = time.monotonic() + limits.lease_sec
        self._actions: dict[str, _Action] = {
            "DB_INIT_IN_PROGRESS": stage.restore,
            "MSG_INIT_IN_PROGRESS": stage.forward,
            "MSG_START_IN_PROGRESS": stage.require,
            "MSG_START_OK": stage.play,
            "MSG_STOP_IN_PROGRESS": stage.halt,
            "DB_END_IN_PROGRESS": stage.clean,
        }

    # -- the lease, and what is known of the session

    async def run(self) -> None:
        """Until nothing is owed. Raises WorkLost; cancelled it gives the lease back."""
        looking = asyncio.create_task(self._look())
        try:
            while (session := await self._next()) is not None:
                await self._go_on(session)
        except asyncio.CancelledError:
            with suppress(StoreError):
                await self._sessions.release_work(self._tenant, self._lease)
            raise
        finally:
            self._lost = True
            await _end(looking)
            await self._stage.leave()

    async def _next(self) -> Session | None:
        """The session with what is owed now; None when the lease was given back."""
        session = self._session
        if session is not None and (session.working or session.clock.playing):
            return session
        self._session = await self._ask(
            lambda: self._sessions.leave_work(self._tenant, self._lease)
        )
        return self._session

    def doubt(self) -> None:
        """The session may be another than it is known to be."""
        self._doubt.set()

    async def _look(self) -> None:
        """Keep the lease, and learn what others ask of the session."""
        pause = min(_LOOK_SEC, self._limits.lease_sec / 5)
        while not self._lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._doubt.wait()
            self._doubt.clear()
            known = self._session
            if known is None:
                continue
            asked = time.monotonic()
            try:
                found = await self._sessions.look(self._tenant, self._lease, known)
            except WorkLost:
                self._lose()
            except StoreUnavailable:
                # Who cannot reach the server cannot know that nobody else has the lease by now.
                if time.monotonic() > self._held_until:
                    self._lose()
            except Exception:
                # A defect: nobody would keep the lease, or hear of a verb, any more.
                logger.exception("playback_look_failed", tenant=self._tenant)
                self._on_defect()
                self._lose()
            else:
                self._held_until = asked + self._limits.lease_sec
                if found is not known:
                    self._learn(found)

    def _lose(self) -> None:
        self._lost = True
        self._tell()

    def _learn(self, session: Session | None) -> None:
        known = self._session
        if session is not None and session.view.status == "DB_END_OK":
            session = None
        if (
            known is not None
            and session is not None
            and known.view.id == session.view.id
            and session.clock.revision <= known.clock.revision
        ):
            return
        self._session = session
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._stage.interrupt()

    async def _ask(self, question: Callable[[], Awaitable[_Result]]) -> _Result:
        """Of the log's server, for as long as the lease may hold. Raises WorkLost."""
        while True:
            try:
                return await question()
            except StoreUnavailable as error:
                if self._lost or time.monotonic() > self._held_until:
                    raise WorkLost(f"the lease could not be kept: {error}") from error
            await asyncio.sleep(_RETRY_SEC)

    # -- walking

    async def _go_on(self, session: Session) -> None:
        """Do what a status asks for, until it is done or the session is in another."""
        if self._lost:
            raise WorkLost(f"the work of tenant {self._tenant} is another's")
        self._changed.clear()
        self._stage.resume()
        doing = asyncio.create_task(self._do(session))
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([doing, changed], return_when=asyncio.FIRST_COMPLETED)
            if not doing.done() and session.clock.playing and not self._lost:
                await asyncio.wait([doing], timeout=_GRACE_SEC)
        finally:
            changed.cancel()
            if not doing.done():
                await _end(doing)
                await self._stage.leave()  # nobody knows what it is in the middle of
        if not doing.cancelled():
            doing.result()

    async def _do(self, session: Session) -> None:
        action = self._actions.get(session.view.status)
        failure = ""
        if action is not None:
            try:
                await self._attempt(action, session)
            except _Failed as error:
                failure = str(error)
                logger.warning(
                    "playback_work_failed",
                    tenant=self._tenant,
                    status=session.view.status,
                    error=failure,
                )
        if failure or not session.clock.playing:
            self._learn(await self._ask(lambda: self._step(session, failure)))

    async def _step(self, session: Session, failure: str) -> Session | None:
        return await self._sessions.step(
            self._tenant,
            self._lease,
            session,
            failure=failure,
            reached_ms=self._stage.reached_ms,
        )

    async def _attempt(self, action: _Action, session: Session) -> None:
        """Again while what it needs is away, for so long. Raises WorkLost."""
        away_since, served = 0.0, -1
        while True:
            try:
                await action(session)
            except WorkLost:
                raise
            except _PASSING as error:
                await self._stage.leave()
                if self._stage.served != served:
                    away_since, served = time.monotonic(), self._stage.served
                    logger.warning("playback_work_waits", tenant=self._tenant, error=str(error))
                if time.monotonic() - away_since > self._limits.outage_sec:
                    raise _Failed(str(error)) from error
                await asyncio.sleep(_RETRY_SEC)
            except StoreError as error:
                await self._stage.leave()
                raise _Failed(str(error)) from error
            except Exception as error:
                # A defect must not leave the session in the middle of a step.
                logger.exception("playback_work_broke", tenant=self._tenant)
                self._on_defect()
                await self._stage.leave()
                raise _Failed("the gateway failed; its log says how") from error
            else:
                return


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task, and again until it has ended: redis-py may forget a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_RETRY_SEC)
