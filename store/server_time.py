"""The time of the log's server, as every gateway has to agree on it.

Kept as an offset to this process's monotonic clock, so that a local clock that is set changes nothing.
"""

import asyncio
import time

import structlog

from store.connection import Connection
from store.errors import StoreError

_SAMPLES = 5
_INTERVAL_SEC = 5.0
# Two crystals part by this much: quartz is good for 20 to 50 ppm each.
_DRIFT = 100e-6

logger = structlog.get_logger(__name__)


class Offset:
    """What one clock shows less what another does, by questions and answers. Pure; all times in ms.

    An answer was given at some moment between the question and its arrival: the quicker it comes,
    the more it says. A slow one is not believed over a quick one of a moment ago.
    """

    def __init__(self, guess_ms: float) -> None:
        self.ms = guess_ms
        # How wrong it can be, and when it was not more than that.
        self.error_ms = float("inf")
        self._measured_ms = 0.0

    def add(self, asked_ms: float, shown_ms: float, answered_ms: float) -> None:
        """One look at the other clock, between two at our own."""
        found = shown_ms - (asked_ms + answered_ms) / 2
        error = (answered_ms - asked_ms) / 2
        known = self.error_ms + (answered_ms - self._measured_ms) * _DRIFT
        # Further away than both can err: the other clock was set, or is another server's.
        if error <= known or abs(found - self.ms) > error + known:
            self.ms, self.error_ms, self._measured_ms = found, error, answered_ms


class ServerTime:
    """`now_ms()` after the first `measure`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._offset = Offset(time.time() * 1000 - time.monotonic() * 1000)

    @property
    def error_ms(self) -> float:
        """How wrong the time was at most when it was measured best."""
        return self._offset.error_ms

    def now_ms(self) -> float:
        """ms since 1970, UTC."""
        return time.monotonic() * 1000 + self._offset.ms

    async def measure(self) -> None:
        """Ask the server a few times. Raises StoreUnavailable."""
        for _ in range(_SAMPLES):
            asked = time.monotonic()
            seconds, micros = await self._connection.execute("TIME")
            answered = time.monotonic()
            shown_ms = int(seconds) * 1000 + int(micros) / 1000
            self._offset.add(asked * 1000, shown_ms, answered * 1000)

    async def run(self) -> None:
        """Measure again and again until cancelled: clocks drift, and a failover is another clock."""
        while True:
            await asyncio.sleep(_INTERVAL_SEC)
            try:
                await self.measure()
            except StoreError as error:
                logger.warning("server_time_not_measured", error=str(error))
