"""The rounds of capture over one connection: copy what is new, tell how far the log is, let the slot go.

The order is what keeps every change: first the log has it, then the record says so, then the source may
forget it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from store.capture_record import CaptureRecord, Progress, Status
from store.copier import Copier
from store.errors import SourceLost
from store.pgsource import Moment, PgSource

# A peek decodes this much of the write-ahead log, or as much as it has to read again anyway.
STEP_BYTES = 32 << 20
LARGEST_STEP_BYTES = 512 << 20
# How often a quiet and a busy source are asked for what is new.
IDLE_SEC = 0.1
BUSY_SEC = 0.02
# The slot is moved this often and not oftener: each time the source reads on from its last safe place.
ADVANCE_SEC = 1.0
ADVANCE_BYTES = 16 << 20
TELL_SEC = 0.25
REPORT_SEC = 0.5
TABLES_SEC = 2.0
# A commit takes its time before its place; on a busy source other commits come between.
MARGIN_MS = 200
_LOG_RUNNING_BYTES = 16 << 20
# Before the first record of a page of the write-ahead log there is a header, which an idle source's
# insert position counts and its flush position does not.
_PAGE_BYTES, _PAGE_HEADER_BYTES = 8192, 40


class Rounds:
    """Run until something fails."""

    def __init__(
        self,
        source: PgSource,
        copier: Copier,
        record: CaptureRecord,
        progress: Progress,
        *,
        on_status: Callable[[Status], None],
        on_gap: Callable[[str], None],
        changes: Callable[[], int],
        warnings: tuple[str, ...],
        restarts: int,
    ) -> None:
        self._source = source
        self._copier = copier
        self._record = record
        self._progress = progress
        self._on_status = on_status
        self._on_gap = on_gap
        self._warnings = warnings
        self._restarts = restarts
        self._changes = changes
        # Everything before it is in the log.
        self._position = 0
        # Where the slot was moved to last, and from where the source reads when it is peeked into.
        self._advanced = 0
        self._restart = 0
        self._running_logged = 0
        self._through_ms = progress.through_ms
        # Whose commits are not all in the log yet, oldest first.
        self._moments: deque[Moment] = deque()
        self._told_at, self._advanced_at = 0.0, time.monotonic()

    async def run(self) -> None:
        # Not from the record's place: a log that lost its newest events gets them again.
        self._position = self._advanced = await self._look_at_slot()
        self._copier.through_ms = self._through_ms
        if self._source.settings.tenant_column is None:
            # Before its first change: a state of it has to wait for capture too.
            await self._record.tell_through(self._source.settings.tenant, self._through_ms)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy())
            group.create_task(self._report())
            group.create_task(self._watch_tables())

    async def _look_at_slot(self) -> int:
        slot = await self._source.slot()
        if slot is None or slot.lost is not None:
            raise SourceLost(f"slot '{self._source.settings.slot}' was dropped or given up")
        self._restart = slot.restart_lsn
        return slot.confirmed_lsn

    async def _copy(self) -> None:
        pause = BUSY_SEC
        while True:
            moment = await self._source.moment()
            self._moments.append(moment)
            if moment.flush_lsn > self._position:
                # What is read again in every step must not be more than what is new in it.
                step = min(max(STEP_BYTES, self._position - self._restart), LARGEST_STEP_BYTES)
                upto = min(moment.flush_lsn, self._position + step)
                read = await self._copier.copy(self._position, upto)
                # Of one that was dropped and made again a peek tells only what came after.
                if await self._look_at_slot() > self._position:
                    raise SourceLost(f"slot '{self._source.settings.slot}' was made again")
                self._position = upto
                pause = BUSY_SEC if read else min(pause * 1.5, IDLE_SEC)
            else:
                pause = min(pause * 1.5, IDLE_SEC)
            while self._moments and self._reached(self._moments[0]):
                self._through_ms = max(self._through_ms, self._moments.popleft().ms - MARGIN_MS)
            now = time.monotonic()
            if now - self._told_at >= TELL_SEC:
                await self._tell()
            behind = self._position - self._advanced
            if behind >= ADVANCE_BYTES or (behind and now - self._advanced_at >= ADVANCE_SEC):
                await self._advance()
            if self._position >= moment.flush_lsn:
                await asyncio.sleep(pause)

    def _reached(self, moment: Moment) -> bool:
        missing = moment.insert_lsn - self._position
        at_page = self._position % _PAGE_BYTES == 0
        return missing <= 0 or (at_page and missing <= _PAGE_HEADER_BYTES)

    async def _tell(self) -> None:
        """Write down how far the log is; from then on nothing is put before that time."""
        self._progress = replace(
            self._progress,
            confirmed_lsn=max(self._progress.confirmed_lsn, self._position),
            through_ms=self._through_ms,
        )
        await self._record.save(self._progress)
        self._copier.through_ms = self._through_ms
        self._told_at = time.monotonic()

    async def _advance(self) -> None:
        await self._tell()
        await self._record.await_disk()
        await self._source.advance(self._position)
        self._advanced, self._advanced_at = self._position, time.monotonic()
        await self._look_at_slot()
        if self._position - max(self._restart, self._running_logged) >= _LOG_RUNNING_BYTES:
            await self._source.log_running_transactions()
            self._running_logged = self._position

    async def _report(self) -> None:
        while True:
            moment = await self._source.moment()
            status = Status(
                "capturing",
                lag_bytes=max(0, moment.insert_lsn - self._position),
                lag_sec=max(0, moment.ms - self._through_ms) / 1000,
                through_ms=self._through_ms,
                warnings=self._warnings,
                changes=self._changes(),
                restarts=self._restarts,
                updated_ms=int(time.time() * 1000),
            )
            self._on_status(status)
            await self._record.tell(status)
            await asyncio.sleep(REPORT_SEC)

    async def _watch_tables(self) -> None:
        """Rows that a table had before it was published are in no change, nor are dropped ones."""
        before = await self._record.published()
        while True:
            tables = await self._source.published_tables()
            if before is not None and (reason := find_other_rows(before, tables)) is not None:
                self._on_gap(reason)
            if tables != before:
                await self._record.save_published(tables)
            before = tables
            await asyncio.sleep(TABLES_SEC)


def find_other_rows(before: dict[str, list[int]], now: dict[str, list[int]]) -> str | None:
    """Why rows came or went without a change: by name the OIDs of a table and its partitions."""
    if before.keys() != now.keys():
        return "other tables are published"
    for name, oids in now.items():
        if not set(before[name]) <= set(oids):
            return f"{name} was made anew, or a partition of it dropped"
    return None
