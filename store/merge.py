"""Several logs of one tenant as one: ordered by event time, then event type, then sequence.

The total order of a session. A place in it names the last event that lies behind. Events of one
millisecond, which may be one transaction, come in one batch, or the batch says that more follow.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from store.errors import StoreError
from store.event import ORIGIN, Entry, Gap, GapReason, Head, Page, Position, StreamKey
from store.log import EventLog

_AFTER_ALL_KINDS = 1 << 31


class Place(NamedTuple):
    """Behind it lie all events up to this time, of this time those up to this type and sequence.

    `kind` is the index into the session's sorted event types.
    """

    ms: int
    kind: int
    sequence: int

    @classmethod
    def before_ms(cls, ms: int) -> "Place":
        """Before all events of this time."""
        return cls(ms, -1, 0)

    @classmethod
    def after_ms(cls, ms: int) -> "Place":
        """Behind all events of this time."""
        return cls(ms, _AFTER_ALL_KINDS, 0)


class Item(NamedTuple):
    """One event in the total order, or a gap in one of its logs before that place."""

    place: Place
    entry: Entry | None
    gap: Gap | None = None


class Batch(NamedTuple):
    """The next items, at least one. `whole`: no more events of the last one's time follow."""

    items: list[Item]
    whole: bool


class Merge:
    """Every event after a place up to and including a time, in order."""

    def __init__(
        self,
        log: EventLog,
        tenant: str,
        event_types: Sequence[str],
        after: Place,
        through_ms: int,
        *,
        page_size: int,
    ) -> None:
        self._sources = [
            _Source(
                log,
                StreamKey(tenant, event_type),
                kind=kind,
                after=after,
                through_ms=through_ms,
                page_size=page_size,
            )
            for kind, event_type in enumerate(event_types)
        ]

    async def read(self) -> Batch | None:
        """The next batch, None at the end. After StoreUnavailable it may be asked again."""
        # Waits for all of them even if one fails: none may be at work when it is asked or closed.
        results = await asyncio.gather(
            *(source.fill() for source in self._sources), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._sources = [source for source in self._sources if source.items]
        if not self._sources:
            return None
        items, whole = self._take()
        if len(self._sources) > 1:
            items.sort(key=_place_of)
        return Batch(items, whole)

    def _take(self) -> tuple[list[Item], bool]:
        open_ends = [source.items[-1].place for source in self._sources if not source.ended]
        if not open_ends:
            return [item for source in self._sources for item in source.take(None)], True
        # Up to here every source is known: what comes later in any of them lies behind it. What
        # else there is of its last millisecond is not, so that is held back, unless it is all.
        bound = min(open_ends)
        start = Place.before_ms(bound.ms)
        whole = any(source.items[0].place < start for source in self._sources)
        if whole:
            bound = start
        return [item for source in self._sources for item in source.take(bound)], whole

    async def close(self) -> None:
        for source in self._sources:
            await source.close()


def _place_of(item: Item) -> Place:
    return item.place


class _Source:
    """One log of the merge: its pages, and what is read of them and not yet given on."""

    def __init__(
        self,
        log: EventLog,
        stream: StreamKey,
        *,
        kind: int,
        after: Place,
        through_ms: int,
        page_size: int,
    ) -> None:
        self._log = log
        self._stream = stream
        self._kind = kind
        self._after = after
        self._through_ms = through_ms
        self._page_size = page_size
        self._epoch = b""
        self._position: Position | None = None
        self._until = ORIGIN
        self._pages: AsyncGenerator[Page, None] | None = None
        self.items: list[Item] = []
        self.ended = False

    async def fill(self) -> None:
        """Know items of more than one millisecond, or a page more of that one, or be at the end."""
        if self.ended or (self.items and self.items[0].place.ms != self.items[-1].place.ms):
            return
        if self._position is None:
            await self._open()
        if not self.ended:
            await self._fetch()
        while not self.items and not self.ended:
            await self._fetch()

    async def _open(self) -> None:
        head = await self._log.head(self._stream)
        until = await self._log.at_time(self._stream, self._through_ms)
        position, gap = await self._start(head)
        if until is None or position >= until:
            self.ended = True
            if self._is_exact and head.floor > position.sequence:
                gap = Gap(GapReason.EXPIRED, position.sequence + 1, head.first_available)
        else:
            self._epoch, self._until, self._position = head.epoch, until, position
        if gap is not None:
            ms = min(position.ms, self._through_ms)
            self._add_gap(gap, Place(ms, self._kind, gap.first_available - 1))

    @property
    def _is_exact(self) -> bool:
        return self._kind == self._after.kind and self._after.sequence > 0

    async def _start(self, head: Head) -> tuple[Position, Gap | None]:
        after = self._after
        if self._is_exact:
            return Position(after.ms, after.sequence), None
        first_ms = after.ms + 1 if self._kind < after.kind else after.ms
        # Behind the event before, where there is one: what a trim takes from here on is then told.
        before = await self._log.at_time(self._stream, first_ms - 1)
        if before is not None:
            return before, None
        if head.floor == 0:
            return ORIGIN, None
        found = await self._log.before_time(self._stream, first_ms)
        position = head.last if found is None else found
        # When the events that were removed happened is not known: they may lie in between, or be
        # of the first one's own time.
        lost = position.ms >= first_ms
        first = head.first_available
        return position, Gap(GapReason.EXPIRED, min(head.floor, first - 1), first) if lost else None

    async def _fetch(self) -> None:
        assert self._position is not None  # noqa: S101 - set by `_open`, or this one has ended
        if self._pages is None:
            self._pages = self._log.range(
                self._stream,
                self._position,
                self._until,
                epoch=self._epoch,
                page_size=self._page_size,
            )
        try:
            page = await anext(self._pages)
        except StoreError:
            self._pages = None  # it has ended; the next one goes on from the position
            raise
        if page.gap is not None:
            ms, sequence = (
                Position.parse(page.entries[0][0])
                if page.entries
                else (page.position.ms, page.position.sequence + 1)
            )
            self._add_gap(page.gap, Place(ms, self._kind, sequence - 1))
        for entry in page.entries:
            ms, sequence = Position.parse(entry[0])
            self.items.append(Item(Place(ms, self._kind, sequence), entry))
        self._position = page.position
        self.ended = page.position >= self._until

    def _add_gap(self, gap: Gap, place: Place) -> None:
        self.items.append(Item(place, None, gap))

    def take(self, bound: Place | None) -> list[Item]:
        """Remove and return the items up to the bound."""
        items = self.items
        if bound is None or (items and items[-1].place <= bound):
            self.items = []
            return items
        count = 0
        while count < len(items) and items[count].place <= bound:
            count += 1
        self.items = items[count:]
        return items[:count]

    async def close(self) -> None:
        if self._pages is not None:
            await self._pages.aclose()
