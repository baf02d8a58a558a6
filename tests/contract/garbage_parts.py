"""What malformed requests are made of: good ones, and noise."""

import json
import random
from typing import Any

from tests.contract.schemas import STORM

PUBLISH, BULK = "/api/v1/notification", "/api/v1/notifications"
WATCH, REPLAY = "/api/v1/watch", "/api/v1/replay"
WIPE = "/api/v1/admin/wipe/stream"

Random = random.Random


def request(method: str, target: str, body: bytes = b"", headers: tuple[bytes, ...] = ()) -> bytes:
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
        (
            None,
            True,
            0,
            -1,
            1.5,
            1e300,
            2**70,
            "",
            "x",
            "\x00",
            "💥",
            [],
            [[]],
            {},
            {"a": 1},
            [1, "2"],
        )
    )
