"""The newest frames: whoever asks gets all that comes after its place, or is sent to the log."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ring import Ring
from store.event import Entry, Position

ENDLESS = 1 << 30


@dataclass(frozen=True)
class Topic:
    """Lets the events of one topic pass."""

    topic: bytes
    everything: bool = False

    def matches(self, topic: bytes, event: bytes) -> bool:
        return topic == self.topic


def place(sequence: int) -> Position:
    """Three events share a millisecond."""
    return Position(1000 + sequence // 3, sequence)


def entry(sequence: int) -> Entry:
    return place(sequence).entry_id, (b"even" if sequence % 2 == 0 else b"odd", b"{}")


def add(ring: Ring[Position], sequences: Sequence[int], size: int = 10) -> None:
    ring.add(
        [place(sequence) for sequence in sequences],
        [entry(sequence) for sequence in sequences],
        [b"%d".ljust(size) % sequence for sequence in sequences],
    )


def sequences(frames: Sequence[bytes]) -> list[int]:
    return [int(frame) for frame in frames]


@pytest.fixture
def ring() -> Ring[Position]:
    """At most four frames and a hundred bytes, of a stream that is at 10."""
    return Ring(place(10), 4, 100)


def after(ring: Ring[Position], sequence: int, max_bytes: int = ENDLESS) -> list[int] | None:
    found = ring.after(place(sequence), None, max_bytes)
    return None if found is None else sequences(found[0])


def test_an_empty_ring_has_nothing_for_those_at_its_floor_and_is_none_for_those_before(
    ring: Ring[Position],
) -> None:
    assert ring.after(place(10), None, ENDLESS) == ([], place(10))
    assert ring.after(place(9), None, ENDLESS) is None


def test_it_keeps_so_many_frames(ring: Ring[Position]) -> None:
    add(ring, [11, 12])
    assert (after(ring, 10), after(ring, 11), after(ring, 12)) == ([11, 12], [12], [])
    add(ring, [13, 14, 15])
    assert after(ring, 10) is None
    assert after(ring, 11) == [12, 13, 14, 15]


def test_it_keeps_so_many_bytes(ring: Ring[Position]) -> None:
    add(ring, [11, 12, 13], size=40)
    assert after(ring, 10) is None
    assert after(ring, 11) == [12, 13]
    add(ring, [14], size=101)
    assert after(ring, 13) is None
    assert after(ring, 14) == []


def test_deleted_events_leave_no_hole_that_sends_anybody_to_the_log(ring: Ring[Position]) -> None:
    add(ring, [13, 17])
    assert after(ring, 10) == after(ring, 12) == [13, 17]
    assert after(ring, 13) == after(ring, 16) == [17]


def test_a_part_has_so_many_bytes_and_ends_where_the_next_begins(ring: Ring[Position]) -> None:
    frames = [b"%-10d" % number for number in (11, 12, 13, 14)]
    later = [Position(place(number).ms + number, number) for number in (11, 12, 13, 14)]
    ring.add(later, [None] * 4, frames)
    assert ring.after(place(10), None, 15) == (frames[:2], later[1])
    assert ring.after(later[1], None, 15) == (frames[2:], later[3])


def test_frames_of_one_time_are_not_parted(ring: Ring[Position]) -> None:
    add(ring, [11, 12, 13, 14])
    assert ring.after(place(10), None, 15) == (
        [b"11        ", b"12        ", b"13        ", b"14        "],
        place(14),
    )


def test_what_a_filter_keeps_out_is_looked_through_all_the_same(ring: Ring[Position]) -> None:
    """A quiet filter that did not move on would look at the same frames for ever."""
    add(ring, [11, 12, 13])
    found = ring.after(place(10), Topic(b"even"), ENDLESS)
    assert found == ([b"12        "], place(13))
    assert ring.after(place(10), Topic(b"none"), ENDLESS) == ([], place(13))


def test_after_a_gap_those_before_it_are_sent_to_the_log(ring: Ring[Position]) -> None:
    add(ring, [11, 12])
    ring.clear(place(20))
    assert after(ring, 12) is None
    assert after(ring, 20) == []
    add(ring, [21])
    assert after(ring, 12) is None
    assert after(ring, 20) == [21]


@given(
    batches=st.lists(
        st.tuples(st.lists(st.integers(1, 3), max_size=6), st.integers(5, 60)), max_size=8
    ),
    asked=st.integers(0, 80),
    max_bytes=st.integers(1, 200),
)
def test_whoever_is_served_by_the_ring_gets_all_there_was(
    batches: list[tuple[list[int], int]], asked: int, max_bytes: int
) -> None:
    ring = Ring(place(0), 7, 150)
    every: list[int] = []
    for steps, size in batches:
        batch: list[int] = []
        for step in steps:
            batch.append((batch or every or [0])[-1] + step)
        add(ring, batch, size)
        every += batch
    got: list[int] = []
    at = place(asked)
    while found := ring.after(at, None, max_bytes):
        frames, now = found
        got += sequences(frames)
        if now == at:
            break
        at = now
    if found is not None:
        assert got == [sequence for sequence in every if sequence > asked]
