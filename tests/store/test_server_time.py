"""The time of the log's server: how well it is known, and what happens when it cannot be asked."""

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import server_time
from store.connection import Connection
from store.errors import StoreUnavailable
from store.server_time import Offset, ServerTime
from tests.servers import Valkey

delays_ms = st.floats(0, 5000)
# One look at the other clock: how long until it was read, and until that was known here.
looks = st.tuples(delays_ms, delays_ms)


@given(st.floats(-1e9, 1e9), st.lists(looks, min_size=1, max_size=20))
def test_the_offset_is_never_further_off_than_it_says(
    truth_ms: float, rounds: list[tuple[float, float]]
) -> None:
    offset, now = Offset(0), 1e6
    for there, back in rounds:
        offset.add(now, now + there + truth_ms, now + there + back)
        now += there + back
        assert abs(offset.ms - truth_ms) <= offset.error_ms + 0.001


@given(st.floats(-1e9, 1e9), looks, st.lists(looks, max_size=20))
def test_a_slow_answer_does_not_spoil_what_a_quick_one_said(
    truth_ms: float, first: tuple[float, float], rounds: list[tuple[float, float]]
) -> None:
    offset, now = Offset(0), 1e6
    best = sum(first) / 2
    for there, back in (first, *rounds):
        offset.add(now, now + there + truth_ms, now + there + back)
        now += there + back
        best = min(best, (there + back) / 2)
        # It ages a little: 100 ppm of what passes.
        assert offset.error_ms <= best + (now - 1e6) * 100e-6 + 0.001


@given(looks, st.floats(20_000, 1e9), st.sampled_from([-1, 1]))
def test_a_clock_that_was_set_is_followed_at_once(
    look: tuple[float, float], jump_ms: float, direction: int
) -> None:
    """A failover shows another clock: nobody may go by the old one for long."""
    offset = Offset(0)
    offset.add(1000, 1000.1, 1000.2)
    there, back = look
    offset.add(2000, 2000 + there + direction * jump_ms, 2000 + there + back)
    assert abs(offset.ms - direction * jump_ms) <= (there + back) / 2 + 0.001


def test_drift_is_followed() -> None:
    """20 ppm for a day are nearly two seconds."""
    offset, drift = Offset(0), 20e-6
    for second in range(0, 86_400, 5):
        now = second * 1000.0
        # Every hundredth answer is quick, the others are not.
        back = 0.2 if second % 500 == 0 else 30.0
        offset.add(now, now * (1 + drift) + 0.1, now + back)
        assert abs(offset.ms - now * drift) < 16


async def test_it_is_the_servers_time(connection: Connection) -> None:
    measured = ServerTime(connection)
    await measured.measure()
    # The server is on this machine: one clock.
    assert abs(measured.now_ms() - time.time() * 1000) <= measured.error_ms + 1
    assert measured.error_ms < 1000


async def test_a_local_clock_that_is_set_changes_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = ServerTime(connection)
    await measured.measure()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert abs(measured.now_ms() - real() * 1000) <= measured.error_ms + 1


async def test_it_is_measured_again_after_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_time, "_INTERVAL_SEC", 0.01)
    server = Valkey(tmp_path / "valkey")
    await asyncio.to_thread(server.start)
    connection = Connection(server.url)
    measured = ServerTime(connection)
    running = asyncio.create_task(measured.run())
    try:
        await known(measured)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await measured.measure()
        await asyncio.to_thread(server.start)
        measured._offset = Offset(0)
        await known(measured)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])
        await connection.close()
        server.stop()


async def known(measured: ServerTime) -> None:
    async with asyncio.timeout(60):
        while not abs(measured.now_ms() - time.time() * 1000) < measured.error_ms + 1 < 1000:
            await asyncio.sleep(0.01)
