"""Gateways as processes of their own on one server, to be killed and paused, and their clients."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.playback.controls import Controls
from tests.servers import GatewayProcess, Valkey


class Site:
    """Some gateways, the server under them, and a client of each gateway."""

    def __init__(self, directory: Path, count: int, **sections: Any) -> None:
        self.valkey = Valkey(directory / "valkey")
        configuration = {
            "store": {"url": self.valkey.url},
            "notification_schema_strict": False,
            "logging": {"format": "json"},
            **sections,
        }
        self.gateways = [
            GatewayProcess(directory / f"gateway-{number}", configuration)
            for number in range(count)
        ]
        self.clients: list[httpx.AsyncClient] = []

    def controls(self, tenant: str) -> list[Controls]:
        """Of one tenant, by each gateway."""
        return [Controls(client, tenant) for client in self.clients]

    def pause(self, number: int) -> None:
        self._signal(number, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        self._signal(number, signal.SIGCONT)

    def _signal(self, number: int, what: signal.Signals) -> None:
        process = self.gateways[number].process
        assert process is not None
        process.send_signal(what)

    async def start_gateway(self, number: int) -> None:
        await asyncio.to_thread(self.gateways[number].start)

    async def kill_valkey(self) -> None:
        """As a power cut would, and again at once."""
        self.valkey.kill()
        await asyncio.to_thread(self.valkey.start)


@asynccontextmanager
async def open_site(directory: Path, count: int, **sections: Any) -> AsyncIterator[Site]:
    site = Site(directory, count, **sections)
    async with AsyncExitStack() as stack:
        try:
            await asyncio.to_thread(site.valkey.start)
            await asyncio.gather(*(site.start_gateway(number) for number in range(count)))
            for gateway in site.gateways:
                client = httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False)
                site.clients.append(await stack.enter_async_context(client))
            yield site
        finally:
            for gateway in site.gateways:
                await asyncio.to_thread(gateway.stop)
            site.valkey.stop()
