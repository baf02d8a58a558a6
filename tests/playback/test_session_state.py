"""A session with changes of a database shows the rows at the playhead: to who joins, and after a seek."""

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from store.captured import changes
from store.connection import Connection
from store.log import EventLog
from store.objects import Objects
from store.snapshot_index import Snapshot, SnapshotIndex
from tests.conftest import Start
from tests.playback.conftest import House
from tests.playback.stage import PAGE, PAST_MS, RING, Stage, Viewer, at, play_settings
from tests.playback.stage import Recording as Events
from tests.store import shelf
from tests.store.recording import Recording, Row, deleted, inserted, key_of, row_of, updated

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAR = "public.car"
Rows = dict[tuple[str, int], str]


@pytest.fixture(scope="session")
def shelf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session-snapshots")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cinema(start_gateway: Start, shelf_folder: Path) -> AsyncIterator[House]:
    """Two gateways that read the same snapshots."""
    sections = play_settings(
        watch_endpoint={"replay_batch_size": PAGE, "ring_events": RING},
        snapshots={"url": f"file://{shelf_folder}"},
    )
    async with start_gateway(**sections) as first, start_gateway(**sections) as second:
        yield House(first, second)


class Film:
    """Changes of a tenant's cars, the model after each, and a session over them."""

    def __init__(self, stage: Stage, backend: Connection, folder: Path) -> None:
        self.stage = stage
        self.folder = folder
        self.log = EventLog(backend, idempotency_window_ms=60_000)
        self.recording = Recording(backend, self.log, stage.tenant)
        self.index = SnapshotIndex(backend)
        self.cars: dict[int, str] = {}
        self.history: list[tuple[int, dict[int, str]]] = [(-1_000_000, {})]

    async def drive(self, times: Sequence[int], seed: int = 1) -> None:
        """A transaction at each of these times, of one to three changes."""
        picks = random.Random(seed)
        committed = []
        for ms in times:
            rows = [self._change(picks, ms) for _ in range(picks.randint(1, 3))]
            committed.append((PAST_MS + ms, rows))
            self.history.append((ms, dict(self.cars)))
        await self.recording.commit_all(committed)
        await self.recording.reach(PAST_MS + 10_000_000)

    def _change(self, picks: random.Random, ms: int) -> Row:
        key = picks.randint(1, 8)
        text = f"{ms} {picks.random()}"
        if key not in self.cars:
            self.cars[key] = text
            return inserted(CAR, key, text)
        if picks.random() < 0.3:
            del self.cars[key]
            return deleted(CAR, key)
        self.cars[key] = text
        return updated(CAR, key, text)

    def at(self, ms: int) -> Rows:
        """The model of a time: everything up to and including it."""
        cars = next(cars for when, cars in reversed(self.history) if when <= ms)
        return {(CAR, key): text for key, text in cars.items()}

    async def keep(self, ms: int, filler: int = 0) -> Snapshot:
        """A snapshot of now, said to be of this time; with so many large rows of another table."""
        head = await self.log.head(changes(self.stage.tenant))
        tables = {CAR: [(key_of(key), row_of(key, text)) for key, text in self.cars.items()]}
        if filler:
            tables["public.filler"] = [
                (key_of(key), row_of(key, f"{key}" * 200)) for key in range(filler)
            ]
        return await shelf.keep(
            Objects(f"file://{self.folder}"),
            self.index,
            self.stage.tenant,
            PAST_MS + ms,
            tables,
            position=head.last,
            epoch=head.epoch,
        )

    async def begin(self, start_ms: int, end_ms: int) -> Any:
        session = await self.stage.controls.begin(at(start_ms), at(end_ms))
        self.stage.session = session["id"]
        return session


@pytest_asyncio.fixture(loop_scope="session")
async def film(
    cinema: House, tenant: str, backend: Connection, shelf_folder: Path
) -> AsyncIterator[Film]:
    stage = Stage(cinema.first, cinema.second, tenant)
    yield Film(stage, backend, shelf_folder)
    for viewer in stage.viewers:
        viewer.stop()
    await stage.controls.reset()


