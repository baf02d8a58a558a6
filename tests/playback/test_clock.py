"""The arithmetic of a session: where the playhead stands, what is due and when."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from gateway.playback.clock import due_ms, played_through_ms, playhead_ms
from store.session import Clock

YEAR_MS = 366 * 86_400_000
# Wall times of this century, event times since 1970.
WALL_MS = 1_800_000_000_000
wall_times = st.integers(WALL_MS, WALL_MS + 10 * YEAR_MS)
event_times = st.integers(0, WALL_MS)
speeds = st.floats(0.001, 1e6, allow_nan=False)
passing_ms = st.floats(0, 30 * 86_400_000)


def clock(
    *,
    wall_ms: int = WALL_MS,
    event_ms: int = 1000,
    speed: float = 1.0,
    end_ms: int = 5000,
    playing: bool = True,
    through_ms: int | None = None,
) -> Clock:
    return Clock(
        revision=1,
        run=1,
        playing=playing,
        wall_ms=wall_ms,
        event_ms=event_ms,
        speed=speed,
        start_ms=0,
        end_ms=end_ms,
        run_start_ms=0,
        through_ms=event_ms if through_ms is None else through_ms,
        told_ms=wall_ms,
    )


@st.composite
def playing_clocks(draw: st.DrawFn) -> Clock:
    event_ms = draw(event_times)
    return clock(
        wall_ms=draw(wall_times),
        event_ms=event_ms,
        speed=draw(speeds),
        end_ms=event_ms + draw(st.integers(0, YEAR_MS)),
    )


@given(playing_clocks(), passing_ms, passing_ms)
def test_the_playhead_moves_on_only_and_stays_in_the_range(
    playing: Clock, first: float, more: float
) -> None:
    early = playhead_ms(playing, playing.wall_ms + first)
    late = playhead_ms(playing, playing.wall_ms + first + more)
    assert playing.event_ms <= early <= late <= playing.end_ms
    assert played_through_ms(playing, playing.wall_ms + first) == floor(early)


@given(playing_clocks(), passing_ms)
def test_the_playhead_is_the_line_through_the_anchor(playing: Clock, passed: float) -> None:
    now = playing.wall_ms + passed
    exact = playing.event_ms + (Fraction(now) - playing.wall_ms) * Fraction(playing.speed)
    # A double of a time in ms is good for a microsecond, whatever the speed.
    found = playhead_ms(playing, now)
    assert abs(found - float(min(exact, Fraction(playing.end_ms)))) < 0.001


@given(playing_clocks(), st.integers(0, 30 * 86_400_000))
def test_an_event_is_played_when_it_is_due_and_not_before(playing: Clock, after_ms: int) -> None:
    event_ms = playing.event_ms + after_ms
    due = due_ms(playing, event_ms)
    if event_ms > playing.end_ms:
        assert due is None
        return
    assert due is not None
    assert due >= playing.wall_ms
    # Half a microsecond is what a double can tell from another at these times.
    slack = 0.001
    assert played_through_ms(playing, due + slack + 0.002 / playing.speed) >= event_ms
    if after_ms:
        before = due - slack - 0.002 / playing.speed
        assert playhead_ms(playing, before) < event_ms


@given(st.booleans(), event_times, wall_times)
def test_a_paused_playhead_stays_to_the_millisecond(
    played: bool, event_ms: int, now_ms: int
) -> None:
    through = event_ms if played else event_ms - 1
    paused = clock(event_ms=event_ms, end_ms=event_ms + 1, playing=False, through_ms=through)
    assert playhead_ms(paused, now_ms) == event_ms
    assert played_through_ms(paused, now_ms) == through
    assert due_ms(paused, event_ms + 1) is None


def test_what_lies_before_the_anchor_was_due_already() -> None:
    playing = clock(event_ms=1000, speed=2)
    assert due_ms(playing, 900) == playing.wall_ms - 50


def test_a_clock_that_is_behind_the_anchor_does_not_move_the_playhead_back() -> None:
    """Two servers' clocks differ a little; the record is the one that counts."""
    playing = clock(event_ms=1000)
    assert playhead_ms(playing, playing.wall_ms - 500) == 1000


def test_as_fast_as_possible_is_due_at_once() -> None:
    # The record's anchor is the end then.
    fastest = clock(event_ms=5000, speed=0, end_ms=5000)
    assert due_ms(fastest, 1) == due_ms(fastest, 5000) == fastest.wall_ms
    assert played_through_ms(fastest, fastest.wall_ms) == 5000


@dataclass(frozen=True)
class Stretch:
    """So long at this speed."""

    ms: int
    speed: float


stretches = st.lists(
    st.builds(Stretch, st.integers(0, 600_000), st.sampled_from([0.5, 1.0, 2.0, 3.7, 4.0])),
    min_size=1,
    max_size=60,
)


@given(stretches)
def test_speed_changes_add_up_without_drift(plan: list[Stretch]) -> None:
    """Each change writes an anchor in whole ms, as the server does: half a ms each, not more."""
    playing = clock(event_ms=0, end_ms=YEAR_MS)
    exact = Fraction(0)
    for stretch in plan:
        playing = clock(
            wall_ms=playing.wall_ms,
            event_ms=playing.event_ms,
            speed=stretch.speed,
            end_ms=YEAR_MS,
        )
        now = playing.wall_ms + stretch.ms
        exact += stretch.ms * Fraction(stretch.speed)
        anchor = floor(playhead_ms(playing, now) + 0.5)
        playing = clock(wall_ms=now, event_ms=anchor, speed=stretch.speed, end_ms=YEAR_MS)
    assert abs(playing.event_ms - exact) <= Fraction(len(plan), 2) + Fraction(1, 1000)


@given(stretches)
def test_whole_speeds_lose_nothing_at_all(plan: list[Stretch]) -> None:
    event_ms, wall_ms = 0, WALL_MS
    for stretch in plan:
        speed = float(int(stretch.speed) + 1)
        playing = clock(wall_ms=wall_ms, event_ms=event_ms, speed=speed, end_ms=YEAR_MS)
        wall_ms += stretch.ms
        assert playhead_ms(playing, wall_ms) == event_ms + stretch.ms * int(speed)
        event_ms += stretch.ms * int(speed)
