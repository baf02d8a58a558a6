"""Keys of a terminal, one by one and unseen, while it is entered; after it all is as it was before."""

import os
import re
import select
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Self

_LOCAL_MODES, _CONTROL_CHARACTERS = 3, 6
_READ_BYTES = 256
# A key's call may take a while; the command does not wait for it to end.
_JOIN_SEC = 0.5


class Key(StrEnum):
    PAUSE = "pause"
    FASTER = "faster"
    SLOWER = "slower"
    BACK = "back"
    FORWARD = "forward"
    QUIT = "quit"


_PLAIN = {
    b" ": Key.PAUSE,
    b"+": Key.FASTER,
    b"=": Key.FASTER,  # where + is shifted
    b"-": Key.SLOWER,
    b"_": Key.SLOWER,
    b"q": Key.QUIT,
    b"Q": Key.QUIT,
}
_ARROWS = {b"A": Key.FASTER, b"B": Key.SLOWER, b"C": Key.FORWARD, b"D": Key.BACK}
# ECMA-48: CSI, parameters, a final byte; or SS3 and a final byte, as in the application mode.
_SEQUENCE = re.compile(rb"\x1b(?:\[([0-?]*)[ -/]*|O())([@-~])")
_BEGINNING = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?")


class KeyParser:
    """Bytes of a terminal in any pieces in, keys out; those that mean nothing are dropped. Pure."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Key]:
        found: list[Key] = []
        data = self._rest + data
        while data and not _BEGINNING.fullmatch(data):
            sequence = _SEQUENCE.match(data)
            if sequence is None:
                key = _PLAIN.get(data[:1])
                data = data[1:]
            else:
                # With parameters it is an arrow with Shift or the like.
                key = None if sequence[1] else _ARROWS.get(sequence[3])
                data = data[sequence.end() :]
            if key is not None:
                found.append(key)
        self._rest = data
        return found


class Keyboard:
    """Tells keys to `on_key`, in a thread of its own; `on_failure` when that fails by a defect."""

    def __init__(
        self, descriptor: int, on_key: Callable[[Key], None], on_failure: Callable[[], None]
    ) -> None:
        self._descriptor = descriptor
        self._on_key = on_key
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop_reader, self._stop_writer = os.pipe()

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        modes = termios.tcgetattr(self._descriptor)
        modes[_LOCAL_MODES] &= ~(termios.ECHO | termios.ICANON)
        characters = list(modes[_CONTROL_CHARACTERS])
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        # Stopped by Ctrl-Z it would leave the shell a terminal that does not echo.
        nothing = os.fpathconf(self._descriptor, "PC_VDISABLE")
        characters[termios.VSUSP] = bytes([nothing])
        modes[_CONTROL_CHARACTERS] = characters
        termios.tcsetattr(self._descriptor, termios.TCSANOW, modes)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.write(self._stop_writer, b"\n")
        self._thread.join(_JOIN_SEC)
        # Not when all is written: a terminal that is held by Ctrl-S would never have it written.
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)

    def _run(self) -> None:
        try:
            self._listen()
        except BaseException:
            self._on_failure()
            raise

    def _listen(self) -> None:
        parser = KeyParser()
        while True:
            ready, _, _ = select.select([self._descriptor, self._stop_reader], [], [])
            if self._stop_reader in ready:
                return
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except OSError:
                return  # the terminal is gone; who has to know is told by a signal
            if not data:
                return
            for key in parser.feed(data):
                self._on_key(key)


def is_ours(descriptor: int) -> bool:
    """Whether keys can be read: a terminal, and not from the background, where that would stop us."""
    if not os.isatty(descriptor):
        return False
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True  # a terminal that controls nobody
