"""Malformed requests of many kinds, as bytes for a socket, made from a seeded random generator.

Every kind is wrong for certain, so that what is expected does not depend on luck.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.contract.garbage_http import (
    bad_chunks,
    bad_cursor,
    bad_deletion,
    bad_header,
    bad_idempotency_key,
    bad_preflight,
    bad_query,
    bad_start,
    bad_tenant,
    bad_wipe,
    endless_head,
    large_headers,
    large_query,
    unknown_path,
    unknown_schema,
    wipe_of_another_type,
    wrong_method,
)
from tests.contract.garbage_parts import (
    BULK,
    PUBLISH,
    REPLAY,
    WATCH,
    WIPE,
    Random,
    a_body,
    a_path,
    a_value,
    encode,
    noise,
    request,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One request; `keys` are those that its refusal must have."""

    kind: str
    raw: bytes
    keys: frozenset[str]


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
    value: object = rng.choice((None, True, 0, 1.5, "text", [], [1], [{}]))
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
    lone = rng.choice(
        (b"\\ud800", b"\\udfff", b"\\ud800\\ud800", b"\xff", b"\xc0\x80", b"\xed\xa0\x80")
    )
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


BAD_VALUES: Final[dict[str, list[object]]] = {
    "region": ["", "west", 5, True, ["north"], None, {"gt": "north"}, {}],
    "run": ["", "24", "900", "x", [9], None, {"eq": "9"}, -1, 1e9],
    "severity": [
        *("", "x", 0, 8, 1.5, 2**80, [4], None, {"in": []}, {"x": 1}),
        *({"between": [5, 1]}, {"gt": "1"}, {"gt": 1, "lt": 2}),
    ],
    "anomaly": ["", "NaN", "inf", 1e308, [1], None, {"gt": "1"}, {"in": 1}],
    "day": ["", "2026-02-30", 5, [1], None, {"eq": "20260101"}, "x" * 500],
    "name": ["", "x" * 10, "é" * 5, [], None, {"eq": "x"}, {}],
    "colour": ["red", None, {}, [], 5],
}


def bad_value(rng: Random) -> bytes:
    path = a_path(rng)
    body = a_body(rng, path)
    name = rng.choice(list(BAD_VALUES))
    value = rng.choice(BAD_VALUES[name])
    body["identifier"] = {**body["identifier"], name: value}
    return request("POST", path, encode(body))


def bad_limit(rng: Random) -> bytes:
    name = rng.choice(("from_id", "from_date", "to_id", "to_date"))
    value: object = rng.choice(
        ("", " ", "x", "-5", "1.5", "9" * 30, "2026-02-30", "\x00", "٣", "1e5", "💥" * 50)
    )
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
    event_type, name = rng.choice(
        (("area", "polygon"), ("cloud", "point_cloud"), ("area", "point"))
    )
    value: object = rng.choice(
        (
            *("", "1", "1,2,3", "(1,2", "x,y", "91,0", None, 5, {}, [], [[]], [[1]], [["1", "2"]]),
            *([[91, 2]], [[1e300, 2]], [[None, 1]] * 3, [[0, 181]] * 5000, "0," * 5000),
        )
    )
    body = {"event_type": event_type, "identifier": {"name": "a", name: value}}
    return request("POST", PUBLISH, encode(body))


ERROR_KEYS: Final = frozenset({"code", "error", "message", "request_id"})
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
OTHER_KEYS: Final[dict[Callable[[Random], bytes], frozenset[str]]] = {
    unknown_schema: frozenset({"status", "message", "available_types", "request_id"}),
    bad_deletion: frozenset({"success", "message", "notification_id", "request_id"}),
    bad_wipe: frozenset({"success", "message", "request_id"}),
}


def make_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(seed)
    makers = rng.choices(list(KINDS), list(KINDS.values()), k=count)
    return [Case(maker.__name__, maker(rng), OTHER_KEYS.get(maker, ERROR_KEYS)) for maker in makers]
