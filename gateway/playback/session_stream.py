"""One client's view of a session: where it stands in the run, and how it is brought up to the player."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from gateway.playback.cursor import SessionCursor
from gateway.playback.player import Player, start_of
from gateway.playback.players import Players
from gateway.stream import Census, EventStream
from store.merge import Place
from store.session import Session

CATCH_UP_BYTES = 256 << 10
# How long a stream waits in one go, before it looks whether it is to end.
_PATIENCE_SEC = 1.0


class SessionStream(EventStream):
    """`GET /v1/replay/{id}/stream`: a `Watcher` of the session's player.

    Without a cursor it begins at the playhead, as the session was described to its request.
    """

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
        on_catch_up: Callable[[], None],
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
        self._cursor = cursor or SessionCursor(session.clock.run, start_of(session))
        # There may be more events of the time of the last one sent: nothing else comes between.
        self._split = False
        self._revision = -1
        self._player: Player | None = None
        self._on_catch_up = on_catch_up

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
        self._part()
        self._on_catch_up()

    def _part(self) -> None:
        """Be no member any more, and stand where a member stood."""
        player = self._player
        assert player is not None  # noqa: S101 - only a member is pushed to
        self._cursor, self._revision = player.cursor_of(self), player.clock.revision
        self._split = player.split
        player.part(self)

    def on_ended(self) -> None:
        # One that is not live finds out by itself, when it has been told of the last change.
        if self.live:
            self._part()
            self._start_task(self._catch_up)

    async def approach(self) -> bool:
        player = self._player
        if player is None:
            player = self._player = await self._players.attach(self._session, self)
            if player is None:
                self.close("end_of_stream")
                return False
            if self._ended:
                self.leave()  # its client left meanwhile
                return True
        if player.failed:
            await self._fail("The session cannot be played on; connect again")
        elif player.clock.revision < self._session.clock.revision and not player.done:
            # What the request was told, this gateway has yet to hear.
            await player.reach(self._session.clock.revision, _PATIENCE_SEC)
        elif self._find_place(player) or self._split:
            return await self._follow(player)
        else:
            self._revision = player.clock.revision
            retry_ms, self._retry_ms = self._retry_ms, None
            await self._write(player.describe(self._cursor.place, retry_ms=retry_ms))
        return False

    def _find_place(self, player: Player) -> bool:
        """Know the own place in the present run. False: the session is other than it was told."""
        if self._cursor.run != player.clock.run:
            # Another run since: all of the present one is owed, from its beginning.
            self._cursor = SessionCursor(player.clock.run, player.run_start)
            self._split = False
        elif self._cursor.place < player.run_start:
            self._cursor = SessionCursor(player.clock.run, player.run_start)
        return self._revision == player.clock.revision

    async def _follow(self, player: Player) -> bool:
        if player.done:
            self.close("end_of_stream")
        elif player.join(self, self._cursor, self._revision):
            return True
        else:
            await self._forward(player)
        return False

    async def _forward(self, player: Player) -> None:
        """Send what lies between the own place and the player's, or the next part of it."""
        run, target, split = self._cursor.run, player.place, player.split
        found = player.recent(self._cursor.place, CATCH_UP_BYTES)
        if found is not None:
            frames, place = found
            await self._send(frames, place, split and place == target)
            return
        merge = player.read(self._cursor.place, target.ms)
        try:
            while (batch := await merge.read()) is not None:
                if player.clock.run != run or player.done or self._closing is not None:
                    return
                items = [item for item in batch.items if item.place <= target]
                if items:
                    frames = [player.frame(item) for item in items]
                    await self._send(frames, items[-1].place, not batch.whole)
        finally:
            await merge.close()
        self._cursor, self._split = SessionCursor(run, target), split

    async def _send(self, frames: list[bytes], place: Place, split: bool) -> None:
        self._cursor = SessionCursor(self._cursor.run, place)
        self._split = split
        if frames:
            await self._write(b"".join(frames))
            self._on_events(len(frames))
