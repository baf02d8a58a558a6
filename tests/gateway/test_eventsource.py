"""WHATWG HTML §9.2.6, as the CLI reads it: whatever the chunks and the line ends."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import sse
from gateway.eventsource import EventStreamParser, Message
from store.event import Entry, Gap, GapReason


def parse(text: str | bytes, last_event_id: str = "") -> list[Message]:
    parser = EventStreamParser(last_event_id)
    return parser.feed(text if isinstance(text, bytes) else text.encode())


def parse_in_pieces(body: bytes, cuts: list[int]) -> tuple[list[Message], EventStreamParser]:
    parser = EventStreamParser()
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    found = [message for start, end in pairwise(edges) for message in parser.feed(body[start:end])]
    return found, parser


# -- the examples of the standard


def test_the_standards_stock_example() -> None:
    assert parse("data: YHOO\ndata: +2\ndata: 10\n\n") == [Message("message", "YHOO\n+2\n10", "")]


def test_the_standards_example_of_ids_and_comments() -> None:
    stream = (
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"
    )
    assert parse(stream + "\n") == [
        Message("message", "first event", "1"),
        Message("message", "second event", ""),
        Message("message", " third event", ""),
    ]


def test_the_standards_example_of_empty_data() -> None:
    assert parse("data\n\ndata\ndata\n\ndata:") == [
        Message("message", "", ""),
        Message("message", "\n", ""),
    ]


def test_the_standards_example_of_the_optional_space() -> None:
    assert parse("data:test\n\ndata: test\n\n") == [Message("message", "test", "")] * 2


# -- lines


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_line_end_ends_a_line(end: str) -> None:
    stream = end.join(["event: e", "data: 1", "data: 2", "", ""])
    assert parse(stream) == [Message("e", "1\n2", "")]


def test_line_ends_may_be_mixed() -> None:
    assert parse("data: 1\r\ndata: 2\rdata: 3\n\r\n") == [Message("message", "1\n2\n3", "")]


def test_an_event_whose_blank_line_ends_with_cr_does_not_wait_for_the_next_byte() -> None:
    parser = EventStreamParser()
    assert parser.feed(b"data: 1\r\n\r") == [Message("message", "1", "")]
    assert parser.feed(b"\ndata: 2\r\n\r\n") == [Message("message", "2", "")]


def test_cr_and_lf_of_one_line_end_in_two_chunks_are_one_line_end() -> None:
    parser = EventStreamParser()
    assert parser.feed(b"data: 1\r") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"data: 2\r") == []
    assert parser.feed(b"") == []
    assert parser.feed(b"\n\r\n") == [Message("message", "1\n2", "")]


def test_one_byte_order_mark_at_the_start_is_no_part_of_the_stream() -> None:
    bom = "\ufeff"
    assert parse(f"{bom}data: {bom}\n\n") == [Message("message", bom, "")]
    assert parse(f"{bom}{bom}data: 1\n\n") == []


def test_what_is_no_utf_8_becomes_the_replacement_character() -> None:
    assert parse(b"data: \xff\xc3\n\n") == [Message("message", "\ufffd\ufffd", "")]


# -- fields


def test_a_comment_is_nothing() -> None:
    assert parse(": data: 1\n:\n\n") == []


def test_an_unknown_field_is_nothing() -> None:
    assert parse("Data: 1\n data: 2\ndata : 3\n\ufeffdata: 4\n\n") == []


def test_an_event_without_data_is_none_but_its_id_counts() -> None:
    parser = EventStreamParser()
    assert parser.feed(b"event: e\nid: 7\n\n") == []
    assert parser.last_event_id == "7"
    assert parser.feed(b"data: 1\n\n") == [Message("message", "1", "7")]


def test_an_id_counts_from_the_blank_line_on() -> None:
    parser = EventStreamParser("3")
    parser.feed(b"id: 4\ndata: lost with the connection\n")
    assert parser.last_event_id == "3"


def test_an_id_with_a_nul_is_ignored() -> None:
    assert parse("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n") == [
        Message("message", "a", "1"),
        Message("message", "b", "1"),
    ]


def test_the_last_of_a_field_counts() -> None:
    assert parse("event: a\nevent: b\nid: 1\nid: 2\ndata: x\n\n") == [Message("b", "x", "2")]


def test_an_unfinished_event_at_the_end_is_dropped() -> None:
    assert parse("data: 1\n\ndata: 2\n") == [Message("message", "1", "")]


@pytest.mark.parametrize(
    ("value", "retry_ms"),
    [("250", 250), ("0", 0), ("-1", None), ("1.5", None), ("1s", None), ("", None), ("١", None)],
)
def test_a_retry_of_digits_is_a_pause(value: str, retry_ms: int | None) -> None:
    parser = EventStreamParser()
    parser.feed(f"retry: {value}\n\n".encode())
    assert parser.retry_ms == retry_ms


# -- any stream, any chunks

_TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
_END = st.sampled_from(["\n", "\r", "\r\n"])
_NOISE = st.one_of(
    _TEXT.map(lambda text: f":{text}"), st.sampled_from(["", "foo: bar", "retry: x", "Event: e"])
)


@st.composite
def _events(draw: Any) -> tuple[list[str], list[tuple[str, str, str | None]]]:
    """Lines of a stream, and the (event, data, id) they mean."""
    lines: list[str] = []
    meant: list[tuple[str, str, str | None]] = []
    for _ in range(draw(st.integers(0, 4))):
        lines += draw(st.lists(_NOISE.filter(bool), max_size=2))
        event, data = draw(_TEXT), draw(st.lists(_TEXT, min_size=1, max_size=3))
        event_id = draw(st.none() | _TEXT)
        fields = [f"data: {line}" for line in data] + [f"event: {event}"]
        if event_id is not None:
            fields.append(f"id: {event_id}")
        lines += [*fields, ""]
        meant.append((event or "message", "\n".join(data), event_id))
    return lines, meant


@given(_events(), st.data(), st.booleans(), st.lists(st.integers(0), max_size=12))
def test_any_stream_is_read_the_same_however_it_is_cut(
    events: tuple[list[str], list[tuple[str, str, str | None]]],
    data: st.DataObject,
    marked: bool,
    cuts: list[int],
) -> None:
    lines, meant = events
    text = ""
    for line in lines:
        # After a lone CR, the LF of a blank line would be the second half of one line end.
        ends = _END.filter("\n".__ne__) if text.endswith("\r") and not line else _END
        text += line + data.draw(ends)
    found, parser = parse_in_pieces(("\ufeff" * marked + text).encode(), cuts)
    expected, last = [], ""
    for event, value, event_id in meant:
        if event_id is not None and "\0" not in event_id:
            last = event_id
        expected.append(Message(event, value, last))
    assert found == expected
    assert parser.last_event_id == last


@given(st.binary(max_size=200), st.lists(st.integers(0), max_size=20))
def test_any_bytes_mean_the_same_however_they_are_cut(body: bytes, cuts: list[int]) -> None:
    whole = EventStreamParser()
    expected = whole.feed(body)
    found, parser = parse_in_pieces(body, cuts)
    assert found == expected
    assert (parser.last_event_id, parser.retry_ms) == (whole.last_event_id, whole.retry_ms)


@given(_TEXT, st.lists(st.integers(0), max_size=8))
def test_what_the_gateway_frames_is_what_the_cli_reads(text: str, cuts: list[int]) -> None:
    event = msgspec.json.encode({"payload": text})
    entry: Entry = (b"1700000000000-12", (b"topic", event))
    gap = Gap(GapReason.EXPIRED, 3, 12)
    body = sse.gap(text, gap) + sse.event_frame(sse.REPLAY, entry[0], b"af01", event)
    found, _ = parse_in_pieces(body, cuts)
    assert [(message.event, message.last_event_id) for message in found] == [
        ("gap", ""),
        ("replay", "12-af01"),
    ]
    assert msgspec.json.decode(found[0].data)["topic"] == text
    assert found[1].data.encode() == event
