"""The stored JSON of an event: a CloudEvent, made once when it is published.

Pure. The log adds sequence and time in the act of storing. Source: Aviso wire contract §5.1,
CloudEvents 1.0 JSON format.
"""

import hashlib
from functools import lru_cache

import msgspec

from gateway.schema.query import Publication
from store.event import Draft, Envelope, Idempotency


class Renderer:
    """Turns publications into drafts. `source` is the base URL that events name as their origin."""

    def __init__(self, *, source: str, type_prefix: str) -> None:
        self._source = source.rstrip("/")
        self._type_prefix = type_prefix
        # Bounded: event types without a schema are as many as clients care to name.
        self._parts = lru_cache(maxsize=4096)(self._render_parts)

    def envelope(self, event_type: str) -> Envelope:
        """What follows the sequence in every event of this type."""
        return self._parts(event_type)[1]

    def before_id(self, event_type: str) -> bytes:
        """What stands between the data and the sequence in every event of this type."""
        return self._parts(event_type)[0]

    def draft(self, publication: Publication, idempotency_key: str | None) -> Draft:
        head = b'{"data":{"identifier":%b,"payload":%b}%b' % (
            publication.identifier,
            publication.payload,
            self._parts(publication.event_type)[0],
        )
        idempotency = None
        if idempotency_key is not None:
            about = b"%d %b" % (publication.time_ms or 0, head)
            idempotency = Idempotency(
                key=hashlib.sha256(idempotency_key.encode()).hexdigest().encode(),
                fingerprint=hashlib.sha256(about).hexdigest().encode(),
            )
        return Draft(publication.topic, head, publication.time_ms, idempotency)

    def _render_parts(self, event_type: str) -> tuple[bytes, Envelope]:
        encode = msgspec.json.encode
        before_id = b',"datacontenttype":"application/json","dataschema":%b,"id":%b' % (
            encode(f"{self._source}/schema/{event_type}"),
            encode(f"{event_type}@")[:-1],  # the log closes the string after the sequence
        )
        envelope = Envelope(
            middle=b'","source":%b,"specversion":"1.0","time":"' % encode(self._source),
            tail=b'","type":%b}' % encode(f"{self._type_prefix}{event_type}"),
        )
        return before_id, envelope
