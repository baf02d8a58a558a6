"""The list of a tenant's snapshots, in the log's server; the objects are elsewhere.

An entry is added when everything of the snapshot is stored, and removed before any of it is: what
is listed was complete.
"""

from collections.abc import AsyncGenerator

import msgspec

from store.connection import Connection
from store.event import Position

_PAGE = 16


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot of one source's tables for one tenant.

    It holds every change that `visible` (a pg_snapshot) sees; all of them happened at `at_ms` or
    before. What it does not hold stands in the log behind the position, where `epoch` is the log's,
    or '' when there was none yet. Of the tenant's breaks so many were before it: of what is missing
    at a later one it knows nothing, whatever the times say.
    """

    id: str
    source: str
    at_ms: int
    folder: str
    visible: str
    lsn: str
    ms: int
    sequence: int
    epoch: str
    rows: int
    size: int
    manifest_sha256: str
    breaks: int = 0

    @property
    def position(self) -> Position:
        return Position(self.ms, self.sequence)


class Run(msgspec.Struct, frozen=True):
    """A snapshot of a source for all tenants: one that has none of it had no rows then."""

    source: str
    at_ms: int
    visible: str
    lsn: str


_decode = msgspec.json.Decoder(Snapshot).decode
_decode_run = msgspec.json.Decoder(Run).decode
_encode = msgspec.json.Encoder().encode


class SnapshotIndex:
    """Raises StoreUnavailable when the server is away."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, tenant: str, snapshot: Snapshot) -> None:
        await self._connection.pipeline(
            ("HSETNX", _first_key(tenant), snapshot.source, snapshot.at_ms),
            ("ZADD", _key(tenant), snapshot.at_ms, _encode(snapshot)),
        )

    async def add_run(self, run: Run) -> None:
        await self._connection.execute("ZADD", _runs_key(run.source), run.at_ms, _encode(run))

    async def all(self, tenant: str) -> list[Snapshot]:
        """Oldest first."""
        members = await self._connection.execute("ZRANGE", _key(tenant), 0, -1)
        return [_decode(member) for member in members]

    async def until(self, tenant: str, at_ms: int) -> AsyncGenerator[Snapshot, None]:
        """Those of this time or before, the newest first."""
        skipped = 0
        while True:
            members = await self._connection.execute(
                *("ZREVRANGEBYSCORE", _key(tenant), at_ms, "-inf", "LIMIT", skipped, _PAGE)
            )
            for member in members:
                yield _decode(member)
            skipped += len(members)
            if len(members) < _PAGE:
                return

    async def firsts(self, tenant: str) -> dict[str, int]:
        """When the first snapshot of each source was, also if it is gone by now (ms)."""
        found = await self._connection.execute("HGETALL", _first_key(tenant))
        return {name.decode(): int(ms) for name, ms in pairs(found)}

    async def runs(self, source: str) -> list[Run]:
        """Oldest first; they are few."""
        members = await self._connection.execute("ZRANGE", _runs_key(source), 0, -1)
        return [_decode_run(member) for member in members]

    async def has(self, tenant: str, snapshot: Snapshot) -> bool:
        found = await self._connection.execute("ZSCORE", _key(tenant), _encode(snapshot))
        return found is not None

    async def remove(self, tenant: str, snapshot: Snapshot) -> None:
        await self._connection.pipeline(
            ("ZREM", _key(tenant), _encode(snapshot)),
            ("HDEL", _broken_key(tenant), snapshot.id),
        )

    async def mark_broken(self, tenant: str, snapshot: Snapshot, reason: str) -> None:
        """Never to be used again, by any process."""
        await self._connection.execute("HSET", _broken_key(tenant), snapshot.id, reason)

    async def broken(self, tenant: str) -> dict[str, str]:
        """The ids of those that must not be used, and why."""
        found = await self._connection.execute("HGETALL", _broken_key(tenant))
        return {name.decode(): reason.decode() for name, reason in pairs(found)}


def pairs(reply: list[bytes]) -> list[tuple[bytes, bytes]]:
    """An answer of HGETALL."""
    return list(zip(reply[::2], reply[1::2], strict=True))


def _key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:snapshots"


def _first_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:snapshots:first"


def _broken_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:snapshots:broken"


def _runs_key(source: str) -> str:
    return f"ph:snapshots:{source}"
