"""Bytes that a terminal sends, as keys."""

import os
import pty
import termios
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.remote.keyboard import Key, Keyboard, KeyParser, is_ours
from tests.servers import wait_until

TYPED = {
    b" ": Key.PAUSE,
    b"q": Key.QUIT,
    b"+": Key.FASTER,
    b"-": Key.SLOWER,
    b"\x1b[A": Key.FASTER,
    b"\x1b[B": Key.SLOWER,
    b"\x1b[C": Key.FORWARD,
    b"\x1b[D": Key.BACK,
    b"\x1bOD": Key.BACK,
}
NOTHING = (b"x", b"\r", b"\x7f", b"\x1b[1;2A", b"\x1b[5~", b"\x1bOP", b"\xc3\xa4")


@pytest.mark.parametrize(("typed", "key"), TYPED.items())
def test_a_key_is_what_it_means(typed: bytes, key: Key) -> None:
    assert KeyParser().feed(typed) == [key]


@pytest.mark.parametrize("typed", NOTHING)
def test_other_keys_mean_nothing(typed: bytes) -> None:
    parser = KeyParser()
    assert parser.feed(typed) == []
    assert parser.feed(b"q") == [Key.QUIT]


def test_a_key_after_escape_alone_is_heard() -> None:
    parser = KeyParser()
    assert parser.feed(b"\x1b") == []
    assert parser.feed(b" ") == [Key.PAUSE]
    assert parser.feed(b"\x1b\x1b[C") == [Key.FORWARD]


@given(st.lists(st.sampled_from([*TYPED, *NOTHING])), st.data())
def test_where_a_read_ends_does_not_matter(typed: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(typed)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    parser = KeyParser()
    found: list[Key] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += parser.feed(whole[start:end])
    assert found == [TYPED[each] for each in typed if each in TYPED]


@given(st.binary())
def test_whatever_comes_nothing_breaks(typed: bytes) -> None:
    parser = KeyParser()
    parser.feed(typed)
    # At most a beginning is waited for.
    assert parser.feed(b"\x1b[Cq")[-1:] == [Key.QUIT]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both sides: where keys are pressed, and where they are read."""
    outside, inside = pty.openpty()
    yield outside, inside
    os.close(outside)
    os.close(inside)


def test_keys_are_told_as_they_are_pressed(terminal: tuple[int, int]) -> None:
    outside, inside = terminal
    before = termios.tcgetattr(inside)
    found: list[Key] = []
    assert is_ours(inside)
    with Keyboard(inside, found.append, lambda: found.append(Key.QUIT)):
        os.write(outside, b" x\x1b[A")
        wait_until(lambda: len(found) == 2, "both are told")
    assert found == [Key.PAUSE, Key.FASTER]
    assert termios.tcgetattr(inside) == before


def test_a_defect_is_not_silent(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    outside, inside = terminal
    before = termios.tcgetattr(inside)
    raised: list[threading.ExceptHookArgs] = []
    failed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", raised.append)

    def on_key(key: Key) -> None:
        raise ValueError(key)

    with Keyboard(inside, on_key, failed.set):
        os.write(outside, b"q")
        assert failed.wait(30)
    wait_until(lambda: raised, "the thread's error is shown")
    assert raised[0].exc_type is ValueError
    assert termios.tcgetattr(inside) == before


def test_a_pipe_has_no_keys() -> None:
    reader, writer = os.pipe()
    assert not is_ours(reader)
    os.close(reader)
    os.close(writer)
