"""How many events a second can be published, one a request and many a request."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

from bench.load import Requester, request
from bench.question import Options
from bench.site import Site, event

_ONE = "/api/v1/notification"
_MANY = "/api/v1/notifications"
# One at a time takes its time.
MOST_SINGLES = 40_000


async def measure(site: Site, options: Options) -> AsyncIterator[str]:
    singles = min(options.events, MOST_SINGLES)
    yield f"publish, 64 connections   {await publish(site.port, 64, singles)}"
    yield f"publish, 1 connection     {await publish(site.port, 1, 2000)}"
    yield f"publish in bulk           {await _bulk(site.port, options.events, 100)}"


async def publish(port: int, connections: int, events: int) -> str:
    bodies = (request("POST", _ONE, event(number)) for number in range(events))
    seconds, took = await send(port, connections, bodies)
    seconds.sort()
    assert len(seconds) == events
    p99 = seconds[int(len(seconds) * 0.99)] * 1000
    median = statistics.median(seconds) * 1000
    return f"{events / took:>9,.0f} events/s   median {median:.1f} ms, p99 {p99:.1f} ms"


async def fill(port: int, events: int, size: int = 100, connections: int = 8) -> float:
    """Publish many a request; the seconds it took."""
    starts = range(0, events, size)
    bodies = (b"\n".join(event(n) for n in range(start, start + size)) for start in starts)
    _, took = await send(port, connections, (request("POST", _MANY, body) for body in bodies))
    return took


async def send(port: int, connections: int, requests: Iterator[bytes]) -> tuple[list[float], float]:
    """Send all, each connection one after the other's answer; the seconds of each, and of all."""
    loop = asyncio.get_running_loop()
    done = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    clients = []
    for future in done:
        make = partial(Requester, lambda: next(requests, None), future)
        clients.append((await loop.create_connection(make, "127.0.0.1", port))[1])
    await asyncio.gather(*done)
    took = time.perf_counter() - started
    assert not any(client.failures for client in clients)
    return [each for client in clients for each in client.seconds], took


async def _bulk(port: int, events: int, size: int) -> str:
    took = await fill(port, events, size)
    return f"{events / took:>9,.0f} events/s   {size} a request, 8 connections"
