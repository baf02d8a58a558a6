"""Lines of a file or a pipe in batches, each with its number."""

import os
import threading
from io import RawIOBase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ndjson
from gateway.ndjson import Line, read_batches


def read(path: Path, content: bytes, most_lines: int) -> list[list[Line]]:
    path.write_bytes(content)
    with path.open("rb") as file:
        return list(read_batches(file, most_lines))


def test_a_batch_has_at_most_so_many_lines(tmp_path: Path) -> None:
    batches = read(tmp_path / "f", b"1\n2\n3\n4\n5\n", 2)
    assert [[line.text for line in batch] for batch in batches] == [
        [b"1", b"2"],
        [b"3", b"4"],
        [b"5"],
    ]


def test_a_batch_stays_below_the_largest_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "MOST_BYTES", 10)
    batches = read(tmp_path / "f", b"aaaa\nbbbb\ncccc\ndddddddddddddddd\ne", 500)
    assert [[line.text for line in batch] for batch in batches] == [
        [b"aaaa", b"bbbb"],
        [b"cccc"],
        [b"d" * 16],
        [b"e"],
    ]


def test_blank_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    assert read(tmp_path / "f", b"\n a \r\n\t\n\nb", 9) == [[Line(2, b"a"), Line(5, b"b")]]


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n"])
def test_a_file_without_lines_has_no_batch(content: bytes, tmp_path: Path) -> None:
    assert read(tmp_path / "f", content, 9) == []


def test_a_line_may_be_longer_than_a_read(tmp_path: Path) -> None:
    line = b"x" * 1_000_000
    assert read(tmp_path / "f", b"a\n" + line + b"\nb\n", 9) == [
        [Line(1, b"a"), Line(2, line), Line(3, b"b")]
    ]


def finish(pipe: RawIOBase) -> None:
    pipe.write(b" whole\n")
    pipe.close()


def test_a_pipe_that_pauses_gives_what_it_has() -> None:
    """Without it `tail -f` into a publish would wait for a full batch."""
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123
        batches = read_batches(file, 500)
        pipe.write(b"1\n2\n3 is not")
        assert next(batches) == [Line(1, b"1"), Line(2, b"2")]
        rest = threading.Thread(target=finish, args=(pipe,))
        rest.start()
        assert next(batches) == [Line(3, b"3 is not whole")]
        assert list(batches) == []
        rest.join()


@given(st.lists(st.binary(max_size=6), max_size=30), st.integers(1, 5))
def test_any_file_is_its_lines_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], most_lines: int
) -> None:
    content = b"\n".join(lines)
    batches = read(tmp_path_factory.getbasetemp() / "any", content, most_lines)
    assert all(0 < len(batch) <= most_lines for batch in batches)
    assert [(line.number, line.text) for batch in batches for line in batch] == [
        (number, text.strip())
        for number, text in enumerate(content.split(b"\n"), 1)
        if text.strip()
    ]
