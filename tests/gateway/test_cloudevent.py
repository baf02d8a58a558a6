"""The stored JSON: a CloudEvent with exactly the contract's keys, whatever its parts say."""

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.cloudevent import Renderer
from gateway.schema.query import Publication
from store.event import ORIGIN, Appended, StreamKey
from store.log import EventLog

RENDERER = Renderer(source="http://host:8000/", type_prefix="int.ecmwf.aviso.")


def publication(
    event_type: str = "kind",
    identifier: bytes = b'{"a":"b"}',
    payload: bytes = b"null",
    time_ms: int | None = None,
) -> Publication:
    return Publication(event_type, b"topic", identifier, payload, time_ms)


def completed(published: Publication) -> Any:
    """As the log completes it in the act of storing."""
    envelope = RENDERER.envelope(published.event_type)
    head = RENDERER.draft(published, None).head
    return json.loads(head + b"17" + envelope.middle + b"2026-01-02T03:04:05.006Z" + envelope.tail)


def test_it_has_exactly_the_keys_of_the_contract() -> None:
    assert completed(publication(payload=b'{"x":[1,2]}')) == {
        "data": {"identifier": {"a": "b"}, "payload": {"x": [1, 2]}},
        "datacontenttype": "application/json",
        "dataschema": "http://host:8000/schema/kind",
        "id": "kind@17",
        "source": "http://host:8000",
        "specversion": "1.0",
        "time": "2026-01-02T03:04:05.006Z",
        "type": "int.ecmwf.aviso.kind",
    }


@given(
    event_type=st.text(min_size=1),
    payload=st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=4),
)
def test_any_name_and_any_payload_stay_what_they_are(event_type: str, payload: Any) -> None:
    event = completed(publication(event_type, payload=json.dumps(payload).encode()))
    assert event["id"] == f"{event_type}@17"
    assert event["type"] == f"int.ecmwf.aviso.{event_type}"
    assert event["dataschema"] == f"http://host:8000/schema/{event_type}"
    assert event["data"]["payload"] == payload


async def test_the_log_stores_it_with_its_own_sequence_and_time(log: EventLog, tenant: str) -> None:
    stream = StreamKey(tenant, "kind")
    drafts = [RENDERER.draft(publication(payload=b"%d" % number), None) for number in range(3)]
    outcomes = await log.append(stream, RENDERER.envelope("kind"), drafts)
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    head = await log.head(stream)
    pages = log.range(stream, ORIGIN, head.last, epoch=head.epoch, page_size=10)
    [page] = [page async for page in pages]
    events = [json.loads(event) for _, (_, event) in page.entries]
    assert [event["id"] for event in events] == ["kind@1", "kind@2", "kind@3"]
    assert [event["data"]["payload"] for event in events] == [0, 1, 2]
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])


def test_without_a_key_there_is_no_promise() -> None:
    assert RENDERER.draft(publication(), None).idempotency is None


def test_the_same_event_has_the_same_fingerprint_and_any_other_another() -> None:
    others = [
        publication(),
        publication("other"),
        publication(identifier=b'{"a":"c"}'),
        publication(payload=b"0"),
        publication(time_ms=1),
    ]
    promises = [RENDERER.draft(each, "key").idempotency for each in (publication(), *others)]
    fingerprints = [promise.fingerprint for promise in promises if promise]
    assert len(fingerprints) == 6
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 5


@given(keys=st.lists(st.text(st.characters(codec="latin-1"), min_size=1), min_size=2, unique=True))
def test_keys_of_any_bytes_are_kept_apart_and_short(keys: list[str]) -> None:
    """A key is part of a name on the server: whatever a header holds becomes 64 hex digits."""
    promises = [RENDERER.draft(publication(), key).idempotency for key in keys]
    names = [promise.key for promise in promises if promise]
    assert len(set(names)) == len(keys)
    assert all(re.fullmatch(rb"[0-9a-f]{64}", name) for name in names)
