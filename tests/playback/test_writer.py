"""A session that is played into a database: what its watchers are told, and what the tables hold."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from store.connection import Connection
from store.log import EventLog
from tests.conftest import RunningGateway, Start
from tests.event_stream import OpenStream, get, open_stream
from tests.playback.controls import Controls, done
from tests.playback.recording import Recording, Rows, connect, create_tables, read_rows
from tests.playback.session_model import ms_of, text_of
from tests.playback.test_states import END_WALK, INIT_WALK, START_WALK, STOP_WALK

SEED = 7
PAST_MS = 3_600_000
TRANSACTIONS = 2000
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

    def expected(self, session: Any, *, played: bool = True) -> Rows:
        """What the tables must hold where the session stands."""
        at = ms_of(session["replay_last_timestamp"])
        return self.recording.at(at if played else at - 1)


def past_recording(seed: int, transactions: int) -> Recording:
    begin = int(time.time() * 1000) - PAST_MS
    recording = Recording(random.Random(seed), begin)
    recording.run(transactions, PAUSE_MS)
    return recording


@pytest.fixture
async def scene(
    start_gateway: Start, connection: Connection, log: EventLog, tenant: str, database: str
) -> AsyncIterator[Scene]:
    await create_tables(database)
    recording = past_recording(SEED, TRANSACTIONS)
    await recording.publish(log, tenant)
    target = await connect(database)
    try:
        async with start_gateway(
            tenant=tenant,
            playback={"database": database, "highest_speed": 100, "allow_fastest": True},
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
        await stream.until("session")
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
