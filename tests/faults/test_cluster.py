"""A gateway on a real cluster: streams on every node, a slot that moves, a node that dies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from store.event import StreamKey
from tests.faults.cast import acting
from tests.faults.cluster import Cluster
from tests.faults.proof import check_log, check_watcher, wait_for_all
from tests.faults.publisher import Publisher
from tests.faults.site import configuration
from tests.faults.watcher import Watcher, read_log
from tests.faults.wire import eventually
from tests.servers import GatewayProcess

EVENT_TYPES = ("wind", "wave", "tide")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with closing(Cluster(tmp_path_factory.mktemp("cluster"))) as started:
        started.start()
        yield started


def spread_streams(cluster: Cluster) -> list[StreamKey]:
    """Streams of two tenants and several event types, on all three nodes."""
    while True:
        tenants = (str(uuid4()), str(uuid4()))
        streams = [StreamKey(tenant, name) for tenant in tenants for name in EVENT_TYPES]
        if len({cluster.owner(stream) for stream in streams}) == len(cluster.nodes):
            return streams


@dataclass
class Scene:
    """A publisher and three watchers on each stream."""

    gateway: GatewayProcess
    publishers: dict[StreamKey, Publisher]
    watchers: dict[StreamKey, list[Watcher]]

    async def flows(self, streams: list[StreamKey] | None = None) -> None:
        """The next events of these streams (else of all) are acknowledged and delivered."""
        targets = {
            stream: len(self.publishers[stream].acknowledged) + 20
            for stream in streams or self.publishers
        }
        await eventually(
            lambda: all(
                len(self.publishers[stream].acknowledged) >= target
                and all(watcher.last >= target - 4 for watcher in self.watchers[stream])
                for stream, target in targets.items()
            ),
            "events flow",
        )


@asynccontextmanager
async def scene(cluster: Cluster, directory: Path) -> AsyncIterator[Scene]:
    """At the end every log is whole, and so is what each of its watchers got on its one connection."""
    streams = spread_streams(cluster)
    settings = {
        **configuration({"url": cluster.url}),
        "notification_schema": None,
        "notification_schema_strict": False,
    }
    gateway = GatewayProcess(directory / "gateway", settings)
    try:
        await asyncio.to_thread(gateway.start)
        ports = [gateway.port]
        publishers = {
            stream: Publisher(ports, stream.tenant, stream.event_type, event_type=stream.event_type)
            for stream in streams
        }
        watchers = {
            stream: [
                Watcher(ports, stream.tenant, event_type=stream.event_type),
                Watcher(ports, stream.tenant, event_type=stream.event_type, form="POST"),
                Watcher(ports, stream.tenant, event_type=stream.event_type, station="west"),
            ]
            for stream in streams
        }
        everybody = [watcher for group in watchers.values() for watcher in group]
        async with acting() as enter:
            enter(everybody)
            await eventually(lambda: all(watcher.opened for watcher in everybody), "all are live")
            enter([*publishers.values()])
            there = Scene(gateway, publishers, watchers)
            await there.flows()
            yield there
            await there.flows()
            await asyncio.gather(*(publisher.finish() for publisher in publishers.values()))
            logs = {
                stream: await read_log(gateway.port, stream.tenant, stream.event_type)
                for stream in streams
            }
            await asyncio.gather(
                *(wait_for_all(watchers[stream], log) for stream, log in logs.items())
            )
        for stream, log in logs.items():
            check_log(log, [publishers[stream]])
            for watcher in watchers[stream]:
                check_watcher(watcher, log)
                assert watcher.openings == 1, "a watch was closed"
    finally:
        gateway.stop()


async def test_streams_on_every_node_are_published_watched_and_replayed(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(cluster, tmp_path) as there:
        await there.flows()


async def test_a_slot_that_moves_under_open_watches_loses_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    """To a node that has never seen the functions, with publishers and watchers meanwhile."""
    async with scene(cluster, tmp_path) as there:
        for stream in list(there.publishers)[:3]:
            source = cluster.owner(stream)
            target = next(node for node in cluster.nodes if node is not source)
            others = [each for each in there.publishers if each != stream]
            target.execute("FUNCTION FLUSH")
            move = cluster.moving(stream, target)
            move.__enter__()
            await there.flows(others)
            await asyncio.to_thread(move.__exit__, None, None, None)
            await there.flows()


async def test_a_node_that_is_killed_and_comes_back_loses_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(cluster, tmp_path) as there:
        for node in cluster.nodes:
            node.server.kill()
            lost = [stream for stream in there.publishers if cluster.owner(stream) is node]
            before = {stream: there.publishers[stream].refusals["503"] for stream in lost}
            await eventually(
                lambda before=before: all(  # type: ignore[misc]
                    there.publishers[stream].refusals["503"] > count
                    for stream, count in before.items()
                ),
                "its streams are refused",
            )
            await asyncio.to_thread(node.server.start)
            await asyncio.to_thread(cluster.wait_healthy)
            await there.flows()
