"""`playhead play`: a session from its beginning to its end, steered by keys.

However the command ends, it ends its session and leaves the terminal as it was.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

import httpx

from gateway.client import Client, ClientError
from gateway.remote.bar import Bar
from gateway.remote.controls import Controls, RemoteSession
from gateway.remote.interruption import Interruption, Interruptions
from gateway.remote.keyboard import Key, Keyboard, is_ours
from gateway.remote.playhead import Playhead
from gateway.remote.stream import RemoteStream

# Of the range: the same on the bar whatever it spans and how fast it plays.
_SEEK_PART = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to play, as it was typed: what it may hold is for the gateway to say."""

    start: str
    end: str | None
    speed: float
    event_types: Sequence[str]


def play(client: Client, wanted: Wanted, bar: Bar, describe: Callable[[str], str]) -> int:
    """Write events until the range or the user ends it; the exit status. Raises ClientError."""
    controls = Controls(client)
    with Interruptions() as interruptions:
        # Not to be left in the middle: nobody could end a session whose id is not known.
        session = controls.init(wanted.start, wanted.end, wanted.event_types)
        try:
            if session.error is not None:
                raise ClientError(f"the session cannot be played: {session.error}")
            playhead = Playhead(session, wanted.speed)
            stream = RemoteStream(client, controls, session, playhead=playhead, on_change=bar.draw)
            start, end = (_moment(each) for each in (playhead.start, playhead.end))
            bar.say(f"{start} to {end} at {client.name}")
            keys = Keys(controls, session.id, playhead, bar, interruptions)
            with ExitStack() as stack:
                stack.enter_context(bar)
                bar.follow(playhead)
                if keyboard := keys.keyboard():
                    stack.enter_context(keyboard)
                    bar.say("space pauses, + and - change the speed, left and right seek, q quits")
                with interruptions.heeded():
                    for event in stream.events():
                        bar.write_event(describe(event))
        except Interruption as interruption:
            return interruption.status
        finally:
            _end(controls, session, bar)
    return 0


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _end(controls: Controls, session: RemoteSession, bar: Bar) -> None:
    try:
        controls.end(session.id)
    except ClientError as error:
        bar.say(f"the session {session.id} is not ended, it will end by itself: {error}")


class Keys:
    """What each key does. What the gateway does not do is said, and the session plays on."""

    def __init__(
        self,
        controls: Controls,
        session_id: str,
        playhead: Playhead,
        bar: Bar,
        interruptions: Interruptions,
    ) -> None:
        self._controls = controls
        self._session_id = session_id
        self._playhead = playhead
        self._bar = bar
        self._interruptions = interruptions

    def keyboard(self) -> Keyboard | None:
        """Where they are typed, if that can be heard."""
        if sys.stdin is None or not is_ours(sys.stdin.fileno()):
            return None
        return Keyboard(sys.stdin.fileno(), self.on_key, lambda: self._interruptions.interrupt(1))

    def on_key(self, key: Key) -> None:
        if key is Key.QUIT:
            self._interruptions.interrupt(0)
            return
        try:
            self._steer(key)
        except (ClientError, httpx.RequestError) as error:
            self._playhead.next_speed = self._playhead.played_speed
            self._bar.say(str(error) or type(error).__name__)
        self._bar.draw()

    def _steer(self, key: Key) -> None:
        playhead, controls, session_id = self._playhead, self._controls, self._session_id
        match key:
            case Key.PAUSE if playhead.playing:
                session = controls.stop(session_id)
            case Key.PAUSE:
                session = controls.start(session_id, playhead.next_speed)
            case Key.FASTER | Key.SLOWER:
                playhead.next_speed *= 2 if key is Key.FASTER else 0.5
                if not playhead.playing:
                    return
                session = controls.start(session_id, playhead.next_speed)
            case _:
                to = playhead.shifted(_SEEK_PART if key is Key.FORWARD else -_SEEK_PART)
                session = controls.seek(session_id, to)
        playhead.tell(session)
