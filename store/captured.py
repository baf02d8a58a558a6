"""What capture tells of its progress: how far each source of a tenant is in the log, and its breaks."""

from collections.abc import Iterable
from dataclasses import dataclass

from store.capture_record import CaptureRecord
from store.connection import Connection, meta_key
from store.errors import Behind
from store.event import Position, StreamKey
from store.snapshot_index import SnapshotIndex, pairs
from store.visibility import parse_lsn

CHANGE = "change"
_THROUGH = b"through:"


@dataclass(frozen=True, slots=True)
class Captured:
    """`through`: up to when (ms) everything of a source is in the log.

    A break is a place in the log where changes are missing for ever: a state of later needs a
    snapshot of later.
    """

    through: dict[str, int]
    breaks: list[Position]

    def behind(self, at_ms: int) -> Behind | None:
        """Why a state of this time cannot be had yet, if it cannot."""
        late = [(ms, source) for source, ms in self.through.items() if ms < at_ms]
        if not late:
            return None
        ms, source = min(late)
        return Behind(source, ms)

    def broken(self, known: int, at_ms: int) -> bool:
        """Whether changes of up to this time are missing since there were so many breaks.

        By their number: where a break begins is known, and not where it ends.
        """
        return any(each.ms <= at_ms for each in self.breaks[known:])


def changes(tenant: str) -> StreamKey:
    """The log of a tenant's captured changes."""
    return StreamKey(tenant, CHANGE)


async def read_captured(connection: Connection, tenant: str) -> Captured:
    """Raises StoreUnavailable."""
    meta = await connection.execute("HGETALL", meta_key(changes(tenant)))
    # Nothing of the tenant may have changed since its snapshot.
    through = dict.fromkeys(await SnapshotIndex(connection).firsts(tenant), 0)
    through |= {
        name.removeprefix(_THROUGH).decode(): int(value)
        for name, value in pairs(meta)
        if name.startswith(_THROUGH)
    }
    for source, ms in through.items():
        # Told once for all tenants, however many there are.
        found = await connection.execute("HGET", f"ph:capture:{source}", "through")
        through[source] = max(ms, int(found or 0))
    return Captured(through, await read_breaks(connection, tenant))


async def read_breaks(connection: Connection, tenant: str) -> list[Position]:
    """Oldest first."""
    breaks = await connection.execute("LRANGE", f"ph:{{{tenant}}}:breaks", 0, -1)
    return [Position.parse(each) for each in breaks]


async def read_tenants(connection: Connection, source: str) -> list[str]:
    """The tenants whose changes a source ever told."""
    members = await connection.execute("SMEMBERS", f"ph:capture:{source}:tenants")
    return sorted(member.decode() for member in members)


async def read_published(connection: Connection, sources: Iterable[str]) -> set[str] | None:
    """The tables that these sources publish; None where that is not known of each, or there is none."""
    published: set[str] = set()
    for source in sources:
        found = await CaptureRecord(connection, source).published()
        if found is None:
            return None
        published |= found.keys()
    return published or None


async def count_breaks(connection: Connection, tenant: str) -> int:
    return int(await connection.execute("LLEN", f"ph:{{{tenant}}}:breaks"))


@dataclass(frozen=True, slots=True)
class Reached:
    """Everything before `lsn` is in the log, of the database cluster and timeline of the name."""

    cluster: str
    lsn: int


async def read_reached(connection: Connection, source: str) -> Reached:
    """How far capture has come in the source's write-ahead log; 0 when it never began."""
    names = ("system_id", "timeline", "confirmed_lsn")
    found = await connection.execute("HMGET", f"ph:capture:{source}", *names)
    system_id, timeline, lsn = ((each or b"").decode() for each in found)
    return Reached(f"{system_id}/{timeline}", parse_lsn(lsn) if lsn else 0)


async def read_beginning(connection: Connection, tenant: str, source: str) -> int:
    """The sequence behind which a tenant's changes are of the cluster that a source is now."""
    found = await connection.execute("HGET", meta_key(changes(tenant)), f"began:{source}")
    return int(found or 0)


async def add_tenants(connection: Connection, source: str, tenants: Iterable[str]) -> None:
    """Make tenants known who have rows, if no change yet."""
    if names := list(tenants):
        await connection.execute("SADD", f"ph:capture:{source}:tenants", *names)
