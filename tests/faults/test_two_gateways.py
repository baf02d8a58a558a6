"""Two gateways on one Valkey: what one takes the other's watchers get, and either may go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.faults.cast import acting
from tests.faults.proof import check_log, check_watcher, wait_for_all
from tests.faults.publisher import Publisher
from tests.faults.site import configuration
from tests.faults.watcher import Watcher, read_log
from tests.faults.wire import eventually
from tests.servers import GatewayProcess, Valkey


@dataclass
class Pair:
    """Publishers and watchers on each gateway, and some that change to the other when one is gone."""

    gateways: list[GatewayProcess]
    publishers: list[Publisher]
    watchers: list[Watcher]

    async def flows(self) -> None:
        """Every publisher's next events are at every watcher."""
        targets = [len(publisher.acknowledged) + 20 for publisher in self.publishers]
        await eventually(
            lambda: all(
                len(publisher.acknowledged) >= target
                for publisher, target in zip(self.publishers, targets, strict=True)
            ),
            "every publisher is answered",
        )
        newest = max(max(publisher.acknowledged.values()) for publisher in self.publishers)
        await eventually(
            lambda: all(watcher.last >= newest for watcher in self.watchers), "all get everything"
        )

    async def restart(self, gateway: GatewayProcess, *, kill: bool) -> None:
        if kill:
            gateway.kill()
        else:
            assert await asyncio.to_thread(gateway.terminate) == 0
        await asyncio.to_thread(gateway.start)


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    """At the end every acknowledged event is in the log once, and at every watcher once."""
    tenant = str(uuid4())
    valkey = Valkey(directory / "valkey")
    settings = configuration({"url": valkey.url})
    gateways = [GatewayProcess(directory / name, settings) for name in ("first", "second")]
    try:
        valkey.start()
        await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in gateways))
        first, second = (gateway.port for gateway in gateways)
        routes = [[first], [second], [first, second], [second, first]]
        publishers = [
            Publisher(route, tenant, f"publisher-{number}") for number, route in enumerate(routes)
        ]
        watchers = [Watcher(route, tenant) for route in routes]
        async with acting() as enter:
            enter(watchers)
            await eventually(lambda: all(watcher.opened for watcher in watchers), "all are live")
            enter(publishers)
            yield Pair(gateways, publishers, watchers)
            await asyncio.gather(*(publisher.finish() for publisher in publishers))
            log = await read_log(second, tenant)
            await wait_for_all(watchers, log)
        check_log(log, publishers)
        for watcher in watchers:
            check_watcher(watcher, log)
    finally:
        for gateway in gateways:
            gateway.stop()
        valkey.stop()


async def test_an_event_published_at_one_gateway_is_at_the_watchers_of_the_other(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as there:
        await there.flows()
        assert all(watcher.openings == 1 for watcher in there.watchers)


async def test_a_restart_of_either_gateway_loses_nothing(tmp_path: Path) -> None:
    async with pair(tmp_path) as there:
        await there.flows()
        for kill in (False, True):
            for gateway in there.gateways:
                await there.restart(gateway, kill=kill)
                await there.flows()
        # Those of a gateway that was terminated were told; the others went on undisturbed.
        assert [watcher.closings for watcher in there.watchers[:2]] == [["server_shutdown"]] * 2
        assert all(watcher.openings >= 2 for watcher in there.watchers)
