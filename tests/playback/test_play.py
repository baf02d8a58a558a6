"""What a session's watchers are sent, and when: paced, paused, sought, at other speeds, to the end."""

import pytest

from gateway.playback import player
from gateway.playback.clock import playhead_ms
from store.connection import Connection
from store.session import Clock, Sessions
from tests.playback.stage import EARLY_MS, PAST_MS, Recording, Stage, at, evenly, ms_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

# As it is before tests make it shorter.
TICK_SEC = player.TICK_SEC


async def read_clock(backend: Connection, tenant: str) -> Clock:
    """The anchor that everybody plays by."""
    session = await Sessions(backend, idle_ms=60_000, lease_ms=1000).get(tenant)
    assert session is not None
    return session.clock


# -- paced


async def test_events_of_all_types_leave_in_order_when_they_are_due(
    stage: Stage, backend: Connection
) -> None:
    """None early. How late they are is for the bench; ten hours that are not sped up never end."""
    hour = 3_600_000
    recording = Recording(evenly(100, hour // 10), evenly(80, hour // 8), evenly(40, hour // 4, 7))
    session = await stage.begin(recording, end_ms=11 * hour)
    assert session["event_types"] == recording.kinds
    one, other = await stage.watch(), await stage.watch(stage.second)
    await stage.start(36_000)
    clock = await read_clock(backend, stage.tenant)
    for viewer in (one, other):
        await viewer.sees(lambda v: len(v.events) == 220, "all events")
        assert viewer.events == recording.events
        for seen in viewer.seen:
            if seen.event is not None:
                due = clock.wall_ms + (PAST_MS + seen.event.ms - clock.event_ms) / clock.speed
                assert seen.wall_ms > due - EARLY_MS


async def test_only_the_types_asked_for_are_played(stage: Stage) -> None:
    recording = Recording(evenly(10, 10), evenly(10, 10), evenly(10, 10))
    await recording.publish(stage.controls)
    session = await stage.controls.begin(at(0), at(1000), event_types=["sea", "air"])
    stage.session = session["id"]
    viewer = await stage.watch()
    await stage.play_to_end()
    # Kinds are counted in the session's own list, which is sorted.
    assert [event.kind for event in viewer.events] == [0, 1] * 10
    names = [seen.data["id"].partition("@")[0] for seen in viewer.seen if seen.event]
    assert names == ["air", "sea"] * 10
    stage.recording = Recording(evenly(10, 10), evenly(10, 10))


async def test_the_time_of_the_session_is_told_each_second(
    stage: Stage, backend: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player, "TICK_SEC", TICK_SEC)
    await stage.begin(Recording([]))
    await stage.start(4)
    clock = await read_clock(backend, stage.tenant)
    server_time = stage.first.gateway.server_time
    slack = clock.speed * EARLY_MS
    entered_ms = server_time.now_ms()
    viewer = await stage.watch()
    for number in range(2):
        await viewer.ticked()
        tick = viewer.ticks[number].data
        told = PAST_MS + ms_of(tick["timestamp"])
        # Each is told that long after the first at the earliest, and told the time of that moment.
        assert told > playhead_ms(clock, entered_ms + number * 1000) - slack
        assert told < playhead_ms(clock, server_time.now_ms()) + slack
        assert tick == {"timestamp": at(told - PAST_MS), "speed": 4}


async def test_the_time_is_told_on_when_the_servers_clock_goes_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptom: nothing was told until the clock had come up again to where it had been."""
    monkeypatch.setattr(player, "TICK_SEC", 0.02)
    await stage.begin(Recording([]))
    viewer = await stage.watch()
    await viewer.ticked(3)
    server_time = stage.first.gateway.server_time
    now_ms = server_time.now_ms
    with monkeypatch.context() as back:
        back.setattr(server_time, "now_ms", lambda: now_ms() - 3_600_000)
        await viewer.ticked(3)


async def test_events_of_one_time_are_never_parted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the clock, not by a change of the session, not by who joins: they may be one transaction."""
    monkeypatch.setattr(player, "TICK_SEC", 0.001)
    large = [1000] * 150
    recording = Recording([500, *large, 1500], [*large, 1001], large)
    await stage.begin(recording, end_ms=2000)
    viewers = [await stage.watch(), await stage.watch(stage.second)]
    await viewers[0].ticked(5)
    for speed in (200, 300, 400, 500):
        await stage.start(speed)
        viewers.append(stage.enter(stage.first, stage.second))
        await stage.stop()
    await stage.play_to_end(1000)
    # `check` fails for a time that was parted.
    for viewer in viewers[:2]:
        assert viewer.events == recording.events


# -- paused


async def test_a_pause_holds_the_playhead_to_the_millisecond(stage: Stage) -> None:
    recording = Recording(evenly(3000, 10), evenly(300, 100))
    await stage.begin(recording)
    viewers = [await stage.watch(), await stage.watch(stage.second)]
    for _ in range(4):
        await stage.start()
        await viewers[0].plays(15)
        held = await stage.stop_and_rest()
        for viewer in viewers:
            await viewer.ticked(3)
            assert {ms_of(tick.data["timestamp"]) for tick in viewer.ticks[-2:]} == {held}
            # What was played is what lies up to the playhead, and the little that left before the
            # gateway had heard of the stop; after it has told the stop, nothing.
            due = recording.between(0, held)
            assert viewer.events[: len(due)] == due
            assert viewer.since_last_session == []
        current = await stage.controls.current()
        assert ms_of(current["replay_last_timestamp"]) == held
    await stage.play_to_end()
    for viewer in viewers:
        assert viewer.events == recording.events


async def test_the_stop_is_told_after_what_was_played_before_it(stage: Stage) -> None:
    recording = Recording(evenly(400, 10))
    await stage.begin(recording, end_ms=4000)
    viewer = await stage.watch()
    await stage.start(1000)
    await viewer.has("MSG_STOP_OK")
    names = [seen.frame.name for seen in viewer.seen if seen.frame.name != "system-time"]
    assert names[-4:] == ["replay", "session", "session", "session"]
    assert viewer.events == recording.events


async def test_who_comes_while_it_is_paused_gets_what_comes_after_the_playhead(
    stage: Stage,
) -> None:
    recording = Recording(evenly(300, 10))
    await stage.begin(recording)
    first = await stage.watch()
    await stage.start()
    await first.plays(20)
    held = await stage.stop_and_rest()
    late = [await stage.watch(), await stage.watch(stage.second)]
    for viewer in late:
        assert ms_of(viewer.sessions[0]["replay_last_timestamp"]) == held
    await stage.play_to_end()
    for viewer in late:
        assert viewer.events == recording.between(held + 1, 1e9)
    assert first.events == recording.events


async def test_who_comes_while_it_plays_begins_at_the_playhead(stage: Stage) -> None:
    recording = Recording(evenly(4000, 100))
    await stage.begin(recording, end_ms=400_000)
    first = await stage.watch()
    await stage.start(10)
    await first.plays(30)
    late = [await stage.watch(), await stage.watch(stage.second)]
    for viewer in late:
        told = ms_of(viewer.sessions[0]["replay_last_timestamp"])
        assert told >= first.events[29].ms, "the playhead of now, not of the last change"
    await stage.play_to_end()
    for viewer in late:
        begins = viewer.events[0].ms
        assert begins > first.events[29].ms
        assert viewer.events == recording.between(begins, 1e9)


# -- sought


@pytest.mark.parametrize("target_ms", [0, 500, 505, 990, 1990])
async def test_seek_plays_exactly_what_is_due_after_the_new_playhead(
    stage: Stage, target_ms: int
) -> None:
    """The events of that very time among them, forward and back."""
    recording = Recording(evenly(200, 10), evenly(20, 100), [500, 500, 500])
    await stage.begin(recording)
    viewer = await stage.watch()
    await stage.start(100)
    await viewer.sees(lambda v: len(v.events) >= 100, "some events")
    await stage.stop_and_rest()
    session = await stage.seek(target_ms)
    assert ms_of(session["replay_last_timestamp"]) == target_ms
    await viewer.sees(
        lambda v: v.sessions[-1]["replay_last_timestamp"] == at(target_ms), "it is told"
    )
    joined = await stage.watch(stage.second)
    await stage.play_to_end()
    run = max(viewer.runs())
    assert viewer.runs()[run] == recording.between(target_ms, 1e9)
    assert joined.events == recording.between(target_ms, 1e9)


async def test_seek_while_playing_goes_on_playing_there(stage: Stage) -> None:
    recording = Recording(evenly(1000, 10), evenly(100, 100))
    await stage.begin(recording)
    viewers = [await stage.watch(), await stage.watch(stage.second)]
    await stage.start(20)
    for run, target in enumerate((5000, 100, 9000, 2000), 2):
        session = await stage.seek(target)
        assert session["status"] == "MSG_START_OK"
        for viewer in viewers:
            await viewer.plays_run(run)
    await stage.play_to_end()
    for viewer in viewers:
        runs = viewer.runs()
        assert sorted(runs) == [1, 2, 3, 4, 5]
        for run, target in ((2, 5000), (3, 100), (4, 9000)):
            assert runs[run] == recording.between(target, 1e9)[: len(runs[run])]
        assert runs[5] == recording.between(2000, 1e9)


async def test_a_session_initialised_anew_is_another_run(stage: Stage) -> None:
    recording = Recording(evenly(100, 10), evenly(100, 10))
    await stage.begin(recording, end_ms=500)
    viewer = await stage.watch()
    await stage.play_to_end()
    again = await stage.controls.init(
        at(200), at(700), session_id=stage.session, event_types=["rain"]
    )
    assert again.status_code == 201, again.text
    await viewer.has("MSG_INIT_OK")
    await stage.play_to_end()
    runs = viewer.runs()
    assert runs[1] == recording.between(0, 500)
    # Of another list of types: the kind is its place in that.
    assert [event.ms for event in runs[2]] == evenly(51, 10, 200)
    assert {event.kind for event in runs[2]} == {0}
    viewer.seen = [seen for seen in viewer.seen if not seen.frame.id or seen.run == 1]


# -- at other speeds


async def test_a_new_speed_in_mid_play_neither_repeats_nor_skips(stage: Stage) -> None:
    recording = Recording(evenly(1500, 10), evenly(150, 100))
    await stage.begin(recording)
    viewers = [await stage.watch(), await stage.watch(stage.second)]
    for speed in (1, 50, 0.5, 20, 100, 2, 400):
        session = await stage.start(speed)
        assert session["replay_speed"] == speed
        await viewers[0].plays(1, of=recording)
    await stage.play_to_end()
    for viewer in viewers:
        assert viewer.events == recording.events
        assert set(viewer.runs()) == {1}


async def test_as_fast_as_possible_sends_all_and_then_stops(stage: Stage) -> None:
    recording = Recording(evenly(2000, 100), evenly(200, 1000))
    await stage.begin(recording)
    viewer = await stage.watch()
    await stage.play_to_end(0)
    assert viewer.events == recording.events
    assert ms_of(viewer.sessions[-1]["replay_last_timestamp"]) == 3_600_000
