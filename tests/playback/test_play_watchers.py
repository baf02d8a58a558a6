"""Who watches a session: told of its end, back with a cursor, many at a time, and never left hanging."""

import pytest

from tests.conftest import RunningGateway, Start
from tests.playback.controls import refused
from tests.playback.stage import (
    PAGE,
    PAST_MS,
    RING,
    Recording,
    Stage,
    at,
    evenly,
    ms_of,
    play_settings,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


# -- the end


async def test_the_end_of_the_range_stops_and_does_not_end(stage: Stage) -> None:
    recording = Recording(evenly(100, 10))
    await stage.begin(recording, end_ms=500)
    viewers = [await stage.watch(), await stage.watch(stage.second)]
    await stage.start(10)
    for viewer in viewers:
        await viewer.has("MSG_STOP_OK")
        assert viewer.events == recording.between(0, 500), "both ends belong to the range"
        await viewer.ticked(2)
        assert viewer.ticks[-1].data["timestamp"] == at(500)
    session = await stage.controls.current()
    assert session["display_status"] == "REPLAY_STOP_OK"
    assert session["replay_last_timestamp"] == at(500)
    await stage.seek(450)
    await stage.play_to_end(10)
    for viewer in viewers:
        assert viewer.runs()[2] == recording.between(450, 500)
        assert viewer.connections == 1
        assert viewer.closings == []


STEPS = {
    "start": ["MSG_START_REQUESTED", "MSG_START_IN_PROGRESS", "MSG_START_OK"],
    "stop": ["MSG_STOP_REQUESTED", "MSG_STOP_IN_PROGRESS", "MSG_STOP_OK"],
    "end": [
        *("MSG_END_REQUESTED", "MSG_END_IN_PROGRESS", "MSG_END_OK"),
        *("DB_END_REQUESTED", "DB_END_IN_PROGRESS", "DB_END_OK"),
    ],
}


async def test_every_step_of_every_verb_is_told_to_every_watcher(stage: Stage) -> None:
    """Symptom: what the record said was told before the feed had told how it came to that."""
    await stage.begin(Recording(evenly(50, 10)))
    viewers = [await stage.watch(gateway) for gateway in (stage.first, stage.second) * 3]
    for _ in range(10):
        await stage.start()
        await stage.stop()
        await stage.play_to_end()
        await stage.seek(0)
    await stage.end()
    for viewer in viewers:
        await viewer.sees(lambda v: v.closings, "it was closed")
        statuses = [each["status"] for each in viewer.sessions]
        rounds = [*(STEPS["start"] + STEPS["stop"]) * 2, "MSG_STOP_OK"]
        assert statuses == ["MSG_INIT_OK", *rounds * 10, *STEPS["end"]]


@pytest.mark.parametrize("verb", ["end", "reset"])
async def test_the_end_of_the_session_closes_its_streams(stage: Stage, verb: str) -> None:
    await stage.begin(Recording(evenly(5000, 10)))
    viewers = [await stage.watch(once=True), await stage.watch(stage.second, once=True)]
    await stage.start(4)
    answer = await (stage.controls.reset() if verb == "reset" else stage.others.end(stage.session))
    assert answer.status_code == 200
    for viewer in viewers:
        await viewer.sees(lambda v: v.closings, "it was closed")
        assert viewer.closings == ["end_of_stream"]
        assert viewer.seen[-1].frame.name == "connection-closing"
        assert viewer.seen[-2].data["status"] == "DB_END_OK"
        assert viewer.seen[-1].data["topic"] == f"session.{stage.session}"
    refused(
        await stage.controls.send("GET", f"/v1/replay/{stage.session}/stream"),
        404,
        "SESSION_NOT_FOUND",
    )
    stage.session = ""


async def test_the_drain_closes_the_streams_and_asks_new_ones_to_come_back(
    start_gateway: Start, tenant: str
) -> None:
    async with start_gateway(tenant=tenant, **play_settings()) as gateway:
        stage = Stage(gateway, gateway, tenant)
        await stage.begin(Recording(evenly(5000, 10)))
        viewer = await stage.watch(once=True)
        await stage.start()
        await gateway.gateway.drain()
        await viewer.sees(lambda v: v.closings, "it was closed")
        assert viewer.closings == ["server_shutdown"]
        answer = await stage.controls.send("GET", f"/v1/replay/{stage.session}/stream")
        refused(answer, 503, "SHUTTING_DOWN")
        assert int(answer.headers["retry-after"]) >= 1
        await stage.close()


async def test_a_session_that_begins_at_once_after_another_leaves_nobody_behind(
    stage: Stage,
) -> None:
    """Symptom: its watchers were never told of the end, and their streams hung open."""
    recording = Recording(evenly(100, 10))
    await stage.begin(recording)
    for _ in range(20):
        viewers = [await stage.watch(once=True) for _ in range(5)]
        await stage.end()
        session = await stage.controls.begin(at(0), at(1000))
        stage.session = session["id"]
        newcomer = await stage.watch()
        for viewer in viewers:
            await viewer.sees(lambda v: v.closings, "it was closed")
            assert viewer.sessions[-1]["status"] == "DB_END_OK"
        assert newcomer.sessions[0]["id"] == stage.session
        newcomer.stop()


# -- cursors


async def test_a_cursor_of_an_older_run_is_owed_all_of_the_present_one(stage: Stage) -> None:
    recording = Recording(evenly(200, 10))
    await stage.begin(recording)
    viewer = await stage.watch(once=True)
    await stage.start(1000)
    await viewer.sees(lambda v: len(v.events) > 20, "some events")
    viewer.stop()
    await stage.stop()
    await stage.seek(700)
    back = await stage.watch(stage.second, last_id=viewer.last_id)
    await stage.play_to_end()
    assert back.runs() == {2: recording.between(700, 1e9)}


async def test_a_cursor_from_before_the_run_gets_nothing_from_before_it(stage: Stage) -> None:
    recording = Recording(evenly(100, 10))
    await stage.begin(recording, start_ms=500)
    viewer = await stage.watch(last_id="1-5-0-1")
    await stage.play_to_end()
    assert viewer.events == recording.between(500, 1e9)


async def test_who_was_sent_more_by_another_gateway_gets_nothing_twice(stage: Stage) -> None:
    """Gateways agree on the time to a millisecond, and on a stop only when they have heard of it.

    Symptom: a cursor beyond the playhead stopped the whole gateway, which span without end.
    """
    recording = Recording(evenly(300, 10), [2000, 2000])
    await stage.begin(recording, end_ms=4000)
    await stage.start(0.01)
    held = ms_of((await stage.stop())["replay_last_timestamp"])
    beyond = recording.between(0, 2000)[-2]
    last_id = f"1-{PAST_MS + beyond.ms}-{beyond.kind}-{beyond.sequence}"
    assert held < beyond.ms
    ahead = await stage.watch(last_id=last_id)
    beside = await stage.watch()
    await ahead.ticked(3)
    assert {tick.frame.id for tick in ahead.ticks} == {last_id}, "its own place, not the player's"
    await stage.start(100)
    await stage.stop_and_rest()
    await stage.play_to_end(2000)
    assert ahead.events == [event for event in recording.events if event > beyond]
    assert beside.events == recording.between(held + 1, 1e9)


async def test_a_cursor_beyond_everything_waits_and_harms_nobody(stage: Stage) -> None:
    recording = Recording(evenly(100, 10))
    await stage.begin(recording)
    lost = await stage.watch(last_id="1-999999999999999-0-1")
    viewer = await stage.watch()
    await stage.play_to_end()
    assert viewer.events == recording.events
    assert lost.events == []
    assert lost.status == "MSG_STOP_OK", "it is told of the session like everyone"


async def test_a_cursor_of_a_run_that_never_was_is_an_older_one(stage: Stage) -> None:
    recording = Recording(evenly(100, 10))
    await stage.begin(recording)
    viewer = await stage.watch(last_id=f"77-{PAST_MS + 500}-0-1")
    await stage.play_to_end()
    assert viewer.runs() == {1: recording.events}
    viewer.seen = viewer.seen[-1:]


# -- one reading for all


async def pages_read(gateway: RunningGateway) -> float:
    """How often this gateway has read a page of a log."""
    text = (await gateway.client.get("/metrics")).text
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("playhead_backend_operations_total{")
        and 'operation="get_batch"' in line
        and 'outcome="ok"' in line
    ]
    return float(line.rpartition(" ")[2])


async def test_many_watchers_of_a_session_cost_one_reading(stage: Stage) -> None:
    recording = Recording(evenly(500, 10))
    await stage.begin(recording, end_ms=5000)
    gateways = (stage.first, stage.second)
    viewers = [await stage.watch(gateway) for gateway in gateways * 25]
    before = [await pages_read(gateway) for gateway in gateways]
    await stage.play_to_end(10)
    for viewer in viewers:
        assert viewer.events == recording.events
    for gateway, pages in zip(gateways, before, strict=True):
        # One reading is a hundred pages of five events; the first may have been read before.
        assert 500 / PAGE - 5 <= await pages_read(gateway) - pages <= 500 / PAGE + 5


async def test_who_is_only_a_little_behind_costs_no_reading(stage: Stage) -> None:
    recording = Recording(evenly(RING, 10))
    await stage.begin(recording)
    first = await stage.watch()
    await stage.play_to_end()
    before = await pages_read(stage.first)
    for _ in range(10):
        viewer = await stage.watch(last_id=first.seen[0].frame.id)
        await viewer.sees(lambda v: len(v.events) == RING, "it has come up")
    assert await pages_read(stage.first) == before
