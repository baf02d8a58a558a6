"""What is kept in the log's server about a captured source: who it is, how far it is in the log.

`ph:capture:<source>` is a hash; `…:tenants` has the tenants that ever had rows of it, `ph:captures` the
names of all sources. Of a tenant: `through:<source>` in the meta of its changes says that it has some,
and there is the list of its breaks. All is written before the source may forget, so that a loss is
always seen.
"""

from dataclasses import dataclass

import msgspec

from store.connection import Connection, meta_key
from store.event import Head, Mark, Position, StreamKey
from store.link import Argument

CHANGE = "change"
CAPTURES_KEY = "ph:captures"


def format_lsn(lsn: int) -> str:
    """As PostgreSQL writes a position in its write-ahead log."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


class Shape(msgspec.Struct, frozen=True):
    """A table's name, its key, and its columns with their types; and since which commit."""

    name: str
    key: list[str]
    columns: list[str]
    lsn: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a source was captured.

    ``system_id`` and ``timeline`` tell one database cluster from another. ``generation`` counts how
    often its places began anew. Every change before ``confirmed_lsn`` is in the log, and every one
    committed up to ``through_ms``.
    """

    system_id: str
    timeline: int
    slot: str
    generation: int
    confirmed_lsn: int
    through_ms: int


# In words: `standby` where another process captures, `down` while the source is away and `store_down`
# while the log is, `refused` for its set-up, `lost` for changes that are gone, `failed` for a defect;
# `silent` and `unknown` where no process says anything, or ever did.
STATES = (
    *("starting", "standby", "capturing", "down", "store_down", "refused", "lost", "failed"),
    *("silent", "unknown"),
)


class Status(msgspec.Struct, frozen=True):
    """How capture of a source is doing, for people and programs.

    ``state`` is one of STATES. The lags are None where nobody knows them; ``through_ms`` is up to
    when all commits are in the log.
    """

    state: str
    lag_bytes: int | None = None
    lag_sec: float | None = None
    through_ms: int = 0
    error: str | None = None
    warnings: tuple[str, ...] = ()
    changes: int = 0
    restarts: int = 0
    updated_ms: int = 0


class CaptureRecord:
    """The record of one source. Raises StoreUnavailable."""

    def __init__(self, connection: Connection, source: str) -> None:
        self._connection = connection
        self._source = source
        self._key = f"ph:capture:{source}"

    async def load(self) -> Progress | None:
        """None for a source that was never captured."""
        names = ("system_id", "timeline", "slot", "generation", "confirmed_lsn", "through")
        values = await self._connection.execute("HMGET", self._key, *names)
        if values[0] is None:
            return None
        system_id, timeline, slot, generation, confirmed, through = (
            (value or b"").decode() for value in values
        )
        lsn = parse_lsn(confirmed)
        return Progress(system_id, int(timeline), slot, int(generation), lsn, int(through))

    async def save(self, progress: Progress) -> None:
        fields: dict[str, Argument] = {
            "system_id": progress.system_id,
            "timeline": progress.timeline,
            "slot": progress.slot,
            "generation": progress.generation,
            "confirmed_lsn": format_lsn(progress.confirmed_lsn),
            "through": progress.through_ms,
        }
        pairs = [part for field in fields.items() for part in field]
        await self._connection.execute("HSET", self._key, *pairs)

    async def tell(self, status: Status) -> None:
        await self._connection.execute("HSET", self._key, "status", msgspec.json.encode(status))

    async def status(self) -> Status | None:
        found = await self._connection.execute("HGET", self._key, "status")
        return None if found is None else msgspec.json.decode(found, type=Status)

    async def announce(self, place: str) -> None:
        """That it is captured; `place` is the database whatever its address: cluster/OID."""
        await self._connection.execute("SADD", CAPTURES_KEY, self._source)
        await self._connection.execute("HSET", self._key, "place", place)

    async def await_disk(self) -> None:
        """Return when what was written before is on the disk of the log's server, if it can tell."""
        await self._connection.write_to_disk("HSET", self._key, "on_disk", 1)

    # -- tables

    async def shapes(self) -> dict[int, Shape]:
        """The tables as they were last seen, by OID."""
        found = await self._connection.execute("HGET", self._key, "shapes")
        return msgspec.json.decode(found, type=dict[int, Shape]) if found else {}

    async def save_shapes(self, shapes: dict[int, Shape]) -> None:
        await self._connection.execute("HSET", self._key, "shapes", msgspec.json.encode(shapes))

    async def published(self) -> dict[str, list[int]] | None:
        """By name the OIDs of each published table and its partitions; None if nobody looked yet."""
        found = await self._connection.execute("HGET", self._key, "published")
        return None if found is None else msgspec.json.decode(found, type=dict[str, list[int]])

    async def save_published(self, tables: dict[str, list[int]]) -> None:
        await self._connection.execute("HSET", self._key, "published", msgspec.json.encode(tables))

    # -- tenants

    async def tenants(self) -> set[str]:
        found = await self._connection.execute("SMEMBERS", f"{self._key}:tenants")
        return {each.decode() for each in found}

    async def add_tenant(self, tenant: str) -> None:
        await self._connection.execute("SADD", f"{self._key}:tenants", tenant)

    async def mark(self, stream: StreamKey) -> Mark | None:
        """How far the source is written into a tenant's changes."""
        found = await self._connection.execute("HGET", meta_key(stream), f"mark:{self._source}")
        return Mark.parse(found or b"")

    async def tell_through(self, tenant: str, through_ms: int) -> None:
        """That the tenant has changes of this source: all up to this time, or up to its record's."""
        key = meta_key(StreamKey(tenant, CHANGE))
        await self._connection.execute("HSET", key, f"through:{self._source}", through_ms)

    async def tell_beginning(self, tenant: str, head: Head) -> None:
        """That the source's transactions after this head have nothing to do with those before."""
        key = meta_key(StreamKey(tenant, CHANGE))
        await self._connection.execute("HSET", key, f"began:{self._source}", head.last.sequence)

    async def add_break(self, tenant: str, head: Head, through_ms: int) -> None:
        """That changes are missing after this head: a state of later needs a later snapshot."""
        position = Position(max(through_ms, head.last.ms), head.last.sequence)
        await self._connection.execute("RPUSH", f"ph:{{{tenant}}}:breaks", position.entry_id)


async def captured_places(connection: Connection) -> frozenset[str]:
    """The databases that were ever captured. Raises StoreUnavailable."""
    sources = await connection.execute("SMEMBERS", CAPTURES_KEY)
    places = [
        await connection.execute("HGET", f"ph:capture:{source.decode()}", "place")
        for source in sorted(sources)
    ]
    return frozenset(place.decode() for place in places if place is not None)
