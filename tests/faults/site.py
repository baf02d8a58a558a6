"""What is put under fault: a gateway process over a server of its own, or over an embedded one."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.publisher import SCHEMA
from tests.faults.wire import Client
from tests.servers import GatewayProcess, Valkey


def configuration(store: Mapping[str, str], **watch_endpoint: object) -> dict[str, Any]:
    return {
        "store": dict(store),
        "metrics": {"enabled": True},
        "notification_schema": SCHEMA,
        "notification_schema_strict": True,
        "watch_endpoint": {
            "max_historical_notifications": 1_000_000_000,
            "sse_heartbeat_interval_sec": 1,
            "send_timeout_sec": 600,
            **watch_endpoint,
        },
    }


class OutsideSite:
    """A gateway over a Valkey that somebody else runs."""

    def __init__(self, directory: Path) -> None:
        self.valkey = Valkey(directory / "valkey")
        self.gateway = GatewayProcess(
            directory / "gateway", configuration({"url": self.valkey.url})
        )
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "gateway": self.kill_gateway,
            "valkey": self.kill_valkey,
            "both": self.kill_both,
        }

    async def start(self) -> None:
        await asyncio.to_thread(self.valkey.start)
        await asyncio.to_thread(self.gateway.start)

    def close(self) -> None:
        self.gateway.stop()
        self.valkey.stop()

    async def kill_gateway(self) -> None:
        self.gateway.kill()
        await asyncio.to_thread(self.gateway.start)

    async def kill_valkey(self) -> None:
        self.valkey.kill()
        await asyncio.to_thread(self.valkey.start)

    async def kill_both(self) -> None:
        self.gateway.kill()
        self.valkey.kill()
        await self.start()


class EmbeddedSite:
    """A gateway with a Valkey of its own, which outlives a killed gateway and is taken over."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.gateway = GatewayProcess(
            directory / "gateway", configuration({"data_dir": str(self.data_dir)})
        )
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "gateway": self.kill_gateway,
            "valkey": self.kill_valkey,
            "both": self.kill_both,
        }

    async def start(self) -> None:
        await asyncio.to_thread(self.gateway.start)

    def close(self) -> None:
        self.gateway.stop()

    async def kill_gateway(self) -> None:
        self.gateway.kill()
        await self.start()

    async def kill_valkey(self) -> None:
        """The gateway has to find out and start it again."""
        pid = self._valkey_pid()
        os.kill(pid, signal.SIGKILL)
        client = Client(self.gateway.port, "00000000-0000-0000-0000-000000000000")
        deadline = time.monotonic() + 60
        try:
            while (
                await client.request("GET", "/ready")
            ).status != 200 or self._valkey_pid() == pid:
                assert time.monotonic() < deadline, "no new server in 60 s"
                await asyncio.sleep(0.02)
        finally:
            client.close()

    async def kill_both(self) -> None:
        self.gateway.kill()
        with suppress(ProcessLookupError):
            os.kill(self._valkey_pid(), signal.SIGKILL)
        await self.start()

    def _valkey_pid(self) -> int:
        try:
            return int(json.loads((self.data_dir / "valkey.lock").read_text())["pid"])
        except (ValueError, KeyError):
            return 0  # being written


Site = OutsideSite | EmbeddedSite
