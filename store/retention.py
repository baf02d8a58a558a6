"""Removes what retention no longer keeps, stream by stream, again and again."""

import asyncio
from collections.abc import Mapping

import structlog

from store.errors import StoreError, StoreUnavailable
from store.event import Retention, StreamKey
from store.log import EventLog

INTERVAL_SEC = 1.0

logger = structlog.get_logger(__name__)


class Retainer:
    """Trims the streams of every tenant whose event type has a retention."""

    def __init__(self, log: EventLog, retentions: Mapping[str, Retention]) -> None:
        self._log = log
        self._retentions = dict(retentions)

    async def run(self) -> None:
        """Trim until cancelled. Several gateways may do so: what is gone is gone once."""
        while self._retentions:
            await asyncio.sleep(INTERVAL_SEC)
            try:
                await self.trim()
            except StoreError as error:
                logger.warning("retention_delayed", error=str(error))

    async def trim(self) -> int:
        """One round over all streams; the number of events removed."""
        removed = 0
        for tenant in await self._log.tenants():
            for event_type in await self._log.streams(tenant):
                retention = self._retentions.get(event_type)
                if retention is None:
                    continue
                try:
                    removed += await self._log.trim(StreamKey(tenant, event_type), retention)
                except StoreUnavailable:
                    raise
                except StoreError as error:
                    # One log that cannot be trimmed must not keep the others from it.
                    logger.warning(
                        "retention_failed", tenant=tenant, event_type=event_type, error=str(error)
                    )
        return removed
