"""One client's view of a session: where it stands in the run, and how it is brought up to the player."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, aclosing

import structlog

from gateway import row_text, sse
from gateway.playback.cursor import SessionCursor
from gateway.playback.player import Player, start_of
from gateway.playback.players import Players
from gateway.stream import Census, EventStream
from store.captured import CHANGE
from store.errors import Behind, CorruptFile, OutOfRange
from store.event import rfc3339
from store.merge import Place
from store.session import Session
from store.state import States

CATCH_UP_BYTES = 256 << 10
# How long a stream waits in one go, before it looks whether it is to end.
_PATIENCE_SEC = 1.0
# A state of this very moment waits until capture has come to it; one that has stopped does not come.
_CAPTURE_PATIENCE_SEC = 30.0
_CAPTURE_POLL_SEC = 0.2

logger = structlog.get_logger(__name__)


class SessionStream(EventStream):
    """`GET /v1/replay/{id}/stream`: a `Watcher` of the session's player.

    Without a cursor it begins at the playhead, as the session was described to its request. Where
    the session has changes of a database, the rows as they were there come first.
    """

    def __init__(
        self,
        session: Session,
        *,
        cursor: SessionCursor | None,
        players: Players,
        may_read: Callable[[Sequence[str]], bool],
        states: States,
        request_id: str,
        retry_ms: int,
        census: Census,
        send_timeout_sec: float,
        lifetime: AbstractContextManager[None],
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
        self._may_read = may_read
        self._states = states
        self._retry_ms: int | None = retry_ms
        stateful = CHANGE in session.view.event_types
        begin = SessionCursor(session.clock.run, start_of(session), stateful)
        self._cursor = begin if cursor is None else cursor.settled()
        # There may be more events of the time of the last one sent: nothing else comes between.
        self._split = False
        self._revision = -1
        self._player: Player | None = None
        self._on_catch_up = on_catch_up
        # Since when capture is waited for.
        self._late_since: float | None = None

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

    def on_types(self, event_types: Sequence[str]) -> None:
        if not self._may_read(event_types):
            self.close("forbidden")

    def on_sought(self) -> None:
        player = self._player
        assert player is not None  # noqa: S101 - only a member is told
        # Its cursor stays in the run before: by that it knows what it is owed.
        player.part(self)
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
            # They may be others than the request was told.
            self.on_types(player.view.event_types)
            return False
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
            place, owed = self._cursor.place, self._cursor.owed
            await self._write(player.describe(place, owed=owed, retry_ms=retry_ms))
        return False

    def _find_place(self, player: Player) -> bool:
        """Know the own place in the present run. False: the session is other than it was told."""
        if self._cursor.run != player.clock.run:
            # Another run since: all of the present one is owed, from its beginning.
            self._cursor = SessionCursor(player.clock.run, player.run_start, player.stateful)
            self._split = False
        elif self._cursor.place < player.run_start:
            self._cursor = self._cursor._replace(place=player.run_start)
        return self._revision == player.clock.revision

    async def _follow(self, player: Player) -> bool:
        if player.done:
            self.close("end_of_stream")
        elif self._cursor.owed:
            await self._send_state(player)
        elif player.join(self, self._cursor, self._revision):
            return True
        elif player.split and self._cursor.place >= player.place:
            # In mid time, with a change to be told: not before the rest of that time, which the
            # player has yet to read.
            await player.proceed(_PATIENCE_SEC)
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

    async def _send_state(self, player: Player) -> None:
        """The rows at the own place. What is broken off is described and begun anew."""
        cursor, revision = self._cursor, self._revision
        try:
            state = await self._states.open(player.view.tenant_id, cursor.through_ms)
        except Behind as error:
            await self._await_capture(error)
            return
        except OutOfRange as error:
            await self._fail(f"The state cannot be restored: {error}")
            return
        self._revision = -1
        frame_id = cursor.text(cursor.place).encode()
        try:
            async with aclosing(state.blocks()) as blocks:
                async for table, lines in blocks:
                    frames = [
                        sse.state_frame(data, frame_id=frame_id)
                        for data in row_text.frame_data(table, lines)
                    ]
                    await self._write(b"".join(frames))
                    if player.clock.run != cursor.run or player.done or self._closing is not None:
                        return
        except CorruptFile:
            return  # it is made from the snapshot before
        self._cursor, self._revision = cursor._replace(owed=False), revision
        at = rfc3339(cursor.through_ms)
        frame_id_after = self._cursor.text(cursor.place)
        await self._write(sse.state_complete(at, state.rows, frame_id=frame_id_after))

    async def _await_capture(self, error: Behind) -> None:
        """The state is of a time that is not all in the log yet."""
        now = asyncio.get_running_loop().time()
        if self._late_since is None:
            self._late_since = now
            logger.warning("state_delayed", source=error.source, request_id=self.request_id)
        if now - self._late_since > _CAPTURE_PATIENCE_SEC:
            await self._fail(f"The state cannot be built: {error}")
        else:
            await asyncio.sleep(_CAPTURE_POLL_SEC)

    async def _send(self, frames: list[bytes], place: Place, split: bool) -> None:
        self._cursor = SessionCursor(self._cursor.run, place)
        self._split = split
        if frames:
            await self._write(b"".join(frames))
            self._on_events(len(frames))
