"""A session's stream that goes on over as many connections as it takes, and is started when open.

Started only then: what is due at once would otherwise be missed. At the end of its range a session
stops; the stream is complete when its frames say that, and that everything before the end was sent.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import msgspec

from gateway.client import CallRefused, Client, ClientError, describe_refusal
from gateway.eventsource import Message
from gateway.remote.controls import Controls, RemoteSession, decode_session
from gateway.remote.playhead import Playhead
from gateway.resumption import Frame, Resumption, describe_gap

# <run>-<ms>-<kind>-<sequence>: the place up to which everything was sent. The kind is the index of an
# event type of the session, below them (-1), or above them all.
_CURSOR = re.compile(r"\d{1,15}-(\d{1,15})-(-1|\d{1,10})-\d{1,19}", re.ASCII)
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)


class _SystemTime(msgspec.Struct, frozen=True):
    timestamp: datetime
    speed: float


_decode_system_time = msgspec.json.Decoder(_SystemTime).decode


class RemoteStream(Resumption):
    """`playhead` is kept up to date, `on_change` called when it was, or a connection was lost."""

    def __init__(
        self,
        client: Client,
        controls: Controls,
        session: RemoteSession,
        *,
        playhead: Playhead,
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(client, f"v1/replay/{session.id}/stream", (), cursor=_CURSOR)
        self._controls = controls
        self._session = session
        self._started = False
        self._complete = False
        self._playhead = playhead
        self._on_change = on_change

    @property
    def complete(self) -> bool:
        return self._complete

    def on_control(self, message: Message, frame: Frame, retry_ms: int | None) -> None:
        try:
            if message.event == "session":
                self._on_session(decode_session(message.data), retry_ms)
            elif message.event == "system-time":
                told = _decode_system_time(message.data)
                self._playhead.tell_time(told.timestamp, told.speed)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"{self._client.name} sent a {message.event} that cannot be read: {error}"
            ) from error
        if not self._started:
            self._start()
        self._complete = self._is_behind_end()
        self._on_change()

    def _is_behind_end(self) -> bool:
        """One that lags is told of the stop before it is sent what came before: its place knows."""
        place = _CURSOR.fullmatch(self._cursor)
        if place is None or not self._session.at_end:
            return False
        end_ms = (self._session.replay_end_timestamp - _ORIGIN) // timedelta(milliseconds=1)
        # Behind every event type: there may be more of that very time, of this type or the next.
        behind_all = int(place[2]) >= len(self._session.event_types)
        return int(place[1]) > end_ms or (int(place[1]) == end_ms and behind_all)

    def _on_session(self, session: RemoteSession, retry_ms: int | None) -> None:
        self._session = session
        self._playhead.tell(session)
        if session.error is not None:
            raise ClientError(f"the session cannot be played: {session.error}")
        self._on_opened(retry_ms, f" at {self._playhead.now().isoformat(timespec='seconds')}")

    def _start(self) -> None:
        try:
            self._playhead.tell(self._controls.start(self._session.id, self._playhead.next_speed))
            self._started = True
        except CallRefused as error:
            if not error.passing:
                raise
            self._client.say(f"{error}; trying again")

    def on_gap(self, frame: Frame) -> None:
        self._client.say(f"gap in {frame.topic}: {describe_gap(frame)}")

    def on_lost(self) -> None:
        super().on_lost()
        self._playhead.lost = True
        self._on_change()

    def on_closing(self, frame: Frame) -> tuple[float, str]:
        if self._session.ended:
            raise ClientError("the session was ended by others")
        # The end of the stream is that of the session, unless a fault was told: asking again shows.
        why = self._fault if frame.reason == "end_of_stream" else frame.message
        return self._pauses.next_sec(), why

    def on_refusal(self, answer: httpx.Response) -> tuple[float, str]:
        if answer.status_code == 404:
            raise ClientError(f"the session was ended by others: {describe_refusal(answer)}")
        return super().on_refusal(answer)
