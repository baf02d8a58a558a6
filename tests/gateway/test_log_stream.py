"""A watch or a replay on its way to live: what comes up while it waits is not forgotten."""

import asyncio

import httpx
import pytest

from store.event import Position, StreamKey
from store.tail import Listener, Tail
from tests.conftest import Start

QUAKES = {"event_type": "earthquake", "identifier": {}}


async def test_a_watch_told_to_close_while_it_attaches_is_closed_with_its_reason(
    start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptom: it joined the sweep after all, and was cut off at the drain without its frame."""
    attaching, go_on = asyncio.Event(), asyncio.Event()
    follow = Tail.follow

    async def slow_follow(
        tail: Tail, stream: StreamKey, position: Position, epoch: bytes, listener: Listener
    ) -> None:
        attaching.set()
        await go_on.wait()
        await follow(tail, stream, position, epoch, listener)

    monkeypatch.setattr(Tail, "follow", slow_follow)
    async with (
        start_gateway() as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=60) as client,
        client.stream("POST", "/api/v1/watch", json=QUAKES) as watch,
    ):
        await attaching.wait()
        draining = asyncio.create_task(gateway.gateway.drain())
        while not gateway.gateway.draining:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        go_on.set()
        text = (await watch.aread()).decode()
        await draining
    assert text.count("event: connection-closing") == 1
    assert '"reason":"server_shutdown"' in text
