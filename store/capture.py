"""Captures a PostgreSQL: what its slot has goes into the log, then the slot may forget it.

Every change is in the log once, in the order of the commits, whatever dies in between. One process
captures a source, others stand by. A loss is never silent: it is refused, or recorded as a break. Runs
until it is cancelled; whatever ends it before is told, counted, and tried again.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress

import msgspec
import structlog

from store.capture_record import CHANGE, CaptureRecord, Shape, Status
from store.capture_rounds import Rounds
from store.change_stream import Renderer
from store.connection import Connection
from store.copier import Copier
from store.errors import SourceLost, SourceRefused, SourceUnavailable, StoreError, StoreUnavailable
from store.event import Mark, StreamKey
from store.log import EventLog
from store.pgsource import PgSource, SourceSettings
from store.resumption import FIRST, Resumption, Start
from store.source_setup import prepare

logger = structlog.get_logger(__name__)

STANDBY_SEC = 1.0
_BACKOFF_SEC = (0.1, 5.0)
# Who captures tells so twice a second.
_FRESH_MS = 5_000


class Capture:
    """One source.

    `while_owner` runs as long as this process is the one that captures it. `on_gap` is told why only
    a new snapshot makes the states of later right, `on_failure` of a defect.
    """

    def __init__(
        self,
        settings: SourceSettings,
        *,
        log: EventLog,
        connection: Connection,
        renderer: Renderer,
        on_failure: Callable[[], None] = lambda: None,
        on_gap: Callable[[str], None] = lambda reason: None,
        while_owner: Callable[[], Coroutine[object, object, None]] | None = None,
    ) -> None:
        self.settings = settings
        self.status = Status("starting")
        self._log = log
        self._connection = connection
        self._renderer = renderer
        self._on_failure = on_failure
        self._on_gap = on_gap
        self._while_owner = while_owner
        self._record = CaptureRecord(connection, settings.name)
        self._changes = 0
        self._restarts = 0
        # Whether this process was the one that captures when it last tried.
        self._owns = False
        self._warnings: tuple[str, ...] = ()
        # What the log was seen to have. When it has less, it has lost it.
        self._marks: dict[str, Mark] = {}

    async def run(self) -> None:
        delay = _BACKOFF_SEC[0]
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except BaseExceptionGroup as group:
                error: BaseException = _first(group)
                if not isinstance(error, Exception):
                    raise
            except Exception as single:  # noqa: BLE001 - told, counted, tried again
                error = single
            await self._tell_failure(error)
            if time.monotonic() - began > 2 * _BACKOFF_SEC[1]:
                delay = _BACKOFF_SEC[0]
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spread, no secret
            delay = min(2 * delay, _BACKOFF_SEC[1])

    async def _tell_failure(self, error: BaseException) -> None:
        self._restarts += 1
        state = _state(error)
        text = str(error) or type(error).__name__
        if state == "failed":
            self._on_failure()
            logger.error("capture_failed", source=self.settings.name, exc_info=error)
        elif (self.status.state, self.status.error) != (state, text):
            level = logger.warning if state.endswith("down") else logger.error
            level("capture_stopped", source=self.settings.name, state=state, error=text)
        self.status = msgspec.structs.replace(
            self.status,
            state=state,
            error=text,
            lag_bytes=None,
            restarts=self._restarts,
            updated_ms=int(time.time() * 1000),
        )
        with suppress(StoreError):
            if self._owns or not await self._is_captured():
                await self._record.tell(self.status)

    async def _is_captured(self) -> bool:
        """By another process: what this one cannot do is no news of the source."""
        told = await self._record.status()
        return (
            told is not None
            and told.state == "capturing"
            and time.time() * 1000 - told.updated_ms < _FRESH_MS
        )

    # -- one connection to the source

    async def _session(self) -> None:
        source = PgSource(self.settings)
        self._owns = False
        try:
            await source.open()
            await self._await_ownership(source)
            self._owns = True
            setup = await prepare(source, create=True)
            if setup.warnings != self._warnings:
                self._warnings = setup.warnings
                for warning in setup.warnings:
                    logger.warning("capture_setup", source=self.settings.name, warning=warning)
            start = await Resumption(source, self._log, self._record, self._marks).find()
            if start.gap is not None:
                self._tell_gap(start.gap)
            await self._capture(source, start, setup.warnings)
        finally:
            source.close()

    async def _await_ownership(self, source: PgSource) -> None:
        if await source.own():
            return
        logger.info("capture_stands_by", source=self.settings.name)
        self.status = Status("standby", updated_ms=int(time.time() * 1000))
        # The lock of another session gives no event when it is let go.
        while not await source.own():  # noqa: ASYNC110
            await asyncio.sleep(STANDBY_SEC)

    async def _capture(self, source: PgSource, start: Start, warnings: tuple[str, ...]) -> None:
        copier = Copier(
            source,
            self._log,
            self._connection,
            self._record,
            generation=start.progress.generation,
            shapes=await self._record.shapes(),
            tenants=start.tenants,
            renderer=self._renderer,
            on_stored=self._count,
            on_reshaped=lambda before, now: self._on_reshaped(copier, before, now),
        )
        rounds = Rounds(
            source,
            copier,
            self._record,
            start.progress,
            on_status=self._on_status,
            on_gap=self._tell_gap,
            changes=lambda: self._changes,
            warnings=warnings,
            restarts=self._restarts,
        )
        logger.info("capture_begins", source=self.settings.name, slot=self.settings.slot)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(rounds.run())
                if self._while_owner is not None:
                    group.create_task(self._while_owner())
        finally:
            self._marks |= copier.marks()
            copier.close()

    def _count(self, changes: int) -> None:
        self._changes += changes

    def _on_status(self, status: Status) -> None:
        self.status = status

    async def _on_reshaped(self, copier: Copier, before: Shape, now: Shape) -> None:
        """By another name or key, rows of before are not found again: a state needs a snapshot."""
        found_again = (before.name, before.key) == (now.name, now.key)
        if not found_again:
            for tenant in sorted(copier.tenants):
                head = await self._log.head(StreamKey(tenant, CHANGE))
                await self._record.add_break(tenant, head, copier.through_ms)
        what = "columns" if found_again else "name" if before.name != now.name else "key"
        self._tell_gap(f"{now.name} has {'other' if found_again else 'another'} {what}")

    def _tell_gap(self, reason: str) -> None:
        # The first one is no fault, and who tries Playhead is not to be frightened.
        log = logger.info if reason == FIRST else logger.warning
        log("snapshot_needed", source=self.settings.name, reason=reason)
        self._on_gap(reason)


async def check(settings: SourceSettings) -> tuple[str, ...]:
    """Whether a source can be captured; sentences about what could be better.

    Raises SourceRefused, whose sentences say what to change, and SourceUnavailable.
    """
    source = PgSource(settings)
    try:
        await source.open()
        return (await prepare(source, create=False)).warnings
    finally:
        source.close()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that the others follow from."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _state(error: BaseException) -> str:
    if isinstance(error, SourceLost):
        return "lost"
    if isinstance(error, SourceRefused):
        return "refused"
    if isinstance(error, SourceUnavailable):
        return "down"
    return "store_down" if isinstance(error, StoreUnavailable) else "failed"
