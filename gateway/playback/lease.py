"""Holding a tenant's session lock for as long as a one-shot replay runs."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import structlog

from store.errors import StoreError
from store.session import Lease, Outcome, Sessions

_RETRY_SEC = 0.2

logger = structlog.get_logger(__name__)


class ReplayLocks:
    """Leases of this gateway, renewed at a third of their length."""

    def __init__(self, sessions: Sessions, *, lease_sec: float) -> None:
        self._sessions = sessions
        self._lease_sec = lease_sec
        self._releasing: set[asyncio.Task[None]] = set()
        self._gateway = str(uuid4())

    async def take(self, tenant: str) -> Lease | Outcome:
        """The lock, or what holds it."""
        return await self._sessions.take_lease(tenant, self._gateway)

    @contextmanager
    def hold(self, tenant: str, lease: Lease, on_lost: Callable[[], None]) -> Iterator[None]:
        """Renew the lease while inside, give it back after; `on_lost` when it may be another's."""
        renewing = asyncio.create_task(self._renew(tenant, lease, on_lost))
        try:
            yield
        finally:
            renewing.cancel()
            self.release(tenant, lease)

    def release(self, tenant: str, lease: Lease) -> None:
        task = asyncio.create_task(self._release(tenant, lease))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def close(self) -> None:
        """Give back what is being given back: else it would lock its tenant until it expires."""
        await asyncio.gather(*self._releasing)

    async def _renew(self, tenant: str, lease: Lease, on_lost: Callable[[], None]) -> None:
        pause = self._lease_sec / 3
        held_until = time.monotonic() + self._lease_sec
        while True:
            await asyncio.sleep(pause)
            asked = time.monotonic()
            try:
                kept = await self._sessions.renew_lease(tenant, lease)
            except StoreError as error:
                logger.warning("lease_not_renewed", tenant=tenant, error=str(error))
                # Who cannot reach the server cannot know that nobody else has the lease by now.
                kept = time.monotonic() < held_until
                pause = min(_RETRY_SEC, pause)
            else:
                pause, held_until = self._lease_sec / 3, asked + self._lease_sec
            if not kept:
                logger.warning("lease_lost", tenant=tenant, token=lease.token)
                on_lost()
                return

    async def _release(self, tenant: str, lease: Lease) -> None:
        try:
            await self._sessions.release_lease(tenant, lease)
        except StoreError as error:
            # It expires by itself.
            logger.warning("lease_not_released", tenant=tenant, error=str(error))
