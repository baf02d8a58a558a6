"""One client's view of a session: where it stands in the run, and how it is brought up to the player."""

from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing

from gateway.playback.cursor import SessionCursor
from gateway.playback.player import Player
from gateway.playback.players import Players
from gateway.stream import Census, EventStream
from store.merge import Place
from store.session import Session

CATCH_UP_BYTES = 256 << 10


class SessionStream(EventStream):
    """`GET /v1/replay/{id}/stream`: a `Watcher` of the session's player."""

    def __init__(
        self,
        session: Session,
        *,
        cursor: SessionCursor | None,
        players: Players,
        request_id: str,
        retry_ms: int,
        census: Census,
        send_timeout_sec: float,
        lifetime: Callable[[], AbstractContextManager[None]],
        on_events: Callable[[int], None],
        on_error: Callable[[], None],
    ) -> None:
        super().__init__(
            topic=f"session.{session.view.id}",
            request_id=request_id,
            census=census,
            send_timeout_sec=send_timeout_sec,
            lifetime=lifetime,
            on_events=on_events,
            on_error=on_error,
        )
        self._session = session
        self._players = players
        self._retry_ms: int | None = retry_ms
        self._cursor = cursor
        self._revision = -1
        self._player: Player | None = None

    @property
    def limited(self) -> bool:
        return False  # `system-time` comes each second; a session ends by itself

    def heartbeat(self) -> bytes:
        return b""

    async def open(self) -> bool:
        return True

    def leave(self) -> None:
        player, self._player = self._player, None
        if player is not None:
            self._players.detach(player, self)

    def fall_back(self) -> None:
        player = self._player
        assert player is not None  # noqa: S101 - only a member is pushed to
        self._cursor, self._revision = player.cursor, player.clock.revision
        player.part(self)

    def on_ended(self) -> None:
        self.close("end_of_stream")

    async def approach(self) -> bool:
        if self._player is None:
            self._player = await self._players.attach(self._session, self)
            if self._ended:
                self.leave()  # its client left meanwhile
                return True
        player = self._player
        cursor = self._cursor or player.cursor
        if cursor.run != player.clock.run:
            # Another run since: all of the present one is owed, from its beginning.
            cursor = SessionCursor(player.clock.run, player.run_start)
        self._cursor = cursor
        if self._revision != player.clock.revision:
            self._revision = player.clock.revision
            retry_ms, self._retry_ms = self._retry_ms, None
            await self._write(player.describe(cursor, retry_ms=retry_ms))
            return False
        if player.over:
            self.close("end_of_stream")
        elif player.join(self, cursor, self._revision):
            return True
        else:
            await self._forward(player, cursor)
        return False

    async def _forward(self, player: Player, cursor: SessionCursor) -> None:
        """Send what lies between the own place and the player's, or the next part of it."""
        target = player.place
        found = player.ring.after(cursor.place, None, CATCH_UP_BYTES)
        if found is not None:
            frames, place = found
            await self._send(frames, cursor.run, place)
            return
        async with aclosing(player.read(cursor.place, target.ms)) as batches:
            async for batch in batches:
                items = [item for item in batch if item.place <= target]
                if items:
                    frames = [player.frame(item, cursor) for item in items]
                    await self._send(frames, cursor.run, items[-1].place)
                if self._closing is not None or player.clock.run != cursor.run:
                    return
        self._cursor = SessionCursor(cursor.run, target)

    async def _send(self, frames: list[bytes], run: int, place: Place) -> None:
        self._cursor = SessionCursor(run, place)
        if frames:
            await self._write(b"".join(frames))
            self._on_events(len(frames))
