"""The id of a session's frames: what is written is read, and nothing else."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.playback.cursor import SessionCursor
from store.merge import Place

places = st.one_of(
    st.builds(Place, st.integers(0, 10**15 - 1), st.integers(0, 2**31), st.integers(0, 10**18)),
    st.integers(0, 10**15 - 1).map(Place.before_ms),
    st.integers(0, 10**15 - 1).map(Place.after_ms),
)
cursors = st.builds(SessionCursor, st.integers(1, 10**15 - 1), places, st.booleans())


@given(cursors)
def test_a_cursor_is_read_as_it_is_written(cursor: SessionCursor) -> None:
    assert SessionCursor.parse(cursor.text(cursor.place)) == cursor


@given(cursors, places)
def test_a_cursor_writes_other_places_of_its_run(cursor: SessionCursor, place: Place) -> None:
    assert SessionCursor.parse(cursor.text(place)) == cursor._replace(place=place)


def test_a_cursor_that_owes_a_state_says_so() -> None:
    cursor = SessionCursor(1, Place.before_ms(2), owed=True)
    assert cursor.text(cursor.place) == "1-2--1-0-state"
    assert cursor.through_ms == 1
    assert SessionCursor(1, Place.after_ms(2), owed=True).through_ms == 2


@given(cursors)
def test_a_state_is_owed_between_two_milliseconds(cursor: SessionCursor) -> None:
    settled = cursor.settled()
    if not cursor.owed:
        assert settled == cursor
    else:
        ms = cursor.place.ms
        assert settled.place in (Place.before_ms(ms), Place.after_ms(ms))
        assert settled.place <= cursor.place


def test_blanks_around_a_cursor_are_a_headers_own() -> None:
    assert SessionCursor.parse(" 1-2-3-4 ") == SessionCursor(1, Place(2, 3, 4))


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1-2-3", "1-2-3-4-5", "a-2-3-4", "1-2-3-", "-1-2-3-4", "1--2-3-4"),
        *("1-2--2-4", "1-2-3--4", "1.0-2-3-4", "1-2-3-4\n5", "١-2-3-4", "17-5f0c", "1 -2-3-4"),
        *("1" * 16 + "-2-3-4", "1-" + "2" * 16 + "-3-4", "1-2-" + "3" * 11 + "-4"),
        *("1-2-3-" + "4" * 20, "1-2-3-4-", "1-2-3-4-State", "1-2-3-4-state-state"),
    ],
)
def test_what_is_no_cursor_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="last_event_id must be '<run>-<ms>-<kind>-<sequence>'"):
        SessionCursor.parse(text)


@given(st.text(max_size=40))
def test_no_text_at_all_does_more_than_be_refused(text: str) -> None:
    with suppress(ValueError):
        cursor = SessionCursor.parse(text)
        assert SessionCursor.parse(cursor.text(cursor.place)) == cursor
