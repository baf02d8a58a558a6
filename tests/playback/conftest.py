"""Two gateways on one server, shared by all tests of sessions: every test has a tenant of its own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from gateway.playback import player
from store.connection import Connection
from tests.conftest import RunningGateway, Start
from tests.playback.controls import Controls
from tests.playback.stage import PAGE, RING, Stage, play_settings
from tests.servers import Valkey

SCHEMA = {
    "extreme_event": None,
    "earthquake": None,
    "reading": {"identifier": {"station": {"type": "StringHandler", "required": False}}},
}


@dataclass(frozen=True)
class House:
    """Two gateways that know each other by their server alone."""

    first: RunningGateway
    second: RunningGateway


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(start_gateway: Start) -> AsyncIterator[House]:
    sections: dict[str, Any] = {
        "notification_schema": SCHEMA,
        "notification_schema_strict": False,
        "playback": None,  # as it is by default; the example raises the top speed
    }
    tenant = str(uuid4())
    async with (
        start_gateway(tenant=tenant, **sections) as first,
        start_gateway(tenant=tenant, **sections) as second,
    ):
        yield House(first, second)


@pytest.fixture
def controls(house: House, tenant: str) -> Controls:
    return Controls(house.first.client, tenant)


@pytest.fixture
def others(house: House, tenant: str) -> Controls:
    """The same tenant by the other gateway."""
    return Controls(house.second.client, tenant)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend(valkey: Valkey) -> AsyncIterator[Connection]:
    """The server behind the gateways, for what no request can do to it."""
    opened = Connection(valkey.url)
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def theatre(start_gateway: Start) -> AsyncIterator[House]:
    """Two gateways on which hours pass in seconds, and everything that has an edge is small."""
    tenant = str(uuid4())
    sections = play_settings(watch_endpoint={"replay_batch_size": PAGE, "ring_events": RING})
    async with (
        start_gateway(tenant=tenant, **sections) as first,
        start_gateway(tenant=tenant, **sections) as second,
    ):
        yield House(first, second)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(
    theatre: House, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    # Who waits to be told the time need not wait for a second.
    monkeypatch.setattr(player, "TICK_SEC", 0.02)
    stage = Stage(theatre.first, theatre.second, tenant)
    yield stage
    await stage.close()
