"""How many frames a second reach a thousand watchers of what is published one at a time."""

import asyncio
import time
from collections.abc import AsyncIterator

from bench.load import Watcher, request
from bench.publish import publish
from bench.question import Options
from bench.site import EVENT_TYPE, Site


async def measure(site: Site, options: Options) -> AsyncIterator[str]:
    yield f"fan-out, one at a time    {await _fanout(site.port, 1000, 400)}"


async def _fanout(port: int, watchers: int, events: int) -> str:
    opening = request("GET", f"/api/v1/watch?event_type={EVENT_TYPE}")
    loop = asyncio.get_running_loop()
    clients: list[Watcher] = []
    for _ in range(watchers):
        # One `id:` is the first frame's own, one the heartbeat's that follows it.
        _, client = await loop.create_connection(
            lambda: Watcher(opening, b"event: live-notification\nid: ", events), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.gather(*(client.opened for client in clients))
    started = time.perf_counter()
    await publish(port, 4, events)
    ended = max(await asyncio.gather(*(client.done for client in clients)))
    for client in clients:
        client.transport.abort()
    return f"{watchers * events / (ended - started):>9,.0f} frames/s   {watchers} watchers"
