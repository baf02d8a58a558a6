"""Snapshots of one source when they are due. At home in the process that captures the source.

The first of all, and the first after changes were lost, is taken at once and of everybody; from
then on each tenant has its own times (cron, UTC), which may be changed at any moment. One that
fails is told, counted and tried again; what was missed while nobody ran is made up for once.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from store.captured import count_breaks, read_tenants
from store.configuration import Configuration
from store.connection import Connection
from store.cron import next_due
from store.errors import StoreError
from store.snapshot import SnapshotTaker
from store.snapshot_index import Snapshot, SnapshotIndex

_POLL_SEC = 1.0
_RETRY_SEC = (5.0, 300.0)

logger = structlog.get_logger(__name__)


class SnapshotSchedule:
    """`on_taken` and `on_failure` are called after every attempt, the first with its duration in s."""

    def __init__(
        self,
        taker: SnapshotTaker,
        connection: Connection,
        *,
        now_ms: Callable[[], float],
        on_taken: Callable[[float], None] = lambda seconds: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._taker = taker
        self._connection = connection
        self._configuration = Configuration(connection)
        self._index = SnapshotIndex(connection)
        self._now_ms = now_ms
        self._on_taken = on_taken
        self._on_failure = on_failure
        self._requested = ""
        self._wake = asyncio.Event()
        # When each tenant's last one was begun.
        self._begun_ms: dict[str, int] = {}

    def request(self, reason: str) -> None:
        """Everybody's state has to be recorded anew, as soon as can be."""
        self._requested = reason
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        delay = _RETRY_SEC[0]
        while True:
            try:
                await self._take_due()
                delay, pause = _RETRY_SEC[0], _POLL_SEC
            except StoreError as error:
                logger.error("snapshot_failed", source=self._taker.source, error=str(error))
                self._on_failure()
                delay, pause = min(2 * delay, _RETRY_SEC[1]), delay
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _take_due(self) -> None:
        found = await read_tenants(self._connection, self._taker.source)
        # Of one that has all the rows nothing may have changed yet.
        tenants = found if self._taker.tenant is None else [self._taker.tenant]
        if self._requested or await self._needs_everybody(tenants):
            reason, self._requested = self._requested, ""
            try:
                await self._take(tenants, everybody=True)
            except BaseException:
                self._requested = reason or "the last attempt failed"
                raise
            return
        due = [tenant for tenant in tenants if await self._is_due(tenant)]
        if due:
            await self._take(due, everybody=False)

    async def _take(self, tenants: list[str], *, everybody: bool) -> None:
        started_ms = self._now_ms()
        await self._taker.take(tenants, everybody=everybody)
        for tenant in tenants:
            self._begun_ms[tenant] = int(started_ms)
        self._on_taken((self._now_ms() - started_ms) / 1000)

    async def _needs_everybody(self, tenants: list[str]) -> bool:
        """Nothing was recorded yet, or not since changes were lost."""
        if not await self._index.runs(self._taker.source):
            return True
        for tenant in tenants:
            breaks = await count_breaks(self._connection, tenant)
            if breaks and all(each.breaks < breaks for each in await self._own(tenant)):
                return True
        return False

    async def _own(self, tenant: str) -> list[Snapshot]:
        every = await self._index.all(tenant)
        return [each for each in every if each.source == self._taker.source]

    async def _is_due(self, tenant: str) -> bool:
        expression = (await self._configuration.get(tenant)).snapshot_interval
        now_ms = int(self._now_ms())
        begun_ms = self._begun_ms.get(tenant)
        if begun_ms is None:
            begun_ms = max((each.at_ms for each in await self._own(tenant)), default=now_ms)
        # A clock that was ahead must not put the next one off until that time comes again.
        begun_ms = self._begun_ms[tenant] = min(begun_ms, now_ms)
        due_ms = next_due(expression, begun_ms)
        return due_ms is not None and due_ms <= now_ms
