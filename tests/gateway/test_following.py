"""A watch or replay that goes on: what is asked again after each way in which a stream can end."""

import json
from itertools import islice

import pytest

from gateway import sse
from gateway.client import Client, ClientError
from gateway.following import Following, Operation
from tests.scripted import EVENT_STREAM, LOST, Reply, ScriptedServer, scripted

PARAMS = [("event_type", "mars"), ("identifier.step.gte", "2")]
OPENED = sse.connection_established("mars.*", 60, "r", frame_id="4-e1", retry_ms=10).decode()
STARTED = sse.replay_started(
    "mars.*",
    "r",
    from_sequence=1,
    from_date=None,
    end_sequence=None,
    batch_size=1,
    retry_ms=10,
).decode()
COMPLETED = sse.replay_completed("mars.*").decode()
LIMIT = sse.replay_limit_reached("mars.*", 2).decode()


def event(sequence: int) -> str:
    content = json.dumps({"specversion": "1.0", "id": f"mars@{sequence}"}).encode()
    return sse.event_frame(sse.LIVE, b"1-%d" % sequence, b"e1", content).decode()


def closing(reason: str) -> str:
    return sse.connection_closing("mars.*", reason, "r").decode()


def read(
    server: ScriptedServer,
    operation: Operation,
    said: list[str],
    *,
    events: int | None = None,
    silence_sec: float = 90,
    params: list[tuple[str, str]] = PARAMS,
) -> list[int]:
    with Client(
        server.url, say=said.append, silence_sec=silence_sec, first_pause_sec=0.01
    ) as client:
        found = islice(Following(client, operation, params).events(), events)
        return [int(json.loads(each)["id"].partition("@")[2]) for each in found]


def cursors(server: ScriptedServer) -> list[str | None]:
    return [asked.headers.get("last-event-id") for asked in server.asked]


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_watch_asks_with_get_and_says_what_it_watches(said: list[str]) -> None:
    with scripted(Reply.stream(OPENED, event(5), hangs=True)) as server:
        assert read(server, "watch", said, events=1) == [5]
    [asked] = server.asked
    assert (asked.method, asked.path, asked.params) == ("GET", "/api/v1/watch", PARAMS)
    assert asked.headers["accept"] == "text/event-stream"
    assert said == [f"watching mars.* at {server.url}"]


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (Reply.stream(OPENED, event(5), event(6), breaks=True), "the connection broke off"),
        (Reply.stream(OPENED, event(5), event(6)), "ended the connection"),
        (Reply.stream(OPENED, event(5), event(6), "data: half"), "ended the connection"),
        (
            Reply.stream(OPENED, event(5), event(6), closing("server_shutdown")),
            "Server is shutting down gracefully",
        ),
        (
            Reply.stream(OPENED, event(5), event(6), closing("max_duration_reached")),
            "Connection reached maximum duration",
        ),
        (
            Reply.stream(
                OPENED,
                event(5),
                event(6),
                sse.failed("mars.*", "The log cannot be read now", "r").decode(),
                closing("end_of_stream"),
            ),
            "The log cannot be read now",
        ),
    ],
    ids=["broken", "ended", "half a frame", "shutdown", "max duration", "error"],
)
def test_a_watch_goes_on_after_the_last_event_and_says_why(
    end: Reply, why: str, said: list[str]
) -> None:
    with scripted(end, Reply.stream(STARTED, event(7), hangs=True)) as server:
        assert read(server, "watch", said, events=3) == [5, 6, 7]
    assert cursors(server) == [None, "6-e1"]
    assert [asked.params for asked in server.asked] == [PARAMS] * 2
    _, interrupted, resumed = said
    assert why in interrupted
    assert "connecting again" in interrupted
    assert resumed == "connected again, going on after 6"


def test_a_heartbeat_moves_the_cursor_past_what_did_not_match(said: list[str]) -> None:
    heartbeat = sse.heartbeat("mars.*", 900, frame_id="900-e1").decode()
    with scripted(
        Reply.stream(OPENED, heartbeat), Reply.stream(STARTED, event(901), hangs=True)
    ) as server:
        assert read(server, "watch", said, events=1) == [901]
    assert cursors(server) == [None, "900-e1"]


def test_silence_is_a_lost_connection(said: list[str]) -> None:
    with scripted(
        Reply.stream(OPENED, event(5), hangs=True), Reply.stream(STARTED, event(6), hangs=True)
    ) as server:
        assert read(server, "watch", said, events=2, silence_sec=0.2) == [5, 6]
    assert "it was silent for too long" in said[1]
    assert cursors(server) == [None, "5-e1"]


def test_while_the_gateway_is_away_the_watch_waits_as_it_was_told(said: list[str]) -> None:
    away = Reply.json({"message": "Away", "code": "A", "request_id": "r"}, 503, Retry_After="0")
    with scripted(
        away,
        Reply.stream(OPENED),
        LOST,
        Reply(502),
        Reply(500),
        Reply.stream(STARTED, event(5), hangs=True),
    ) as server:
        assert read(server, "watch", said, events=1) == [5]
    assert said[0].startswith("Away (503 A, request r); connecting again in ")
    assert [asked.headers.get("last-event-id") for asked in server.asked[2:]] == ["4-e1"] * 4
    assert said[-1] == "connected again, going on after 4"


