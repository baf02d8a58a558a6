"""The sessions that somebody watches at this gateway: one player each, for as long as it is watched."""

import asyncio
from collections.abc import Callable

from gateway.playback.player import Player, Watcher
from store.session import Session


class Players:
    """A tenant has one session, so one player."""

    def __init__(self, make: Callable[[Session], Player]) -> None:
        self._make = make
        self._players: dict[str, Player] = {}
        # One starts only when the one before has ended: they follow the same feed.
        self._turn = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def attach(self, session: Session, watcher: Watcher) -> Player:
        """Watch a session. Raises StoreUnavailable."""
        view = session.view
        async with self._turn:
            player = self._players.get(view.tenant_id)
            if player is not None and (player.over or player.view.id != view.id):
                await self._drop(player)
                player = None
            if player is None:
                player = self._make(session)
                await player.start()
                self._players[view.tenant_id] = player
            player.users[watcher] = None
            return player

    def detach(self, player: Player, watcher: Watcher) -> None:
        player.part(watcher)
        player.users.pop(watcher, None)
        if not player.users:
            task = asyncio.create_task(self._retire(player))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, player: Player) -> None:
        async with self._turn:
            if not player.users:
                await self._drop(player)

    async def _drop(self, player: Player) -> None:
        if self._players.get(player.view.tenant_id) is player:
            del self._players[player.view.tenant_id]
            await player.stop()

    async def close(self) -> None:
        async with self._turn:
            for player in list(self._players.values()):
                await self._drop(player)
