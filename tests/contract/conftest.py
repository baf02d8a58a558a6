"""One gateway for all tests of the contract, shared by giving every test a tenant of its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from store.connection import Connection
from tests.conftest import RunningGateway, Start
from tests.contract.api import Api
from tests.contract.schemas import SCHEMAS
from tests.servers import Valkey


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    """Permissive, with a schema for every handler; small batches, so that histories have several."""
    async with start_gateway(
        notification_schema={**SCHEMAS, "extreme_event": None, "earthquake": None},
        notification_schema_strict=False,
        watch_endpoint={"replay_batch_size": 5, "max_historical_notifications": 50},
    ) as running:
        yield running


@pytest.fixture
def api(house: RunningGateway, tenant: str) -> Api:
    return Api(house, tenant)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend(valkey: Valkey) -> AsyncIterator[Connection]:
    """The server behind the gateway, for what no request can do to it."""
    opened = Connection(valkey.url)
    await opened.open()
    yield opened
    await opened.close()
