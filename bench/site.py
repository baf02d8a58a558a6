"""The servers that are asked: a gateway on an embedded server, and those it is compared with.

Each is a process of its own and ends with its context. The gateway's code is that of any tree, so that
another commit is measured by the same bench.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.dialect import AVISO, NAIVE, RAW, Dialect
from bench.event import CATALOG
from bench.load import Address
from store.embedded import EmbeddedServer

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, object] = {
    "notification_schema": CATALOG,
    "watch_endpoint": {"max_historical_notifications": 100_000_000},
}
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Site:
    """A server that runs. `process_ids` are its own, without those of a store it uses."""

    address: Address
    dialect: Dialect
    process_ids: Sequence[int] = ()
    store_url: str = ""
    store_process_id: int | None = None

    @property
    def port(self) -> int:
        return self.address[1]

    def busy_sec(self) -> float:
        """Processor time of the server so far; 0 where the system does not tell."""
        return sum(map(busy_sec, self.process_ids))

    def memory_kb(self) -> float:
        """What the server holds of the machine's memory now."""
        return sum(_memory_kb(each) for each in self.process_ids)


def untold() -> str | None:
    """Why the memory of a process is not known here, in a sentence; None where it is."""
    if Path("/proc/self/smaps_rollup").exists():
        return None
    return "this system does not tell what memory a process has (/proc/<pid>/smaps_rollup)"


def busy_sec(process_id: int) -> float:
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def _memory_kb(process_id: int) -> float:
    # Pages that several processes share count for each a part.
    for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise OSError(f"the system does not tell the memory of process {process_id}")


@asynccontextmanager
async def running(command: Sequence[str], folder: Path) -> AsyncIterator[tuple[int, int]]:
    """A child that prints its port at the end of its first line: the port, and its process id."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield int(line.rpartition(":")[2]), process.pid
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        process.stdout.close()


@asynccontextmanager
async def open_site(
    settings: Mapping[str, object] = CONFIG, *, tree: Path = ROOT, data: Path | None = None
) -> AsyncIterator[Site]:
    """A gateway; its log is in `data` where that is given, and goes with it otherwise."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(json.dumps(settings))
        async with EmbeddedServer(data or Path(directory) / "data") as server:
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
            command += ["--port", "0", "--redis", server.url, "--log-level", "warning"]
            async with running(command, tree) as (port, process_id):
                address = ("127.0.0.1", port)
                yield Site(address, AVISO, (process_id,), server.url, server.pid)


@asynccontextmanager
async def open_naive() -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedServer(Path(directory) / "data") as server:
            command = [sys.executable, "-m", "bench.servers.naive", server.url]
            async with running(command, ROOT) as (port, process_id):
                address = ("127.0.0.1", port)
                yield Site(address, NAIVE, (process_id,), server.url, server.pid)


@asynccontextmanager
async def open_raw(dialect: Dialect = RAW) -> AsyncIterator[Site]:
    async with running([sys.executable, "-m", "bench.servers.raw"], ROOT) as (port, process_id):
        yield Site(("127.0.0.1", port), dialect, (process_id,))


@asynccontextmanager
async def open_noop() -> AsyncIterator[Site]:
    async with running([sys.executable, "-m", "bench.servers.noop"], ROOT) as (port, process_id):
        yield Site(("127.0.0.1", port), AVISO, (process_id,))