def picture(viewer: Viewer, *, connection: int | None = None) -> Rows | None:
    """What a client shows: the last state, and the changes since. None: no state has come whole.

    The first `state` frame behind a `session` or `state-complete` frame begins anew.
    """
    rows: Rows = {}
    whole, begun = False, False
    for seen in viewer.seen:
        if connection is not None and seen.connection != connection:
            continue
        if seen.frame.name in {"state", "state-complete"} and not begun:
            rows, begun, whole = {}, True, False
        if seen.frame.name == "state":
            for each in seen.data["rows"]:
                rows[seen.data["table"], each["key"]["id"]] = each["row"]["text"]
        elif seen.frame.name == "state-complete":
            assert seen.data["rows"] == len(rows)
            begun, whole = False, True
        elif seen.frame.name == "session":
            begun = False
        elif seen.frame.name == "change":
            assert whole, "a change before the state is complete"
            _apply(rows, seen.data["data"])
    return rows if whole else None


def _apply(rows: Rows, change: dict[str, Any]) -> None:
    payload = change["payload"]
    place = (change["identifier"]["table"], payload["key"]["id"])
    if payload["after"] is None:
        rows.pop(place, None)
    else:
        rows[place] = payload["after"]["text"]


def names(viewer: Viewer) -> list[str]:
    return [seen.frame.name for seen in viewer.seen if seen.frame.name != "system-time"]


async def shows(viewer: Viewer, rows: Rows) -> None:
    await viewer.sees(lambda v: picture(v) == rows, "it shows these rows")


async def reaches_run(viewer: Viewer, run: int) -> None:
    await viewer.sees(lambda v: max(v.runs()) >= run, f"it was told of run {run}")


async def test_who_joins_gets_the_rows_at_the_playhead_and_then_the_changes(film: Film) -> None:
    film.cars = {1: "one", 2: "two"}
    film.history.append((-10, dict(film.cars)))
    await film.keep(-10)
    await film.drive([-5, 0, 5, 10])
    await film.begin(0, 1000)
    viewer = await film.stage.watch()
    await shows(viewer, film.at(-1))
    assert names(viewer) == ["session", "state", "state-complete"]
    assert [seen.frame.id for seen in viewer.seen if seen.frame.name != "system-time"] == [
        f"1-{PAST_MS}--1-0-state",
        f"1-{PAST_MS}--1-0-state",
        f"1-{PAST_MS}--1-0",
    ]
    await film.stage.play_to_end()
    assert picture(viewer) == film.at(1000)
    late = await film.stage.watch(film.stage.second)
    await shows(late, film.at(1000))
    assert "change" not in names(late)


async def test_a_session_without_changes_has_no_state(film: Film) -> None:
    await Events([0, 1]).publish(film.stage.controls)
    await film.begin(0, 1000)
    viewer = await film.stage.watch()
    await film.stage.play_to_end()
    assert not {"state", "state-complete"} & set(names(viewer))


async def test_a_tenant_without_rows_gets_an_empty_state(film: Film) -> None:
    await film.keep(-10)
    await film.drive([5])
    await film.begin(0, 1000)
    viewer = await film.stage.watch()
    await shows(viewer, {})
    assert names(viewer) == ["session", "state-complete"]


async def test_every_watcher_gets_the_state_again_after_a_seek(film: Film) -> None:
    await film.keep(-10)
    await film.drive(range(0, 1000, 10))
    await film.begin(0, 1000)
    viewers = [await film.stage.watch(gateway) for gateway in (film.stage.first, film.stage.second)]
    for ms in (500, 120, 990, 0):
        await film.stage.seek(ms)
        for viewer in viewers:
            await shows(viewer, film.at(ms - 1))
    await film.stage.play_to_end()
    for viewer in viewers:
        assert picture(viewer) == film.at(1000)
        assert viewer.connections == 1
        assert viewer.errors == []


async def test_whoever_joins_while_it_plays_ends_with_the_same_picture(film: Film) -> None:
    await film.keep(-10)
    await film.drive(range(0, 20_000, 60))
    await film.begin(0, 20_000)
    await film.stage.start(10)
    picks = random.Random(3)
    for _ in range(8):
        gateway = picks.choice((film.stage.first, film.stage.second))
        viewer = await film.stage.watch(gateway)
        if picks.random() < 0.5:
            viewer.drop()
    await film.stage.play_to_end()
    for viewer in film.stage.viewers:
        await shows(viewer, film.at(20_000))
        assert viewer.errors == []


