"""The state of a time: snapshot and changes together, and what is said when there is none."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from store.captured import changes, count_breaks
from store.connection import Connection
from store.errors import Behind, CorruptFile, ObjectsUnavailable, OutOfRange
from store.event import Position, Retention
from store.log import EventLog
from store.objects import Objects
from store.snapshot_index import Run, Snapshot, SnapshotIndex
from store.snapshot_reader import SnapshotReader
from store.state import State, States
from tests.store import shelf
from tests.store.recording import (
    Recording,
    Row,
    deleted,
    inserted,
    key_of,
    row_of,
    truncated,
    updated,
)

T0 = 1_700_000_000_000
CAR = "public.car"
TRIP = "public.trip"


@dataclass
class Desk:
    """A tenant's recording, its snapshots, and the states made of both."""

    recording: Recording
    objects: Objects
    folder: Path
    index: SnapshotIndex
    states: States
    broken: list[str]

    @property
    def tenant(self) -> str:
        return self.recording.tenant

    async def epoch(self) -> bytes:
        return (await self.recording.log.head(changes(self.tenant))).epoch

    async def keep(self, at_ms: int, cars: dict[int, str], **more: object) -> Snapshot:
        """A snapshot of cars that stands behind all that is recorded by then."""
        log = self.recording.log
        position = await log.at_time(changes(self.tenant), at_ms) or Position(0, 0)
        tables = {CAR: [(key_of(key), row_of(key, text)) for key, text in cars.items()]}
        breaks = await count_breaks(self.recording.connection, self.tenant)
        defaults: dict[str, object] = {
            "position": position,
            "epoch": await self.epoch(),
            "breaks": breaks,
        }
        return await shelf.keep(
            self.objects,
            self.index,
            self.tenant,
            at_ms,
            tables,
            **{**defaults, **more},  # type: ignore[arg-type]
        )

    async def rows(self, at_ms: int, tables: frozenset[str] | None = None) -> list[tuple[str, str]]:
        return await collect(await self.states.open(self.tenant, at_ms, tables))


async def collect(state: State) -> list[tuple[str, str]]:
    """Every row with its table, in order; key and row agree with `rows` and the block's shape."""
    found: list[tuple[str, str]] = []
    async for table, lines in state.blocks():
        assert lines.endswith(b"\n")
        found += [(table, line.split("\t")[1]) for line in lines.decode().splitlines()]
    assert state.rows == len(found)
    return found


def cars(**texts: str) -> list[tuple[str, str]]:
    return [(CAR, row_of(int(key[1:]), text)) for key, text in texts.items()]


@pytest.fixture
def make_states(connection: Connection, log: EventLog) -> Callable[[Objects, list[str]], States]:
    def make(objects: Objects, broken: list[str]) -> States:
        index = SnapshotIndex(connection)
        reader = SnapshotReader(objects, index, on_broken=lambda: broken.append("one"))
        return States(connection, log, index, reader)

    return make


@pytest.fixture
def desk(
    connection: Connection,
    log: EventLog,
    tenant: str,
    tmp_path: Path,
    make_states: Callable[[Objects, list[str]], States],
) -> Desk:
    objects = Objects(f"file://{tmp_path}/snapshots")
    broken: list[str] = []
    return Desk(
        Recording(connection, log, tenant),
        objects,
        tmp_path / "snapshots",
        SnapshotIndex(connection),
        make_states(objects, broken),
        broken,
    )


