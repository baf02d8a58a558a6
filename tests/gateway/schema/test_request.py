"""Checks one to four of §2 in their order, and the GET form as the same request."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.catalog import Catalog
from gateway.schema.errors import Rejected
from gateway.schema.query import publication, query
from gateway.schema.request import BulkItem, Operation, Request, parse

SCHEMA: dict[str, object] = {
    "quake": {"identifier": {"point_cloud": {"type": "PointCloudHandler", "required": False}}},
    "mars": {"identifier": {"class": {"type": "StringHandler", "required": False}}},
}
OPEN = Catalog.parse(SCHEMA, False)
STRICT = Catalog.parse(SCHEMA, True)
FIELDS = "[event_type, identifier, from_id, from_date, to_id, to_date, payload]"
OPERATIONS: tuple[Operation, ...] = ("notification", "watch", "replay")


def refuse(body: bytes, catalog: Catalog = OPEN, *, bulk_item: bool = False) -> Rejected:
    refusals = []
    for operation in OPERATIONS:
        with pytest.raises(Rejected) as caught:
            parse(body, operation, catalog, bulk_item=bulk_item)
        refusals.append(caught.value)
    assert len({(refusal.kind, refusal.message, refusal.details) for refusal in refusals}) == 1
    return refusals[0]


def values(request: Request) -> dict[str, str]:
    return {name: bytes(raw).decode() for name, raw in request.identifier.items()}


def test_a_full_body_is_read() -> None:
    body = b""" {"event_type": "mars", "identifier": {"class": "od", "step": 1e2},
        "from_id": "5", "from_date": null, "to_id": "7", "to_date": "x", "payload": {"a": 1.0}} """
    request = parse(body, "notification", OPEN)
    assert request.event_type == "mars"
    assert values(request) == {"class": '"od"', "step": "1e2"}
    assert (request.from_id, request.from_date) == ("5", None)
    assert (request.to_id, request.to_date) == ("7", "x")
    assert bytes(request.payload) == b'{"a": 1.0}'


@pytest.mark.parametrize(
    "rest", [b"", b',"payload":null', b',"payload": null ', b',"from_id":null']
)
def test_an_explicit_null_is_the_same_as_leaving_out(rest: bytes) -> None:
    request = parse(b'{"event_type":"mars","identifier":{}' + rest + b"}", "notification", OPEN)
    assert request == Request(event_type="mars", identifier={})


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"1.0", b"1.0"),
        (b"1e400", b"1e400"),
        (b"12345678901234567890123", b"12345678901234567890123"),
        (b'" a\\/\\u00e9 "', b'" a\\/\\u00e9 "'),
        (b"[ 1 , {} ]", b"[1,{}]"),
        (b"false", b"false"),
        (b"0", b"0"),
        (b'""', b'""'),
    ],
)
def test_a_payload_keeps_the_text_of_its_numbers_and_strings(sent: bytes, kept: bytes) -> None:
    body = b'{"event_type":"note","identifier":{},"payload":' + sent + b"}"
    assert publication(parse(body, "notification", OPEN), OPEN).payload == kept


@pytest.mark.parametrize("operation", ["watch", "replay"])
def test_a_payload_on_watch_and_replay_is_accepted_and_ignored(operation: Operation) -> None:
    body = b'{"event_type":"mars","identifier":{},"from_id":"1","payload":{"a":1}}'
    bare = body.replace(b',"payload":{"a":1}', b"")
    wanted, same = (query(parse(each, operation, OPEN), operation, OPEN) for each in (body, bare))
    assert (wanted.topic, wanted.start, wanted.end) == (same.topic, same.start, same.end)


def test_the_last_of_repeated_keys_wins_even_when_the_first_had_the_wrong_type() -> None:
    body = b'{"event_type":4,"identifier":{},"event_type":"mars","identifier":{"a":1,"a":2}}'
    request = parse(body, "watch", OPEN)
    assert (request.event_type, values(request)) == ("mars", {"a": "2"})
    item = b'{"event_type":4,"identifier":{},"event_type":"mars","time":"x"}'
    assert parse(item, "notification", OPEN, bulk_item=True) == BulkItem("mars", {}, time="x")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b'{"event_type":"mars"',
        b'{"event_type":"mars","identifier":{}} x',
        b'{"event_type":"mars","identifier":{},"payload":NaN}',
        b'{"event_type":"mars","identifier":{},"payload":[1,-Infinity]}',
        b'{"event_type":"mars","identifier":{},"payload":"\xff"}',
        b'{"event_type":"mars","identifier":{},"payload":"\\ud800"}',
        b'{"event_type":"mars","identifier":{"a":"\\udc00"}}',
        b'{"event_type":"mars","identifier":{},"payload":"\x01"}',
        b'{"event_type":"mars","identifier":{},"payload":' + b"[" * 128 + b"]" * 128 + b"}",
        b'{"event_type":"mars","identifier":{},"payload":' + b"[" * 9999 + b"]" * 9999 + b"}",
        b'{"wrong":1,"event_type":4,"payload":nope}',
    ],
)
def test_first_comes_json(body: bytes) -> None:
    refusal = refuse(body, STRICT)
    assert refusal.kind == "INVALID_JSON"
    assert refusal.message == f"JSON parsing failed: {refusal.details}"


def test_a_payload_of_127_levels_is_accepted() -> None:
    deep = b"[" * 127 + b"]" * 127
    body = b'{"event_type":"mars","identifier":{},"payload":' + deep + b"}"
    assert bytes(parse(body, "notification", OPEN).payload) == deep


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"event_type":"mars","identifier":{},"extra":1}', "extra"),
        (b'{"zoo":1,"event_type":4,"extra":1}', "zoo"),
        (b'{"time":"2020-01-01T00:00:00Z","event_type":"mars","identifier":{}}', "time"),
        (b'{"":1}', ""),
        (b'{"Event_type":"mars","identifier":{}}', "Event_type"),
    ],
)
def test_second_come_unknown_keys(body: bytes, name: str) -> None:
    refusal = refuse(body, STRICT)
    assert refusal.kind == "UNKNOWN_FIELD"
    cause = f"Unknown field '{name}' in request. Allowed fields: {FIELDS}"
    assert refusal.message == f"Request contains unknown fields: {cause}"
    assert refusal.details == cause


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"[]", "expected an object, got array"),
        (b" 4", "expected an object, got number"),
        (b"null", "expected an object, got null"),
        (b'"mars"', "expected an object, got string"),
        (b"{}", "missing field 'event_type'"),
        (b'{"identifier":{}}', "missing field 'event_type'"),
        (b'{"event_type":"nope"}', "missing field 'identifier'"),
        (
            b'{"event_type":null,"identifier":{}}',
            "field 'event_type' must be of type string, got null",
        ),
        (
            b'{"event_type":4,"identifier":{}}',
            "field 'event_type' must be of type string, got number",
        ),
        (
            b'{"event_type":"nope","identifier":null}',
            "field 'identifier' must be of type object, got null",
        ),
        (
            b'{"event_type":"nope","identifier":[]}',
            "field 'identifier' must be of type object, got array",
        ),
        *(
            (
                f'{{"event_type":"nope","identifier":{{}},"{name}":{sent}}}'.encode(),
                f"field '{name}' must be of type string or null, got {kind}",
            )
            for name in ("from_id", "from_date", "to_id", "to_date")
            for sent, kind in (("5", "number"), ("true", "boolean"), ("[]", "array"))
        ),
    ],
)
def test_third_comes_the_shape(body: bytes, cause: str) -> None:
    refusal = refuse(body, STRICT)
    assert refusal.kind == "INVALID_REQUEST_SHAPE"
    assert refusal.message == f"Request deserialization failed: {cause}"
    assert refusal.details == cause


def test_fourth_comes_the_strict_event_type_before_any_identifier() -> None:
    refusal = refuse(b'{"event_type":"x@y","identifier":{"a":null},"from_id":""}', STRICT)
    assert refusal.kind == "UNKNOWN_EVENT_TYPE"
    assert refusal.message == "unknown event type 'x@y'"
    assert refusal.configured_event_types == ("mars", "quake")


def test_strict_without_any_schema_refuses_everything() -> None:
    refusal = refuse(b'{"event_type":"mars","identifier":{}}', Catalog.parse(None, True))
    assert refusal.kind == "UNKNOWN_EVENT_TYPE"
    assert refusal.configured_event_types == ()


@pytest.mark.parametrize(
    ("event_type", "cause"),
    [
        ("", "must not be empty"),
        ("  ", "must not be empty"),
        ("a@b", "must not contain '@'"),
        ("a\x00", "must not contain control characters"),
        ("a\r\nb", "must not contain control characters"),
        ("x" * 256, "must not be longer than 255 bytes, got 256"),
    ],
)
def test_an_impossible_event_type_is_refused_with_its_value(event_type: str, cause: str) -> None:
    refusal = refuse(json.dumps({"event_type": event_type, "identifier": {}}).encode())
    assert refusal.kind == "INVALID"
    assert refusal.details == cause
    assert refusal.message.startswith(f"event_type {cause}. Got: '{event_type[:100]}")


def test_a_huge_value_does_not_come_back_in_a_message() -> None:
    huge = "x" * 100_000
    for body in ({huge: 1}, {"event_type": huge, "identifier": {}}):
        assert len(refuse(json.dumps(body).encode()).message) < 500


def test_a_bulk_item_may_carry_a_time() -> None:
    body = b'{"event_type":"mars","identifier":{},"time":"2020-01-01T00:00:00Z"}'
    given = parse(body, "notification", OPEN, bulk_item=True)
    assert given == BulkItem("mars", {}, time="2020-01-01T00:00:00Z")
    body = b'{"event_type":"mars","identifier":{},"time":null}'
    assert parse(body, "notification", OPEN, bulk_item=True) == BulkItem("mars", {})


def test_the_time_of_a_bulk_item_is_text_and_other_keys_stay_unknown() -> None:
    with pytest.raises(Rejected, match="field 'time' must be of type string or null, got number"):
        parse(b'{"event_type":"a","identifier":{},"time":5}', "notification", OPEN, bulk_item=True)
    with pytest.raises(Rejected, match=r"'at' in request\. Allowed fields: \[event_.*, time\]"):
        parse(b'{"event_type":"a","identifier":{},"at":5}', "notification", OPEN, bulk_item=True)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_either_read_or_rejected(body: bytes) -> None:
    for operation in OPERATIONS:
        with suppress(Rejected):
            assert isinstance(parse(body, operation, OPEN), Request)
