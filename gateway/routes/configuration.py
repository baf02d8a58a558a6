"""`/v1/configuration`: when snapshots are taken, and of which tables."""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from cronsim import CronSim, CronSimError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.auth import Access
from gateway.errors import ApiError
from gateway.playback.tables import parse_tables
from gateway.routes.request import parse_body, read_body
from gateway.routes.tenancy import Tenancy
from store.configuration import Configuration, SnapshotSettings
from store.event import rfc3339

_LABEL = "Invalid Configuration Request"
_LONGEST_CRON = 200
_MOST_NAMED = 1000
_LARGE = re.compile(r"\d{3}")
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class _Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    snapshot_interval: str
    tenant_id: str | None = None


class _Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    list_tables: str
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class ConfigurationRoutes:
    configuration: Configuration
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
        return _answer(await self.configuration.get(tenant), "Configuration")

    async def set_interval(self, request: Request) -> Response:
        body = parse_body(await read_body(request, self.body_limit), _Interval, _LABEL)
        user = await self.access.require_admin(request.headers)
        tenant = self.tenancy.of(request, user, body.tenant_id)
        expression = " ".join(body.snapshot_interval.split())
        if expression:
            _check_cron(expression)
        await self.configuration.set_interval(tenant, expression)
        return _answer(await self.configuration.get(tenant), "Snapshot interval set")

    async def set_tables(self, request: Request) -> Response:
        body = parse_body(await read_body(request, self.body_limit), _Tables, _LABEL)
        user = await self.access.require_admin(request.headers)
        tenant = self.tenancy.of(request, user, body.tenant_id)
        tables, wrong = parse_tables(body.list_tables)
        if wrong:
            named = ", ".join(f"'{entry[:100]}'" for entry in wrong[:_MOST_NAMED])
            if len(wrong) > _MOST_NAMED:
                named += f" and {len(wrong) - _MOST_NAMED} more"
            raise _invalid(f"list_tables must hold schema.table names, got: {named}")
        await self.configuration.set_tables(tenant, tables)
        return _answer(await self.configuration.get(tenant), "Snapshot tables set")


def _check_cron(expression: str) -> None:
    """Short texts alone: the parser takes seconds for long ones, and holds up every other request."""
    if len(expression) > _LONGEST_CRON:
        raise _invalid(
            f"snapshot_interval may have {_LONGEST_CRON} characters, got: {len(expression)}"
        )
    if len(expression.split()) != 5:
        raise _invalid(f"snapshot_interval must have 5 cron fields, got: '{expression[:100]}'")
    try:
        if _LARGE.search(expression):
            raise CronSimError("No number of it has more than 2 digits")
        if next(CronSim(expression, _EPOCH), None) is None:
            raise CronSimError("It is never due")
    except CronSimError as error:
        raise _invalid(
            f"snapshot_interval is no cron expression: {error}. Got: '{expression[:100]}'"
        ) from error


def _invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_CONFIGURATION_REQUEST", _LABEL, message)


def _answer(settings: SnapshotSettings, message: str) -> Response:
    content = {
        "data": {
            "snapshot_interval": settings.snapshot_interval,
            "list_tables": settings.list_tables,
            # No database is captured by this version, so that no snapshot is due.
            "next_snapshot": None,
        },
        "message": message,
        "sent_at": rfc3339(int(time.time() * 1000)),
    }
    return Response(msgspec.json.encode(content), media_type="application/json")
