"""How fast the past is sent to one client, whole and through a filter."""

import asyncio
import time
from collections.abc import AsyncIterator

from bench.load import Watcher, request
from bench.publish import fill
from bench.question import Options
from bench.site import EVENT_TYPE, Site

_MARKER = b"\nid: "


async def measure(site: Site, options: Options) -> AsyncIterator[str]:
    events = options.events
    await fill(site.port, events)
    yield f"replay, all               {await _replay(site.port, events, '', events)}"
    tenth = "&identifier.region=r3"
    yield f"replay, 1 in 10 matches   {await _replay(site.port, events, tenth, events // 10)}"


async def _replay(port: int, events: int, query: str, wanted: int) -> str:
    opening = request("GET", f"/api/v1/replay?event_type={EVENT_TYPE}&from_id=1{query}")
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    _, watcher = await loop.create_connection(
        lambda: Watcher(opening, _MARKER, wanted), "127.0.0.1", port
    )
    took = await watcher.done - started
    watcher.transport.abort()
    assert watcher.count == wanted
    return f"{events / took:>9,.0f} events/s   {watcher.bytes / took / 1e6:.0f} MB/s sent"
