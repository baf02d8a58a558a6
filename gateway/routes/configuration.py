"""`/v1/configuration`: when snapshots are taken, and of which tables."""

import time
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.auth import Access
from gateway.errors import ApiError
from gateway.playback.tables import parse_tables
from gateway.routes.request import parse_body, read_body
from gateway.routes.tenancy import Tenancy
from store.captured import read_captured, read_published
from store.configuration import Configuration, SnapshotSettings
from store.connection import Connection
from store.cron import check_cron, next_due
from store.event import rfc3339
from store.server_time import ServerTime

_LABEL = "Invalid Configuration Request"
_LONGEST_CRON = 200
_MOST_NAMED = 1000


class _Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    snapshot_interval: str
    tenant_id: str | None = None


class _Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    list_tables: str
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class ConfigurationRoutes:
    connection: Connection
    configuration: Configuration
    server_time: ServerTime
    access: Access
    tenancy: Tenancy
    body_limit: int

    def routes(self) -> list[BaseRoute]:
        base = "/v1/configuration"
        return [
            Route(base, self.show, methods=["GET"]),
            Route(f"{base}/snapshot-interval", self.set_interval, methods=["PUT"]),
            Route(f"{base}/snapshot-list-tables", self.set_tables, methods=["PUT"]),
        ]

    async def show(self, request: Request) -> Response:
        user = await self.access.require_admin(request.headers)
        tenant = self.tenancy.of(request, user, None)
        return await self._answer(tenant, "Configuration")

    async def set_interval(self, request: Request) -> Response:
        body = parse_body(await read_body(request, self.body_limit), _Interval, _LABEL)
        user = await self.access.require_admin(request.headers)
        tenant = self.tenancy.of(request, user, body.tenant_id)
        expression = " ".join(body.snapshot_interval.split())
        if expression:
            _check_cron(expression)
        await self.configuration.set_interval(tenant, expression)
        return await self._answer(tenant, "Snapshot interval set")

    async def set_tables(self, request: Request) -> Response:
        body = parse_body(await read_body(request, self.body_limit), _Tables, _LABEL)
        user = await self.access.require_admin(request.headers)
        tenant = self.tenancy.of(request, user, body.tenant_id)
        tables, wrong = parse_tables(body.list_tables)
        if wrong:
            raise _invalid(f"list_tables must hold schema.table names, got: {_named(wrong)}")
        captured = await read_captured(self.connection, tenant)
        published = await read_published(self.connection, captured.through)
        missing = [table for table in tables if published is not None and table not in published]
        if missing:
            raise _invalid(f"list_tables has no captured table of the name {_named(missing)}")
        await self.configuration.set_tables(tenant, tables)
        return await self._answer(tenant, "Snapshot tables set")

    async def _answer(self, tenant: str, message: str) -> Response:
        settings = await self.configuration.get(tenant)
        content = {
            "data": {
                "snapshot_interval": settings.snapshot_interval,
                "list_tables": settings.list_tables,
                "next_snapshot": await self._next_snapshot(tenant, settings),
            },
            "message": message,
            "sent_at": rfc3339(int(time.time() * 1000)),
        }
        return Response(msgspec.json.encode(content), media_type="application/json")

    async def _next_snapshot(self, tenant: str, settings: SnapshotSettings) -> str | None:
        """None where nothing is captured, so that there is nothing to take a snapshot of."""
        captured = await read_captured(self.connection, tenant)
        due_ms = next_due(settings.snapshot_interval, int(self.server_time.now_ms()))
        return rfc3339(due_ms) if captured.through and due_ms is not None else None


def _named(entries: list[str]) -> str:
    named = ", ".join(f"'{entry[:100]}'" for entry in entries[:_MOST_NAMED])
    return named + (f" and {more} more" if (more := len(entries) - _MOST_NAMED) > 0 else "")


def _check_cron(expression: str) -> None:
    """Short texts alone: the parser takes seconds for long ones, and holds up every other request."""
    if len(expression) > _LONGEST_CRON:
        raise _invalid(
            f"snapshot_interval may have {_LONGEST_CRON} characters, got: {len(expression)}"
        )
    try:
        check_cron(expression)
    except ValueError as error:
        raise _invalid(
            f"snapshot_interval is no cron expression: {error}. Got: '{expression[:100]}'"
        ) from error


def _invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_CONFIGURATION_REQUEST", _LABEL, message)
