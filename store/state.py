"""Every row as it was at a time: the nearest snapshot before, and the changes between.

A state holds all changes of that time and before, whole transactions only. It is complete or not
given: what cannot be known raises OutOfRange, what is not known yet raises Behind.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence, Set
from dataclasses import dataclass

from store.captured import Captured, changes, read_captured
from store.connection import Connection
from store.errors import Behind, CorruptFile, OutOfRange, StoreUnavailable
from store.event import ORIGIN, GapReason, Head, Position, rfc3339
from store.fold import Base, Fold, TableFold
from store.log import EventLog
from store.snapshot_index import Snapshot, SnapshotIndex
from store.snapshot_reader import Manifest, SnapshotReader, TableFile
from store.visibility import Visibility, parse_lsn

_PAGE_EVENTS = 1000
_BLOCK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class _Found:
    """A snapshot that can be used."""

    snapshot: Snapshot
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class _Plan:
    """From what a state is made: snapshots by source, what is folded onto them, and from where."""

    found: list[_Found]
    bases: dict[str, Base]
    anything: bool

    def start(self, head: Head) -> Position:
        """Behind it stands all that has to be folded."""
        if self.anything:
            return Position(0, head.floor)
        if len(self.found) < len(self.bases):
            return ORIGIN
        return min(each.snapshot.position for each in self.found)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question, and all that the log's server says of it."""

    tenant: str
    at_ms: int
    tables: Set[str] | None
    head: Head
    captured: Captured
    firsts: dict[str, int]
    broken: frozenset[str]


