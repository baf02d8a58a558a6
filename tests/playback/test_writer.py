"""A session that is played into a database: what its watchers are told, and what the tables hold."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from store.connection import Connection, meta_key
from store.event import Position, Retention, StreamKey
from store.log import EventLog
from store.objects import Objects
from store.snapshot_index import SnapshotIndex
from tests.conftest import RunningGateway, Start
from tests.event_stream import OpenStream, get, open_stream
from tests.playback.controls import Controls, done, refused
from tests.playback.recording import (
    PORT,
    VISIT,
    Recording,
    Rows,
    connect,
    create_tables,
    key_of,
    read_rows,
)
from tests.playback.recording import text_of as text_of_json
from tests.playback.session_model import ms_of, text_of
from tests.playback.test_states import END_WALK, INIT_WALK, START_WALK, STOP_WALK
from tests.store.shelf import keep

SEED = 7
PAST_MS = 3_600_000
TRANSACTIONS = 1200
PAUSE_MS = 20


@dataclass
class Scene:
    """A gateway with a playback database, a recording of the past hour, and the database itself."""

    gateway: RunningGateway
    controls: Controls
    recording: Recording
    target: Any

    async def begin(self, **more: Any) -> Any:
        recording = self.recording
        start = text_of(recording.begin_ms)
        return await self.controls.begin(start, text_of(recording.now_ms + 1000), **more)

    async def rows(self) -> Rows:
        return await read_rows(self.target)

    @property
    def begin_ms(self) -> int:
        return self.recording.begin_ms

    def expected(self, session: Any, *, played: bool = True) -> Rows:
        """What the tables must hold where the session stands."""
        at = ms_of(session["replay_last_timestamp"])
        return self.recording.at(at if played else at - 1)


# Whether somebody waits for a lock in this database.
WAITING = """
SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                WHERE NOT granted AND datname = current_database())
"""


@cache
def past_recording(seed: int, transactions: int) -> Recording:
    begin = int(time.time() * 1000) - PAST_MS
    recording = Recording(random.Random(seed), begin)
    recording.run(transactions, PAUSE_MS)
    return recording


@pytest.fixture
async def scene(
    start_gateway: Start, log: EventLog, tenant: str, database: str, tmp_path: Path
) -> AsyncIterator[Scene]:
    await create_tables(database)
    recording = past_recording(SEED, TRANSACTIONS)
    await recording.publish(log, tenant)
    target = await connect(database)
    try:
        async with start_gateway(
            tenant=tenant,
            playback={"database": database, "highest_speed": 100, "allow_fastest": True},
            metrics={"enabled": True},
            snapshots={"url": f"file://{tmp_path}/snapshots"},
            notification_schema_strict=False,
        ) as running:
            yield Scene(running, Controls(running.client, tenant), recording, target)
    finally:
        await target.close()


def watching(scene: Scene, session: Any) -> Any:
    request = get(f"/v1/replay/{session['id']}/stream", {}, session["tenant_id"])
    return open_stream(scene.gateway.port, request)


async def test_each_verb_walks_its_steps_in_the_order_of_the_contract(scene: Scene) -> None:
    controls = scene.controls
    session = await scene.begin()
    assert session["status"] == "MSG_INIT_OK"
    sid, middle = session["id"], text_of(scene.recording.begin_ms + 1000)
    back = text_of(scene.recording.begin_ms + 500)
    async with watching(scene, session) as stream:
        # Only then is it sent every step: who catches up is told of the last one.
        await stream.until("state-complete")
        for answer, walk in (
            (await controls.start(sid), START_WALK),
            (await controls.start(sid, 2), START_WALK),
            (await controls.stop(sid), STOP_WALK),
            (await controls.seek(sid, middle), INIT_WALK[3:] + STOP_WALK),
            (await controls.seek(sid, back), INIT_WALK + STOP_WALK),
            (await controls.start(sid), START_WALK),
            (await controls.seek(sid, back), INIT_WALK + START_WALK),
            (await controls.init(back, None, session_id=sid), INIT_WALK),
            (await controls.seek(sid, middle), INIT_WALK[3:]),
            (await controls.seek(sid, back), INIT_WALK),
            (await controls.end(sid), END_WALK),
        ):
            assert answer.status_code in {200, 201}, answer.text
            assert answer.json()["data"]["status"] == walk[-1]
            assert await walked(stream, len(walk)) == walk
    assert await controls.current() is None


async def walked(stream: OpenStream, count: int) -> list[str]:
    return [(await stream.until("session")).data["status"] for _ in range(count)]


async def test_the_tables_hold_the_state_of_every_pause(scene: Scene) -> None:
    controls = scene.controls
    session = await scene.begin()
    assert await scene.rows() == scene.expected(session, played=False)
    pick = random.Random(SEED)
    for _ in range(12):
        done(await controls.start(session["id"], pick.choice([0.5, 1, 4, 20])))
        await asyncio.sleep(pick.uniform(0, 0.15))
        stopped = done(await controls.stop(session["id"]))
        assert stopped["status"] == "MSG_STOP_OK"
        assert await scene.rows() == scene.expected(stopped)


async def test_what_the_tables_hold_the_watchers_were_sent_before_they_hear_of_the_stop(
    scene: Scene,
) -> None:
    """The database had come further than the playhead when the stop was asked for."""
    session = await scene.begin()
    sid = session["id"]
    async with watching(scene, session) as stream:
        await stream.until("state-complete")
        for _ in range(8):
            done(await scene.controls.start(sid, 4))
            await asyncio.sleep(0.05)
            stopped = done(await scene.controls.stop(sid))
            status = ""
            while status != "MSG_STOP_OK":
                status = (await stream.until("session")).data["status"]
            at = ms_of(stopped["replay_last_timestamp"])
            sent = [frame for frame in stream.frames if frame.event == "change"]
            told = next(n for n, f in enumerate(reversed(stream.frames)) if f.event == "session")
            before = stream.frames[: len(stream.frames) - told]
            assert sum(f.event == "change" for f in before) == len(sent)
            due = sum((draft.time_ms or 0) <= at for draft in scene.recording.drafts)
            # More where the database was behind the watchers; what it holds, they were sent.
            assert len(sent) >= due


async def test_a_forward_seek_while_it_plays_and_one_back_leave_the_state_of_the_time(
    scene: Scene,
) -> None:
    controls, recording = scene.controls, scene.recording
    session = await scene.begin()
    pick = random.Random(SEED)
    for number in range(8):
        done(await controls.start(session["id"], 4))
        target = text_of(pick.randint(recording.begin_ms, recording.now_ms - 2000))
        found = done(await controls.seek(session["id"], target))
        assert found["status"] == "MSG_START_OK"
        stopped = done(await controls.stop(session["id"]))
        assert await scene.rows() == scene.expected(stopped)
        if number % 2:
            sought = done(await controls.seek(session["id"], target))
            assert (sought["status"], sought["replay_last_timestamp"]) == ("MSG_STOP_OK", target)
            assert await scene.rows() == scene.expected(sought, played=False)


async def test_at_the_end_of_its_range_the_tables_hold_everything(scene: Scene) -> None:
    session = await scene.begin()
    async with watching(scene, session) as stream:
        await stream.until("state-complete")
        done(await scene.controls.start(session["id"], 0))
        assert await walked(stream, 6) == START_WALK + STOP_WALK
    current = await scene.controls.current()
    assert current["replay_last_timestamp"] == session["replay_end_timestamp"]
    assert await scene.rows() == scene.expected(current)
    metrics = (await scene.gateway.client.get("/metrics")).text
    assert f"playhead_playback_changes_applied_total {len(scene.recording.history)}.0" in metrics


async def test_a_session_does_not_stop_before_capture_has_come_to_where_it_stands(
    scene: Scene, connection: Connection, log: EventLog, tenant: str
) -> None:
    """It ended at a time that capture had yet to come to: the tables lacked the last changes."""
    session = await scene.begin()
    through = meta_key(StreamKey(tenant, "change")), f"through:{scene.recording.source}"
    await connection.execute("HSET", *through, scene.recording.now_ms)
    done(await scene.controls.start(session["id"], 100))
    async with asyncio.timeout(30):
        while (await scene.controls.current())["status"] != "MSG_STOP_IN_PROGRESS":
            await asyncio.sleep(0.01)
    late = Recording(random.Random(1), scene.recording.now_ms + 500)
    late.commit([late.insert(PORT, late.fresh(PORT))])
    await late.publish(log, tenant)
    await connection.execute("HSET", *through, scene.recording.now_ms + 1000)
    async with asyncio.timeout(30):
        while (session := await scene.controls.current())["status"] != "MSG_STOP_OK":
            assert session["error"] is None
            await asyncio.sleep(0.01)
    expected = scene.expected(session)
    expected[PORT] = sorted(expected[PORT] + late.at(late.now_ms)[PORT])
    assert await scene.rows() == expected


@pytest.mark.parametrize("verb", ["end", "reset"])
async def test_what_a_session_wrote_is_gone_when_it_is_over(scene: Scene, verb: str) -> None:
    session = await scene.begin()
    done(await scene.controls.seek(session["id"], text_of(scene.recording.now_ms - 1)))
    assert await scene.rows() != scene.recording.at(0)
    if verb == "end":
        ended = done(await scene.controls.end(session["id"]))
    else:
        ended = done(await scene.controls.reset())
    assert ended["status"] == "DB_END_OK"
    assert await scene.rows() == scene.recording.at(0)
    assert await scene.controls.current() is None
    assert (await scene.begin())["status"] == "MSG_INIT_OK"


async def test_a_missing_table_is_an_init_that_failed_and_names_it(scene: Scene) -> None:
    await scene.target.execute('ALTER TABLE "Port of Call" RENAME TO harbour')
    begin = text_of(scene.recording.now_ms - 1)
    session = await scene.controls.begin(begin, None)
    assert session["status"] == "DB_INIT_KO"
    assert 'has no table public."Port of Call"; create it there' in session["error"]
    refused(await scene.controls.start(session["id"]), 409, "REPLAY_WRONG_STATE")
    await scene.target.execute('ALTER TABLE harbour RENAME TO "Port of Call"')
    again = done(await scene.controls.init(begin, None, session_id=session["id"]), 201)
    assert (again["status"], again["error"]) == ("MSG_INIT_OK", None)
    assert await scene.rows() == scene.expected(again, played=False)


async def test_a_change_that_the_tables_cannot_take_ends_play_with_its_reason(scene: Scene) -> None:
    session = await scene.begin()
    await scene.target.execute("ALTER TABLE ship ADD CHECK (id < 0)")
    async with watching(scene, session) as stream:
        await stream.until("state-complete")
        done(await scene.controls.start(session["id"], 4))
        assert await walked(stream, 4) == [*START_WALK, "MSG_START_KO"]
    failed = await scene.controls.current()
    assert "violates check constraint" in failed["error"]
    assert done(await scene.controls.end(session["id"]))["status"] == "DB_END_OK"


async def test_rows_that_were_there_before_are_no_part_of_a_session(scene: Scene) -> None:
    await scene.target.execute("INSERT INTO visit VALUES (NULL, 'mine')")
    at = scene.recording.now_ms - 1
    session = await scene.controls.begin(text_of(at), None)
    assert await scene.rows() == scene.expected(session, played=False)
    done(await scene.controls.end(session["id"]))
    # Begun before the table was there, the session meets it in its first change.
    await scene.target.execute("INSERT INTO visit VALUES (NULL, 'mine')")
    session = await scene.begin()
    done(await scene.controls.seek(session["id"], text_of(at)))
    assert await scene.rows() == scene.recording.at(at - 1)


async def test_a_session_without_changes_leaves_the_tables_alone(scene: Scene) -> None:
    await scene.target.execute("INSERT INTO visit VALUES (NULL, 'mine')")
    await scene.controls.record([1], "reading")
    begin = text_of(scene.recording.begin_ms)
    session = await scene.controls.begin(begin, None, event_types=["reading"])
    assert done(await scene.controls.start(session["id"]))["status"] == "MSG_START_OK"
    assert done(await scene.controls.end(session["id"]))["status"] == "DB_END_OK"
    assert await scene.target.fetchval("SELECT note FROM visit") == "mine"


async def test_verbs_while_a_step_is_under_way_are_told_so_but_end_and_reset_come_through(
    scene: Scene,
) -> None:
    """The tables are locked by somebody else, so that the restore cannot go on."""
    locked = scene.target.transaction()
    await locked.start()
    await scene.target.execute("LOCK TABLE ship")
    some_rows = text_of(scene.recording.begin_ms + 3000)
    initialising = asyncio.create_task(scene.controls.begin(some_rows, None))
    async with asyncio.timeout(30):
        while (session := await scene.controls.current()) is None or not session["status"].endswith(
            "IN_PROGRESS"
        ):
            await asyncio.sleep(0.01)
        # Before it has come to the tables there would be nothing to remove again.
        while not await scene.target.fetchval(WAITING):
            await asyncio.sleep(0.01)
    sid = session["id"]
    refused(await scene.controls.start(sid), 409, "REPLAY_WRONG_STATE")
    refused(await scene.controls.stop(sid), 409, "REPLAY_WRONG_STATE")
    refused(await scene.controls.init(), 409, "REPLAY_SESSION_ACTIVE")
    ended = asyncio.create_task(scene.controls.reset())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while (await scene.controls.current())["status"] != "DB_END_IN_PROGRESS":
            await asyncio.sleep(0.01)
    await locked.rollback()
    assert done(await ended)["status"] == "DB_END_OK"
    assert (await initialising)["status"] in {"DB_END_OK", "MSG_END_IN_PROGRESS"}
    assert await scene.controls.current() is None


async def test_changes_that_retention_removes_before_they_are_played_end_play(
    scene: Scene, log: EventLog, tenant: str
) -> None:
    session = await scene.begin()
    done(await scene.controls.seek(session["id"], text_of(scene.recording.begin_ms + 3000)))
    await log.trim(StreamKey(tenant, "change"), Retention(max_count=1))
    done(await scene.controls.start(session["id"], 100))
    failed = await scene.controls.current()
    async with asyncio.timeout(30):
        while not failed["status"].endswith("_KO"):
            failed = await scene.controls.current()
    assert "are no longer kept" in failed["error"]


async def test_a_session_begins_in_the_quiet_after_what_retention_has_removed(
    scene: Scene, connection: Connection, log: EventLog, tmp_path: Path
) -> None:
    """That the log has nothing right before the start was taken for changes that are missing."""
    recording, tenant = scene.recording, scene.gateway.tenant
    times = [draft.time_ms or 0 for draft in recording.drafts]
    at_ms = next(
        ms for ms, after in pairwise(times) if ms > scene.begin_ms + 2000 and after > ms + 5
    )
    count = sum(ms <= at_ms for ms in times)
    stream = StreamKey(tenant, "change")
    epoch = (await log.head(stream)).epoch
    await keep(
        Objects(f"file://{tmp_path}/snapshots"),
        SnapshotIndex(connection),
        tenant,
        at_ms,
        {name: map(keyed(name), rows) for name, rows in recording.at(at_ms).items()},
        source=recording.source,
        visible="1:1:",
        position=Position(at_ms, count),
        epoch=epoch,
        multisets=[VISIT],
    )
    # Everything of its source is in the log.
    meta = meta_key(stream)
    await connection.execute("HSET", meta, f"through:{recording.source}", recording.now_ms + 1)
    await log.trim(stream, Retention(max_count=len(times) - count))
    session = await scene.controls.begin(text_of(at_ms + 1), text_of(recording.now_ms + 1))
    assert session["status"] == "MSG_INIT_OK", session
    assert await scene.rows() == recording.at(at_ms)
    done(await scene.controls.start(session["id"], 100))
    stopped = done(await scene.controls.stop(session["id"]))
    assert await scene.rows() == scene.expected(stopped)
    done(await scene.controls.start(session["id"], 0))
    async with asyncio.timeout(30):
        while (session := await scene.controls.current())["status"] != "MSG_STOP_OK":
            assert session["error"] is None
    assert await scene.rows() == recording.at(recording.now_ms)


def keyed(table: str) -> Callable[[str], tuple[str, str]]:
    return lambda row: (text_of_json(key_of(table, json.loads(row))), row)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_at_a_hundred_random_pauses_the_tables_hold_what_the_source_held(
    scene: Scene,
) -> None:
    controls, recording = scene.controls, scene.recording
    session = await scene.begin()
    pick = random.Random(11)
    compared = 0
    for _ in range(100):
        if pick.random() < 0.3:
            target = text_of(pick.randint(recording.begin_ms, recording.now_ms))
            done(await controls.seek(session["id"], target))
        started = await controls.start(session["id"], pick.choice([0.5, 1, 3, 10, 40, 100]))
        if done(started)["status"] == "MSG_START_OK":
            await asyncio.sleep(pick.uniform(0, 0.3))
            stopped = done(await controls.stop(session["id"]))
        else:
            stopped = done(started)  # it was at its end
        rows = await scene.rows()
        assert rows == scene.expected(stopped), stopped
        compared += sum(map(len, rows.values()))
    print(f"100 pauses, {compared} rows compared, no difference")