async def test_the_state_between_two_snapshots_is_the_earlier_one_and_the_changes_since(
    desk: Desk,
) -> None:
    await desk.recording.commit(T0, inserted(CAR, 1, "a"), inserted(CAR, 2, "b"))
    await desk.keep(T0 + 10, {1: "a", 2: "b"})
    await desk.recording.commit(T0 + 20, updated(CAR, 1, "A"), inserted(CAR, 3, "c"))
    await desk.recording.commit(T0 + 30, deleted(CAR, 2))
    await desk.keep(T0 + 40, {1: "A", 3: "c"})
    await desk.recording.reach(T0 + 50)
    assert await desk.rows(T0 + 10) == cars(_1="a", _2="b")
    assert await desk.rows(T0 + 19) == cars(_1="a", _2="b")
    assert await desk.rows(T0 + 20) == cars(_1="A", _2="b", _3="c")
    assert await desk.rows(T0 + 30) == cars(_1="A", _3="c")
    assert await desk.rows(T0 + 50) == cars(_1="A", _3="c")


async def test_a_truncate_leaves_what_came_after_it(desk: Desk) -> None:
    await desk.keep(T0, {1: "a", 2: "b"})
    await desk.recording.commit(T0 + 1, truncated(CAR), inserted(CAR, 2, "new"))
    await desk.recording.reach(T0 + 1)
    assert await desk.rows(T0 + 1) == cars(_2="new")


async def test_a_change_that_the_snapshot_sees_counts_once(desk: Desk) -> None:
    """In the log after one that it does not see, so that it is read again."""
    await desk.recording.commit(T0, inserted(CAR, 1, "unseen"), xid=105)
    await desk.recording.commit(T0, inserted(CAR, 2, "seen"), xid=104)
    await desk.recording.commit(T0 + 5, deleted(CAR, 2), xid=110)
    await desk.keep(T0 + 1, {2: "seen"}, visible="100:106:105", position=Position(T0, 0))
    await desk.recording.reach(T0 + 9)
    assert sorted(await desk.rows(T0 + 1)) == cars(_1="unseen", _2="seen")
    assert await desk.rows(T0 + 9) == cars(_1="unseen")


async def test_half_a_transaction_is_no_part_of_a_state(desk: Desk) -> None:
    await desk.keep(T0, {1: "a"})
    await desk.recording.commit(T0 + 1, updated(CAR, 1, "half"), whole=False)
    await desk.recording.reach(T0 + 1)
    assert await desk.rows(T0 + 1) == cars(_1="a")


async def test_only_the_tables_that_are_asked_for_are_read(desk: Desk) -> None:
    await desk.keep(T0, {1: "a"})
    await desk.recording.commit(T0 + 1, inserted(TRIP, 7, "new table"), inserted(CAR, 2, "b"))
    await desk.recording.reach(T0 + 1)
    assert await desk.rows(T0 + 1, frozenset({TRIP})) == [(TRIP, row_of(7, "new table"))]
    assert await desk.rows(T0 + 1, frozenset({CAR})) == cars(_1="a", _2="b")
    assert (await desk.states.open(desk.tenant, T0 + 1)).tables == [CAR, TRIP]


async def test_a_table_without_a_key_may_hold_equal_rows(desk: Desk) -> None:
    note = row_of(1, "again")
    rows = {"public.note": [(note, note)] * 3}
    await shelf.keep(desk.objects, desk.index, desk.tenant, T0, rows, multisets=["public.note"])
    await desk.recording.commit(T0 + 1, Row("public.note", "d", note, before=note))
    await desk.recording.commit(T0 + 2, *[Row("public.note", "c", note, after=note)] * 2)
    await desk.recording.reach(T0 + 2)
    assert await desk.rows(T0 + 1) == [("public.note", note)] * 2
    assert await desk.rows(T0 + 2) == [("public.note", note)] * 4


async def test_without_capture_the_log_itself_is_the_history(desk: Desk) -> None:
    await desk.recording.commit(T0, inserted(CAR, 1, "a"))
    await desk.recording.commit(T0 + 1, updated(CAR, 1, "A"))
    assert await desk.rows(T0 - 1) == []
    assert await desk.rows(T0) == cars(_1="a")
    assert await desk.rows(T0 + 1) == cars(_1="A")


async def test_a_tenant_without_anything_has_an_empty_state(desk: Desk) -> None:
    assert await desk.rows(T0) == []


