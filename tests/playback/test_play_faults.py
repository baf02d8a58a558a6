"""Under a session that plays: a watcher that stops reading, a log's server that dies and comes back."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from store.connection import Connection
from store.session import Sessions
from tests.conftest import Start
from tests.faults.wire import eventually
from tests.playback.stage import PAST_MS, Recording, Stage, Viewer, at, evenly, play_settings
from tests.servers import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Makes the stored JSON of an event about 400 bytes long.
TEXT = "x" * 150


async def delays_of(stage: Stage, viewer: Viewer) -> list[float]:
    """How long after it was due each event came, in ms and sorted; it plays since its only start."""
    connection = Connection(stage.first.gateway.settings.store.url or "")
    session = await Sessions(connection, idle_ms=60_000, lease_ms=1000).get(stage.tenant)
    await connection.close()
    assert session is not None
    clock = session.clock
    assert clock.playing
    return sorted(
        seen.wall_ms - clock.wall_ms - (PAST_MS + seen.event.ms - clock.event_ms) / clock.speed
        for seen in viewer.seen
        if seen.event is not None
    )


async def prove_a_stopped_watcher(start_gateway: Start, *, seconds: float, watchers: int) -> str:
    """It reads nothing for so long, at 2,000 events a second, while the others are watched."""
    per_kind = round((seconds + 2) * 1000)
    recording = Recording(evenly(per_kind, 1), evenly(per_kind, 1))
    tenant = str(uuid4())
    async with start_gateway(tenant=tenant, send_buffer=16 << 10, **play_settings()) as gateway:
        stage = Stage(gateway, gateway, tenant)
        try:
            # To the end and a little more, so that it plays while it is judged.
            await stage.begin(recording, end_ms=per_kind + 600_000, text=TEXT)
            others = [await stage.watch() for _ in range(watchers)]
            stopped = await stage.watch(receive_buffer=4096)
            await stage.start(1)
            await stopped.plays(500)
            stopped.pause()
            began, count = time.monotonic(), len(stopped.events)
            await eventually(lambda: time.monotonic() - began >= seconds, "the time has passed", 90)
            behind = len(others[0].events) - len(stopped.events)
            assert behind > seconds * 500, "it was still reading: nothing was proved"
            stopped.resume()
            resumed = time.monotonic()
            await stopped.sees(lambda v: len(v.events) >= len(others[0].events) - 50, "caught up")
            took = time.monotonic() - resumed
            for viewer in (*others, stopped):
                await viewer.sees(lambda v: len(v.events) == 2 * per_kind, "all events")
                assert viewer.events == recording.events
                assert viewer.connections == 1
                assert viewer.errors == []
            delays = await delays_of(stage, others[0])
            assert delays[0] > -5
            late = delays[int(len(delays) * 0.99)]
            assert late < 500, "the others waited for it"
            return (
                f"{behind} events behind after {seconds:g} s (it had {count}), caught up in "
                f"{took:.2f} s; 99 % of the others' within {late:.1f} ms of due, "
                f"the last within {delays[-1]:.1f} ms"
            )
        finally:
            await stage.close()


async def test_a_watcher_that_stops_reading_delays_nobody_and_catches_up(
    start_gateway: Start,
) -> None:
    print(await prove_a_stopped_watcher(start_gateway, seconds=3, watchers=3))


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_watcher_that_reads_nothing_for_30_seconds(start_gateway: Start) -> None:
    print("\n" + await prove_a_stopped_watcher(start_gateway, seconds=30, watchers=10))


async def test_a_watcher_that_catches_up_when_the_session_ends_is_told_of_the_end(
    start_gateway: Start,
) -> None:
    tenant = str(uuid4())
    async with start_gateway(tenant=tenant, send_buffer=16 << 10, **play_settings()) as gateway:
        stage = Stage(gateway, gateway, tenant)
        try:
            await stage.begin(Recording(evenly(8000, 1)), text=TEXT)
            reading = await stage.watch(once=True)
            stopped = await stage.watch(receive_buffer=4096, once=True)
            stopped.pause()
            await stage.start(20)
            await reading.plays(6000)
            await stage.end()
            await reading.sees(lambda v: v.closings, "it was closed")
            assert stopped.closings == []
            stopped.resume()
            await stopped.sees(lambda v: v.closings, "it was closed")
            for viewer in (reading, stopped):
                assert viewer.closings == ["end_of_stream"]
                assert viewer.sessions[-1]["status"] == "DB_END_OK"
            assert len(stopped.events) < len(reading.events), "what is left is not sent"
            stage.session = ""
        finally:
            await stage.close()


Fault = Callable[[Valkey], None]


def kill(valkey: Valkey) -> None:
    valkey.kill()
    valkey.start()


def hang(valkey: Valkey) -> None:
    """For as long as nobody notices: a command may wait for five seconds."""
    valkey.pause()
    time.sleep(1)
    valkey.resume()


@pytest.mark.parametrize("fault", [kill, hang])
async def test_watchers_outlive_the_logs_server_and_lose_nothing(
    start_gateway: Start, tmp_path: Path, fault: Fault
) -> None:
    """Three types of event, so that several reads are under way when it dies."""
    valkey = Valkey(tmp_path / "valkey")
    await asyncio.to_thread(valkey.start)
    recording = Recording(evenly(2500, 2), evenly(500, 10), evenly(50, 100))
    tenant = str(uuid4())
    sections = play_settings(watch_endpoint={"replay_batch_size": 20})
    try:
        async with (
            start_gateway(tenant=tenant, url=valkey.url, **sections) as first,
            start_gateway(tenant=tenant, url=valkey.url, **sections) as second,
        ):
            stage = Stage(first, second, tenant)
            await stage.begin(recording, end_ms=6000)
            viewers = [await stage.watch(each) for each in (first, second) * 3]
            await stage.start(2)
            for _ in range(2):
                await viewers[0].plays(300)
                await asyncio.to_thread(fault, valkey)
                await viewers[1].plays(300)
            for viewer in viewers:
                await viewer.rests_at(at(6000))
                assert viewer.events == recording.events
                assert viewer.connections == 1, "the stream stayed open"
                assert viewer.errors == []
            # Verbs work again, and what they do is heard.
            await stage.seek(5000)
            await stage.play_to_end()
            for viewer in viewers:
                assert viewer.runs()[2] == recording.between(5000, 6000)
            await stage.close()
    finally:
        valkey.stop()


async def test_a_watcher_whose_server_is_away_when_it_comes_is_served_when_it_is_back(
    start_gateway: Start, tmp_path: Path
) -> None:
    """And the one that gave up meanwhile has left nothing behind."""
    valkey = Valkey(tmp_path / "valkey")
    await asyncio.to_thread(valkey.start)
    recording = Recording(evenly(100, 10))
    tenant = str(uuid4())
    try:
        async with start_gateway(tenant=tenant, url=valkey.url, **play_settings()) as gateway:
            stage = Stage(gateway, gateway, tenant)
            await stage.begin(recording)
            waiting = stage.enter()
            # Between the two the server may be gone, or not yet: both have to come out well.
            valkey.kill()
            impatient = [stage.enter(once=True) for _ in range(5)]
            await impatient[0].sees(lambda v: v.refusals or v.connections, "it has asked")
            for viewer in impatient:
                viewer.stop()
            await asyncio.to_thread(valkey.start)
            await waiting.opened()
            await stage.play_to_end()
            assert waiting.events == recording.events
            assert set(waiting.refusals) <= {503}
            waiting.stop()
            players = gateway.gateway.players._players
            await waiting.sees(lambda _: not players, "no player is left")
            await stage.close()
    finally:
        valkey.stop()
