"""Malformed requests of many kinds, as bytes for a socket, made from a seeded random generator.

Every kind is wrong for certain, so that what is expected does not depend on luck.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from tests.contract.schemas import STORM

PUBLISH, BULK = "/api/v1/notification", "/api/v1/notifications"
WATCH, REPLAY = "/api/v1/watch", "/api/v1/replay"
WIPE = "/api/v1/admin/wipe/stream"

Random = random.Random


@dataclass(frozen=True, slots=True)
class Case:
    """One request; `keys` are those that its refusal must have."""

    kind: str
    raw: bytes
    keys: frozenset[str] = frozenset({"code", "error", "message", "request_id"})


def request(
    method: str, target: str, body: bytes = b"", headers: tuple[bytes, ...] = ()
) -> bytes:
    lines = [
        f"{method} {target} HTTP/1.1".encode("latin-1"),
        b"Host: gateway",
        *headers,
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def encode(body: object) -> bytes:
    return json.dumps(body).encode()


def a_body(rng: Random, path: str) -> dict[str, Any]:
    """A good body of the endpoint."""
    if path == WIPE:
        return {"stream_name": "storm"}
    if path == PUBLISH:
        return {"event_type": "storm", "identifier": dict(STORM), "payload": {"n": rng.random()}}
    return {"event_type": "storm", "identifier": {"severity": {"gte": 3}}, "from_id": "1"}


def a_path(rng: Random) -> str:
    return rng.choice((PUBLISH, WATCH, REPLAY))


def noise(rng: Random, size: int) -> bytes:
    return rng.randbytes(size)


def a_value(rng: Random) -> object:
    """Any JSON value."""
    return rng.choice(
        (None, True, 0, -1, 1.5, 1e300, 2**70, "", "x", "\x00", "💥", [], [[]], {}, {"a": 1}, [1, "2"])
    )


# -- bodies


def broken_json(rng: Random) -> bytes:
    path = rng.choice((PUBLISH, WATCH, REPLAY, WIPE, BULK))
    text = encode([a_body(rng, PUBLISH)] if path == BULK else a_body(rng, path))
    place = rng.randrange(1, len(text))
    body = rng.choice(
        (
            text[:place],
            text[:place] + bytes([rng.choice((0, 1, 8, 31, 255, 254, 192))]) + text[place:],
            text + rng.choice((b"}", b"]", b",", b"x", b"{}", b"\x00", b'"')),
            text.replace(b":", b"=", 1) if path != BULK else b"[" + text,
            b"[1,2" * rng.randrange(1, 50),
            b"[" * rng.randrange(200, 20_000),
            b'{"a":' * rng.randrange(200, 5_000),
            b"[" + noise(rng, rng.randrange(1, 200)),
        )
    )
    kind = b"Content-Type: application/json"
    return request("DELETE" if path == WIPE else "POST", path, body, (kind,))


def no_object(rng: Random) -> bytes:
    value = rng.choice((None, True, 0, 1.5, "text", [], [1], [{}]))
    return request("POST", a_path(rng), encode(value))


def wrong_type(rng: Random) -> bytes:
    path = a_path(rng)
    body = a_body(rng, path)
    name = rng.choice(("event_type", "identifier", "from_id", "from_date", "to_id", "to_date"))
    wrong = rng.choice((True, 5, -1.5, [], [1], ["x"]))
    return request("POST", path, encode({**body, name: wrong}))


def missing(rng: Random) -> bytes:
    path = a_path(rng)
    body = a_body(rng, path)
    del body[rng.choice(("event_type", "identifier"))]
    return request("POST", path, encode(body))


def unknown_key(rng: Random) -> bytes:
    path = a_path(rng)
    name = "".join(rng.choices("abcxyz_-.é\x00 ", k=rng.randrange(1, 30)))
    return request("POST", path, encode({**a_body(rng, path), name: a_value(rng)}))


def bad_unicode(rng: Random) -> bytes:
    lone = rng.choice((b"\\ud800", b"\\udfff", b"\\ud800\\ud800", b"\xff", b"\xc0\x80", b"\xed\xa0\x80"))
    body = rng.choice(
        (
            b'{"event_type":"%b","identifier":{}}',
            b'{"event_type":"storm","identifier":{"%b":"x"}}',
            b'{"event_type":"storm","identifier":{"name":"%b"}}',
            b'{"event_type":"storm","identifier":{},"from_id":"%b"}',
            b'{"event_type":"storm","identifier":{},"payload":"%b"}',
            b'{"%b":1}',
        )
    )
    return request("POST", PUBLISH, body % lone)


def too_large(rng: Random) -> bytes:
    body = noise(rng, 64) * rng.randrange(1025, 2048)
    return request("POST", rng.choice((PUBLISH, BULK, WATCH, REPLAY)), body)


# -- values


BAD_VALUES: Final[list[tuple[str, object]]] = [
    *(("region", value) for value in ("", "west", 5, True, ["north"], None, {"gt": "north"}, {})),
    *(("run", value) for value in ("", "24", "900", "x", [9], None, {"eq": "9"}, -1, 1e9)),
    *(("severity", value) for value in ("", "x", 0, 8, 1.5, 2**80, [4], None, {"in": []}, {"x": 1})),
    *(("severity", value) for value in ({"between": [5, 1]}, {"gt": "1"}, {"gt": 1, "lt": 2})),
    *(("anomaly", value) for value in ("", "NaN", "inf", 1e308, [1], None, {"gt": "1"}, {"in": 1})),
    *(("day", value) for value in ("", "2026-02-30", 5, [1], None, {"eq": "20260101"}, "x" * 500)),
    *(("name", value) for value in ("", "x" * 10, "é" * 5, [], None, {"eq": "x"}, {})),
    *(("colour", value) for value in ("red", None, {}, [], 5)),
]


def bad_value(rng: Random) -> bytes:
    path = a_path(rng)
    body = a_body(rng, path)
    name, value = rng.choice(BAD_VALUES)
    body["identifier"] = {**body["identifier"], name: value}
    return request("POST", path, encode(body))


def bad_limit(rng: Random) -> bytes:
    name = rng.choice(("from_id", "from_date", "to_id", "to_date"))
    value = rng.choice(("", " ", "x", "-5", "1.5", "9" * 30, "2026-02-30", "\x00", "٣", "1e5", "💥" * 50))
    body = {"event_type": "storm", "identifier": {}, name: value}
    if name.startswith("to_"):
        body["from_id"] = "1"
    return request("POST", REPLAY, encode(body))


def bad_combination(rng: Random) -> bytes:
    limits: dict[str, str] = rng.choice(
        (
            {},
            {"to_id": "5"},
            {"from_id": "1", "from_date": "1"},
            {"from_id": "5", "to_id": "4"},
            {"from_id": "1", "to_id": "2", "to_date": "3"},
            {"from_date": "5", "to_date": "4"},
        )
    )
    return request("POST", REPLAY, encode({"event_type": "storm", "identifier": {}, **limits}))


def bad_shape(rng: Random) -> bytes:
    event_type, name = rng.choice((("area", "polygon"), ("cloud", "point_cloud"), ("area", "point")))
    value = rng.choice(
        (
            *("", "1", "1,2,3", "(1,2", "x,y", "91,0", None, 5, {}, [[]], [[1]], [["1", "2"]]),
            *([[1, 2], [3, 4]], [[1e300, 2]], [[None, 1]] * 3, [[0, 0]] * 30_000, "0," * 5000),
        )
    )
    if event_type == "area" and value == [[0, 0]] * 30_000:
        value = [[0, 0], [1, 1], [2, 2], [3, 3]]
    body = {"event_type": event_type, "identifier": {"name": "a", name: value}}
    return request("POST", PUBLISH, encode(body))


# -- parameters and headers


def bad_query(rng: Random) -> bytes:
    junk = quote("".join(rng.choices("abc =&%é/\x00\n💥", k=rng.randrange(1, 40))), safe="")
    query = rng.choice(
        (
            "",
            f"x={junk}",
            f"event_type=storm&from_id=x{junk}",
            f"event_type=storm&from_date=x{junk}",
            f"event_type=storm&from_id=1&x{junk}=1",
            "event_type=storm&event_type=storm&from_id=1",
            f"event_type=storm&from_id=1&identifier.severity=x{junk}",
            f"event_type=storm&from_id=1&identifier.x{junk}=1",
            "event_type=storm&from_id=1&identifier.severity.between=1",
            f"event_type=storm&from_id=1&identifier.severity.x{junk}=1",
            f"event_type=storm&last_event_id=x{junk}",
            f"event_type=area&from_id=1&identifier.point={junk}",
            "event_type=%ff%fe%00&from_id=1",
            "event_type=storm&from_id=%ff",
        )
    )
    return request("GET", f"{rng.choice((WATCH, REPLAY))}?{query}")


def large_query(rng: Random) -> bytes:
    size = rng.randrange(8193, 20_000)
    return request("GET", f"{rng.choice((WATCH, REPLAY, '/health'))}?event_type={'x' * size}")


def bad_tenant(rng: Random) -> bytes:
    value = rng.choice(
        (b"", b"x", b"0" * 31, b"0" * 33, b"\xff" * 16, b"{}", b"1,2", b"00000000-0000-0000-0000")
    )
    method, path = rng.choice((("GET", "/health"), ("POST", PUBLISH), ("GET", "/api/v1/schema")))
    return request(method, path, headers=(b"X-Tenant-ID: " + value,))


def bad_cursor(rng: Random) -> bytes:
    value = rng.choice((b"x", b"-1", b"1-", b"1-xyz", b"9" * 30, b"\xff\xfe", b"1 2", b"1-" + b"a" * 99))
    target = f"{rng.choice((WATCH, REPLAY))}?event_type=storm&from_id=1"
    return request("GET", target, headers=(b"Last-Event-ID: " + value,))


def bad_idempotency_key(rng: Random) -> bytes:
    value = rng.choice((b"", b"x" * 256, b"\xff" * 300))
    path = rng.choice((PUBLISH, BULK))
    event = a_body(rng, PUBLISH)
    body = encode([event] if path == BULK else event)
    return request("POST", path, body, (b"Idempotency-Key: " + value,))


def large_headers(rng: Random) -> bytes:
    one = b"X-Large: " + b"x" * rng.randrange(33_000, 60_000)
    many = tuple(b"X-%d: %b" % (n, b"y" * 40) for n in range(900))
    return request("GET", "/health", headers=rng.choice(((one,), many)))


def bad_preflight(rng: Random) -> bytes:
    headers = rng.choice(
        (
            (b"Origin: https://evil.example", b"Access-Control-Request-Method: GET"),
            (b"Origin: https://pages.example", b"Access-Control-Request-Method: BREW"),
            (b"Origin: \xff", b"Access-Control-Request-Method: \xff"),
        )
    )
    return request("OPTIONS", rng.choice((WATCH, PUBLISH, "/")), headers=headers)


# -- paths and methods


def unknown_path(rng: Random) -> bytes:
    tail = quote("".join(rng.choices("abc./%é~\x00\n💥;", k=rng.randrange(1, 60))), safe="/.;~")
    start = rng.choice(("/x", "/api/v1/x", "/api/v2/", "/healthy", f"{WATCH}/", "/%2e%2e/", "/static/"))
    return request(rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH")), start + tail)


def wrong_method(rng: Random) -> bytes:
    path = rng.choice((PUBLISH, BULK, WATCH, REPLAY, "/health", "/ready", "/", "/api/v1/schema"))
    method = rng.choice(("PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "LINK", "PURGE"))
    return request(method, path, noise(rng, rng.randrange(100)))


def unknown_schema(rng: Random) -> bytes:
    name = quote("".join(rng.choices("abc.%é\x00💥", k=rng.randrange(1, 40))), safe="")
    return request("GET", f"/api/v1/schema/x{name}")


def bad_deletion(rng: Random) -> bytes:
    name = rng.choice(("x", "@", "x@", "@1", "x@0", "x@-1", "x@1.5", "x@x", "x@1@2", "x@" + "9" * 40))
    junk = quote("".join(rng.choices("abc%é\x00💥", k=rng.randrange(5))), safe="")
    return request("DELETE", f"/api/v1/admin/notification/{junk}{quote(name, safe='')}")


def bad_wipe(rng: Random) -> bytes:
    name = "x" + "".join(rng.choices("abc.%é\x00💥", k=rng.randrange(40)))
    return request("DELETE", WIPE, encode({"stream_name": name}), (b"Content-Type: application/json",))


def wipe_of_another_type(rng: Random) -> bytes:
    kind = rng.choice((b"text/plain", b"application/xml", b"\xff", b"json", b"*/*"))
    return request("DELETE", WIPE, encode({"stream_name": "storm"}), (b"Content-Type: " + kind,))


# -- HTTP itself: each of these ends its connection


def bad_start(rng: Random) -> bytes:
    junk = noise(rng, rng.randrange(1, 200)).replace(b"\n", b"").replace(b"\r", b"")
    return rng.choice(
        (
            bytes([rng.choice((0, 1, 22, 128, 255))]) + junk + b"\r\n\r\n",
            b"get / HTTP/1.1\r\n\r\n",
            b"BREW / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/%d.%d\r\n\r\n" % (rng.randrange(2, 10), rng.randrange(2, 10)),
            b"GET / HTPT/1.1\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1 x\r\n\r\n",
            b"GET /a b HTTP/1.1\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
            b"CONNECT host:1 HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        )
    )


def bad_header(rng: Random) -> bytes:
    line = rng.choice(
        (
            *(b"no colon", b": no name", b"Sp ace: x", b"X : x", b"X: a\x00b", b"\xff: x", b" X: folded"),
            *(b"Content-Length: x", b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2"),
            *(b"Content-Length: 99999999999999999999999", b"Content-Length: 0x10"),
            b"Content-Length: 3\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked, identity",
        )
    )
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (PUBLISH.encode(), line)


def bad_chunks(rng: Random) -> bytes:
    chunks = rng.choice((b"x\r\n", b"-1\r\n\r\n", b"5\r\nab\r\n0\r\n\r\n", b"f" * 40 + b"\r\n", b"1\rx", b"1 1\r\na"))
    start = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return start % a_path(rng).encode() + chunks


def endless_head(rng: Random) -> bytes:
    return b"GET / HTTP/1.1\r\nX: " + bytes(rng.choices(b"abc", k=10)) * 8000


KINDS: Final[dict[Callable[[Random], bytes], int]] = {
    broken_json: 12,
    no_object: 3,
    wrong_type: 6,
    missing: 3,
    unknown_key: 4,
    bad_unicode: 6,
    too_large: 2,
    bad_value: 12,
    bad_limit: 6,
    bad_combination: 3,
    bad_shape: 5,
    bad_query: 10,
    large_query: 2,
    bad_tenant: 4,
    bad_cursor: 3,
    bad_idempotency_key: 2,
    large_headers: 1,
    bad_preflight: 2,
    unknown_path: 5,
    wrong_method: 4,
    unknown_schema: 3,
    bad_deletion: 4,
    bad_wipe: 2,
    wipe_of_another_type: 2,
    bad_start: 6,
    bad_header: 5,
    bad_chunks: 4,
    endless_head: 1,
}
# Where the contract gives a refusal another form (§4 for schemas, §10 for administration).
OTHER_KEYS: Final = {
    unknown_schema: frozenset({"status", "message", "available_types", "request_id"}),
    bad_deletion: frozenset({"success", "message", "notification_id", "request_id"}),
    bad_wipe: frozenset({"success", "message", "request_id"}),
}


def make_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(seed)
    makers = rng.choices(list(KINDS), list(KINDS.values()), k=count)
    return [
        Case(maker.__name__, maker(rng), OTHER_KEYS.get(maker, Case("", b"").keys))
        for maker in makers
    ]
