"""Whatever is accepted arrives as exactly one frame with the same values; nothing adds a frame."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import RunningGateway, Start
from tests.event_stream import Frame, OpenStream, get, open_stream, post

WATCH, REPLAY, NOTIFICATION = "/api/v1/watch", "/api/v1/replay", "/api/v1/notification"
PREFIX = "int.ecmwf.aviso."

fuzzed = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
soaked = settings(fuzzed, max_examples=20_000, derandomize=False)

# What ends a line or a frame somewhere, what separates in a topic, and what looks like a field.
TROUBLE = [
    *("\r", "\n", "\r\n", "\n\n", "\0", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"),
    *("\ufeff", "e\u0301", "\u00e9", "\U0001f4a5", "\ud800", "\udfff", "\ud83d\udca5"),
    *("\n\nevent: gap\ndata: {}\n\n", "data: x", "id: 9", "retry: 1", ":", " ", "\t"),
    *(".", "*", ">", "=", "%", "%0A", "@", "/", '"', "\\", "\\n", "{", "'", "a", "0"),
]


def _paired(text: str) -> str:
    """Two halves of a character that meet are that character, to JSON and to us."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


texts = st.lists(st.sampled_from(TROUBLE) | st.characters(), max_size=5).map("".join).map(_paired)
names = texts.filter(bool)
# Most troublesome names are refused, which leaves little to be seen of the rest.
event_types = st.sampled_from(["kind", "a.b", "e\u0301>*=%", "\u2028\U0001f4a5"]) | names
scalars = texts | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
payloads = st.recursive(
    scalars | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
header_values = st.lists(
    st.sampled_from([text.encode("utf-8", "surrogatepass") for text in TROUBLE])
    | st.binary(max_size=4)
    | st.just(str(uuid4()).encode()),
    max_size=3,
).map(b"".join)


@pytest.fixture
async def open_house(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    """Takes event types of any name."""
    async with start_gateway(notification_schema_strict=False, cors=None) as running:
        yield running


def as_text(value: object) -> str:
    """The canonical text of an identifier without schema: a number by its JSON text."""
    return value if isinstance(value, str) else json.dumps(value)


async def ask(gateway: RunningGateway, request: bytes) -> OpenStream:
    """The whole answer to a request; it must be one of the API's, with none of ours in its head."""
    async with open_stream(gateway.port, request) as stream:
        await stream.rest()
    assert stream.status == 200 or 400 <= stream.status < 500, (stream.status, stream.body)
    assert set(stream.headers) <= {
        *("content-type", "content-length", "transfer-encoding", "date", "connection"),
        *("x-request-id", "cache-control", "access-control-allow-origin", "x-accel-buffering"),
    }
    assert stream.parser.strange == []
    if stream.headers["content-type"] == "application/json":
        body = json.loads(stream.body)
        assert body["request_id"] == stream.headers["x-request-id"]
    return stream


def encode(body: object, *, ascii_only: bool) -> bytes:
    """JSON as a client may write it; a lone surrogate has no UTF-8, and is sent all the same."""
    return json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def head(method: bytes, target: bytes, tenant: str, length: int) -> bytes:
    return b"%b %b HTTP/1.1\r\nhost: x\r\nx-tenant-id: %b\r\ncontent-length: %d\r\n" % (
        method,
        target,
        tenant.encode(),
        length,
    )


def check_replay(stream: OpenStream, event_type: str, identifier: Any, payload: Any) -> Frame:
    """One event, with these values, between the frames of the gateway's own."""
    kinds = [frame.kind for frame in stream.frames]
    assert kinds == ["replay_started", "event", "replay_completed", "connection-closing"]
    found = stream.frames[1]
    assert found.event == "replay"
    assert found.data["data"] == {"identifier": identifier, "payload": payload}
    assert found.data["id"] == f"{event_type}@1"
    assert found.data["type"] == PREFIX + event_type
    assert found.data["dataschema"].endswith(f"/schema/{event_type}")
    assert (found.id or "").startswith("1-")
    return found


async def check_event(
    gateway: RunningGateway, event_type: str, identifier: Any, payload: Any, *, ascii_only: bool
) -> None:
    tenant = str(uuid4())

    def request(path: str, **more: Any) -> bytes:
        body = {"event_type": event_type, "identifier": identifier, **more}
        content = encode(body, ascii_only=ascii_only)
        return head(b"POST", path.encode(), tenant, len(content)) + b"\r\n" + content

    canonical = {name: as_text(value) for name, value in identifier.items()}
    async with open_stream(gateway.port, request(WATCH)) as live:
        await live.receive()
        published = await ask(gateway, request(NOTIFICATION, payload=payload))
        if published.status != 200:
            return
        assert live.status == 200, live.body
        stored = await ask(gateway, request(REPLAY, from_id="1"))
        found = check_replay(stored, event_type, canonical, payload)
        delivered = await live.until("event")
    assert delivered.event == "live-notification"
    assert (delivered.text, delivered.id) == (found.text, found.id)
    assert [frame.kind for frame in live.frames] == ["connection_established", "heartbeat", "event"]
    topic = ".".join((event_type, *(canonical[name] for name in sorted(canonical))))
    assert {frame.data["topic"] for frame in live.frames[:2]} == {topic}
    # By the parameters of a GET: what is not read as something else is the same filter.
    query = {"event_type": event_type, "from_id": "1"}
    query |= {f"identifier.{name}": text for name, text in canonical.items()}
    try:
        by_get = await ask(gateway, get(REPLAY, query, tenant))
    except UnicodeEncodeError:
        return  # a lone surrogate, which no URL can hold
    if by_get.status == 200 and len(by_get.frames) == 4:
        assert check_replay(by_get, event_type, canonical, payload).text == found.text


async def check_headers(
    gateway: RunningGateway, tenant: bytes, key: bytes, cursor: bytes, query: bytes
) -> None:
    """Every answer is one answer, whatever bytes stand in the lines of the head and in the URL."""
    own = str(uuid4())
    body = b'{"event_type":"t","identifier":{"a":"b"}}'
    published = head(b"POST", NOTIFICATION.encode(), own, len(body))
    await ask(gateway, published + b"idempotency-key: " + key + b"\r\n\r\n" + body)
    await ask(gateway, published.replace(own.encode(), tenant) + b"\r\n" + body)
    target = b"/api/v1/replay?event_type=t&from_id=1"
    for request in (
        head(b"GET", target, own, 0) + b"last-event-id: " + cursor + b"\r\n\r\n",
        head(b"GET", target + b"&last_event_id=" + quoted(cursor), own, 0) + b"\r\n",
        head(b"GET", target + b"&identifier.a=" + quoted(query), own, 0) + b"\r\n",
        head(b"GET", target + b"&" + quoted(query) + b"=1", own, 0) + b"\r\n",
    ):
        answered = await ask(gateway, request)
        kinds = [frame.kind for frame in answered.frames]
        assert answered.status != 200 or kinds[0] == "replay_started"
        assert set(kinds) <= {
            *("replay_started", "gap", "event", "replay_completed", "connection-closing")
        }


def quoted(value: bytes) -> bytes:
    return quote_from_bytes(value, safe="").encode()


@fuzzed
@given(
    event_type=event_types,
    identifier=st.dictionaries(names, scalars, max_size=3),
    payload=payloads,
    ascii_only=st.booleans(),
)
async def test_what_is_accepted_arrives_as_one_frame_with_the_same_values(
    open_house: RunningGateway, event_type: str, identifier: Any, payload: Any, ascii_only: bool
) -> None:
    await check_event(open_house, event_type, identifier, payload, ascii_only=ascii_only)


@fuzzed
@given(payload=payloads, author=names, ascii_only=st.booleans())
async def test_so_does_an_event_with_a_schema(
    open_house: RunningGateway, payload: Any, author: str, ascii_only: bool
) -> None:
    tenant = str(uuid4())
    identifier = {"network": author, "magnitude": "1.5", "depth_km": "0"}
    body = {
        "event_type": "earthquake",
        "identifier": {**identifier, "point_cloud": [[1, 2]]},
        "payload": {"note": payload},
    }
    content = encode(body, ascii_only=ascii_only)
    publish = head(b"POST", NOTIFICATION.encode(), tenant, len(content)) + b"\r\n" + content
    if (await ask(open_house, publish)).status != 200:
        return
    asked = {"event_type": "earthquake", "identifier": {"network": author}, "from_id": "1"}
    stored = await ask(open_house, post(REPLAY, asked, tenant))
    found = stored.frames[1].data["data"]
    identifier["magnitude"], identifier["depth_km"] = "1.5", found["identifier"]["depth_km"]
    check_replay(
        stored,
        "earthquake",
        {**identifier, "point_cloud": found["identifier"]["point_cloud"]},
        {"note": payload},
    )


@fuzzed
@given(tenant=header_values, key=header_values, cursor=header_values, query=header_values)
async def test_no_header_and_no_parameter_adds_to_an_answer(
    open_house: RunningGateway, tenant: bytes, key: bytes, cursor: bytes, query: bytes
) -> None:
    def line(value: bytes) -> bytes:
        # A client that writes a line feed writes another header line, or the end of the head.
        return value.replace(b"\n", b"")

    await check_headers(open_house, line(tenant), line(key), line(cursor), query)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@soaked
@given(
    event_type=event_types,
    identifier=st.dictionaries(names, scalars, max_size=3),
    payload=payloads,
    ascii_only=st.booleans(),
)
async def test_many_more_values_arrive_as_one_frame(
    open_house: RunningGateway, event_type: str, identifier: Any, payload: Any, ascii_only: bool
) -> None:
    await check_event(open_house, event_type, identifier, payload, ascii_only=ascii_only)