async def test_seeks_while_it_plays_leave_everybody_with_the_true_picture(film: Film) -> None:
    await film.keep(-10, filler=40)
    await film.drive(range(0, 20_000, 60))
    await film.begin(0, 20_000)
    viewers = [await film.stage.watch(film.stage.first, film.stage.second) for _ in range(4)]
    await film.stage.start(10)
    picks = random.Random(5)
    for number in range(2, 7):
        await film.stage.seek(picks.randint(0, 15_000))
        await reaches_run(viewers[0], number)
        picks.choice(viewers).drop()
    await film.stage.play_to_end()
    filler = {("public.filler", key): f"{key}" * 200 for key in range(40)}
    for viewer in viewers:
        await shows(viewer, {**film.at(20_000), **filler})
        assert viewer.errors == []


async def test_a_reconnect_in_the_middle_of_a_state_gets_it_from_its_beginning(film: Film) -> None:
    film.cars = {1: "one"}
    film.history.append((-10, dict(film.cars)))
    await film.keep(-10, filler=2000)
    await film.drive([0, 5])
    await film.begin(0, 1000)
    viewer = await film.stage.watch(film.stage.first, film.stage.second, receive_buffer=4096)
    await viewer.sees(lambda v: "state" in names(v), "the state has begun")
    viewer.drop()
    assert viewer.last_id.endswith("-state") or "state-complete" in names(viewer)
    cut = viewer.last_id.endswith("-state")
    await viewer.sees(lambda v: v.connections > 1 and picture(v) is not None, "the state is whole")
    assert cut, "the state fitted into the buffers: make it larger"
    found = picture(viewer, connection=viewer.connections)
    assert found is not None
    assert {key: text for key, text in found.items() if key[0] == CAR} == film.at(-1)
    assert len(found) == 2001


async def test_a_reconnect_after_the_state_goes_on_without_it(film: Film) -> None:
    await film.keep(-10)
    await film.drive(range(0, 1000, 10))
    await film.begin(0, 1000)
    viewer = await film.stage.watch()
    await shows(viewer, {})
    viewer.drop()
    await viewer.sees(lambda v: len(v.sessions) > 1, "it is back")
    await film.stage.play_to_end()
    assert picture(viewer) == film.at(1000)
    assert names(viewer).count("state-complete") == 1


async def test_a_reconnect_with_a_place_of_a_run_before_gets_the_new_state(film: Film) -> None:
    await film.keep(-10)
    await film.drive(range(0, 1000, 10))
    await film.begin(0, 1000)
    viewer = await film.stage.watch()
    await film.stage.play_to_end()
    old_id = viewer.last_id
    viewer.stop()
    await film.stage.seek(500)
    back = film.stage.enter(last_id=old_id)
    await shows(back, film.at(499))


async def test_a_state_waits_for_capture_to_come_up_to_the_playhead(film: Film) -> None:
    await film.keep(-10)
    await film.drive([0, 10])
    await film.recording.reach(PAST_MS + 50)
    await film.begin(0, 100)
    await film.stage.start(100_000)
    viewer = await film.stage.watch()
    assert picture(viewer) is None
    await film.recording.reach(PAST_MS + 100)
    await shows(viewer, film.at(100))


async def test_a_state_from_a_damaged_snapshot_is_begun_anew_from_the_one_before(
    film: Film,
) -> None:
    film.cars = {1: "one"}
    film.history.append((-20, dict(film.cars)))
    await film.keep(-20)
    await film.drive([-15])
    newer = await film.keep(-10, filler=3000)
    await film.drive([0])
    await film.begin(0, 1000)
    viewer = await film.stage.watch()
    await viewer.sees(lambda v: picture(v) is not None, "the state is whole")
    file = next((film.folder / newer.folder).glob("*filler.zst"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    other = await film.stage.watch()
    await shows(other, film.at(-1))
    assert other.errors == []
    assert names(other).count("session") == 2
    assert names(other).count("state-complete") == 1


async def test_a_start_before_the_first_snapshot_is_a_ko_that_names_the_earliest_valid_time(
    film: Film,
) -> None:
    await film.keep(0)
    await film.drive([5])
    session = await film.begin(0, 1000)
    assert session["status"] == "DB_INIT_KO"
    assert session["error"] == (
        f"the state at {at(0)} cannot be restored: there is no snapshot of it; "
        f"the earliest valid time is {at(1)}"
    )
    again = await film.stage.controls.begin(at(1), at(1000), session_id=session["id"])
    assert again["status"] == "MSG_INIT_OK"


async def test_a_source_that_has_no_snapshot_yet_is_a_ko(film: Film) -> None:
    await film.drive([5])
    session = await film.begin(0, 1000)
    assert session["status"] == "DB_INIT_KO"
    assert session["error"].endswith("there is no snapshot of it")
