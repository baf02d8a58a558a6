"""`python -m bench.state`: the state of a time out of a long history, as lines over HTTP.

A fleet of 100,000 vehicles and 3.6 million changes over 30 days, with a snapshot at the quarter of
an hour before each time that is asked for, as the default schedule would have taken it.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.history import History, write_history
from bench.load import request
from store.connection import Connection
from store.embedded import EmbeddedServer
from store.event import rfc3339
from store.objects import Objects

_TIMES = 10
_MB = 1 << 20


@dataclass(frozen=True)
class Answer:
    """One answer: seconds to its first byte of rows and to its last byte, and what came."""

    first_sec: float
    last_sec: float
    rows: int
    size: int


async def ask(port: int, at_ms: int) -> Answer:
    """The state of a time. Raises AssertionError when it is not whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * _MB)
    started = time.perf_counter()
    writer.write(request("GET", f"/v1/state?at={rfc3339(at_ms)}", b"", "Connection: close"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    first_sec, rows, size, tail = 0.0, 0, 0, b""
    while part := await reader.read(_MB):
        first_sec = first_sec or time.perf_counter() - started
        rows += part.count(b'{"table":')
        size += len(part)
        tail = (tail + part)[-400:]
    last_sec = time.perf_counter() - started
    writer.close()
    found = re.search(rb'\{"complete":true,.*"rows":(\d+)\}', tail)
    assert found is not None, tail
    return Answer(first_sec, last_sec, int(found[1]), size)


def memory_mb(pid: int, field: str) -> float:
    """VmRSS: now; VmHWM: the most there ever was."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


async def measure(port: int, pid: int, history: History, at_once: int) -> dict[str, float]:
    cold = await ask(port, history.times[0])
    answers = [await ask(port, each) for each in history.times]
    before_mb = memory_mb(pid, "VmRSS")
    started = time.perf_counter()
    picks = random.Random(1)  # the same every time
    many = await asyncio.gather(*(ask(port, picks.choice(history.times)) for _ in range(at_once)))
    many_sec = time.perf_counter() - started
    assert {each.rows for each in (*answers, *many)} == {history.rows}
    print(
        f"one: first byte {statistics.median(a.first_sec for a in answers) * 1000:.0f} ms, "
        f"last byte {statistics.median(a.last_sec for a in answers) * 1000:.0f} ms "
        f"(worst of {len(answers)}: {max(a.last_sec for a in answers) * 1000:.0f} ms, "
        f"first of all: {cold.last_sec * 1000:.0f} ms), "
        f"{history.rows} rows, {answers[0].size / _MB:.0f} MiB",
        flush=True,
    )
    print(
        f"{at_once} at once: all answered in {many_sec:.1f} s, "
        f"first byte worst {max(each.first_sec for each in many):.2f} s",
        flush=True,
    )
    peak_mb = memory_mb(pid, "VmHWM")
    print(f"gateway memory: {before_mb:.0f} MiB before, {peak_mb:.0f} MiB at most", flush=True)
    return {
        "first_ms": statistics.median(a.first_sec for a in answers) * 1000,
        "last_ms": statistics.median(a.last_sec for a in answers) * 1000,
        "many_sec": many_sec,
        "peak_mb": peak_mb,
    }


async def run(*, changes: int, rows: int, days: float, at_once: int) -> dict[str, float]:
    """Build the history, start a gateway on it and ask; the figures by name."""
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedServer(Path(folder) / "data") as server:
            connection = Connection(server.url)
            await connection.open()
            started = time.perf_counter()
            objects = Objects(f"file://{folder}/snapshots")
            history = await write_history(
                connection, objects, changes=changes, rows=rows, days=days, times=_TIMES
            )
            print(f"history written in {time.perf_counter() - started:.0f} s", flush=True)
            config = {
                "store": {"url": server.url},
                "snapshots": {"url": objects.url},
                "tenants": {"default": history.tenant},
            }
            path = Path(folder) / "config.yaml"
            path.write_text(json.dumps(config))
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
            gateway = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
            try:
                assert gateway.stdout is not None
                line = await asyncio.to_thread(gateway.stdout.readline)
                port = int(line.rpartition(":")[2])
                return await measure(port, gateway.pid, history, at_once)
            finally:
                gateway.terminate()
                gateway.wait()
                await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.state", description=__doc__)
    parser.add_argument("--changes", type=int, default=3_600_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--at-once", type=int, default=50)
    options = parser.parse_args()
    uvloop.run(
        run(
            changes=options.changes,
            rows=options.rows,
            days=options.days,
            at_once=options.at_once,
        )
    )


if __name__ == "__main__":
    main()
