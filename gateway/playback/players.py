"""The sessions that somebody watches at this gateway: one player each, for as long as it is watched."""

import asyncio
import math
from collections.abc import Callable
from weakref import WeakValueDictionary

from gateway.playback.audience import Watcher
from gateway.playback.player import Player
from store.session import Session, Sessions

# How long the watchers of a session that is over may take to be told so, before the next begins.
_FAREWELL_SEC = 1.0


class Players:
    """A tenant has one session, so one player."""

    def __init__(self, sessions: Sessions, make: Callable[[Session], Player]) -> None:
        self._sessions = sessions
        self._make = make
        self._players: dict[str, Player] = {}
        # One starts only when the one before has ended: they follow the same feed.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._retiring: set[asyncio.Task[None]] = set()

    async def attach(self, session: Session, watcher: Watcher) -> Player | None:
        """Watch a session. None: another one has begun. Raises StoreUnavailable."""
        view = session.view
        async with self._turn(view.tenant_id):
            player = self._players.get(view.tenant_id)
            if player is not None and player.view.id != view.id:
                # One of the two is over; the server knows which.
                current = await self._sessions.get(view.tenant_id)
                if current is None or current.view.id != view.id:
                    return None
                await player.reach(math.inf, _FAREWELL_SEC)
                await self._drop(player)
                player = None
            elif player is not None and player.failed:
                await self._drop(player)
                player = None
            if player is None:
                player = await self._open(session)
                self._players[view.tenant_id] = player
            player.users[watcher] = None
            return player

    async def _open(self, session: Session) -> Player:
        player = self._make(session)
        try:
            await player.start()
        except BaseException:
            # The server is away, or the client left: what it follows already is let go.
            await player.stop()
            raise
        return player

    def detach(self, player: Player, watcher: Watcher) -> None:
        player.part(watcher)
        player.users.pop(watcher, None)
        if not player.users:
            task = asyncio.create_task(self._retire(player))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, player: Player) -> None:
        async with self._turn(player.view.tenant_id):
            if not player.users:
                await self._drop(player)

    async def _drop(self, player: Player) -> None:
        if self._players.get(player.view.tenant_id) is player:
            del self._players[player.view.tenant_id]
            await player.stop()

    def _turn(self, tenant: str) -> asyncio.Lock:
        return self._turns.setdefault(tenant, asyncio.Lock())

    async def close(self) -> None:
        for player in list(self._players.values()):
            async with self._turn(player.view.tenant_id):
                await self._drop(player)
        await asyncio.gather(*self._retiring)
