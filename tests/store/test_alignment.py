"""Where a snapshot stands in the log, with every order of commits, places and ids that there is."""

from dataclasses import dataclass

import pytest

from store.alignment import align
from store.captured import changes
from store.connection import Connection, meta_key
from store.errors import SnapshotFailed
from store.event import ORIGIN, Draft, Position, Retention
from store.log import EventLog
from store.snapshot_source import Moment
from store.visibility import format_lsn
from tests.store.recording import ENVELOPE, SOURCE, Recording, Row, inserted, key_of

T0 = 1_700_000_000_000
CAR = "public.car"
DAY_MS = 86_400_000


@dataclass
class Tape:
    """A log of changes, and where snapshots would stand in it."""

    recording: Recording

    async def commit(self, ms: int, xid: int, *, rows: int = 1, source: str = SOURCE) -> int:
        """A transaction; its place in the source's write-ahead log."""
        written = [inserted(CAR, number, "x") for number in range(rows)]
        await self.recording.commit(ms, *written, xid=xid, source=source)
        return self.recording.lsn

    async def find(
        self,
        visible: str,
        lsn: int,
        *,
        wall_ms: int = T0,
        since_ms: int | None = None,
        begun: Position | None = None,
    ) -> tuple[int, int]:
        """At which time a snapshot stands, and behind which sequence; begun when all was there."""
        since_ms = wall_ms if since_ms is None else since_ms
        moment = Moment(visible, format_lsn(lsn), wall_ms, since_ms)
        recording = self.recording
        head = await recording.log.head(changes(recording.tenant))
        found = await align(
            *(recording.log, recording.connection, recording.tenant, SOURCE, moment),
            begun=begun or head.last,
        )
        assert found.epoch == head.epoch
        # A reader begins behind it: the entry of this sequence must not lie in another time.
        assert found.position.sequence in (0, head.last.sequence) or found.position.ms > 0
        return found.at_ms, found.position.sequence


@pytest.fixture
def tape(connection: Connection, log: EventLog, tenant: str) -> Tape:
    return Tape(Recording(connection, log, tenant))


async def test_without_a_log_it_stands_at_its_beginning(tape: Tape) -> None:
    recording = tape.recording
    moment = Moment("10:10:", "0/10", T0, T0)
    found = await align(
        recording.log, recording.connection, recording.tenant, SOURCE, moment, begun=ORIGIN
    )
    assert (found.at_ms, found.position, found.epoch) == (T0, ORIGIN, b"")


async def test_what_is_seen_lies_before_it_and_what_is_not_behind(tape: Tape) -> None:
    await tape.commit(T0 - 9, 100, rows=2)
    seen = await tape.commit(T0 - 8, 101, rows=2)
    await tape.commit(T0 + 5, 102, rows=2)
    assert await tape.find("102:102:", seen + 1) == (T0, 4)


async def test_when_all_is_seen_it_stands_at_the_end(tape: Tape) -> None:
    lsn = await tape.commit(T0 - 8, 101)
    assert await tape.find("102:102:", lsn + 1) == (T0, 1)


async def test_one_that_was_open_and_committed_later_lies_behind(tape: Tape) -> None:
    """Its id is older than some that are seen."""
    lsn = await tape.commit(T0 - 8, 105)
    await tape.commit(T0 + 1, 104)
    assert await tape.find("104:106:104", lsn + 1) == (T0, 1)


async def test_one_that_is_written_before_the_place_and_not_seen_lies_behind(tape: Tape) -> None:
    """Its commit is in the write-ahead log, the snapshot was made before it counted as done."""
    await tape.commit(T0 - 9, 100)
    await tape.commit(T0 - 5, 103, rows=3)
    lsn = await tape.commit(T0 - 4, 104)
    assert await tape.find("103:105:103", lsn + 1) == (T0, 1)


async def test_one_that_committed_between_the_look_and_the_place_lies_behind(tape: Tape) -> None:
    """By the place alone it would be taken for seen: nothing was running, its id is new."""
    await tape.commit(T0 - 9, 100)
    lsn = await tape.commit(T0, 101)
    assert await tape.find("101:101:", lsn + 1) == (T0, 1)


async def test_one_that_is_seen_after_one_that_is_not_counts_for_the_time(tape: Tape) -> None:
    """Nothing that is seen happened later than when the snapshot stands for the state."""
    await tape.commit(T0 - 9, 103)
    lsn = await tape.commit(T0 + 7, 104)
    await tape.commit(T0 + 9, 105)
    assert await tape.find("103:105:103", lsn + 1) == (T0 + 7, 0)


