"""Under a session that plays: a watcher that stops reading, a log's server that dies and comes back."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from store.connection import Connection, log_key, meta_key
from store.session import feed
from tests.conftest import Start
from tests.playback.stage import (
    EARLY_MS,
    PAST_MS,
    Recording,
    Stage,
    Viewer,
    at,
    evenly,
    play_settings,
)
from tests.servers import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Makes the stored JSON of an event about 400 bytes long.
TEXT = "x" * 150


async def delays_of(stage: Stage, viewer: Viewer) -> list[float]:
    """How long after it was due each event came, in ms and sorted; it plays since its only start."""
    session = await stage.first.gateway.sessions.get(stage.tenant)
    assert session is not None
    clock = session.clock
    assert clock.playing
    return sorted(
        seen.wall_ms - clock.wall_ms - (PAST_MS + seen.event.ms - clock.event_ms) / clock.speed
        for seen in viewer.seen
        if seen.event is not None
    )


@dataclass(frozen=True)
class Delay:
    """What came of a watcher that stopped reading: how late the others' events were."""

    events_behind: int
    caught_up_ms: float
    others_median_ms: float
    others_99_percent_ms: float
    others_last_ms: float


async def stop_a_watcher(
    start_gateway: Start, *, seconds: float, watchers: int, every_ms: int
) -> Delay:
    """It reads nothing while so much is played, and is then caught up."""
    count = round((seconds + 4) * 1000 / every_ms)
    recording = Recording(evenly(count, every_ms), evenly(count, every_ms))
    paused_for = round(seconds * 1000 / every_ms) * 2
    tenant = str(uuid4())
    async with start_gateway(tenant=tenant, send_buffer=16 << 10, **play_settings()) as gateway:
        stage = Stage(gateway, gateway, tenant)
        try:
            await stage.begin(recording, text=TEXT)
            others = [await stage.watch() for _ in range(watchers)]
            stopped = await stage.watch(receive_buffer=4096)
            await stage.start()
            await stopped.plays(100)
            stopped.pause()
            began = len(others[0].events)
            for part in range(1, 11):
                for viewer in others:
                    # They are sent on: it delays nobody.
                    await viewer.has_played(began + paused_for * part // 10)
            behind = len(others[0].events) - len(stopped.events)
            assert behind > paused_for / 2, "it was still reading: nothing was proved"
            stopped.resume()
            resumed = time.monotonic()
            await stopped.sees(lambda v: len(v.events) >= len(others[0].events) - 50, "caught up")
            caught_up_ms = (time.monotonic() - resumed) * 1000
            late = await delays_of(stage, others[0])
            assert late[0] > -EARLY_MS, "none comes early"
            await stage.play_to_end()
            for viewer in (*others, stopped):
                assert viewer.events == recording.events
                assert viewer.connections == 1
                assert viewer.errors == []
            median, most = late[len(late) // 2], late[int(len(late) * 0.99)]
            return Delay(behind, caught_up_ms, median, most, late[-1])
        finally:
            await stage.close()


async def test_a_watcher_that_stops_reading_delays_nobody_and_catches_up(
    start_gateway: Start,
) -> None:
    await stop_a_watcher(start_gateway, seconds=1, watchers=3, every_ms=2)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_watcher_that_reads_nothing_for_30_seconds(start_gateway: Start) -> None:
    delay = await stop_a_watcher(start_gateway, seconds=30, watchers=5, every_ms=2)
    print(f"\n{delay}")
    assert delay.others_99_percent_ms < 500, "the others waited for it"


async def test_a_watcher_that_catches_up_when_the_session_ends_is_told_of_the_end(
    start_gateway: Start,
) -> None:
    tenant = str(uuid4())
    async with start_gateway(tenant=tenant, send_buffer=16 << 10, **play_settings()) as gateway:
        stage = Stage(gateway, gateway, tenant)
        try:
            await stage.begin(Recording(evenly(2000, 1)), text=TEXT)
            reading = await stage.watch(once=True)
            stopped = await stage.watch(receive_buffer=4096, once=True)
            stopped.pause()
            await stage.start(20)
            await reading.plays(1000)
            await stage.seek(0)
            await reading.plays_run(2)
            await stage.end()
            await reading.sees(lambda v: v.closings, "it was closed")
            assert stopped.closings == []
            stopped.resume()
            await stopped.sees(lambda v: v.closings, "it was closed")
            for viewer in (reading, stopped):
                assert viewer.closings == ["end_of_stream"]
                assert viewer.sessions[-1]["status"] == "DB_END_OK"
            assert stopped.runs()[2] == [], "what is left is not sent"
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
    time.sleep(0.5)
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
            await stage.start(4)
            for _ in range(2):
                await viewers[0].plays(200, of=recording)
                await asyncio.to_thread(fault, valkey)
                await viewers[1].plays(200, of=recording)
            for viewer in viewers:
                # What cannot be read when the end is reached comes after that was told.
                await viewer.plays(len(recording.events), of=recording)
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


async def test_a_session_that_a_failover_set_back_is_played_as_it_is_then(
    start_gateway: Start, tmp_path: Path
) -> None:
    """Symptom: what was told after it had a lower revision, and the stale session played for ever."""
    valkey = Valkey(tmp_path / "valkey")
    await asyncio.to_thread(valkey.start)
    recording = Recording(evenly(200, 10))
    tenant = str(uuid4())
    connection = Connection(valkey.url)
    keys = [f"ph:{{{tenant}}}:session", log_key(feed(tenant)), meta_key(feed(tenant))]
    try:
        async with (
            start_gateway(tenant=tenant, url=valkey.url, **play_settings()) as first,
            start_gateway(tenant=tenant, url=valkey.url, **play_settings()) as second,
        ):
            stage = Stage(first, second, tenant)
            await stage.begin(recording)
            copies = [await connection.execute("DUMP", key) for key in keys]
            viewers = [await stage.watch(each) for each in (first, second)]
            await stage.seek(500)
            await stage.play_to_end()
            for key, copy in zip(keys, copies, strict=True):
                await connection.execute("RESTORE", key, 0, copy, "REPLACE")
            await asyncio.to_thread(kill, valkey)
            for viewer in viewers:
                await viewer.has("MSG_INIT_OK")
                assert viewer.sessions[-1]["replay_last_timestamp"] == at(0)
            await stage.seek(700)
            await stage.play_to_end()
            for viewer in viewers:
                runs = viewer.runs()
                assert runs.pop(2) == recording.between(500, 1e9), "lost, but played"
                assert runs[max(runs)] == recording.between(700, 1e9)
                assert viewer.connections == 1
            await stage.close()
    finally:
        await connection.close()
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
            for viewer in impatient:
                await viewer.sees(lambda v: v.connections, "it has asked")
            for viewer in impatient:
                viewer.stop()
            await asyncio.to_thread(valkey.start)
            await waiting.opened()
            await stage.play_to_end()
            assert waiting.events == recording.events
            assert set(waiting.refusals) <= {503}
            waiting.stop()
            await until_nothing_follows(valkey)
            await stage.close()
    finally:
        valkey.stop()


async def until_nothing_follows(valkey: Valkey) -> None:
    """No gateway waits for what the feed of a session tells next."""
    connection = Connection(valkey.url)
    async with asyncio.timeout(60):
        while b"blocked_clients:0" not in await connection.execute("INFO", "clients"):
            await asyncio.sleep(0)
    await connection.close()
