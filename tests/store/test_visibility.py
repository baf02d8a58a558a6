"""What a snapshot of PostgreSQL sees, by its text, also past the wrap of transaction ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.visibility import Visibility, format_lsn, parse_lsn

WRAP = 1 << 32


def test_a_snapshot_sees_what_ended_before_it_and_nothing_that_ran() -> None:
    seen = Visibility.parse("100:110:102,105")
    assert [xid for xid in range(95, 115) if not seen.sees(xid)] == [102, 105, *range(110, 115)]


def test_a_snapshot_without_running_transactions_sees_all_before_its_end() -> None:
    seen = Visibility.parse("100:100:")
    assert seen.sees(99)
    assert not seen.sees(100)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_ids_of_32_bits_are_those_nearest_to_the_snapshot(epoch: int) -> None:
    start = epoch * WRAP
    seen = Visibility.parse(f"{start + 3}:{start + 10}:{start + 5}")
    assert not seen.sees(5)
    assert not seen.sees(10)
    assert seen.sees(4)
    if epoch:
        assert seen.sees(WRAP - 1), "given before the wrap"


def test_an_id_given_after_the_wrap_is_not_seen_by_a_snapshot_of_before() -> None:
    seen = Visibility.parse(f"{WRAP - 5}:{WRAP - 2}:")
    assert seen.sees(WRAP - 6)
    assert not seen.sees(3)


@given(st.integers(3, 1 << 40), st.integers(0, 1000), st.data())
def test_every_id_near_a_snapshot_is_judged_as_its_64_bits_say(
    xmin: int, width: int, data: st.DataObject
) -> None:
    xmax = xmin + width
    running = data.draw(st.sets(st.integers(xmin, xmax), max_size=5)) - {xmax}
    listed = ",".join(map(str, sorted(running)))
    seen = Visibility.parse(f"{xmin}:{xmax}:{listed}")
    full = data.draw(st.integers(max(3, xmin - 5000), xmax + 5000))
    assert seen.sees(full % WRAP) == (full < xmax and full not in running)


@given(st.integers(0, (1 << 64) - 1))
def test_positions_of_the_write_ahead_log_are_read_as_they_are_written(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn
    assert parse_lsn("16/B374D848") == 0x16B374D848