async def test_ids_of_before_a_wrap_and_of_after_it_are_told_apart(tape: Tape) -> None:
    wrap = 1 << 32
    await tape.commit(T0 - 9, wrap - 3)
    await tape.commit(T0 - 8, wrap - 1)
    await tape.commit(T0 - 7, 3)
    lsn = await tape.commit(T0 - 6, 5)
    start = 4 * wrap
    visible = f"{start - 1}:{start + 5}:{start - 1},{start + 4}"
    assert await tape.find(visible, lsn + 1) == (T0, 1)
    assert await tape.find(f"{start + 5}:{start + 5}:", lsn + 1) == (T0, 3)
    assert await tape.find(f"{start - 2}:{start - 2}:", lsn + 1) == (T0, 1)


async def test_nothing_at_its_place_or_later_is_seen_whatever_its_id(tape: Tape) -> None:
    """An id comes again after four thousand million, and means another transaction."""
    lsn = await tape.commit(T0 - 9, 100)
    await tape.commit(T0 + 1, 100)
    await tape.commit(T0 + 2, 99)
    assert await tape.find("103:105:103", lsn + 1) == (T0, 1)


async def test_a_commit_that_waits_for_replicas_for_a_day_lies_behind(tape: Tape) -> None:
    """Symptom: only a minute was looked back, so that it was in no later state."""
    await tape.commit(T0 - 2 * DAY_MS, 100)
    await tape.commit(T0 - DAY_MS, 103)
    lsn = await tape.commit(T0 - 1, 104)
    visible = "103:105:103"
    assert await tape.find(visible, lsn + 1, since_ms=T0 - DAY_MS) == (T0, 1)


async def test_a_commit_that_waits_for_the_disk_for_a_day_lies_behind(tape: Tape) -> None:
    """Its time is of before, and it comes into the log when a snapshot has begun."""
    await tape.commit(T0 - 2 * DAY_MS, 100)
    begun = (await tape.recording.log.head(changes(tape.recording.tenant))).last
    await tape.commit(T0 - DAY_MS, 103)
    lsn = await tape.commit(T0 - 1, 104)
    assert await tape.find("103:105:103", lsn + 1, begun=begun) == (T0, 1)


async def test_a_clock_that_was_set_back_changes_nothing(tape: Tape) -> None:
    await tape.commit(T0 + 5000, 100)
    lsn = await tape.commit(T0 + 5000, 103)
    assert await tape.find("103:105:103", lsn + 1, wall_ms=T0) == (T0 + 5000, 1)


async def test_other_sources_and_what_was_published_say_nothing(tape: Tape) -> None:
    await tape.commit(T0 - 9, 500, source="other")
    published = Draft(b"change.x", b'{"data":{"payload":{}},"id":"change@', T0 - 8)
    recording = tape.recording
    await recording.log.append(changes(recording.tenant), ENVELOPE, [published])
    lsn = await tape.commit(T0 - 7, 100)
    await tape.commit(T0 + 9, 90, source="other")
    await tape.commit(T0 + 9, 103)
    assert await tape.find("103:103:", lsn + 1) == (T0, 4)


@pytest.mark.parametrize("odd", ['"\\ud800"', "[" * 3000 + "]" * 3000])
async def test_a_change_with_a_value_that_only_postgresql_reads_counts(
    tape: Tape, odd: str
) -> None:
    """Symptom: it was taken for something that was published, and then missing."""
    lsn = await tape.commit(T0 - 9, 100)
    row = Row(CAR, "c", key_of(1), after=f'{{"id":1,"text":{odd}}}')
    await tape.recording.commit(T0 - 8, row, xid=103)
    assert await tape.find("103:105:103", lsn + 0x200) == (T0, 1)


async def test_what_the_source_wrote_before_it_was_another_one_is_not_looked_at(
    tape: Tape,
) -> None:
    """Symptom: ids and places of a cluster that was restored or replaced were compared."""
    await tape.commit(T0 - 9, 7000, rows=2)
    recording = tape.recording
    key = meta_key(changes(recording.tenant))
    await recording.connection.execute("HSET", key, f"began:{SOURCE}", 2)
    recording.lsn = 0x500
    lsn = await tape.commit(T0 - 5, 100)
    assert await tape.find("101:101:", lsn + 1) == (T0, 3)
    assert await tape.find("100:100:", lsn + 1) == (T0, 2)


async def test_a_log_that_lost_what_has_to_be_looked_at_is_a_failure(tape: Tape) -> None:
    for number in range(3):
        lsn = await tape.commit(T0 - 9, 100 + number)
    recording = tape.recording
    stream = changes(recording.tenant)
    assert await tape.find("101:101:", lsn + 1) == (T0, 1)
    looked = recording.log.before_time

    async def trimmed_meanwhile(key: object, ms: int) -> Position | None:
        found = await looked(stream, ms)
        await recording.log.trim(stream, Retention(max_count=1))
        return found

    recording.log.before_time = trimmed_meanwhile  # type: ignore[method-assign, assignment]
    with pytest.raises(SnapshotFailed, match="were removed from the log"):
        await tape.find("101:101:", lsn + 1)
