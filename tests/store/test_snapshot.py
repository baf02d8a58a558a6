"""Snapshots of a real, busy PostgreSQL: consistent, aligned by visibility, whole or not there."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from store.captured import read_breaks, read_tenants
from store.configuration import Configuration
from store.connection import Connection
from store.errors import OutOfRange, SnapshotFailed
from store.event import rfc3339
from store.objects import Objects
from store.schedule import SnapshotSchedule
from store.snapshot import Progress
from tests.faults.wire import eventually
from tests.store.studio import Studio, Tables, folder_of

CARS = "CREATE TABLE public.car (id int PRIMARY KEY, text text, n numeric)"
NOTES = "CREATE TABLE public.note (text text, n int); ALTER TABLE public.note REPLICA IDENTITY FULL"
TABLES = ("public.car", "public.note")

Make = Callable[..., Awaitable[Studio]]


@pytest_asyncio.fixture
async def source(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A database with a table that has a key and one that has none."""
    opened = await asyncpg.connect(database)
    await opened.execute(f"{CARS}; {NOTES}")
    yield opened
    await opened.close()


@pytest.fixture
def make(
    database: str, tenant: str, connection: Connection, tmp_path: Path, source: asyncpg.Connection
) -> Make:
    async def build(objects: Objects | None = None, **more: object) -> Studio:
        kept = objects or Objects(f"file://{tmp_path}/snapshots")
        studio = Studio(database, tenant, connection, kept, **more)  # type: ignore[arg-type]
        await studio.time.measure()
        return studio

    return build


async def take(studio: Studio, **more: object) -> int:
    """A snapshot; when it stands for the state (ms)."""
    taken = await studio.taker.take([], everybody=True, **more)  # type: ignore[arg-type]
    return taken[studio.tenant].at_ms


async def test_a_snapshot_is_what_the_tables_hold(
    make: Make, source: asyncpg.Connection, objects: Objects
) -> None:
    await source.execute(
        "INSERT INTO car SELECT n, 'ä \\ \" ' || chr(9) || chr(10) || n, n / 7.0 "
        "FROM generate_series(1, 5000) n; "
        "INSERT INTO note SELECT 'again', n % 3 FROM generate_series(1, 9) n"
    )
    studio = await make(objects)
    async with studio.capturing():
        at_ms = await take(studio)
        state = await studio.state(at_ms)
    assert state == await studio.truth(source, TABLES)
    assert [len(rows) for rows in state.values()] == [5000, 9]


