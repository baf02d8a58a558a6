"""A session's stream as a client follows it: when it starts, when it is complete, what ends it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway import sse
from gateway.client import Client, ClientError
from gateway.remote.controls import Controls, decode_session
from gateway.remote.playhead import Playhead
from gateway.remote.stream import RemoteStream
from tests.playback.controls import NOBODY, moment
from tests.scripted import LOST, Reply, ScriptedServer, scripted

START_MS = 1517875200000
END_MS = START_MS + 60_000
CLOSING = sse.connection_closing("session", "end_of_stream", "r").decode()
PATH = f"/v1/replay/{NOBODY}"


def session_json(status: str, seconds: float = 0, error: str | None = None) -> dict[str, Any]:
    return {
        "id": NOBODY,
        "tenant_id": NOBODY,
        "status": status,
        "display_status": "REPLAY_…",
        "replay_start_timestamp": moment(0),
        "replay_end_timestamp": moment(60),
        "replay_last_timestamp": moment(seconds),
        "replay_speed": 2.0,
        "event_types": ["note"],
        "error": error,
    }


def told(frame_id: str, status: str, seconds: float = 0, error: str | None = None) -> str:
    """A `session` frame; with the pause before the next connection that tests can wait for."""
    description = json.dumps(session_json(status, seconds, error)).encode()
    return sse.session(description, frame_id=frame_id, retry_ms=10).decode()


def time_told(frame_id: str, seconds: float) -> str:
    return sse.system_time(moment(seconds), 2.0, frame_id=frame_id).decode()


def event(number: int, ms: int) -> str:
    content = json.dumps({"specversion": "1.0", "id": f"note@{number}"}).encode()
    return sse.played_frame(sse.REPLAY, b"1-%d-0-%d" % (ms, number), content).decode()


def answer(status: str = "MSG_START_OK") -> Reply:
    return Reply.json({"data": session_json(status), "message": "m", "sent_at": moment(0)})


OPENED = told(f"1-{START_MS}--1-0", "MSG_INIT_OK")
STOPPED = told(f"1-{END_MS}-2147483648-0", "MSG_STOP_OK", 60)


def read(server: ScriptedServer, said: list[str]) -> list[int]:
    """The numbers of all events until the stream is complete."""
    with Client(server.url, say=said.append, first_pause_sec=0.01) as client:
        session = decode_session(json.dumps(session_json("MSG_INIT_OK")))
        stream = RemoteStream(
            client,
            Controls(client),
            session,
            playhead=Playhead(session, 2.0),
            on_change=lambda: None,
        )
        return [int(json.loads(each)["id"].partition("@")[2]) for each in stream.events()]


def asked(server: ScriptedServer) -> list[tuple[str, str]]:
    return [(each.method, each.path.removeprefix(PATH)) for each in server.asked]


@pytest.fixture
def said() -> list[str]:
    return []


def test_it_is_started_when_it_is_open_and_is_complete_at_the_end(said: list[str]) -> None:
    stream = Reply.stream(OPENED, event(1, START_MS), event(2, END_MS), STOPPED, hangs=True)
    with scripted(stream, answer()) as server:
        assert read(server, said) == [1, 2]
    assert asked(server) == [("GET", "/stream"), ("PUT", "/start")]
    assert json.loads(server.asked[1].body) == {"replay_speed": 2.0}
    assert said == []


def test_one_that_lags_is_complete_only_when_it_was_sent_everything(said: list[str]) -> None:
    """It is told of the stop before it is sent what came before the stop."""
    stream = Reply.stream(
        OPENED,
        told(f"1-{START_MS}--1-0", "MSG_STOP_OK", 60),
        event(1, START_MS),
        event(2, END_MS),
        event(3, END_MS),
        time_told(f"1-{END_MS}-2147483648-0", 60),
        hangs=True,
    )
    with scripted(stream, answer()) as server:
        assert read(server, said) == [1, 2, 3]


def test_between_two_events_of_one_time_nothing_is_complete(said: list[str]) -> None:
    stream = Reply.stream(
        OPENED, told(f"1-{START_MS}--1-0", "MSG_STOP_OK", 60), event(1, END_MS), breaks=True
    )
    # As the gateway tells one that comes again: the session as it is, at the place it came with.
    again = told(f"1-{END_MS}-0-1", "MSG_STOP_OK", 60)
    rest = Reply.stream(again, event(2, END_MS), STOPPED, hangs=True)
    with scripted(stream, answer(), rest) as server:
        assert read(server, said) == [1, 2]
    assert server.asked[-1].headers["last-event-id"] == f"1-{END_MS}-0-1"


def test_paused_before_the_events_of_its_end_it_is_not_complete(said: list[str]) -> None:
    stream = Reply.stream(
        OPENED,
        told(f"2-{END_MS}--1-0", "MSG_STOP_OK", 60),
        time_told(f"2-{END_MS}--1-0", 60),
        told(f"2-{END_MS}--1-0", "MSG_START_OK", 60),
        event(5, END_MS),
        STOPPED,
        hangs=True,
    )
    with scripted(stream, answer()) as server:
        assert read(server, said) == [5]


def test_it_goes_on_after_the_last_frame(said: list[str]) -> None:
    with scripted(
        Reply.stream(OPENED, event(1, START_MS), time_told(f"1-{START_MS + 9}-0-1", 1)),
        answer(),
        LOST,
        Reply.stream(told(f"1-{START_MS + 9}-0-1", "MSG_START_OK", 2), event(2, END_MS), STOPPED),
    ) as server:
        assert read(server, said) == [1, 2]
    assert server.asked[-1].headers["last-event-id"] == f"1-{START_MS + 9}-0-1"
    assert [each.path for each in server.asked].count(f"{PATH}/start") == 1
    ended, lost, again = said
    assert "ended the connection; connecting again in" in ended
    assert "the connection broke off" in lost
    assert again == "connected again, going on at 2018-02-06T00:00:02+00:00"


def test_a_start_that_cannot_be_made_now_is_made_later(said: list[str]) -> None:
    away = Reply.json({"message": "Away", "code": "A", "request_id": "r"}, 503)
    frames = (OPENED, time_told(f"1-{START_MS}--1-0", 0), STOPPED)
    with scripted(Reply.stream(*frames, hangs=True), away, answer()) as server:
        assert read(server, said) == []
    assert asked(server)[1:] == [("PUT", "/start")] * 2
    assert said == ["Away (503 A, request r); trying again"]


def test_a_fault_is_told_and_the_stream_opened_again(said: list[str]) -> None:
    failed = sse.failed("session", "The session cannot be played on", "r").decode()
    with scripted(
        Reply.stream(OPENED, failed, CLOSING), answer(), Reply.stream(STOPPED, hangs=True)
    ) as server:
        assert read(server, said) == []
    assert said[0].startswith("The session cannot be played on; connecting again")


def test_a_gap_names_its_event_type(said: list[str]) -> None:
    gap = {"topic": "note", "reason": "expired", "expected": 5, "first_available": 9}
    frame = sse.control("gap", dict[str, object](gap)).decode()
    with scripted(Reply.stream(OPENED, frame, STOPPED, hangs=True), answer()) as server:
        read(server, said)
    assert said == ["gap in note: 5 to 8 are no longer kept; going on with 9"]


REFUSED: Mapping[str, object] = {"message": "No", "code": "C", "request_id": "r"}


@pytest.mark.parametrize(
    ("replies", "sentence"),
    [
        (
            [Reply.stream(OPENED), answer(), Reply.json(REFUSED, 404)],
            "the session was ended by others: No (404 C, request r)",
        ),
        (
            [Reply.stream(OPENED, told("1-1-1-1", "DB_END_OK"), CLOSING), answer()],
            "the session was ended by others",
        ),
        ([Reply.stream(OPENED), Reply.json(REFUSED, 400)], "No (400 C, request r)"),
        ([Reply.json(REFUSED, 403)], "No (403 C, request r)"),
        (
            [Reply.stream(told("1-1-1-1", "DB_INIT_KO", error="no snapshot"))],
            "the session cannot be played: no snapshot",
        ),
        (
            [Reply.stream("event: session\ndata: {}\n\n")],
            "sent a session that cannot be read: Object missing required field `id`",
        ),
    ],
    ids=["gone", "ended", "start refused", "stream refused", "KO", "no session"],
)
def test_what_does_not_pass_is_an_error(
    replies: list[Reply], sentence: str, said: list[str]
) -> None:
    with scripted(*replies) as server, pytest.raises(ClientError) as raised:
        read(server, said)
    assert sentence in str(raised.value)