def test_the_pause_is_the_one_that_the_stream_asked_for_and_grows(said: list[str]) -> None:
    opened = sse.connection_established("mars", 60, "r", frame_id="1-e", retry_ms=200).decode()
    with scripted(
        Reply.stream(opened), LOST, Reply.stream(STARTED, event(2), hangs=True)
    ) as server:
        read(server, "watch", said, events=1)
    first, second = (float(sentence.split()[-2]) for sentence in said[1:3])
    assert 0.2 <= first <= 0.3
    assert 0.4 <= second <= 0.6


@pytest.mark.parametrize(
    ("gap", "sentence"),
    [
        (("expired", 5, 9), "gap: 5 to 8 are no longer kept; going on with 9"),
        (("reset", 5, 1), "gap: the log is another one since 4 was received; going on with 1"),
        (("ahead", 5, 1), "gap: the log ends before 4, the last received; going on with 1"),
    ],
)
def test_a_gap_is_said(gap: tuple[str, int, int], sentence: str, said: list[str]) -> None:
    reason, expected, first_available = gap
    frame = sse.control(
        "gap", {"reason": reason, "expected": expected, "first_available": first_available}
    ).decode()
    with scripted(Reply.stream(STARTED, frame, event(9), COMPLETED)) as server:
        assert read(server, "replay", said) == [9]
    assert said == [sentence]


def test_a_replay_ends_when_it_is_complete(said: list[str]) -> None:
    stream = Reply.stream(STARTED, event(1), event(2), COMPLETED, hangs=True)
    with scripted(stream) as server:
        assert read(server, "replay", said) == [1, 2]
    assert said == []


def test_a_replay_goes_on_past_the_limit_of_one_request(said: list[str]) -> None:
    with scripted(
        Reply.stream(STARTED, event(1), event(2), LIMIT, closing("end_of_stream")),
        Reply.stream(STARTED, event(3), event(4), LIMIT, closing("end_of_stream")),
        Reply.stream(STARTED, event(5), COMPLETED, closing("end_of_stream")),
    ) as server:
        assert read(server, "replay", said) == [1, 2, 3, 4, 5]
    assert cursors(server) == [None, "2-e1", "4-e1"]
    assert said == []


def test_the_end_of_a_replay_stays_where_it_was_at_first(said: list[str]) -> None:
    """A date as the end would take in what is published between two connections."""
    started = STARTED.replace('"end_sequence":null', '"end_sequence":3')
    params = [("event_type", "mars"), ("to_date", "2030-01-01T00:00:00Z")]
    with scripted(
        Reply.stream(started, event(1), breaks=True),
        Reply.stream(started, event(2), breaks=True),
        Reply.stream(started, COMPLETED),
    ) as server:
        assert read(server, "replay", said, params=params) == [1, 2]
    assert server.asked[0].params == params
    assert [asked.params for asked in server.asked[1:]] == [
        [("event_type", "mars"), ("to_id", "3")]
    ] * 2


def test_a_replay_that_broke_after_its_last_event_is_complete(said: list[str]) -> None:
    """Asking on would be refused: the start would lie behind the end."""
    started = STARTED.replace('"end_sequence":null', '"end_sequence":2')
    with scripted(Reply.stream(started, event(1), event(2), breaks=True)) as server:
        assert read(server, "replay", said) == [1, 2]
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500])
def test_a_refusal_ends_it_with_the_gateways_sentence(status: int, said: list[str]) -> None:
    refusal = {"message": "Field 'step' is wrong: 'x'", "code": "C", "request_id": "r"}
    with (
        scripted(Reply.json(refusal, status)) as server,
        pytest.raises(ClientError) as failure,
    ):
        read(server, "watch", said)
    assert str(failure.value) == f"Field 'step' is wrong: 'x' ({status} C, request r)"


def test_a_cursor_that_is_refused_later_ends_it_too(said: list[str]) -> None:
    with (
        scripted(Reply.stream(OPENED), Reply.json({"message": "No"}, 403)) as server,
        pytest.raises(ClientError, match=r"No \(403"),
    ):
        read(server, "watch", said)


def test_a_page_that_is_no_stream_is_said(said: list[str]) -> None:
    page = Reply(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
    with scripted(page) as server, pytest.raises(ClientError) as failure:
        read(server, "watch", said)
    assert str(failure.value) == f"{server.url} answered with text/html, not with events"


def test_a_frame_that_is_no_json_is_said(said: list[str]) -> None:
    with (
        scripted(Reply(200, b"event: replay\ndata: {\n\n", EVENT_STREAM)) as server,
        pytest.raises(ClientError, match="sent a replay that cannot be read"),
    ):
        read(server, "replay", said)


def test_an_id_that_no_gateway_gives_is_not_sent_back(said: list[str]) -> None:
    strange = "id: ä\nevent: live-notification\ndata: " + OPENED.partition("data: ")[2]
    with scripted(Reply.stream(strange), Reply.stream(OPENED, event(5), hangs=True)) as server:
        assert read(server, "watch", said, events=1) == [5]
    assert cursors(server) == [None, None]
