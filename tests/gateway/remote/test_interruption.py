"""Signals that wait until they may be heard, and are heard once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from gateway.remote.interruption import Interruption, Interruptions


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Ctrl-C is not ignored, and all is as it was afterwards."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def status_of(work: Callable[[Interruptions], object], before: int | None = None) -> int | None:
    """The exit status of work that heeds signals; one may have come before."""
    with Interruptions() as interruptions:
        if before is not None:
            signal.raise_signal(before)
        try:
            with interruptions.heeded():
                work(interruptions)
        except Interruption as interruption:
            return interruption.status
    return None


def test_a_signal_is_kept_until_it_is_heeded() -> None:
    assert status_of(lambda _: pytest.fail("it was heeded too late"), signal.SIGTERM) == 143


def test_a_signal_is_heeded_at_once() -> None:
    def work(_: Interruptions) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it was not heeded")

    assert status_of(work) == 130


def test_without_one_nothing_happens() -> None:
    assert status_of(lambda _: None) is None


def test_a_second_signal_does_not_disturb_the_clean_up() -> None:
    cleaned = []

    def work(_: Interruptions) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)

    assert (status_of(work), cleaned) == (130, [True])


def test_another_thread_wakes_the_main_thread_with_its_status() -> None:
    reader, writer = os.pipe()

    def work(interruptions: Interruptions) -> None:
        threading.Thread(target=interruptions.interrupt, args=(0,)).start()
        os.read(reader, 1)  # for ever

    assert status_of(work) == 0
    os.close(reader)
    os.close(writer)


def test_afterwards_all_is_as_it_was_and_what_was_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = signal.getsignal(signal.SIGINT)
    assert status_of(lambda _: signal.raise_signal(signal.SIGHUP)) is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
