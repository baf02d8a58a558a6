"""Valkey away for a while, dead or hung, under open watches."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.cast import acting
from tests.faults.proof import GIVEN_UP, check_log, check_watcher, wait_for_all
from tests.faults.publisher import Publisher, notification
from tests.faults.site import OutsideSite
from tests.faults.watcher import Watcher, read_log
from tests.faults.wire import Answer, Client, eventually

# A dead server is known at once; a hung one when a command has waited for 5 s.
DEAD_SEC = 1.0
HUNG_SEC = 6.5


@dataclass
class Scene:
    """A site with live watchers and publishers that do not give up."""

    site: OutsideSite
    tenant: str
    watchers: list[Watcher]
    publishers: list[Publisher]

    def acknowledged(self) -> int:
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    async def flows(self) -> None:
        """Events are acknowledged and delivered, from now on."""
        target = self.acknowledged() + 100
        await eventually(lambda: self.acknowledged() >= target, "events are acknowledged")
        await eventually(
            lambda: all(watcher.last >= target for watcher in self.watchers), "events arrive"
        )

    async def ask(self, method: str, path: str) -> Answer:
        with closing(Client(self.site.gateway.port, self.tenant)) as client:
            return await client.request(method, path)

    async def refused(self) -> float:
        """Publish once, to be refused; how long the answer took."""
        with closing(Client(self.site.gateway.port, self.tenant)) as client:
            started = time.monotonic()
            payload = f"{GIVEN_UP}{uuid4()}"
            answer = await client.publish(notification(payload), key=payload)
            seconds = time.monotonic() - started
        assert answer.status == 503, answer
        assert answer.json()["code"] == "BACKEND_UNAVAILABLE"
        assert int(answer.headers["retry-after"]) > 0
        return seconds

    async def heartbeats(self) -> None:
        before = [watcher.heartbeats for watcher in self.watchers]
        await eventually(
            lambda: all(
                watcher.heartbeats > count + 1
                for watcher, count in zip(self.watchers, before, strict=True)
            ),
            "two heartbeats for every watcher",
        )


@asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    """At the end everything must have arrived, once, over the first connection."""
    tenant = str(uuid4())
    with closing(OutsideSite(directory)) as site:
        await site.start()
        ports = [site.gateway.port]
        watchers = [
            Watcher(ports, tenant),
            Watcher(ports, tenant, form="POST"),
            Watcher(ports, tenant, from_sequence=None),
            Watcher(ports, tenant, station="south"),
        ]
        publishers = [Publisher(ports, tenant, f"publisher-{number}") for number in range(4)]
        async with acting() as enter:
            enter(watchers)
            await eventually(lambda: all(watcher.opened for watcher in watchers), "all are live")
            enter(publishers)
            there = Scene(site, tenant, watchers, publishers)
            await there.flows()
            yield there
            await there.flows()
            await asyncio.gather(*(publisher.finish() for publisher in publishers))
            log = await read_log(site.gateway.port, tenant)
            await wait_for_all(watchers, log)
        check_log(log, publishers)
        for watcher in watchers:
            check_watcher(watcher, log)
            assert watcher.openings == 1, "a watch was closed"


async def prove_death(directory: Path, seconds: float) -> str:
    async with scene(directory) as there:
        there.site.valkey.kill()
        ends = time.monotonic() + seconds
        await eventually_refused(there)
        slowest = 0.0
        while time.monotonic() < ends:
            slowest = max(slowest, await there.refused())
            assert (await there.ask("GET", "/ready")).status == 503
            assert (await there.ask("GET", "/health")).status == 200
            await there.heartbeats()
        await asyncio.to_thread(there.site.valkey.start)
        started = time.monotonic()
        await there.flows()
        assert (await there.ask("GET", "/ready")).status == 200
        return (
            f"away for {seconds:g} s: refused within {slowest * 1000:.0f} ms, events flow "
            f"{time.monotonic() - started:.2f} s after it is back"
        )


async def eventually_refused(there: Scene) -> None:
    before = sum(publisher.refusals["503"] for publisher in there.publishers)
    await eventually(
        lambda: sum(publisher.refusals["503"] for publisher in there.publishers) > before,
        "a publisher is refused",
    )


async def test_watches_stay_open_while_valkey_is_away_for_3_seconds(tmp_path: Path) -> None:
    print(await prove_death(tmp_path, seconds=3))


@pytest.mark.soak
async def test_watches_stay_open_while_valkey_is_away_for_20_seconds(tmp_path: Path) -> None:
    print("\n" + await prove_death(tmp_path, seconds=20))


async def test_a_hung_valkey_is_refused_in_time_and_everything_goes_on_when_it_wakes(
    tmp_path: Path,
) -> None:
    """Hung: it takes connections and commands, and answers none."""
    async with scene(tmp_path) as there:
        there.site.valkey.pause()
        try:
            started = time.monotonic()
            waits = await asyncio.gather(*(there.refused() for _ in range(50)))
            # Those who ask again wait no longer than those who asked first.
            waits += await asyncio.gather(*(there.refused() for _ in range(50)))
            assert (await there.ask("GET", "/ready")).status == 503
            assert (await there.ask("GET", "/health")).status == 200
            await there.heartbeats()
        finally:
            there.site.valkey.resume()
        print(f"slowest refusal {max(waits):.2f} s, hung for {time.monotonic() - started:.1f} s")
        assert max(waits) < HUNG_SEC
