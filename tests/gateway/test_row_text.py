"""Rows of a state as text: every row once, as it was stored, in lines and in frames."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.row_text import frame_data, json_lines, last_line

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
rows = st.lists(st.tuples(st.integers(0, 99), texts), min_size=1, max_size=40)


def lines_of(found: list[tuple[int, str]]) -> bytes:
    """As a state gives them: JSON has no raw tab and no raw line feed."""
    return b"".join(
        json.dumps({"id": key}).encode()
        + b"\t"
        + json.dumps({"id": key, "t": text}).encode()
        + b"\n"
        for key, text in found
    )


@given(texts, rows)
def test_each_line_is_a_row_with_its_table(table: str, found: list[tuple[int, str]]) -> None:
    told = [json.loads(line) for line in json_lines(table, lines_of(found)).splitlines()]
    assert told == [
        {"table": table, "key": {"id": key}, "row": {"id": key, "t": text}} for key, text in found
    ]


@settings(max_examples=25)
@given(texts, rows, st.sampled_from([1, 7, 150]))
def test_frames_have_all_rows_in_order(
    table: str, found: list[tuple[int, str]], times: int
) -> None:
    frames = list(frame_data(table, lines_of(found * times)))
    told = [json.loads(frame) for frame in frames]
    assert {each["table"] for each in told} == {table}
    assert [row["row"]["t"] for each in told for row in each["rows"]] == [
        text for _, text in found * times
    ]
    assert all(len(frame) <= 64 << 10 for frame in frames)
    assert not any(b"\n" in frame for frame in frames)


def test_a_row_larger_than_a_frame_is_a_frame_of_its_own() -> None:
    found = [(1, "a"), (2, "b" * 100_000), (3, "c")]
    counts = [len(json.loads(each)["rows"]) for each in frame_data("s.t", lines_of(found))]
    assert counts == [1, 1, 1]


def test_the_end_counts_the_rows() -> None:
    assert last_line("2026-01-01T00:00:00.000Z", 7) == (
        b'{"complete":true,"at":"2026-01-01T00:00:00.000Z","rows":7}\n'
    )
