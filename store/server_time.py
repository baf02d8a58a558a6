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

logger = structlog.get_logger(__name__)


class ServerTime:
    """`now_ms()` after the first `measure`. The error is at most half the shortest round trip."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._offset_ms = time.time() * 1000 - time.monotonic() * 1000
        self.round_trip_ms = 0.0

    def now_ms(self) -> float:
        """ms since 1970, UTC."""
        return time.monotonic() * 1000 + self._offset_ms

    async def measure(self) -> None:
        """Ask the server a few times; the quickest answer says most."""
        best: tuple[float, float] | None = None
        for _ in range(_SAMPLES):
            before = time.monotonic()
            seconds, micros = await self._connection.execute("TIME")
            after = time.monotonic()
            server_ms = int(seconds) * 1000 + int(micros) / 1000
            sample = ((after - before) * 1000, server_ms - (before + after) * 500)
            best = sample if best is None else min(best, sample)
        assert best is not None  # noqa: S101 - _SAMPLES is more than 0
        self.round_trip_ms, self._offset_ms = best

    async def run(self) -> None:
        """Measure again and again until cancelled: clocks drift, and a failover is another clock."""
        while True:
            await asyncio.sleep(_INTERVAL_SEC)
            try:
                await self.measure()
            except StoreError as error:
                logger.warning("server_time_not_measured", error=str(error))
