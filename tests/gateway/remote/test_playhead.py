"""Where a session stands between two words of it."""

import json
from datetime import timedelta

import pytest

from gateway.remote.controls import RemoteSession, decode_session
from gateway.remote.playhead import Playhead
from tests.gateway.remote.test_stream import session_json


def session(status: str, seconds: float, speed: float = 2.0) -> RemoteSession:
    return decode_session(json.dumps({**session_json(status, seconds), "replay_speed": speed}))


def test_paused_it_stays() -> None:
    playhead = Playhead(session("MSG_STOP_OK", 15), 4.0)
    assert playhead.now() == playhead.start + timedelta(seconds=15)
    assert (playhead.state, playhead.done, playhead.next_speed) == ("paused", 0.25, 4.0)


def test_playing_it_moves_and_stays_at_the_end() -> None:
    playhead = Playhead(session("MSG_START_OK", 15, speed=1e9), 1.0)
    assert playhead.next_speed == 1e9
    assert (playhead.now(), playhead.done) == (playhead.end, 1)
    playhead = Playhead(session("MSG_START_OK", 15, speed=1e-3), 1.0)
    first = playhead.now()
    assert playhead.start + timedelta(seconds=15) <= first <= playhead.now() < playhead.end


@pytest.mark.parametrize(("part", "second"), [(0.1, 21), (-0.1, 9), (-0.5, 0), (0.75, 60), (5, 60)])
def test_it_is_shifted_inside_of_the_range(part: float, second: float) -> None:
    playhead = Playhead(session("MSG_STOP_OK", 15), 1.0)
    assert playhead.shifted(part) == playhead.start + timedelta(seconds=second)


def test_its_state_is_a_word() -> None:
    playhead = Playhead(session("MSG_INIT_OK", 0), 1.0)
    assert playhead.state == "paused"
    playhead.tell(session("MSG_START_OK", 0))
    assert playhead.state == "playing"
    playhead.lost = True
    assert playhead.state == "connecting"
    playhead.tell(session("MSG_STOP_OK", 60))
    assert playhead.state == "played"


def test_the_time_alone_may_be_told() -> None:
    playhead = Playhead(session("MSG_STOP_OK", 0), 1.0)
    playhead.tell_time(playhead.start + timedelta(seconds=30), 3.0)
    assert (playhead.done, playhead.played_speed, playhead.playing) == (0.5, 3.0, False)