async def test_a_time_that_capture_has_not_come_to_is_told_to_come_again(desk: Desk) -> None:
    await desk.keep(T0, {})
    await desk.recording.reach(T0 + 5)
    with pytest.raises(Behind) as told:
        await desk.rows(T0 + 6)
    assert told.value.through_ms == T0 + 5
    assert told.value.source == "fleet"
    assert await desk.rows(T0 + 5) == []


async def test_before_the_first_snapshot_there_is_no_state(desk: Desk) -> None:
    await desk.recording.commit(T0 - 5, inserted(CAR, 1, "a"))
    await desk.recording.reach(T0 + 9)
    with pytest.raises(OutOfRange, match="there is no snapshot to begin from yet") as told:
        await desk.rows(T0)
    assert told.value.earliest_ms is None
    await desk.keep(T0, {1: "a"})
    with pytest.raises(
        OutOfRange, match=r"earliest valid time is 2023-11-14T22:13:20\.000Z"
    ) as told:
        await desk.rows(T0 - 1)
    assert told.value.earliest_ms == T0


async def test_a_snapshot_whose_changes_were_trimmed_cannot_be_used_but_the_next_one_can(
    desk: Desk,
) -> None:
    await desk.keep(T0, {1: "a"})
    await desk.recording.commit(T0 + 10, inserted(CAR, 2, "b"))
    await desk.keep(T0 + 20, {1: "a", 2: "b"})
    await desk.recording.commit(T0 + 30, inserted(CAR, 3, "c"))
    await desk.recording.reach(T0 + 40)
    assert await desk.rows(T0 + 5) == cars(_1="a")
    assert await desk.recording.log.trim(changes(desk.tenant), Retention(max_count=1)) == 1
    with pytest.raises(OutOfRange) as told:
        await desk.rows(T0 + 15)
    assert told.value.earliest_ms == T0 + 20
    assert await desk.rows(T0 + 30) == cars(_1="a", _2="b", _3="c")


async def test_after_a_break_only_a_later_snapshot_is_believed(desk: Desk) -> None:
    await desk.keep(T0, {1: "a"})
    await desk.recording.lose(T0 + 10, 0)
    await desk.recording.reach(T0 + 100)
    assert await desk.rows(T0 + 9) == cars(_1="a")
    with pytest.raises(OutOfRange):
        await desk.rows(T0 + 10)
    await desk.keep(T0 + 20, {2: "b"})
    with pytest.raises(OutOfRange) as told:
        await desk.rows(T0 + 15)
    assert told.value.earliest_ms == T0 + 20
    assert await desk.rows(T0 + 20) == cars(_2="b")
    assert await desk.rows(T0 + 9) == cars(_1="a")


async def test_a_snapshot_of_before_a_loss_is_not_believed_whatever_its_time(desk: Desk) -> None:
    """Symptom: a loss is told of where the log had everything, which may be before a snapshot that
    was taken while nobody captured; what changed between that one and the next was in no state."""
    await desk.recording.commit(T0, inserted(CAR, 1, "a"))
    await desk.keep(T0 + 20, {1: "a"})
    await desk.recording.lose(T0 + 10, 1)
    await desk.recording.reach(T0 + 100)
    with pytest.raises(OutOfRange) as told:
        await desk.rows(T0 + 30)
    assert told.value.earliest_ms is None
    await desk.keep(T0 + 40, {2: "b"})
    with pytest.raises(OutOfRange) as told:
        await desk.rows(T0 + 30)
    assert told.value.earliest_ms == T0 + 40
    assert await desk.rows(T0 + 50) == cars(_2="b")


