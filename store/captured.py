"""What capture tells of its progress: how far each source of a tenant is in the log, and its breaks."""

from collections.abc import Iterable
from dataclasses import dataclass

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

    def last_break_ms(self, at_ms: int) -> int:
        """The time of the newest break at this time or before; -1 for none."""
        return max((each.ms for each in self.breaks if each.ms <= at_ms), default=-1)


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


async def add_tenants(connection: Connection, source: str, tenants: Iterable[str]) -> None:
    """Make tenants known who have rows, if no change yet."""
    if names := list(tenants):
        await connection.execute("SADD", f"ph:capture:{source}:tenants", *names)


async def read_confirmed(connection: Connection, source: str) -> int:
    """The position in the source's write-ahead log up to which everything is in the log; or 0."""
    found = await connection.execute("HGET", f"ph:capture:{source}", "confirmed_lsn")
    return parse_lsn(found.decode()) if found else 0
