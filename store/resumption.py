"""Where capture of a source goes on: at its slot, if that is the one it was, else at a loss or never.

A loss is what the source forgot before it was in the log. It is refused, or, where the settings say so,
recorded as a break in the changes of every tenant of the source.
"""

from dataclasses import dataclass, replace

import structlog

from store.capture_record import CHANGE, CaptureRecord, Progress, format_lsn
from store.errors import SourceLost
from store.event import Mark, StreamKey
from store.log import EventLog
from store.pgsource import Identity, Moment, PgSource, Slot, SourceSettings
from store.slot_making import make_slot

logger = structlog.get_logger(__name__)

# Why a source that was never captured needs a snapshot.
FIRST = "capture begins"


@dataclass(frozen=True, slots=True)
class Start:
    """``gap`` says why states of later need a new snapshot, None where they do not."""

    progress: Progress
    tenants: set[str]
    gap: str | None


def find_loss(
    settings: SourceSettings, progress: Progress, identity: Identity, slot: Slot | None, now: Moment
) -> str | None:
    """What says that changes since the last time are gone; None while nothing does. Pure."""
    if identity.system_id != progress.system_id:
        return (
            f"it is another database cluster (system identifier {identity.system_id}) than before "
            f"({progress.system_id})"
        )
    if settings.slot != progress.slot:
        return f"its slot is now '{settings.slot}' and was '{progress.slot}'"
    if slot is None:
        return f"its slot '{progress.slot}' was dropped"
    if slot.lost is not None:
        return f"PostgreSQL gave up its slot '{progress.slot}' ({slot.lost})"
    if slot.confirmed_lsn > progress.confirmed_lsn:
        return (
            f"its slot '{progress.slot}' stands at {format_lsn(slot.confirmed_lsn)}, past "
            f"{format_lsn(progress.confirmed_lsn)}, up to where the log has its changes: the slot "
            "was dropped and made again, or somebody else read from it"
        )
    if now.insert_lsn < progress.confirmed_lsn:
        return (
            f"it stands at {format_lsn(now.insert_lsn)}, before {format_lsn(progress.confirmed_lsn)}, "
            "up to where the log has its changes: it was restored from an earlier time"
        )
    return None


class Resumption:
    """Finds the start for one connection to the source; `known` are marks that the log once had."""

    def __init__(
        self, source: PgSource, log: EventLog, record: CaptureRecord, known: dict[str, Mark]
    ) -> None:
        self._source = source
        self._settings = source.settings
        self._log = log
        self._record = record
        self._known = known

    async def find(self) -> Start:
        """Makes the slot where there is none. Raises SourceLost where a loss is to be refused."""
        progress = await self._record.load()
        identity, slot = await self._source.identity(), await self._source.slot()
        tenants = await self._record.tenants()
        if progress is None:
            nothing = Progress("", 0, "", 0, 0, 0)
            return await self._begin(nothing, identity, slot, tenants, FIRST)
        now = await self._source.moment()
        loss = find_loss(self._settings, progress, identity, slot, now)
        if loss is not None:
            told = (
                f"source '{self._settings.name}': {loss}; changes since "
                f"{format_lsn(progress.confirmed_lsn)} may be missing"
            )
            if not self._settings.resume_when_lost:
                raise SourceLost(
                    f"{told}; set on_lost_slot to resume for this source to go on with a gap"
                )
            logger.error("capture_lost_changes", source=self._settings.name, loss=loss)
            # Places come anew. Elsewhere a new slot may have changes that are in the log.
            other = identity.system_id != progress.system_id
            anew = other or now.insert_lsn < progress.confirmed_lsn
            for tenant in sorted(tenants):
                await self._add_break(tenant, progress.through_ms, anew=anew)
            if anew:
                progress = replace(progress, generation=progress.generation + 1)
            return await self._begin(progress, identity, slot, tenants, told)
        gap = None
        for tenant in await self._find_forgotten(slot):
            del self._known[tenant]
            gap = "the log's server lost changes that the source has forgotten"
            await self._add_break(tenant, 0)
        if identity.timeline != progress.timeline:
            # What the other server had not sent to this one before it took over is not in here.
            gap = f"the source went over to timeline {identity.timeline}"
            logger.warning("capture_timeline", source=self._settings.name, gap=gap)
            for tenant in sorted(tenants):
                await self._add_break(tenant, progress.through_ms, anew=True)
        return Start(replace(progress, timeline=identity.timeline), tenants, gap)

    async def _begin(
        self,
        before: Progress,
        identity: Identity,
        slot: Slot | None,
        tenants: set[str],
        gap: str,
    ) -> Start:
        """Start anew, at the slot there is or at one that is made now."""
        if slot is not None and slot.lost is not None:
            await self._source.drop_slot()
            slot = None
        if slot is None:
            slot = await make_slot(self._source)
        progress = Progress(
            system_id=identity.system_id,
            timeline=identity.timeline,
            slot=self._settings.slot,
            generation=before.generation,
            confirmed_lsn=slot.confirmed_lsn,
            through_ms=before.through_ms,
        )
        await self._record.announce(f"{identity.system_id}/{identity.database}")
        # Its places may be other ones, and its tables.
        await self._record.save_shapes({})
        await self._record.save(progress)
        if self._settings.tenant_column is None and self._settings.tenant not in tenants:
            await self._record.add_tenant(self._settings.tenant)
            tenants = tenants | {self._settings.tenant}
        return Start(progress, tenants, gap)

    async def _find_forgotten(self, slot: Slot | None) -> list[str]:
        """Tenants of whose changes the log lost some that the slot does not have any more."""
        forgotten = []
        for tenant, known in self._known.items():
            mark = await self._record.mark(StreamKey(tenant, CHANGE))
            if mark is not None and mark >= known:
                continue
            kept = mark.lsn if mark is not None and mark.generation == known.generation else 0
            if slot is None or slot.confirmed_lsn > kept:
                forgotten.append(tenant)
        return forgotten

    async def _add_break(self, tenant: str, through_ms: int, *, anew: bool = False) -> None:
        """With `anew`, its transactions of before and of now are not to be compared."""
        head = await self._log.head(StreamKey(tenant, CHANGE))
        if anew:
            await self._record.tell_beginning(tenant, head)
        await self._record.add_break(tenant, head, through_ms)