async def test_an_id_that_comes_again_is_not_the_transaction_that_was_seen(desk: Desk) -> None:
    """Symptom: after 2^31 transactions, of whatever tables, changes were taken for older ones."""
    await desk.recording.commit(T0, inserted(CAR, 1, "a"), xid=100)
    await desk.keep(T0 + 1, {1: "a"}, visible="106:106:", lsn=f"0/{desk.recording.lsn + 1:X}")
    await desk.recording.commit(T0 + 5, updated(CAR, 1, "A"), xid=100)
    await desk.recording.commit(T0 + 6, inserted(CAR, 2, "b"), xid=3)
    await desk.recording.reach(T0 + 9)
    assert await desk.rows(T0 + 9) == cars(_1="A", _2="b")


async def test_each_source_is_read_on_from_its_own_place(desk: Desk) -> None:
    """What one wrote before its place it was perhaps another database that wrote it."""
    await desk.recording.commit(T0, inserted(CAR, 9, "of before"), source="trips")
    await desk.keep(T0 + 1, {1: "a"}, position=Position(T0, 1))
    await desk.recording.commit(T0 + 2, updated(CAR, 1, "A"))
    await desk.recording.commit(T0 + 3, inserted(TRIP, 9, "of before"), source="trips")
    rows = {TRIP: [(key_of(1), row_of(1, "trip"))]}
    await shelf.keep(
        *(desk.objects, desk.index, desk.tenant, T0 + 5, rows),
        source="trips",
        position=Position(T0 + 3, 3),
        epoch=await desk.epoch(),
    )
    await desk.recording.reach(T0 + 9)
    await desk.recording.reach(T0 + 9, source="trips")
    assert await desk.rows(T0 + 9) == [*cars(_1="A"), (TRIP, row_of(1, "trip"))]


async def test_a_log_that_was_made_anew_needs_a_snapshot_of_its_own(
    desk: Desk, connection: Connection
) -> None:
    await desk.recording.commit(T0, inserted(CAR, 1, "a"))
    await desk.keep(T0 + 1, {1: "a"})
    await desk.recording.reach(T0 + 9)
    prefix = f"ph:{{{desk.tenant}/change}}"
    await connection.execute("DEL", f"{prefix}:log", f"{prefix}:meta")
    await desk.recording.commit(T0 + 5, inserted(CAR, 2, "b"))
    await desk.recording.reach(T0 + 9)
    with pytest.raises(OutOfRange):
        await desk.rows(T0 + 9)


async def test_the_states_of_two_sources_are_one_state(desk: Desk) -> None:
    rows = {TRIP: [(key_of(1), row_of(1, "trip"))]}
    await desk.keep(T0, {1: "a"})
    await shelf.keep(
        desk.objects, desk.index, desk.tenant, T0 + 10, rows, source="trips", visible="1:1:"
    )
    await desk.recording.commit(T0 + 20, inserted(CAR, 2, "b"))
    await desk.recording.commit(T0 + 20, inserted(TRIP, 2, "two"), source="trips")
    await desk.recording.reach(T0 + 30)
    await desk.recording.reach(T0 + 30, source="trips")
    assert await desk.rows(T0 + 5) == cars(_1="a"), "not recorded yet, so no part of it"
    both = [*cars(_1="a", _2="b"), (TRIP, row_of(1, "trip")), (TRIP, row_of(2, "two"))]
    assert await desk.rows(T0 + 20) == both


async def test_a_tenant_that_came_after_everybody_was_recorded_began_with_nothing(
    desk: Desk,
) -> None:
    await desk.index.add_run(Run("shared", T0, "100:100:", "0/1000"))
    await desk.recording.commit(T0 + 10, inserted(CAR, 1, "first"), source="shared")
    await desk.recording.reach(T0 + 20, source="shared")
    assert await desk.rows(T0 + 5) == []
    assert await desk.rows(T0 + 15) == cars(_1="first")
    with pytest.raises(OutOfRange):
        await desk.rows(T0 - 1)


