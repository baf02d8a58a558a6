"""How long it takes from the command to the first answer, with its own embedded server."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

from bench.event import CATALOG
from bench.figure import Bound, Figure, Finding, Row
from bench.load import Requester, connect, request
from bench.question import Question, Sizes, Subject
from bench.site import running
from store.embedded import EmbeddedServer

_SERVER = "the embedded server alone"
_EMPTY = Row(
    "startup/empty",
    "import and start of `playhead serve` to first answer, empty",
    "s",
    (Bound(at_most=1.5),),
    {"limit": _SERVER},
    more=False,
)
LOADED = Row(
    "startup/loaded",
    "import and start of `playhead serve` to first answer, 5 M events",
    "s",
    (Bound(at_most=5),),
    {"limit": _SERVER},
    more=False,
)
_TIMES = 5
_TIMES_LOADED = 2


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        own = [await _start(subject, Path(folder) / str(each)) for each in range(_TIMES)]
        alone = [await _server_alone(Path(folder) / f"alone{each}") for each in range(_TIMES)]
        imports = [await asyncio.to_thread(_import, subject.tree) for _ in range(_TIMES)]
    yield Figure(_EMPTY.key, "playhead", median(own), {"of it imports s": median(imports)})
    yield Figure(_EMPTY.key, "limit", median(alone))


async def start_loaded(subject: Subject, data: Path) -> AsyncIterator[Finding]:
    """With a log that is there."""
    yield Figure(
        LOADED.key, "playhead", median([await _start(subject, data) for _ in range(_TIMES_LOADED)])
    )
    yield Figure(
        LOADED.key, "limit", median([await _server_alone(data) for _ in range(_TIMES_LOADED)])
    )


async def _start(subject: Subject, data: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps({"notification_schema": CATALOG}))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
        command += ["--port", "0", "--data-dir", str(data), "--log-level", "warning"]
        started = time.perf_counter()
        async with running(command, subject.tree) as (port, _):
            client = await connect(("127.0.0.1", port), Requester)
            await client.ask(request("GET", "/ready"))
            took = time.perf_counter() - started
            client.close()
    return took


async def _server_alone(data: Path) -> float:
    started = time.perf_counter()
    async with EmbeddedServer(data):
        return time.perf_counter() - started


def _import(tree: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gateway.serve"], cwd=tree, check=True)
    return time.perf_counter() - started


QUESTION = Question((_EMPTY,), measure, only_here="it starts the program")
