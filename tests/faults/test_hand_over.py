"""From history to live and away again, in the middle of everything: nothing twice, nothing left."""

import asyncio
import random
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from redis import Redis

from tests.faults.cast import acting
from tests.faults.crowd import Crowd
from tests.faults.proof import check_log, check_watcher, wait_for_all
from tests.faults.publisher import STATIONS, Publisher
from tests.faults.site import OutsideSite
from tests.faults.watcher import Watcher, read_log
from tests.faults.wire import Client, eventually

# More than one turn of a sweep, so that others come in between.
CROWD = 300


def blocked_readers(site: OutsideSite) -> int:
    """Connections on which the gateway waits for new events."""
    with Redis(unix_socket_path=str(site.valkey.socket)) as client:
        return sum(each["cmd"] == "xread" for each in client.client_list())


async def active_streams(site: OutsideSite) -> float:
    """As the gateway counts them."""
    with closing(Client(site.gateway.port, str(uuid4()))) as client:
        text = (await client.request("GET", "/metrics")).body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines())
    return sum(
        float(value)
        for name, _, value in lines
        if name.startswith("playhead_sse_connections_active")
    )


async def test_who_joins_in_the_middle_of_a_sweep_gets_every_event_once(tmp_path: Path) -> None:
    """By ring, log and sweep, with filters and without, while hundreds are being served."""
    tenant = str(uuid4())
    with closing(OutsideSite(tmp_path)) as site, closing(Crowd()) as crowd:
        await site.start()
        port = site.gateway.port
        publishers = [
            Publisher([port], tenant, f"publisher-{number}", pause_sec=0) for number in range(16)
        ]
        watchers: list[Watcher] = []
        await crowd.join(port, tenant, CROWD)
        async with acting() as enter:
            enter(publishers)
            for number in range(60):
                station = (None, *STATIONS)[number % 5]
                start = None if number % 3 == 2 else 1
                watchers.append(Watcher([port], tenant, station=station, from_sequence=start))
                enter(watchers[-1:])
                await eventually(lambda: watchers[-1].opened, "it is open")
            for watcher in watchers[:30]:
                watcher.drop()
            await eventually(
                lambda: all(watcher.openings > 1 for watcher in watchers[:30]), "they are back"
            )
            await asyncio.gather(*(publisher.finish() for publisher in publishers))
            log = await read_log(port, tenant)
            await wait_for_all(watchers, log)
            await eventually(lambda: crowd.least() == len(log), "the crowd has everything")
        check_log(log, publishers)
        for watcher in watchers:
            check_watcher(watcher, log)
        print(f"{len(log)} events to {CROWD} and {len(watchers)} watchers")


async def test_clients_that_leave_at_any_moment_leave_nothing_behind(tmp_path: Path) -> None:
    rng = random.Random(1)
    tenant = str(uuid4())
    with closing(OutsideSite(tmp_path)) as site:
        await site.start()
        publishers = [
            Publisher([site.gateway.port], tenant, f"publisher-{number}") for number in range(4)
        ]

        async def come_and_go() -> None:
            for _ in range(40):
                watcher = Watcher([site.gateway.port], tenant, from_sequence=rng.choice([1, None]))
                watching = asyncio.create_task(watcher.run())
                # Anywhere from the first byte of the request to the live stream.
                await asyncio.sleep(rng.uniform(0, 0.03))
                watcher.stop()
                await watching

        async with acting() as enter:
            enter(publishers)
            await asyncio.gather(*(come_and_go() for _ in range(8)))
            await asyncio.gather(*(publisher.finish() for publisher in publishers))
        await eventually(lambda: blocked_readers(site) == 0, "nothing is read for nobody")
        assert await active_streams(site) == 0
        # Nor is the next one served by what the last one left.
        watcher = Watcher([site.gateway.port], tenant)
        async with acting() as enter:
            enter([watcher])
            log = await read_log(site.gateway.port, tenant)
            await wait_for_all([watcher], log)
        check_log(log, publishers)
        check_watcher(watcher, log)
