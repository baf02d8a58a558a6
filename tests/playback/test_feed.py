"""What is kept of a tenant's session and its changes, and for how long."""

import msgspec
import pytest

from store.connection import Connection, log_key, meta_key
from store.session import feed
from tests.playback.controls import NOBODY, Controls, done, moment, refused
from tests.playback.stage import Recording, Stage, evenly

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_feed_is_short_and_goes_an_hour_after_the_session(
    stage: Stage, backend: Connection
) -> None:
    """Symptom: 660 kB stayed for ever of each tenant that had ever played anything."""
    keys = [log_key(feed(stage.tenant)), meta_key(feed(stage.tenant))]
    await stage.begin(Recording([]))
    for _ in range(100):
        await stage.start()
        await stage.stop()
    assert await backend.execute("XLEN", keys[0]) < 200
    await stage.end()
    for key in keys:
        assert 0 < await backend.execute("PTTL", key) <= 3_600_000
    stage.session = (await stage.controls.begin())["id"]
    for key in keys:
        assert await backend.execute("PTTL", key) == -1, "it is the next session's"


async def test_a_feed_that_is_gone_is_followed_again_when_it_begins_anew(
    stage: Stage, backend: Connection
) -> None:
    recording = Recording(evenly(100, 10))
    await stage.begin(recording)
    viewers = [await stage.watch(each) for each in (stage.first, stage.second)]
    await stage.start(1)
    await stage.stop_and_rest()
    await backend.execute("DEL", log_key(feed(stage.tenant)), meta_key(feed(stage.tenant)))
    await stage.seek(500)
    await stage.play_to_end()
    for viewer in viewers:
        runs = viewer.runs()
        assert runs[max(runs)] == recording.between(500, 1e9)
        assert viewer.connections == 1


async def test_a_session_that_ends_by_itself_ends_where_it_stands(
    controls: Controls, backend: Connection
) -> None:
    """Symptom: its watchers were told the playhead of its last start."""
    session = await controls.begin()
    done(await controls.start(session["id"], 4))
    record = f"ph:{{{controls.tenant}}}:session"
    wall = int(await backend.execute("HGET", record, "wall")) - 60_000
    await backend.execute("HSET", record, "wall", wall, "touched", 0)
    assert await controls.current() is None
    assert controls.tenant is not None
    [[_, [_, text]]] = await backend.execute(
        "XREVRANGE", log_key(feed(controls.tenant)), "+", "-", "COUNT", 1
    )
    told = msgspec.json.decode(text)["session"]
    assert told["status"] == "DB_END_OK"
    assert told["replay_last_timestamp"] >= moment(240)


async def test_a_stream_that_is_refused_is_no_interest_in_the_session(
    controls: Controls, backend: Connection
) -> None:
    """Symptom: a client that asked for a session long gone kept the tenant's present one alive."""
    await controls.begin()
    record = f"ph:{{{controls.tenant}}}:session"
    touched = await backend.execute("HGET", record, "touched")
    for _ in range(5):
        refused(await controls.send("GET", f"/v1/replay/{NOBODY}/stream"), 404, "SESSION_NOT_FOUND")
    assert await backend.execute("HGET", record, "touched") == touched
