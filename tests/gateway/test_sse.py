"""The bytes of every frame, read back by the standard's own rules."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import sse
from gateway.schema.filter import Filter, filter_by_pairs
from store.event import Entry, Gap, GapReason, Position
from tests.event_stream import Frame, Parser

EVERYTHING = Filter("", None)
GAP = Gap(GapReason.EXPIRED, 4, 16)


def parsed(body: bytes) -> list[Frame]:
    parser = Parser()
    frames = parser.feed(body)
    assert parser.strange == []
    assert parser.feed(b"\n") == [], "a frame that is not finished"
    return frames


def parsed_one(body: bytes) -> Frame:
    [frame] = parsed(body)
    return frame


def test_an_event_is_four_lines_of_bytes() -> None:
    body = sse.event_frame(sse.LIVE, b"1700000000000-17", b"5f3a", b'{"id":"kind@17"}')
    assert body == b'event: live-notification\nid: 17-5f3a\ndata: {"id":"kind@17"}\n\n'


@given(payload=st.recursive(st.text() | st.floats(allow_nan=False), st.lists, max_leaves=4))
def test_stored_json_of_any_text_is_one_frame(payload: Any) -> None:
    event = json.dumps(payload).encode()
    frame = parsed_one(sse.event_frame(sse.REPLAY, b"1-2", b"e", event))
    assert (frame.event, frame.id, frame.data) == ("replay", "2-e", payload)


def test_only_what_matches_becomes_a_frame_in_order() -> None:
    entries: list[Entry] = [
        (b"1-%d" % number, (b"kind.a=%d" % (number % 2), b"{}")) for number in range(1, 6)
    ]
    everything = sse.event_frames(sse.LIVE, entries, b"e", EVERYTHING)
    odd = sse.event_frames(sse.LIVE, entries, b"e", filter_by_pairs("kind", {"a": "1"}))
    assert [parsed_one(body).id for body in everything] == [f"{number}-e" for number in range(1, 6)]
    assert odd == everything[::2]


@pytest.mark.parametrize("times", [(7, 8), (99, 100), (99, 100, 1000), (1,), ()])
def test_frames_together_are_the_frames_one_by_one(times: tuple[int, ...]) -> None:
    """Where the time gets a digit more, the sequence begins elsewhere in the entry id."""
    entries: list[Entry] = [
        (b"%d-%d" % (ms, number), (b"topic", b'{"at":%d}' % ms)) for number, ms in enumerate(times)
    ]
    one_by_one = [
        sse.event_frame(sse.LIVE, entry_id, b"e", event) for entry_id, (_, event) in entries
    ]
    assert sse.event_frames(sse.LIVE, entries, b"e") == one_by_one


def test_the_cursor_of_a_log_that_does_not_exist_yet_is_its_beginning() -> None:
    """Without one an EventSource that waited for the first event, and lost its connection, came
    back behind it."""
    assert sse.cursor(Position(0, 0), b"") == "0"
    assert sse.cursor(Position(1, 7), b"5f") == "7-5f"


@pytest.mark.parametrize("year", [1, 999, 1970, 9999])
def test_a_timestamp_has_four_digits_of_year_and_no_fraction(year: int) -> None:
    moment = datetime(year, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    assert sse.timestamp(moment) == f"{year:04}-02-03T04:05:06Z"


TOPICS = st.text(
    st.sampled_from(["\r", "\n", "\0", "\u2028", "\ufeff", "\x85", ":", " ", '"', "\\"])
    | st.characters(codec="utf-8")
)


@given(topic=TOPICS)
def test_no_text_of_a_request_leaves_its_frame(topic: str) -> None:
    """Every frame of the gateway's own, with the topic that the client wrote, all in one stream."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    bodies = [
        sse.connection_established(topic, 60, "r", frame_id="0", retry_ms=5),
        sse.replay_started(
            topic,
            "r",
            from_sequence=None,
            from_date=moment,
            end_sequence=3,
            batch_size=9,
            retry_ms=None,
        ),
        sse.gap(topic, GAP),
        sse.replay_completed(topic),
        sse.replay_limit_reached(topic, 10),
        sse.heartbeat(topic, 5, frame_id="5-e"),
        sse.failed(topic, topic, "r"),
        sse.connection_closing(topic, "end_of_stream", "r"),
    ]
    frames = parsed(b"".join(bodies))
    assert [frame.kind for frame in frames] == [
        "connection_established",
        "replay_started",
        "gap",
        "replay_completed",
        "notification_replay_limit_reached",
        "heartbeat",
        "error",
        "connection-closing",
    ]
    assert {
        frame.data["topic"] if frame.kind != "replay_started" else topic for frame in frames
    } == {topic}
    assert frames[1].data["from_date"] == "2026-01-02T00:00:00Z"
    assert [frame.id for frame in frames] == ["0", *[None] * 4, "5-e", None, None]
    assert [frame.retry for frame in frames] == [5, *[None] * 7]


def test_json_is_compact_with_sorted_keys() -> None:
    """Real clients look for `"type":"connection_established"` in the raw stream."""
    frame = parsed_one(sse.connection_established("t", 60, "r", frame_id=None, retry_ms=None))
    assert '"type":"connection_established"' in frame.text
    assert list(frame.data) == sorted(frame.data)
    assert " " not in frame.text


def test_a_gap_tells_what_was_expected_and_what_there_is() -> None:
    told = parsed_one(sse.gap("t", GAP)).data
    assert (told["reason"], told["expected"], told["first_available"]) == ("expired", 4, 16)
    assert set(told) == {"topic", "reason", "expected", "first_available", "timestamp"}


@pytest.mark.parametrize("reason", sse.CLOSING_MESSAGES)
def test_every_reason_to_close_has_its_message(reason: str) -> None:
    told = parsed_one(sse.connection_closing("t", reason, "r")).data
    assert (told["reason"], told["message"]) == (reason, sse.CLOSING_MESSAGES[reason])
