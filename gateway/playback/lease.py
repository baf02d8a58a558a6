"""Holding a tenant's session lock for as long as a one-shot replay runs."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import structlog

from store.errors import StoreError
from store.session import Lease, Outcome, Sessions

logger = structlog.get_logger(__name__)


class ReplayLocks:
    """Leases of this gateway, renewed at a third of their length."""

    def __init__(self, sessions: Sessions, *, lease_sec: float) -> None:
        self._sessions = sessions
        self._renew_sec = lease_sec / 3
        self._releasing: set[asyncio.Task[None]] = set()
        self._gateway = str(uuid4())

    async def take(self, tenant: str) -> Lease | Outcome:
        """The lock, or what holds it."""
        return await self._sessions.take_lease(tenant, self._gateway)

    @contextmanager
    def hold(self, tenant: str, lease: Lease, on_lost: Callable[[], None]) -> Iterator[None]:
        """Renew the lease while inside, give it back after; `on_lost` when it is another's."""
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

    async def _renew(self, tenant: str, lease: Lease, on_lost: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self._renew_sec)
            try:
                kept = await self._sessions.renew_lease(tenant, lease)
            except StoreError as error:
                logger.warning("lease_not_renewed", tenant=tenant, error=str(error))
                continue
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
