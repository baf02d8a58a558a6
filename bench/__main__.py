"""`python -m bench [--events N]`: publish, bulk publish, replay and fan-out against a fresh gateway.

Prints one line a question. Each clock stops only when the last answer or frame has arrived.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import uvloop

from bench.load import Requester, Watcher, request

CONFIG = {
    "notification_schema": {
        "bench": {
            "topic": {"base": "bench", "key_order": ["region", "number"]},
            "identifier": {
                "region": {"type": "StringHandler", "required": False},
                "number": {"type": "IntHandler", "required": False},
            },
        }
    },
    "watch_endpoint": {"max_historical_notifications": 100_000_000},
}
MARKER = b"\nid: "


def event(number: int) -> bytes:
    """About 386 bytes when stored."""
    identifier = {"region": f"r{number % 10}", "number": number}
    body = {"event_type": "bench", "identifier": identifier, "payload": {"text": "x" * 110}}
    return json.dumps(body).encode()


async def publish(port: int, connections: int, events: int) -> str:
    left = iter(range(events))
    post = "/api/v1/notification"

    def payload() -> bytes | None:
        number = next(left, None)
        return None if number is None else request("POST", post, event(number))

    loop = asyncio.get_running_loop()
    done = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    clients = []
    for future in done:
        make = partial(Requester, payload, future)
        clients.append((await loop.create_connection(make, "127.0.0.1", port))[1])
    await asyncio.gather(*done)
    took = time.perf_counter() - started
    seconds = sorted(each for client in clients for each in client.seconds)
    assert len(seconds) == events
    assert not any(client.failures for client in clients)
    p99 = seconds[int(len(seconds) * 0.99)] * 1000
    median = statistics.median(seconds) * 1000
    return f"{events / took:>9,.0f} events/s   median {median:.1f} ms, p99 {p99:.1f} ms"


async def bulk(port: int, events: int, size: int) -> str:
    left = iter(range(0, events, size))

    def payload() -> bytes | None:
        start = next(left, None)
        if start is None:
            return None
        body = b"\n".join(event(n) for n in range(start, start + size))
        return request("POST", "/api/v1/notifications", body)

    loop = asyncio.get_running_loop()
    done = [loop.create_future() for _ in range(8)]
    started = time.perf_counter()
    clients = []
    for future in done:
        make = partial(Requester, payload, future)
        clients.append((await loop.create_connection(make, "127.0.0.1", port))[1])
    await asyncio.gather(*done)
    took = time.perf_counter() - started
    assert not any(client.failures for client in clients)
    return f"{events / took:>9,.0f} events/s   {size} a request, 8 connections"


async def replay(port: int, events: int, query: str, wanted: int) -> str:
    opening = request("GET", f"/api/v1/replay?event_type=bench&from_id=1{query}")
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    _, watcher = await loop.create_connection(
        lambda: Watcher(opening, MARKER, wanted), "127.0.0.1", port
    )
    took = await watcher.done - started
    watcher.transport.abort()
    assert watcher.count == wanted
    return f"{events / took:>9,.0f} events/s   {watcher.bytes / took / 1e6:.0f} MB/s sent"


async def fanout(port: int, watchers: int, events: int) -> str:
    opening = request("GET", "/api/v1/watch?event_type=bench")
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


async def measure(port: int, events: int) -> None:
    singles = min(events, 40_000)
    print(f"publish, 64 connections   {await publish(port, 64, singles)}", flush=True)
    print(f"publish, 1 connection     {await publish(port, 1, 2000)}", flush=True)
    print(f"publish in bulk           {await bulk(port, events, 100)}", flush=True)
    total = singles + 2000 + events
    print(f"replay, all               {await replay(port, total, '', total)}", flush=True)
    tenth = "&identifier.region=r3"
    wanted = total // 10
    print(f"replay, 1 in 10 matches   {await replay(port, total, tenth, wanted)}", flush=True)
    print(f"fan-out, one at a time    {await fanout(port, 1000, 400)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(json.dumps(CONFIG))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
        data = str(Path(directory) / "data")
        server = subprocess.Popen(
            [*command, "--port", "0", "--data-dir", data], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            port = int(line.rpartition(":")[2])
            uvloop.run(measure(port, events))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
