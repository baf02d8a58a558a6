"""The bench asks a real gateway, and a server that answers wrongly ends it with status 1."""

import asyncio
import sys

from bench import fanout, nchan, replay, selective
from bench.question import Subject
from bench.site import ROOT, open_naive


async def test_a_gateway_is_asked_for_history_and_live_events() -> None:
    async with Subject().open() as site:
        await replay.fill(site, 0, 1000)
        rate, _ = await replay.once(site, site.dialect.replay(), 1000)
        narrowed = site.dialect.replay({"region": "r3", "track": {"gte": 0}})
        scanned, _ = await replay.once(site, narrowed, 1000, 100)
        found = await selective.last_byte_ms(site, 0, 1000, 1)
        frames, latency = await fanout.singly(site, "playhead", 30, 5)
        delivered, late = await fanout.at_rate(site, 30, 100, 0.2, filters=3)
    assert min(rate, scanned, *found, frames.value, latency.value, delivered, late["99"]) > 0


async def test_the_naive_server_does_the_same() -> None:
    async with open_naive() as naive:
        await replay.fill(naive, 0, 200)
        await replay.once(naive, naive.dialect.replay(), 200)
        await replay.once(naive, naive.dialect.replay({"region": "r3"}), 200, 20)
        frames, _ = await fanout.singly(naive, "naive", 10, 5)
    assert frames.value > 0


async def test_a_server_that_refuses_ends_the_run_with_status_1() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        bench = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench", "replay", "--alone", "--quick",
            "--target", f"http://127.0.0.1:{port}",
            cwd=ROOT, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, told = await bench.communicate()
    assert bench.returncode == 1
    assert b"wrong: a request was answered" in told


def test_a_peer_that_is_not_there_is_told_with_what_to_install() -> None:
    why = nchan.missing()
    assert why is None or "libnginx-mod-nchan" in why
