"""`kill -9` of gateway and Valkey, again and again, under 16 publishers and 8 watchers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.cast import acting
from tests.faults.proof import check_log, check_watcher, wait_for_all
from tests.faults.publisher import Publisher
from tests.faults.site import EmbeddedSite, OutsideSite, Site
from tests.faults.watcher import Watcher, read_log
from tests.faults.wire import eventually

PUBLISHERS = 16
EVENTS_BETWEEN_KILLS = 100
# One in five takes both at once.
VICTIMS = ("gateway", "valkey", "gateway", "valkey", "both")


def first_watchers(port: int, tenant: str) -> list[Watcher]:
    return [
        Watcher([port], tenant),
        Watcher([port], tenant, form="POST"),
        Watcher([port], tenant, station="north"),
        Watcher([port], tenant, station="east", form="POST"),
        Watcher([port], tenant, receive_buffer=4096),
    ]


def late_watchers(port: int, tenant: str) -> list[Watcher]:
    """With all of the history, with none, and with a part of it."""
    return [
        Watcher([port], tenant),
        Watcher([port], tenant, from_sequence=None),
        Watcher([port], tenant, station="west", from_sequence=EVENTS_BETWEEN_KILLS),
    ]


async def prove(site: Site, rounds: int, seed: int) -> str:
    """Kill so many times while events flow, then check everything; the figures as a line."""
    rng = random.Random(seed)
    tenant = str(uuid4())
    await site.start()
    port = site.gateway.port
    publishers = [Publisher([port], tenant, f"publisher-{number}") for number in range(PUBLISHERS)]
    kills: Counter[str] = Counter()
    started = time.monotonic()

    def acknowledged() -> int:
        return sum(len(publisher.acknowledged) for publisher in publishers)

    async with acting() as enter:
        watchers = first_watchers(port, tenant)
        enter([*watchers, *publishers])
        for number, victim in enumerate(islice(cycle(VICTIMS), rounds)):
            target = acknowledged() + EVENTS_BETWEEN_KILLS
            await eventually(lambda target=target: acknowledged() >= target, "events flow")  # type: ignore[misc]
            if number == rounds // 2:
                late = late_watchers(port, tenant)
                watchers += late
                enter(late)
            # Anywhere in the life of a request, not just after an answer.
            await asyncio.sleep(rng.uniform(0, 0.03))
            kills[victim] += 1
            await site.faults[victim]()
        await asyncio.gather(*(publisher.finish() for publisher in publishers))
        log = await read_log(port, tenant)
        await wait_for_all(watchers, log)
    check_log(log, publishers)
    for watcher in watchers:
        check_watcher(watcher, log)
    refusals = sum((publisher.refusals for publisher in publishers), Counter[str]())
    outage = max(publisher.longest_outage_sec for publisher in publishers)
    return (
        f"{rounds} rounds in {time.monotonic() - started:.0f} s, kills {dict(kills)}, "
        f"{acknowledged()} events acknowledged and each read back once, "
        f"{sum(len(each.received) for each in watchers)} deliveries over "
        f"{sum(each.openings for each in watchers)} connections of {len(watchers)} watchers, "
        f"retries {dict(refusals)}, longest outage seen by a publisher {outage:.2f} s"
    )


@pytest.mark.parametrize("make_site", [OutsideSite, EmbeddedSite])
async def test_nothing_acknowledged_is_lost_or_doubled_when_gateway_and_valkey_are_killed(
    make_site: Callable[[Path], Site], tmp_path: Path
) -> None:
    with closing(make_site(tmp_path)) as site:
        print(await prove(site, rounds=7, seed=1))


@pytest.mark.soak
@pytest.mark.parametrize("make_site", [OutsideSite, EmbeddedSite])
async def test_nothing_acknowledged_is_lost_or_doubled_in_300_rounds(
    make_site: Callable[[Path], Site], tmp_path: Path
) -> None:
    with closing(make_site(tmp_path)) as site:
        print(f"\n{make_site.__name__}: {await prove(site, rounds=300, seed=2)}")
