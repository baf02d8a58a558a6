"""A watcher that stops reading: no memory, no delay for the others, and nothing lost for itself."""

import asyncio
import time
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from tests.faults.cast import acting
from tests.faults.crowd import Crowd
from tests.faults.publisher import notification
from tests.faults.site import OutsideSite
from tests.faults.watcher import Watcher
from tests.faults.wire import Client, eventually
from tests.servers import GatewayProcess

BULK = 1000
WARM_UP = 10_000
GROWTH_BYTES = 30_000_000
# Makes the stored JSON of an event about 400 bytes long.
TEXT = "x" * 100


async def publish(client: Client, first: int, count: int) -> None:
    for start in range(first, first + count, BULK):
        items = [
            notification({"number": number, "text": TEXT}) for number in range(start, start + BULK)
        ]
        answer = await client.request(
            "POST", "/api/v1/notifications", msgspec.json.encode(items), timeout=300
        )
        assert answer.status == 200, answer


async def watch_memory(gateway: GatewayProcess, peak: list[int]) -> None:
    while True:
        peak[0] = max(peak[0], gateway.memory_bytes())
        await asyncio.sleep(0.05)


async def prove(directory: Path, watchers: int, events: int) -> str:
    """One stops while the others get so many events; then it reads again. Figures as a line."""
    tenant = str(uuid4())
    with closing(OutsideSite(directory)) as site:
        await site.start()
        gateway = site.gateway
        stopped = Watcher([gateway.port], tenant, receive_buffer=4096)
        with closing(Client(gateway.port, tenant)) as client, closing(Crowd()) as crowd:
            async with acting() as enter:
                enter([stopped])
                await eventually(lambda: stopped.opened, "the one to be stopped is live")
                await crowd.join(gateway.port, tenant, watchers - 1)
                started = time.monotonic()
                await publish(client, 1, WARM_UP)
                await eventually(
                    lambda: min(crowd.least(), stopped.last) >= WARM_UP, "all have the warm-up"
                )
                before_rate = WARM_UP / (time.monotonic() - started)
                before = gateway.memory_bytes()
                peak = [before]
                sampling = asyncio.create_task(watch_memory(gateway, peak))
                stopped.pause()
                started = time.monotonic()
                await publish(client, WARM_UP + 1, events)
                total = WARM_UP + events
                await eventually(lambda: crowd.least() >= total, "the others have all", 600)
                seconds = time.monotonic() - started
                assert [each.events for each in crowd.members] == [total] * (watchers - 1)
                assert stopped.last < total, "it read on: nothing was proved"
                behind = total - stopped.last
                stopped.resume()
                started = time.monotonic()
                await eventually(lambda: stopped.last >= total, "it has caught up", 120)
                catching_up = time.monotonic() - started
                sampling.cancel()
        assert stopped.received == list(range(1, total + 1))
        assert stopped.openings == 1
        assert stopped.gaps == []
        growth = peak[0] - before
        assert growth < GROWTH_BYTES, f"memory grew by {growth / 1e6:.1f} MB"
        return (
            f"{watchers} watchers, {events} events in {seconds:.1f} s: "
            f"{events * (watchers - 1) / seconds / 1e6:.2f} M frames/s to the others "
            f"({before_rate:.0f} events/s before, {events / seconds:.0f} with one stopped), memory "
            f"{before / 1e6:.0f} MB and at most {growth / 1e6:.1f} MB more, the stopped one "
            f"{behind} events behind caught up in {catching_up:.1f} s"
        )


async def test_a_watcher_that_stops_reading_costs_no_memory_and_misses_nothing(
    tmp_path: Path,
) -> None:
    print(await prove(tmp_path, watchers=100, events=20_000))


@pytest.mark.soak
async def test_one_of_500_watchers_stops_reading_while_200_000_events_are_published(
    tmp_path: Path,
) -> None:
    print("\n" + await prove(tmp_path, watchers=500, events=200_000))
