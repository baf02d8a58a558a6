"""Settings that clients change at run time, kept with the tenant's data."""

from collections.abc import Sequence

import msgspec

from store.connection import Connection


class SnapshotSettings(msgspec.Struct, frozen=True):
    """When snapshots are taken ('' for never, else 5-field cron) and of which tables ([]: all)."""

    snapshot_interval: str = "*/15 * * * *"
    list_tables: list[str] = []


class Configuration:
    """Raises StoreUnavailable when the server is away."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, tenant: str) -> SnapshotSettings:
        interval, tables = await self._connection.execute(
            "HMGET", _key(tenant), "snapshot_interval", "list_tables"
        )
        default = SnapshotSettings()
        return SnapshotSettings(
            default.snapshot_interval if interval is None else interval.decode(),
            default.list_tables if tables is None else msgspec.json.decode(tables, type=list[str]),
        )

    async def set_interval(self, tenant: str, expression: str) -> None:
        await self._connection.execute("HSET", _key(tenant), "snapshot_interval", expression)

    async def set_tables(self, tenant: str, tables: Sequence[str]) -> None:
        encoded = msgspec.json.encode(list(tables))
        await self._connection.execute("HSET", _key(tenant), "list_tables", encoded)


def _key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:configuration"
