"""A fresh gateway on a fresh embedded server, for one question."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from store.embedded import EmbeddedServer

EVENT_TYPE = "bench"
CONFIG: dict[str, object] = {
    "notification_schema": {
        EVENT_TYPE: {
            "topic": {"base": EVENT_TYPE, "key_order": ["region", "number"]},
            "identifier": {
                "region": {"type": "StringHandler", "required": False},
                "number": {"type": "IntHandler", "required": False},
            },
        }
    },
    "watch_endpoint": {"max_historical_notifications": 100_000_000},
}


@dataclass(frozen=True, slots=True)
class Site:
    """`store_url` is where the gateway keeps its log, `process_id` is its own."""

    port: int
    store_url: str
    process_id: int

    def busy_sec(self) -> float:
        """Processor time of the gateway so far; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / 100


@asynccontextmanager
async def open_site(settings: Mapping[str, object] = CONFIG) -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(json.dumps(settings))
        async with EmbeddedServer(Path(directory) / "data") as server:
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
            process = subprocess.Popen(
                [*command, "--port", "0", "--redis", server.url, "--log-level", "warning"],
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert process.stdout is not None
                line = await asyncio.to_thread(process.stdout.readline)
                yield Site(int(line.rpartition(":")[2]), server.url, process.pid)
            finally:
                process.terminate()
                await asyncio.to_thread(process.wait)


def event(number: int, **more: str) -> bytes:
    """About 450 bytes when stored."""
    identifier = {"region": f"r{number % 10}", "number": number}
    payload = {"text": "x" * 110}
    body: Mapping[str, object] = {
        "event_type": EVENT_TYPE,
        "identifier": identifier,
        "payload": payload,
    }
    return json.dumps({**body, **more}).encode()
