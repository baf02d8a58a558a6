"""Malformed requests whose fault lies around the body: in parameters, headers, paths, HTTP itself."""

from urllib.parse import quote

from tests.contract.garbage_parts import (
    BULK,
    PUBLISH,
    REPLAY,
    WATCH,
    WIPE,
    Random,
    a_body,
    a_path,
    encode,
    noise,
    request,
)

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
    value = rng.choice(
        (b"x", b"-1", b"1-", b"1-xyz", b"9" * 30, b"\xff\xfe", b"1 2", b"1-" + b"a" * 99)
    )
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
    start = rng.choice(
        ("/x", "/api/v1/x", "/api/v2/", "/healthy", f"{WATCH}/", "/%2e%2e/", "/static/")
    )
    return request(rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH")), start + tail)


def wrong_method(rng: Random) -> bytes:
    path = rng.choice((PUBLISH, BULK, WATCH, REPLAY, "/health", "/ready", "/", "/api/v1/schema"))
    method = rng.choice(("PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "LINK", "PURGE"))
    return request(method, path, noise(rng, rng.randrange(100)))


def unknown_schema(rng: Random) -> bytes:
    name = quote("".join(rng.choices("abc.%é\x00💥", k=rng.randrange(1, 40))), safe="")
    return request("GET", f"/api/v1/schema/x{name}")


def bad_deletion(rng: Random) -> bytes:
    name = rng.choice(
        ("x", "@", "x@", "@1", "x@0", "x@-1", "x@1.5", "x@x", "x@1@2", "x@" + "9" * 40)
    )
    junk = quote("".join(rng.choices("abc%é\x00💥", k=rng.randrange(5))), safe="")
    return request("DELETE", f"/api/v1/admin/notification/{junk}{quote(name, safe='')}")


def bad_wipe(rng: Random) -> bytes:
    name = "x" + "".join(rng.choices("abc.%é\x00💥", k=rng.randrange(40)))
    return request(
        "DELETE", WIPE, encode({"stream_name": name}), (b"Content-Type: application/json",)
    )


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
            *(
                b"no colon",
                b": no name",
                b"Sp ace: x",
                b"X : x",
                b"X: a\x00b",
                b"\xff: x",
                b" X: folded",
            ),
            *(
                b"Content-Length: x",
                b"Content-Length: -1",
                b"Content-Length: 1\r\nContent-Length: 2",
            ),
            *(b"Content-Length: 99999999999999999999999", b"Content-Length: 0x10"),
            b"Content-Length: 3\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked, identity",
        )
    )
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (PUBLISH.encode(), line)


def bad_chunks(rng: Random) -> bytes:
    chunks = rng.choice(
        (
            b"x\r\n",
            b"-1\r\n\r\n",
            b"5\r\nab\r\n0\r\n\r\n",
            b"f" * 40 + b"\r\n",
            b"1\rx",
            b"1 1\r\na",
        )
    )
    start = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return start % a_path(rng).encode() + chunks


def endless_head(rng: Random) -> bytes:
    return b"GET / HTTP/1.1\r\nX: " + bytes(rng.choices(b"abc", k=10)) * 8000