class State:
    """Rows of one time. `tables` names those it has, `known` also those that were not asked for, as
    far as snapshots tell; `rows` counts what `blocks` has given.

    To go on from it takes the changes after `at_ms` of its `sources` (None: of all), but not those
    of `excluded` tables.
    """

    def __init__(
        self,
        tenant: str,
        at_ms: int,
        *,
        found: Sequence[_Found],
        fold: Fold,
        wanted: Set[str] | None,
        reader: SnapshotReader | None,
    ) -> None:
        self.tenant = tenant
        self.at_ms = at_ms
        self.rows = 0
        self._found = found
        self._folds = fold.tables
        self._wanted = wanted
        self._reader = reader
        self.sources: frozenset[str] | None = fold.sources
        self.excluded: frozenset[str] = frozenset().union(
            *(each.manifest.excluded for each in found)
        )
        named = {table.name for each in found for table in self._tables(each)}
        self.tables = sorted(named | {name for _, name in self._folds})
        every = {table.name for each in found for table in each.manifest.tables}
        self.known = sorted(every.union(self.tables))

    def _tables(self, found: _Found) -> list[TableFile]:
        tables = found.manifest.tables
        return [each for each in tables if self._wanted is None or each.name in self._wanted]

    async def blocks(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Once: a table and some of its rows, as lines `key<TAB>row` (JSON texts, LF behind each).

        Raises CorruptFile and ObjectsUnavailable.
        """
        for found in self._found:
            for table in self._tables(found):
                fold = self._folds.pop((found.manifest.source, table.name), None)
                async for lines in self._patched(found, table, fold):
                    self.rows += lines.count(b"\n")
                    yield table.name, lines
        for (_, name), fold in sorted(self._folds.items()):
            for lines in _joined(fold.rest()):
                self.rows += lines.count(b"\n")
                yield name, lines

    async def _patched(
        self, found: _Found, table: TableFile, fold: TableFold | None
    ) -> AsyncIterator[bytes]:
        assert self._reader is not None  # noqa: S101 - who found a snapshot could read it
        if fold is None or not fold.cleared:
            try:
                async for lines in self._reader.lines(found.snapshot, table):
                    patched = fold.patch(lines) if fold else lines
                    if patched:
                        yield patched
            except CorruptFile as error:
                await self._reader.condemn(self.tenant, found.snapshot, str(error))
                raise
        if fold is not None:
            for lines in _joined(fold.rest()):
                yield lines


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines in blocks."""
    parts: list[bytes] = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


class States:
    """Raises StoreUnavailable and ObjectsUnavailable. Without a reader there are no snapshots."""

    def __init__(
        self,
        connection: Connection,
        log: EventLog,
        index: SnapshotIndex,
        reader: SnapshotReader | None,
    ) -> None:
        self._connection = connection
        self._log = log
        self._index = index
        self._reader = reader

    async def open(self, tenant: str, at_ms: int, tables: Set[str] | None = None) -> State:
        """The state of a time, of some tables or of all. Raises OutOfRange and Behind."""
        asked = await self._ask(tenant, at_ms, tables)
        behind = asked.captured.behind(at_ms)
        if behind is not None:
            raise behind
        plan = await self._plan(asked)
        fold = Fold(plan.bases, tables, anything=plan.anything)
        await self._read(asked, plan.start(asked.head), fold)
        return State(tenant, at_ms, found=plan.found, fold=fold, wanted=tables, reader=self._reader)

    async def has_rows(self, tenant: str) -> bool:
        """Whether a source was ever captured that has rows of this tenant."""
        return bool((await read_captured(self._connection, tenant)).through)

    async def behind(self, tenant: str, at_ms: int) -> Behind | None:
        """Why changes of this time or before may still come to the log; None when all have."""
        return (await read_captured(self._connection, tenant)).behind(at_ms)

    async def check(self, tenant: str, at_ms: int) -> None:
        """Raises OutOfRange when there will be no state of that time."""
        await self._plan(await self._ask(tenant, at_ms, frozenset()))

    async def _ask(self, tenant: str, at_ms: int, tables: Set[str] | None) -> _Asked:
        return _Asked(
            tenant,
            at_ms,
            tables,
            head=await self._log.head(changes(tenant)),
            captured=await read_captured(self._connection, tenant),
            firsts=await self._index.firsts(tenant),
            broken=frozenset(await self._index.broken(tenant)),
        )

    async def _plan(self, asked: _Asked) -> _Plan:
        sources = sorted({*asked.captured.through, *asked.firsts})
        if not sources:
            # Nobody captures: what there is was published, and counts as far as it is kept.
            await self._check_published(asked)
            return _Plan([], {}, anything=True)
        found: list[_Found] = []
        bases: dict[str, Base] = {}
        for source in sources:
            nearest = await self._nearest(asked, source)
            if nearest is not None:
                found.append(nearest)
                bases[source] = _base(nearest)
                continue
            empty = await self._empty_base(asked, source)
            if empty is not None:
                bases[source] = empty
            elif asked.at_ms >= asked.firsts.get(source, 0):
                # Rows of then are not known. Before its first snapshot it was not recorded yet.
                raise await self._out_of_range(asked)
        if not bases:
            raise await self._out_of_range(asked)
        return _Plan(found, bases, anything=False)

    async def _check_published(self, asked: _Asked) -> None:
        head = asked.head
        if head.floor == 0:
            return
        first = await self._log.before_time(changes(asked.tenant), 0)
        # Of the first one's own time others may have been removed.
        kept_ms = (head.last if first is None else first).ms + 1
        if asked.at_ms < kept_ms - 1:
            raise OutOfRange(
                f"no state of {rfc3339(asked.at_ms)} is kept: there is no snapshot; "
                f"the earliest valid time is {rfc3339(kept_ms - 1)}",
                kept_ms - 1,
            )

    async def _nearest(self, asked: _Asked, source: str) -> _Found | None:
        async for snapshot in self._index.until(asked.tenant, asked.at_ms):
            if snapshot.source != source or snapshot.id in asked.broken:
                continue
            if asked.captured.broken(snapshot.breaks, asked.at_ms):
                continue
            if not _reaches(snapshot, asked.head) or self._reader is None:
                continue
            manifest = await self._reader.open(asked.tenant, snapshot, asked.tables)
            if manifest is not None:
                return _Found(snapshot, manifest)
        return None

    async def _empty_base(self, asked: _Asked, source: str) -> Base | None:
        """The tenant had no rows of a source when all tenants that had some were recorded."""
        if asked.head.floor > 0 or asked.captured.broken(0, asked.at_ms):
            return None
        first_ms = asked.firsts.get(source, math.inf)
        for run in reversed(await self._index.runs(source)):
            if run.at_ms <= asked.at_ms and run.at_ms < first_ms:
                visible, lsn = Visibility.parse(run.visible), parse_lsn(run.lsn)
                return Base(visible, lsn, 0, {}, frozenset())
        return None

    async def _out_of_range(self, asked: _Asked) -> OutOfRange:
        usable = [
            each.at_ms
            for each in await self._index.all(asked.tenant)
            if each.at_ms > asked.at_ms
            and each.id not in asked.broken
            and not asked.captured.broken(each.breaks, each.at_ms)
            and _reaches(each, asked.head)
        ]
        earliest_ms = min(usable, default=None)
        if earliest_ms is None:
            hint = "there is no snapshot to begin from yet"
        else:
            hint = f"the earliest valid time is {rfc3339(earliest_ms)}"
        return OutOfRange(f"no state of {rfc3339(asked.at_ms)} is kept; {hint}", earliest_ms)

    async def _read(self, asked: _Asked, start: Position, fold: Fold) -> None:
        """Fold everything after the start that happened until then."""
        stream = changes(asked.tenant)
        until = await self._log.at_time(stream, asked.at_ms)
        if until is None or until <= start:
            return
        pages = self._log.range(
            stream, start, until, epoch=asked.head.epoch, page_size=_PAGE_EVENTS
        )
        async for page in pages:
            if page.gap is not None and page.gap.reason is GapReason.RESET:
                raise StoreUnavailable("the log was made anew while a state was read")
            if page.gap is not None:
                raise OutOfRange("changes were removed while they were read", None)
            for entry_id, (_, event) in page.entries:
                fold.add(event, int(entry_id[entry_id.index(b"-") + 1 :]))


def _reaches(snapshot: Snapshot, head: Head) -> bool:
    """Whether the log still has everything that happened after a snapshot."""
    if snapshot.epoch and snapshot.epoch.encode() != head.epoch:
        return False
    return snapshot.sequence >= head.floor


def _base(found: _Found) -> Base:
    manifest = found.manifest
    return Base(
        visible=Visibility.parse(manifest.visible),
        lsn=parse_lsn(manifest.lsn),
        after_sequence=found.snapshot.sequence,
        multisets={table.name: table.multiset for table in manifest.tables},
        excluded=frozenset(manifest.excluded),
    )
