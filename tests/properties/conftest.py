"""Property tests run on the loop that the gateway runs on, against a server of their own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from gateway import census
from store.connection import Connection
from store.log import EventLog
from tests.conftest import RunningGateway, Start
from tests.properties.program import SCHEMA, Site
from tests.servers import Valkey


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server that may be emptied and cut off."""
    server = Valkey(tmp_path_factory.mktemp("valkey"), fsync="no")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def small_gateway(
    own_valkey: Valkey, start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningGateway]:
    """Everything that has an edge is small, so that programs of a few steps come to it."""
    monkeypatch.setattr(census, "TICK_SEC", 0.01)
    async with start_gateway(
        url=own_valkey.url,
        send_buffer=16 << 10,
        notification_schema={**SCHEMA, "extreme_event": None, "earthquake": None},
        playback={"lock_replays": False},  # two readers may replay at once here
        watch_endpoint={
            "replay_batch_size": 3,
            "ring_events": 6,
            "ring_bytes": 64 << 10,
            "sse_heartbeat_interval_sec": 0.03,
        },
        cors=None,
        metrics={"enabled": False},
    ) as running:
        yield running


@pytest.fixture
async def make_site(
    own_valkey: Valkey, small_gateway: RunningGateway
) -> AsyncIterator[Callable[[], Site]]:
    """A site with a log of its own, over one gateway."""
    connection = Connection(own_valkey.url)
    await connection.open()
    log = EventLog(connection, idempotency_window_ms=1000)
    yield lambda: Site(small_gateway, connection, log)
    await connection.close()
