"""The events of a run that come next, read from the log before they are due."""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from store.errors import StoreUnavailable
from store.event import rfc3339
from store.merge import Batch, Item, Merge

_RETRY_SEC = 0.2

logger = structlog.get_logger(__name__)


class ReadAhead:
    """Reads in a task of its own, so that a log that answers late holds up nothing else.

    `on_read` is called when there may be more to `collect`.
    """

    def __init__(self, merge: Merge, *, low_events: int, on_read: Callable[[], None]) -> None:
        self._merge = merge
        self._low_events = low_events
        self._on_read = on_read
        self._items: deque[Item] = deque()
        self._whole = True
        self._at_end = False
        self._task: asyncio.Task[Batch | None] | None = None
        # The log's server is away: nobody knows for how long.
        self.delayed = False

    @property
    def next_ms(self) -> int | None:
        """The time of the next event, if it is known."""
        return self._items[0].place.ms if self._items else None

    @property
    def known(self) -> bool:
        """Whether it is known what comes next: an event, or nothing any more."""
        return bool(self._items) or self._at_end

    @property
    def split(self) -> bool:
        """Whether there may be more events of the time of the last one taken."""
        return not (self._items or self._at_end or self._whole)

    def collect(self) -> None:
        """Take over what was read, and go on reading. Raises what reading failed with."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            batch = task.result()
            self._at_end = batch is None
            if batch is not None:
                self._items += batch.items
                self._whole = batch.whole
        self._go_on()

    def _go_on(self) -> None:
        if self._task is None and not self._at_end and len(self._items) < self._low_events:
            self._task = asyncio.create_task(self._read())
            self._task.add_done_callback(lambda _: self._on_read())

    def take(self, through_ms: int) -> list[Item]:
        """Remove and return the events up to and including a time, as far as they are known."""
        taken: list[Item] = []
        items = self._items
        while items and items[0].place.ms <= through_ms:
            taken.append(items.popleft())
        self._go_on()
        return taken

    async def _read(self) -> Batch | None:
        while True:
            try:
                batch = await self._merge.read()
            except StoreUnavailable as error:
                if not self.delayed:
                    logger.warning("playback_delayed", error=str(error))
                self.delayed = True
                await asyncio.sleep(_RETRY_SEC)
                continue
            if self.delayed:
                logger.info(
                    "playback_continued", at=rfc3339(batch.items[0].place.ms) if batch else "end"
                )
            self.delayed = False
            return batch

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()  # read, so that a failure of what is left is no complaint
        await self._merge.close()
