"""What the stories of Aviso's client share: its events, and waiting for what it does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyaviso
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningGateway

HUALIEN, LAE, JARM = [24.17, 121.65], [-6.93, 147.22], [36.54, 70.82]
TAIWAN = [[21.5, 119.5], [21.5, 123], [25.5, 123], [25.5, 119.5], [21.5, 119.5]]
BERLIN = [[52.3, 13.1], [52.3, 13.8], [52.7, 13.8], [52.7, 13.1], [52.3, 13.1]]
LONDON = [[51.3, -0.5], [51.3, 0.3], [51.7, 0.3], [51.7, -0.5], [51.3, -0.5]]


def quake(
    magnitude: float = 5, place: list[float] = HUALIEN, network: str = "us"
) -> dict[str, Any]:
    return {
        "event_type": "earthquake",
        "identifier": {
            "network": network,
            "magnitude": magnitude,
            "depth_km": 10,
            "point_cloud": [place],
        },
        "payload": {"magnitude": magnitude},
    }


def storm(
    severity: int = 4, region: str = "north", area: list[list[float]] = BERLIN, run: str = "12"
) -> dict[str, Any]:
    return {
        "event_type": "extreme_event",
        "identifier": {
            "region": region,
            "run_time": run,
            "severity": severity,
            "anomaly": 42.50,
            "polygon": area,
        },
    }


async def until(predicate: Callable[[], object], description: str) -> None:
    """Return when the predicate holds."""
    deadline = time.monotonic() + 60
    while not predicate():
        assert time.monotonic() < deadline, f"not within 60 s: {description}"
        await asyncio.sleep(0.01)


async def opened(gateway: RunningGateway, count: int = 1) -> None:
    """Return when so many listeners are connected: what is published from now on reaches them."""
    await until(lambda: len(gateway.gateway.streams) == count, f"{count} open streams")


async def take(stream: AsyncIterator[Any], count: int) -> list[int]:
    """The sequences of the next notifications."""
    async with asyncio.timeout(60):
        return [(await anext(stream)).sequence for _ in range(count)]


async def read(client: pyaviso.AsyncAvisoClient, event_type: str, **options: Any) -> list[int]:
    """The sequences of a replay, which ends by itself."""
    async with asyncio.timeout(60), client.listen(event_type, **options) as stream:
        return [notification.sequence async for notification in stream]


def connections(metrics: str) -> int:
    """How many streams were opened since the gateway started."""
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "playhead_sse_connections_total"
    )
