"""What a playing command shows: events on stdout, sentences and a bar with the playhead on stderr.

The bar is there on a terminal alone. A line that goes to the terminal takes its place; the bar comes
again below it.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from gateway.remote.playhead import Playhead
from gateway.terminal import say, write_line

# Many lines a second are not each worth a bar.
_PAUSE_SEC = 0.1


class Bar:
    """Used by several threads; entered, it is shown."""

    def __init__(self) -> None:
        # Asked here: what makes rich draw everywhere (FORCE_COLOR) must not fill a file with bars.
        self._shown = sys.stderr.isatty()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[events]} events"),
        )
        self._progress = Progress(
            *columns,
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
            disable=not self._shown,
        )
        self._in_the_way = self._shown and sys.stdout.isatty()
        self._lock = threading.RLock()
        self._playhead: Playhead | None = None
        self._events = 0
        self._drawn_sec = 0.0
        self._visible = False
        self._task = self._progress.add_task("", total=1, visible=False, speed="", events=0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock, suppress(OSError):  # the terminal is gone
            self.draw()
            self._progress.stop()
            self._playhead, self._visible = None, False

    def follow(self, playhead: Playhead) -> None:
        """Show this one from now on."""
        self._playhead = playhead
        self.draw()

    def draw(self) -> None:
        """Show how things are now."""
        playhead = self._playhead
        if playhead is None or not self._shown:
            return
        with self._lock:
            self._progress.update(
                self._task,
                completed=playhead.done,
                visible=True,
                description=f"{playhead.state:<10} {playhead.now():%Y-%m-%d %H:%M:%S}",
                speed=f"×{playhead.next_speed:g}",
                events=self._events,
            )
            self._progress.refresh()
            self._visible, self._drawn_sec = True, time.monotonic()

    def say(self, sentence: str) -> None:
        with self._aside():
            say(sentence)

    def write_event(self, line: str) -> None:
        self._events += 1
        if not self._in_the_way:
            write_line(line)
            return
        with self._aside():
            write_line(line)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        with self._lock:
            if self._visible:
                self._progress.update(self._task, visible=False)
                self._progress.refresh()
                self._visible = False
            yield
            if time.monotonic() - self._drawn_sec > _PAUSE_SEC:
                self.draw()
