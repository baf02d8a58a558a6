"""Signals that end a command, heard only where it can be left: what it began is always ended."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

# A terminal that is closed, Ctrl-C, and what `kill` sends.
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Interruption(BaseException):
    """To end, with this exit status. No Exception, as KeyboardInterrupt is none."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Interruptions:
    """For the main thread. A signal is kept until it is heeded; the first one decides the status."""

    def __init__(self) -> None:
        self._status: int | None = None
        self._heeded = False
        self._raised = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in _SIGNALS:
            before = signal.getsignal(each)
            # Left alone where it is ignored on purpose, as behind `nohup` and `&`.
            if before is not signal.SIG_IGN or each is signal.SIGTERM:
                self._before[each] = before
                signal.signal(each, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Inside, the first signal raises Interruption; a second one does not disturb the clean-up."""
        self._heeded = True
        try:
            self._raise()
            yield
        finally:
            self._heeded = False

    def interrupt(self, status: int) -> None:
        """From another thread: end with this status, whatever the main thread waits for."""
        if self._status is None:
            self._status = status
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._status is None:
            self._status = 128 + number
        self._raise()

    def _raise(self) -> None:
        if self._heeded and not self._raised and self._status is not None:
            self._raised = True
            raise Interruption(self._status)