async def test_a_state_between_snapshots_has_every_change_once(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make()
    truths: list[tuple[int, Tables]] = []

    async def note() -> None:
        truths.append((await studio.now_ms(source), await studio.truth(source, TABLES)))
        await asyncio.sleep(0.005)  # so that what comes next has a later time

    async with studio.capturing():
        await source.execute("INSERT INTO car VALUES (1, 'a', 1), (2, 'b', 2)")
        await take(studio)
        await note()
        await source.execute("UPDATE car SET id = 3 WHERE id = 1; INSERT INTO note VALUES ('x', 1)")
        await note()
        await take(studio)
        await source.execute("INSERT INTO note VALUES ('x', 1), ('x', 1); DELETE FROM car")
        await note()
        await source.execute("TRUNCATE note; INSERT INTO note VALUES ('y', 2)")
        await note()
        await take(studio)
        await note()
        for ms, truth in truths:
            assert await studio.state(ms) == truth, rfc3339(ms)


async def test_a_transaction_that_is_open_at_the_snapshot_comes_when_it_commits(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make()
    await source.execute("INSERT INTO car SELECT n, 'old', 0 FROM generate_series(1, 10) n")
    early, late = await studio.connect(), await studio.connect()
    try:
        async with studio.capturing():
            await early.execute("BEGIN; UPDATE public.car SET text = 'early' WHERE id = 1")
            await late.execute(
                "BEGIN; UPDATE public.car SET text = 'late' WHERE id = 2; SAVEPOINT s; "
                "DELETE FROM public.car WHERE id = 3; ROLLBACK TO s; "
                "DELETE FROM public.car WHERE id = 4"
            )
            # Given after the two that are open, and over before the snapshot.
            await source.execute("UPDATE car SET text = 'seen' WHERE id = 5")
            taking = asyncio.create_task(take(studio))
            at_ms = await taking
            before = await studio.truth(source, TABLES)
            assert await studio.state(at_ms) == before
            await early.execute("COMMIT")
            first_ms, first = await studio.now_ms(source), await studio.truth(source, TABLES)
            await source.execute("UPDATE car SET text = 'after' WHERE id = 6")
            await late.execute("COMMIT")
            second_ms, second = await studio.now_ms(source), await studio.truth(source, TABLES)
            assert await studio.state(at_ms) == before
            assert await studio.state(first_ms) == first
            assert await studio.state(second_ms) == second
            assert first != before != second
    finally:
        await early.close()
        await late.close()


async def test_states_of_a_busy_database_are_those_it_had(
    make: Make, source: asyncpg.Connection
) -> None:
    """Writers at work, some over the snapshots; at every pause the truth is noted."""
    studio = await make()
    truths: list[tuple[int, Tables]] = []
    async with studio.capturing():
        first_ms = await take(studio)
        for round_number in range(4):
            taking = asyncio.create_task(take(studio))
            await asyncio.gather(
                *(write_some(studio, round_number * 10 + each) for each in range(4))
            )
            truths.append((await studio.now_ms(source), await studio.truth(source, TABLES)))
            await taking
        taken = [each.at_ms for each in await studio.index.all(studio.tenant)]
        assert len(taken) == 5
        assert taken[0] == first_ms
        for ms, truth in truths:
            assert await studio.state(ms) == truth, rfc3339(ms)


async def write_some(studio: Studio, seed: int) -> None:
    """Transactions of every kind; what another one holds is left to it."""
    picks = random.Random(seed)
    writer = await studio.connect()
    try:
        for _ in range(25):
            with suppress(asyncpg.PostgresError):
                async with writer.transaction():
                    for _ in range(picks.randint(1, 4)):
                        await write_one(writer, picks)
                    if picks.random() < 0.15:
                        raise asyncpg.PostgresError("changed its mind")
    finally:
        await writer.close()


async def write_one(writer: asyncpg.Connection, picks: random.Random) -> None:
    key, number = picks.randint(1, 40), picks.randint(1, 5)
    await writer.execute("SET LOCAL lock_timeout = '200ms'")
    kind = picks.random()
    if kind < 0.4:
        await writer.execute(
            "INSERT INTO public.car VALUES ($1, $2, $3) "
            "ON CONFLICT (id) DO UPDATE SET text = excluded.text",
            *(key, f"{picks.random()}", number),
        )
    elif kind < 0.55:
        await writer.execute("UPDATE public.car SET id = id + 100 WHERE id = $1", key)
    elif kind < 0.7:
        await writer.execute("DELETE FROM public.car WHERE id IN ($1, $1 + 100)", key)
    elif kind < 0.72:
        await writer.execute("TRUNCATE public.note")
    elif kind < 0.9:
        await writer.execute("INSERT INTO public.note VALUES ('n', $1), ('n', $1)", number)
    else:
        await writer.execute("DELETE FROM public.note WHERE n = $1", number)


async def test_a_truncate_during_a_snapshot_waits_and_does_not_empty_it(
    make: Make, source: asyncpg.Connection
) -> None:
    """Symptom: a table that is truncated behind a snapshot's back looks empty to it."""
    studio = await make()
    await source.execute(
        "INSERT INTO car SELECT n, repeat('x', 500), n FROM generate_series(1, 20000) n; "
        "INSERT INTO note VALUES ('kept', 1)"
    )
    truncating: list[asyncio.Task[str]] = []

    def begin(progress: Progress) -> None:
        if not truncating:
            truncating.append(asyncio.create_task(source.execute("TRUNCATE note")))

    async with studio.capturing():
        at_ms = await take(studio, on_progress=begin)
        await truncating[0]
        after_ms = await studio.now_ms(source)
        assert (await studio.state(at_ms))["public.note"] == ['{"text":"kept","n":1}']
        assert (await studio.state(after_ms))["public.note"] == []


async def test_writers_go_on_while_a_snapshot_is_taken(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make()
    await source.execute(
        "INSERT INTO car SELECT n, repeat('x', 500), n FROM generate_series(1, 20000) n"
    )
    written: list[int] = []

    async def write() -> None:
        while True:
            await source.execute("UPDATE car SET n = n + 1 WHERE id = 7")
            written.append(1)

    async with studio.capturing():
        writing = asyncio.create_task(write())
        counts: list[int] = []
        await take(studio, on_progress=lambda progress: counts.append(len(written)))
        writing.cancel()
        await asyncio.wait([writing])
    assert counts[-1] > counts[0], "it wrote between the first rows and the last"


async def test_progress_counts_the_rows(make: Make, source: asyncpg.Connection) -> None:
    studio = await make()
    await source.execute("INSERT INTO car SELECT n FROM generate_series(1, 3000) n; ANALYZE car")
    told: list[Progress] = []
    async with studio.capturing():
        await take(studio, on_progress=told.append)
    assert told[-1] == Progress("public.car", 3000, 3000)


async def test_a_snapshot_that_breaks_off_is_in_no_index_and_its_leftovers_go(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make()
    await source.execute(
        "INSERT INTO car SELECT n, repeat(md5(n::text), 20), n FROM generate_series(1, 20000) n"
    )

    class BrokenOff(Exception):
        """Somebody pulled the plug."""

    def break_off(progress: Progress) -> None:
        if progress.rows > 5000:
            raise BrokenOff

    folder = folder_of(studio.objects)
    async with studio.capturing():
        at_ms = await take(studio)
        with pytest.raises(BrokenOff):
            await take(studio, on_progress=break_off)
        assert [each.at_ms for each in await studio.index.all(studio.tenant)] == [at_ms]
        # A process that is killed leaves files; those of now may be another's at work.
        own = folder / studio.tenant / studio.name
        stale, fresh = own / f"1-{uuid4()}", own / f"2-{uuid4()}"
        for left in (stale, fresh):
            left.mkdir()
            # So it is called as long as it is written: no listing of objects shows it.
            (left / "0000-public.car.zst#1").write_bytes(b"half")
        os.utime(stale / "0000-public.car.zst#1", (1, 1))
        os.utime(stale, (1, 1))
        await take(studio)
        assert not stale.exists()
        assert fresh.exists()
        assert len(await studio.index.all(studio.tenant)) == 2


async def test_old_snapshots_go_and_the_newest_stays(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make(retention_ms=0)
    await source.execute("INSERT INTO car VALUES (1, 'a', 1)")
    async with studio.capturing():
        first_ms = await take(studio)
        [first] = await studio.index.all(studio.tenant)
        assert (folder_of(studio.objects) / first.folder / "manifest.json").exists()
        second_ms = await take(studio)
        [left] = await studio.index.all(studio.tenant)
        assert left.at_ms == second_ms > first_ms
        assert not (folder_of(studio.objects) / first.folder).exists()
        assert (await studio.state(second_ms))["public.car"] == ['{"id":1,"text":"a","n":1}']
        with pytest.raises(OutOfRange) as told:
            await studio.state(first_ms)
        assert told.value.earliest_ms == second_ms


async def test_without_capture_a_snapshot_fails_with_a_sentence(
    make: Make, source: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.store.studio.PATIENCE_SEC", 0.3)
    studio = await make()
    await source.execute("CREATE PUBLICATION playhead FOR ALL TABLES")
    with pytest.raises(SnapshotFailed, match=r"did not come up to .* within 0\.3 s"):
        await take(studio)
    assert await studio.index.all(studio.tenant) == []


async def test_a_source_that_is_away_is_a_failure_with_a_sentence(make: Make) -> None:
    studio = await make()
    studio.taker._source._dsn = "postgresql://127.0.0.1:9/none"
    with pytest.raises(SnapshotFailed, match=f"source '{studio.name}' cannot be read"):
        await take(studio)


async def test_two_snapshots_of_a_source_are_not_taken_at_once(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make()
    await source.execute("INSERT INTO car SELECT n FROM generate_series(1, 5000) n")
    async with studio.capturing():
        outcomes = await asyncio.gather(take(studio), take(studio), return_exceptions=True)
    failures = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(failures) == 1
    assert isinstance(failures[0], SnapshotFailed)
    assert "is being taken" in str(failures[0])


async def test_only_the_configured_tables_are_in_it(make: Make, source: asyncpg.Connection) -> None:
    studio = await make()
    await Configuration(studio.connection).set_tables(studio.tenant, ["public.car"])
    await source.execute("INSERT INTO car VALUES (1, 'a', 1); INSERT INTO note VALUES ('x', 1)")
    async with studio.capturing():
        await take(studio)
        await source.execute("INSERT INTO note VALUES ('y', 2); INSERT INTO car VALUES (2)")
        ms = await studio.now_ms(source)
        state = await studio.state(ms)
        assert list(state) == ["public.car"], "rows of before of the other table are not known"
        assert len(state["public.car"]) == 2
        opened = await studio.states.open(studio.tenant, ms)
        assert opened.excluded == {"public.note"}
        assert opened.sources == frozenset({studio.name})


async def test_tables_of_every_kind_are_read_as_they_are_captured(
    make: Make, source: asyncpg.Connection
) -> None:
    await source.execute(
        'CREATE TABLE public."Odd ""Name""" ("Key 1" text, "key" int, "v al" jsonb, '
        'PRIMARY KEY ("key", "Key 1")); '
        "CREATE TABLE public.parent (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) "
        "STORED); CREATE TABLE public.child (extra text, PRIMARY KEY (id)) INHERITS (public.parent);"
        "CREATE TABLE public.parts (id int PRIMARY KEY, t text) PARTITION BY RANGE (id); "
        "CREATE TABLE public.low PARTITION OF public.parts FOR VALUES FROM (0) TO (10); "
        "CREATE TABLE public.high PARTITION OF public.parts FOR VALUES FROM (10) TO (20); "
        "ALTER TABLE public.car ADD COLUMN gone int, ADD COLUMN made timestamptz DEFAULT now(); "
        "ALTER TABLE public.car DROP COLUMN gone"
    )
    write = (
        'INSERT INTO public."Odd ""Name""" '
        "VALUES ('a''b', {n}, '{{\"b\": [1, 2.50], \"a\": null}}'); "
        "INSERT INTO public.parent VALUES ({n}); INSERT INTO public.child (id, extra) VALUES (1{n}, 'c'); "
        "INSERT INTO public.parts VALUES ({n}, 'low'), (1{n}, 'high'); "
        "INSERT INTO public.car VALUES ({n}, 't', 'NaN')"
    )
    await source.execute(write.format(n=1))
    studio = await make()
    async with studio.capturing():
        snapshot_ms = await take(studio)
        before = await studio.state(snapshot_ms)
        await source.execute(write.format(n=2))
        ms = await studio.now_ms(source)
        folded = await studio.state(ms)
        again = await studio.state(await take(studio))
        assert folded == again, "what was captured is what a snapshot reads"
        assert before.keys() == again.keys()
        assert all(len(again[name]) == 2 * len(before[name]) for name in before if before[name])
        assert 'public."Odd ""Name"""' in again


async def test_rows_that_name_their_tenant_go_to_each_tenants_snapshot(
    make: Make, source: asyncpg.Connection
) -> None:
    others = sorted(str(uuid4()) for _ in range(3))
    await source.execute(
        "CREATE TABLE public.owned (id int PRIMARY KEY, tenant_id text, t text); "
        "ALTER TABLE public.owned REPLICA IDENTITY FULL; "
        "CREATE TABLE public.common (id int PRIMARY KEY)"
    )
    await source.executemany(
        "INSERT INTO public.owned VALUES ($1, $2, repeat('z', 100))",
        [(n, [*others, None, "nobody", others[0].upper()][n % 6]) for n in range(6000)],
    )
    await source.execute("INSERT INTO public.common VALUES (1)")
    studio = await make(column="tenant_id")
    async with studio.capturing():
        taken = await studio.taker.take([], everybody=True)
        assert sorted(taken) == sorted([*others, studio.tenant])
        # Capture has no change of theirs yet, and has to tell them of a truncate.
        assert await read_tenants(studio.connection, studio.name) == sorted(taken)
        lower = "lower(tenant_id)"
        for tenant in others:
            state = await studio.state(taken[tenant].at_ms, tenant)
            truth = await studio.truth(source, ["public.owned"], f"{lower} = '{tenant}'")
            assert state["public.owned"] == truth["public.owned"]
            assert state["public.common"] == []
        listed = ", ".join(f"'{each}'" for each in others)
        nobodys = await studio.truth(
            source, ["public.owned"], f"tenant_id IS NULL OR {lower} NOT IN ({listed})"
        )
        state = await studio.state(taken[studio.tenant].at_ms)
        assert state["public.owned"] == nobodys["public.owned"]
        assert state["public.common"] == ['{"id":1}']
        # Later ones are of those that are due.
        assert sorted(await studio.taker.take(others[:2], everybody=False)) == others[:2]
        # Who comes later began with nothing when everybody else was recorded.
        newcomer = str(uuid4())
        await source.execute(f"INSERT INTO public.owned VALUES (9999, '{newcomer}', 'first')")
        ms = await studio.now_ms(source)
        state = await studio.state(ms, newcomer)
        assert state["public.owned"] == [f'{{"id":9999,"tenant_id":"{newcomer}","t":"first"}}']


# -- the schedule


class Clock:
    """The schedule's time, which a test moves."""

    def __init__(self, studio: Studio) -> None:
        self._time = studio.time
        self.ahead_ms = 0.0

    def now_ms(self) -> float:
        return self._time.now_ms() + self.ahead_ms


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.schedule._POLL_SEC", 0.02)
    monkeypatch.setattr("store.schedule._RETRY_SEC", (0.02, 0.1))


class Scheduled:
    """A schedule at work, and how its attempts went."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.clock = Clock(studio)
        self.taken = 0
        self.failed = 0
        self.schedule = SnapshotSchedule(
            studio.taker,
            studio.connection,
            now_ms=self.clock.now_ms,
            on_taken=self._on_taken,
            on_failure=self._on_failure,
        )

    def _on_taken(self, seconds: float) -> None:
        self.taken += 1

    def _on_failure(self) -> None:
        self.failed += 1

    async def reaches(self, taken: int) -> None:
        await eventually(lambda: self.taken >= taken, f"{taken} snapshots are taken")

    async def __aenter__(self) -> "Scheduled":
        self._task = asyncio.create_task(self.schedule.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled()


@pytest.mark.usefixtures("quick")
async def test_the_first_is_taken_at_once_and_the_others_when_they_are_due(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make()
    configuration = Configuration(studio.connection)
    await configuration.set_interval(studio.tenant, "0 0 1 1 *")
    async with studio.capturing(), Scheduled(studio) as scheduled:
        await scheduled.reaches(1)
        await source.execute("INSERT INTO car VALUES (1)")
        for _ in range(20):
            await asyncio.sleep(0.02)
        assert scheduled.taken == 1, "nothing is due"
        # Changed while it runs, and once a quarter of an hour has passed.
        await configuration.set_interval(studio.tenant, "*/15 * * * *")
        scheduled.clock.ahead_ms += 901_000
        await scheduled.reaches(2)
        await configuration.set_interval(studio.tenant, "")
        scheduled.clock.ahead_ms += 366 * 86_400_000
        for _ in range(20):
            await asyncio.sleep(0.02)
        assert scheduled.taken == 2, "switched off"
    assert len(await studio.index.all(studio.tenant)) == 2


@pytest.mark.usefixtures("quick")
async def test_after_a_break_everybody_is_recorded_anew_at_once(
    make: Make, source: asyncpg.Connection
) -> None:
    studio = await make()
    async with studio.capturing(), Scheduled(studio) as scheduled:
        await scheduled.reaches(1)
        await source.execute("INSERT INTO car VALUES (1)")
        ms = await studio.now_ms(source)
        await studio.caught_up(ms)
        key = f"ph:{{{studio.tenant}}}:breaks"
        # Where it begins says nothing about the last snapshot, which may be of the time between.
        await studio.connection.execute("RPUSH", key, f"{ms - 3_600_000}-1")
        assert len(await read_breaks(studio.connection, studio.tenant)) == 1
        await scheduled.reaches(2)
        scheduled.schedule.request("a table has other columns")
        await scheduled.reaches(3)


@pytest.mark.usefixtures("quick")
async def test_one_that_was_due_and_failed_is_tried_again(
    make: Make, source: asyncpg.Connection, tmp_path: Path
) -> None:
    """Symptom: the next attempt was at its next time, perhaps a day later. Nor does a clock that was
    a year ahead put it off for a year."""
    studio = await make()
    configuration = Configuration(studio.connection)
    await configuration.set_interval(studio.tenant, "*/15 * * * *")
    folder = tmp_path / "snapshots"
    async with studio.capturing(), Scheduled(studio) as scheduled:
        await scheduled.reaches(1)
        kept = folder.rename(tmp_path / "kept")
        folder.write_text("no folder")
        await source.execute("INSERT INTO car VALUES (1)")
        scheduled.clock.ahead_ms += 901_000
        await eventually(lambda: scheduled.failed >= 2, "it fails, more than once")
        folder.unlink()
        kept.rename(folder)
        await scheduled.reaches(2)
        scheduled.clock.ahead_ms += 366 * 86_400_000
        await scheduled.reaches(3)
        scheduled.clock.ahead_ms = 0
        for _ in range(20):
            await asyncio.sleep(0.02)
        scheduled.clock.ahead_ms += 1_000_000
        await scheduled.reaches(4)


@pytest.mark.usefixtures("quick")
async def test_one_that_fails_is_counted_and_tried_again(
    make: Make, source: asyncpg.Connection, tmp_path: Path
) -> None:
    await source.execute("INSERT INTO car VALUES (1)")
    studio = await make(Objects(f"file://{tmp_path}/snapshots"))
    in_the_way = tmp_path / "snapshots"
    async with studio.capturing():
        in_the_way.write_text("no folder")
        async with Scheduled(studio) as scheduled:
            await eventually(lambda: scheduled.failed >= 2, "it fails")
            in_the_way.unlink()
            await scheduled.reaches(1)
    assert len(await studio.index.all(studio.tenant)) == 1
