"""How each server is spoken to: the bytes of its publications, watches and replays. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.event import EVENT_TYPE, SEQUENCE, body, rendered
from bench.load import request


@dataclass(frozen=True, slots=True)
class Dialect:
    """`stores_as_given`: it sends what was published as it came, so that it is given all of it.

    `sequence`: what stands before its dense number in a frame, where it has one.
    """

    publishing: str
    watching: str
    replaying: str | None = None
    publishing_many: str | None = None
    stores_as_given: bool = False
    asks_by_get: bool = True
    sequence: bytes | None = None

    def publish(self, number: int) -> bytes:
        event = rendered(number) if self.stores_as_given else body(number)
        return request("POST", self.publishing, event)

    def publish_many(self, bodies: Iterable[bytes]) -> bytes:
        assert self.publishing_many is not None
        return request("POST", self.publishing_many, b"\n".join(bodies))

    def watch(self, identifier: Mapping[str, object] | None = None) -> bytes:
        return self._open(self.watching, {}, identifier)

    def replay(self, identifier: Mapping[str, object] | None = None, **ends: str) -> bytes:
        """All from the start, unless there is an end (`from_id`, `to_id`, `from_date`…)."""
        assert self.replaying is not None
        return self._open(self.replaying, ends or {"from_id": "0"}, identifier)

    def _open(
        self, path: str, ends: Mapping[str, str], identifier: Mapping[str, object] | None
    ) -> bytes:
        # Some ask what the client wants to get before they stream.
        accept = "Accept: text/event-stream"
        if self.asks_by_get:
            wanted = "&".join(f"{name}={value}" for name, value in (identifier or {}).items())
            return request("GET", f"{path}?{wanted}" if wanted else path, b"", accept)
        query = {"event_type": EVENT_TYPE, "identifier": identifier or {}, **ends}
        return request("POST", path, json.dumps(query).encode(), accept)


AVISO = Dialect(
    "/api/v1/notification",
    "/api/v1/watch",
    "/api/v1/replay",
    "/api/v1/notifications",
    asks_by_get=False,
    sequence=SEQUENCE,
)
NAIVE = Dialect("/publish", "/watch", "/replay", "/publish-many")
RAW = Dialect("/publish", "/watch", "/replay", stores_as_given=True)
RAW_JOINED = Dialect("/join", "/watch", "/replay", stores_as_given=True)
NCHAN = Dialect("/publish", "/watch", "/replay", stores_as_given=True)