async def test_a_tenant_whose_old_snapshots_are_gone_is_not_taken_for_a_new_one(
    desk: Desk,
) -> None:
    await desk.index.add_run(Run("fleet", T0, "1:1:", "0/1000"))
    first = await desk.keep(T0, {1: "a"})
    await desk.recording.reach(T0 + 20)
    await desk.index.remove(desk.tenant, first)
    with pytest.raises(OutOfRange):
        await desk.rows(T0 + 5)


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "manifest", "no manifest"])
async def test_a_damaged_snapshot_is_never_used_the_one_before_is(desk: Desk, damage: str) -> None:
    await desk.keep(T0, {1: "a"})
    await desk.recording.commit(T0 + 10, updated(CAR, 1, "A"))
    newer = await desk.keep(T0 + 20, {1: "A"})
    await desk.recording.reach(T0 + 30)
    folder = desk.folder / newer.folder
    file, manifest = next(folder.glob("*.zst")), folder / "manifest.json"
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "manifest":
        manifest.write_bytes(manifest.read_bytes().replace(b'"rows":1', b'"rows":2'))
    else:
        manifest.unlink()
    assert await desk.rows(T0 + 25) == cars(_1="A")
    assert list(await desk.index.broken(desk.tenant)) == [newer.id]
    assert await desk.rows(T0 + 25) == cars(_1="A")
    assert desk.broken == ["one"], "told once"


async def test_a_place_where_all_is_gone_is_away_and_no_snapshot_is_given_up(desk: Desk) -> None:
    await desk.keep(T0, {1: "a"})
    await desk.recording.reach(T0)
    elsewhere = desk.folder.rename(desk.folder.parent / "unmounted")
    with pytest.raises(ObjectsUnavailable, match="there is nothing at"):
        await desk.rows(T0)
    elsewhere.rename(desk.folder)
    assert await desk.rows(T0) == cars(_1="a")


async def test_a_snapshot_that_retention_removes_meanwhile_is_not_told_to_be_damaged(
    desk: Desk,
) -> None:
    """Symptom: an error in the log, a count, and a mark that stayed, for what was only too old."""
    await desk.keep(T0, {1: "a"})
    gone = await desk.keep(T0 + 10, {1: "A"})
    await desk.recording.reach(T0 + 30)
    assert await desk.rows(T0) == cars(_1="a")
    # Asked with a list of before.
    until = desk.index.until
    listed = [each async for each in until(desk.tenant, T0 + 20)]

    async def of_before(tenant: str, at_ms: int) -> AsyncGenerator[Snapshot, None]:
        for each in listed:
            yield each

    desk.states._index.until = of_before  # type: ignore[method-assign]
    await desk.index.remove(desk.tenant, gone)
    await desk.objects.remove(gone.folder)
    assert await desk.rows(T0 + 20) == cars(_1="a")
    assert (desk.broken, await desk.index.broken(desk.tenant)) == ([], {})


async def test_damage_that_shows_while_a_state_is_sent_is_an_error_and_remembered(
    desk: Desk,
) -> None:
    await desk.keep(T0, {1: "a"})
    newer = await desk.keep(T0 + 10, {1: "a"})
    await desk.recording.reach(T0 + 30)
    assert await desk.rows(T0 + 20) == cars(_1="a")  # found whole, once for this process
    file = next((desk.folder / newer.folder).glob("*.zst"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptFile):
        await desk.rows(T0 + 20)
    assert await desk.rows(T0 + 20) == cars(_1="a"), "from the snapshot before"
    assert list(await desk.index.broken(desk.tenant)) == [newer.id]


async def test_a_large_state_comes_in_blocks(desk: Desk) -> None:
    many = dict.fromkeys(range(5000), "x" * 200)
    await desk.keep(T0, many)
    await desk.recording.commit(
        T0 + 1, *(inserted(CAR, number, "y" * 200) for number in range(10_000, 13_000))
    )
    await desk.recording.reach(T0 + 1)
    state = await desk.states.open(desk.tenant, T0 + 1)
    sizes = [len(lines) async for _, lines in state.blocks()]
    assert state.rows == 8000
    assert max(sizes) < 300_000
