"""Aviso wire contract §5 and §13: HTTP/1.0, connections, CORS, limits and malformed HTTP itself."""

import asyncio
import json
import re
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import RunningGateway, Start
from tests.contract.api import NOTIFICATION, REPLAY, WATCH, Api, ask, assert_error
from tests.contract.schemas import SCHEMAS

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORIGIN = "https://pages.example"


async def talk(gateway: RunningGateway, sent: bytes, *, until: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of a raw exchange, up to the end of the connection or to some bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(60):
            received = await (reader.readuntil(until) if until else reader.read(-1))
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = received.partition(b"\r\n\r\n")
    return head.lower(), body


def head_of(method: str, target: str, version: str, api: Api, *lines: str) -> bytes:
    tenant = f"X-Tenant-ID: {api.tenant}"
    return "\r\n".join([f"{method} {target} HTTP/{version}", tenant, *lines, "", ""]).encode()


# -- HTTP/1.0


async def test_an_http_1_0_client_gets_plain_bytes_and_the_end_of_the_connection(
    api: Api,
) -> None:
    """It knows neither chunks nor keep-alive: chunk sizes would stand between its frames."""
    await api.publish_many(3)
    target = f"{REPLAY}?event_type=note&from_id=1"
    head, body = await talk(api.gateway, head_of("GET", target, "1.0", api))
    assert head.startswith(b"http/1.1 200 ok")
    assert b"transfer-encoding" not in head
    assert b"connection: keep-alive" not in head
    assert b"connection: close" in head
    blocks = body.decode().split("\n\n")
    assert blocks[0].startswith("event: replay-control\n")
    assert len(blocks) == 7
    assert blocks[-1] == ""


async def test_an_http_1_0_client_can_watch(api: Api) -> None:
    sent = head_of("GET", f"{WATCH}?event_type=note", "1.0", api)
    head, body = await talk(api.gateway, sent, until=b"event: heartbeat\n")
    assert b"connection: keep-alive" not in head
    assert re.match(rb"(id: [^\n]+\n)?event: live-notification\n", body)


async def test_http_1_0_and_short_answers(api: Api) -> None:
    for lines in ((), ("Connection: keep-alive",)):
        head, body = await talk(api.gateway, head_of("GET", "/health", "1.0", api, *lines))
        assert head.startswith(b"http/1.1 200 ok")
        assert json.loads(body) == {"status": "ok"}


async def test_http_1_1_streams_are_chunked_and_kept_alive(api: Api) -> None:
    target = f"{REPLAY}?event_type=note&from_id=1"
    sent = head_of("GET", target, "1.1", api, "Host: x") + head_of(
        "GET", "/health", "1.1", api, "Host: x", "Connection: close"
    )
    head, body = await talk(api.gateway, sent)
    assert b"transfer-encoding: chunked" in head
    assert b"connection: keep-alive" in head
    assert b"0\r\n\r\nHTTP/1.1 200 OK" in body
    assert body.endswith(b'{"status":"ok"}')


async def test_a_client_that_wants_to_close_is_told_so_once(api: Api) -> None:
    target = f"{REPLAY}?event_type=note&from_id=1"
    head, body = await talk(
        api.gateway, head_of("GET", target, "1.1", api, "Host: x", "Connection: close")
    )
    assert re.findall(rb"connection: ([a-z-]+)", head) == [b"close"]
    assert body.endswith(b"0\r\n\r\n")


# -- malformed HTTP


MALFORMED: dict[str, bytes] = {
    "no HTTP": b"nonsense\r\n\r\n",
    "no version": b"GET /health\r\n\r\n",
    "another version": b"GET /health HTTP/3.7\r\n\r\n",
    "an unknown method": b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a lower-case method": b"get /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the path": b"GET /he alth HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the path": b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "a colon too few": b"GET /health HTTP/1.1\r\nHost\r\n\r\n",
    "a space before the colon": b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
    "NUL in a header": b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "a folded header": b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n",
    "a length that is no number": b"POST /health HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    "a negative length": b"POST /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST /health HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "CONNECT": b"CONNECT host:443 HTTP/1.1\r\nHost: host\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_http_is_answered_in_the_shape_of_every_error(
    house: RunningGateway, name: str
) -> None:
    head, body = await talk(house, MALFORMED[name])
    status = int(head.split()[1])
    assert 400 <= status < 500
    assert b"content-type: application/json" in head
    found: dict[str, Any] = json.loads(body)
    assert list(found) == ["code", "details", "error", "message", "request_id"]
    request_id = re.search(rb"x-request-id: (\S+)", head)
    assert request_id is not None
    assert found["request_id"] == request_id[1].decode()
    assert UUID(found["request_id"]).version == 4


@pytest.mark.parametrize(
    "chunks", [b"x\r\nab\r\n", b"-1\r\n\r\n", b"5\r\nab\r\n0\r\n\r\n", b"fffffffffffffffff\r\n"]
)
async def test_bad_chunks_are_refused(house: RunningGateway, chunks: bytes) -> None:
    sent = b"POST /api/v1/notification HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    head, body = await talk(house, sent + chunks)
    assert head.startswith(b"http/1.1 400")
    assert json.loads(body)["code"] == "INVALID_HTTP"


async def test_a_head_without_end_is_431(house: RunningGateway) -> None:
    """As soon as it is over the limit, not when it ends: it may never end."""
    for part in (b"X-%d: 1\r\n", b"x"):
        filler = b"".join(part.replace(b"%d", b"%d" % n) for n in range(40_000))
        head, body = await talk(house, b"GET /health HTTP/1.1\r\nX: " + filler)
        assert head.startswith(b"http/1.1 431")
        assert json.loads(body)["code"] == "HEADERS_TOO_LARGE"


async def test_trailers_without_end_are_refused(house: RunningGateway) -> None:
    sent = (
        b"POST /api/v1/notification HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\n"
    )
    filler = b"".join(b"X-%d: 1\r\n" % n for n in range(40_000))
    head, body = await talk(house, sent + filler)
    assert head.startswith(b"http/1.1 431")
    assert json.loads(body)["code"] == "HEADERS_TOO_LARGE"


async def test_a_trailer_is_no_header(api: Api) -> None:
    """Else it could name a tenant past a proxy that looks at headers."""
    body = json.dumps({"event_type": "note", "identifier": {"author": "a"}}).encode()
    sent = (
        b"POST /api/v1/notification HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n%x\r\n%b\r\n0\r\nX-Tenant-ID: %b\r\n\r\n"
    ) % (len(body), body, api.tenant.encode())
    head, _ = await talk(api.gateway, sent)
    assert head.startswith(b"http/1.1 200")
    assert await api.found() == []


async def test_an_upgrade_is_answered_as_plain_http(api: Api) -> None:
    lines = (
        "Host: x",
        "Connection: Upgrade, close",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: eA==",
    )
    head, body = await talk(api.gateway, head_of("GET", "/health", "1.1", api, *lines))
    assert head.startswith(b"http/1.1 200")
    assert json.loads(body) == {"status": "ok"}


async def test_an_upgrade_ends_the_connection_with_its_answer(api: Api) -> None:
    """The parser reads nothing after it: a second request would wait for ever."""
    lines = ("Host: x", "Connection: Upgrade", "Upgrade: h2c")
    sent = head_of("GET", "/health", "1.1", api, *lines) * 2
    head, body = await talk(api.gateway, sent)
    assert b"connection: close" in head
    assert json.loads(body) == {"status": "ok"}
    target = f"{REPLAY}?event_type=note&from_id=1"
    head, _ = await talk(api.gateway, head_of("GET", target, "1.1", api, *lines))
    assert re.findall(rb"connection: ([a-z-]+)", head) == [b"close"]


async def test_expect_100_continue_is_honoured(api: Api) -> None:
    body = json.dumps({"event_type": "note", "identifier": {"author": "a"}}).encode()
    lines = ("Host: x", "Expect: 100-continue", f"Content-Length: {len(body)}", "Connection: close")
    reader, writer = await asyncio.open_connection("127.0.0.1", api.gateway.port)
    writer.write(head_of("POST", NOTIFICATION, "1.1", api, *lines))
    async with asyncio.timeout(60):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await reader.read(-1)
    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_a_body_over_the_limit_is_refused_before_it_is_read(api: Api) -> None:
    """By its declared length, so that a client which waits for 100-continue sends nothing."""
    lines = ("Host: x", "Expect: 100-continue", "Content-Length: 99999999999")
    head, body = await talk(api.gateway, head_of("POST", NOTIFICATION, "1.1", api, *lines))
    assert head.startswith(b"http/1.1 413")
    assert b"connection: close" in head
    assert json.loads(body)["code"] == "BODY_TOO_LARGE"


async def test_a_client_that_sends_far_too_much_still_hears_why(start_gateway: Start) -> None:
    async with start_gateway(limits={"body_bytes": 1000}) as gateway:
        for _ in range(5):
            response = await gateway.client.post(NOTIFICATION, content=b"x" * (4 << 20))
            assert_error(response, 413, "BODY_TOO_LARGE")


# -- CORS


async def test_without_the_setting_only_streams_may_be_read_by_other_origins(
    start_gateway: Start,
) -> None:
    async with start_gateway(cors={"allow_origins": []}, notification_schema=SCHEMAS) as gateway:
        headers = {"Origin": ORIGIN}
        health = await gateway.client.get("/health", headers=headers)
        assert "access-control-allow-origin" not in health.headers
        api = Api(gateway, gateway.tenant)
        async with api.stream(REPLAY, ask("note", from_id="1"), headers=headers) as stream:
            assert stream.headers["access-control-allow-origin"] == "*"
        preflight = await gateway.client.options(
            WATCH, headers={**headers, "Access-Control-Request-Method": "GET"}
        )
        assert_error(preflight, 405, "METHOD_NOT_ALLOWED")


async def test_with_the_setting_pages_of_an_origin_may_use_the_api(start_gateway: Start) -> None:
    cors = {"allow_origins": [ORIGIN], "allow_credentials": True, "max_age_sec": 77}
    async with start_gateway(cors=cors, notification_schema=SCHEMAS) as gateway:
        client = gateway.client
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        headers = "content-type, x-tenant-id, idempotency-key, last-event-id, authorization"
        preflight = await client.options(
            NOTIFICATION, headers={**asked, "Access-Control-Request-Headers": headers}
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert preflight.headers["access-control-allow-credentials"] == "true"
        assert preflight.headers["access-control-max-age"] == "77"
        assert "x-request-id" in preflight.headers
        for path in ("/health", "/no/such/path"):
            answer = await client.get(path, headers={"Origin": ORIGIN})
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            exposed = answer.headers["access-control-expose-headers"].lower()
            assert "x-request-id" in exposed
            assert "origin" in answer.headers["vary"].lower()
        api = Api(gateway, gateway.tenant)
        body = ask("note", from_id="1")
        async with api.stream(REPLAY, body, headers={"Origin": ORIGIN}) as stream:
            assert stream.headers.get_list("access-control-allow-origin") == [ORIGIN]
        other = await client.get("/health", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    "asked",
    [
        {"Origin": "https://other.example", "Access-Control-Request-Method": "GET"},
        {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"},
        {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "x-unheard-of",
        },
    ],
    ids=["origin", "method", "header"],
)
async def test_a_refused_preflight_has_the_shape_of_every_error(
    start_gateway: Start, asked: dict[str, str]
) -> None:
    async with start_gateway(cors={"allow_origins": [ORIGIN]}) as gateway:
        response = await gateway.client.options(WATCH, headers=asked)
        found = assert_error(response, 400, "CORS_REFUSED")
        assert list(found) == ["code", "details", "error", "message", "request_id"]


async def test_errors_of_every_layer_may_be_read_by_an_allowed_origin(
    start_gateway: Start,
) -> None:
    """A page that may not read the refusal sees nothing but a failed request."""
    async with start_gateway(
        cors={"allow_origins": [ORIGIN]}, limits={"query_bytes": 100}
    ) as gateway:
        client, headers = gateway.client, {"Origin": ORIGIN}
        answers = [
            await client.get(WATCH, params={"event_type": "x" * 200}, headers=headers),
            await client.get("/health", headers={**headers, "X-Tenant-ID": "x"}),
            await client.post(WATCH, content=b"{", headers=headers),
            await client.get("/nothing", headers=headers),
        ]
        for answer in answers:
            assert 400 <= answer.status_code < 500
            assert answer.headers.get("access-control-allow-origin") == ORIGIN, answer.text
