"""Every open stream of the process: heartbeats, maximum duration, stalled clients and the drain."""

import asyncio
import time
from collections.abc import Callable
from itertools import takewhile

from gateway.stream import EventStream

TICK_SEC = 1.0
# Streams told to close in one go before the loop is given back.
_CLOSE_BATCH = 50


class Streams:
    """Open streams. One task serves all their timers, so that an idle stream costs no timer."""

    def __init__(self, *, heartbeat_sec: float, max_duration_sec: float) -> None:
        self._open: dict[EventStream, int] = {}
        self._slots: list[set[EventStream]] = [
            set() for _ in range(max(1, round(heartbeat_sec / TICK_SEC)))
        ]
        self._max_duration_sec = max_duration_sec
        # All streams live equally long, so the next to end is always the one opened first.
        self._deadlines: dict[EventStream, float] = {}
        self._tick = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, stream: EventStream) -> None:
        # The slot just served: the first heartbeat comes a full interval from now.
        slot = self._tick % len(self._slots)
        self._open[stream] = slot
        self._slots[slot].add(stream)
        if stream.limited:
            self._deadlines[stream] = time.monotonic() + self._max_duration_sec
        self._empty.clear()
        if self._draining:
            # It was being opened when the others were told. Told once it has begun to send.
            asyncio.get_running_loop().call_soon(stream.close, "server_shutdown")

    def leave(self, stream: EventStream) -> None:
        slot = self._open.pop(stream, None)
        if slot is not None:
            self._slots[slot].discard(stream)
        self._deadlines.pop(stream, None)
        if not self._open:
            self._empty.set()

    async def run(self) -> None:
        """Serve the timers until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SEC)
            now = time.monotonic()
            # While this process itself stood still no client can be blamed for it.
            passed, before = min(now - before, 2 * TICK_SEC), now
            self._tick += 1
            for stream in list(self._slots[self._tick % len(self._slots)]):
                stream.beat()
            self._end_overdue(now)
            for stream in [each for each in self._open if each.stalled(passed)]:
                stream.abort()

    def _end_overdue(self, now: float) -> None:
        for stream in list(takewhile(lambda each: self._deadlines[each] <= now, self._deadlines)):
            del self._deadlines[stream]
            stream.close("max_duration_reached")

    async def drain(
        self, window_sec: float, timeout_sec: float, *, on_left: Callable[[int], None]
    ) -> None:
        """Close every stream with `server_shutdown`, spread over a window; abort who takes nothing.

        `on_left` is told how many had to be aborted.
        """
        self._draining = True
        ends = time.monotonic() + timeout_sec
        streams = list(self._open)
        pause = window_sec * _CLOSE_BATCH / max(len(streams), _CLOSE_BATCH)
        for start in range(0, len(streams), _CLOSE_BATCH):
            for stream in streams[start : start + _CLOSE_BATCH]:
                stream.close("server_shutdown")
            if start + _CLOSE_BATCH < len(streams):
                await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                await self._empty.wait()
        except TimeoutError:
            left = list(self._open)
            on_left(len(left))
            for stream in left:
                stream.abort()
