"""Where a session stands, as far as this client was told: between two words of it the clock counts."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.remote.controls import RemoteSession


@dataclass(frozen=True, slots=True)
class _Anchor:
    told_sec: float
    playhead: datetime
    speed: float
    playing: bool


class Playhead:
    """Told by the stream and by the answers to keys, which are two threads.

    `next_speed` is that of the next start: changed while paused, it holds when it plays again.
    """

    def __init__(self, session: RemoteSession, next_speed: float) -> None:
        self.start = session.replay_start_timestamp
        self.end = session.replay_end_timestamp
        self.next_speed = next_speed
        self.lost = False
        self._anchor = _Anchor(0.0, self.start, 0.0, False)
        self.tell(session)

    def tell(self, session: RemoteSession) -> None:
        self._anchor = _Anchor(
            time.monotonic(),
            session.replay_last_timestamp,
            session.replay_speed,
            # A new speed is a start too, and it plays on meanwhile.
            session.playing or (session.starting and self.playing),
        )
        if session.playing:
            self.next_speed = session.replay_speed
        self.lost = False

    def tell_time(self, playhead: datetime, speed: float) -> None:
        self._anchor = _Anchor(time.monotonic(), playhead, speed, self._anchor.playing)

    @property
    def playing(self) -> bool:
        return self._anchor.playing

    @property
    def played_speed(self) -> float:
        """The last that the gateway has taken."""
        return self._anchor.speed

    @property
    def state(self) -> str:
        """A word for people."""
        if self.lost:
            return "connecting"
        if self._anchor.playing:
            return "playing"
        return "paused" if self._anchor.playhead < self.end else "played"

    def now(self) -> datetime:
        anchor = self._anchor
        moved = (time.monotonic() - anchor.told_sec) * anchor.speed if anchor.playing else 0.0
        left = self.end - anchor.playhead
        # Compared first: what is far beyond the end may be no date at all.
        return anchor.playhead + (
            timedelta(seconds=moved) if moved < left.total_seconds() else left
        )

    def shifted(self, part: float) -> datetime:
        """A moment that lies this part of the range later, inside of it."""
        wanted = self.now() + (self.end - self.start) * part
        return min(max(wanted, self.start), self.end)

    @property
    def done(self) -> float:
        """How much of the range lies behind, 0 to 1."""
        return (self.now() - self.start) / (self.end - self.start)
