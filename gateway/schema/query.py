"""A checked request as what it means: a publication to append, or a query to read with.

Step 7 of the order of checks (Aviso wire contract §2), after authorization. Values become their
canonical text here, the same for what is stored and what is asked, so that one finds the other.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.schema.catalog import Catalog, EventSchema
from gateway.schema.constraints import Condition
from gateway.schema.errors import Rejected, clip
from gateway.schema.filter import Filter, filter_by_pairs, filter_by_schema
from gateway.schema.jsontext import compact
from gateway.schema.limits import (
    End,
    FromSequence,
    FromTime,
    Start,
    ToSequence,
    ToTime,
    read_event_time,
    read_limits,
    refuse_end,
)
from gateway.schema.request import NULL, BulkItem, Operation, Request, parse, request_from_params
from gateway.schema.spatial import Pair, Points, SpatialTest, box_of
from gateway.schema.topic import build, build_schemaless, encode_token
from gateway.schema.values import (
    VERBS,
    read_condition,
    read_loose,
    read_point,
    read_polygon,
    read_shape,
    read_text,
)

__all__ = [
    "End",
    "FromSequence",
    "FromTime",
    "Operation",
    "Publication",
    "Query",
    "Request",
    "Start",
    "ToSequence",
    "ToTime",
    "parse",
    "publication",
    "query",
    "request_from_params",
]

_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


class Publication(Struct, frozen=True, gc=False):
    """What is stored: the topic, and two pieces of the CloudEvent's JSON.

    ``identifier`` is compact, keys sorted, values canonical; ``payload`` compact, every number and
    string as it was sent. ``time_ms`` is UTC, None when the publisher named no time.
    """

    event_type: str
    topic: bytes
    identifier: bytes
    payload: bytes
    time_ms: int | None


class Query(Struct, frozen=True):
    """What is read: ``topic`` is the decoded pattern for the frames, '*' where anything goes."""

    event_type: str
    topic: str
    filter: Filter
    start: Start | None
    end: End | None


def publication(request: Request, catalog: Catalog) -> Publication:
    """What to store for a notification. Raises Rejected."""
    identifier = request.identifier
    refuse_end(request, "notification")
    time = request.time if isinstance(request, BulkItem) else None
    time_ms = None if time is None else read_event_time(time)
    payload = compact(request.payload)
    schema = catalog.get(request.event_type)
    if schema is None:
        texts = read_loose(identifier, "notification")
        topic, stored = build_schemaless(request.event_type, texts), msgspec.json.encode(texts)
    else:
        if schema.captured:
            raise Rejected(
                "INVALID",
                f"Events of type '{request.event_type}' are captured from a database; nobody can "
                "publish one",
            )
        topic, stored = _store(identifier, schema)
        if schema.payload_required and payload == NULL:
            raise Rejected(
                "INVALID", "Payload is required for notify operation based on schema configuration"
            )
    return Publication(request.event_type, topic, stored, payload, time_ms)


def query(request: Request, operation: Operation, catalog: Catalog) -> Query:
    """What to read for a watch or a replay. Raises Rejected."""
    point = read_point(request.identifier)
    start, end = read_limits(request, operation)
    schema = catalog.get(request.event_type)
    if schema is not None:
        topic, wanted = _narrow(request.identifier, schema, point, VERBS[operation])
        return Query(request.event_type, topic, wanted, start, end)
    texts = read_loose(request.identifier, operation)
    topic = ".".join((request.event_type, *(texts[name] for name in texts if name != "point")))
    return Query(request.event_type, topic, filter_by_pairs(request.event_type, texts), start, end)


def _store(identifier: Mapping[str, Raw], schema: EventSchema) -> tuple[bytes, bytes]:
    """Topic and canonical identifier; every field must be there, whatever ``required`` says."""
    if not identifier.keys() <= schema.fields.keys():
        unknown = next(name for name in identifier if name not in schema.fields)
        raise _refuse_unknown(unknown, "notify")
    stored: dict[str, str | Points] = {}
    tokens = [""] * len(schema.key_order)
    for name, field, place in schema.places:
        raw = identifier.get(name)
        if raw is None:
            raise _refuse_missing(name, "notify")
        stored[name] = text = read_text(name, field, bytes(raw))
        tokens[place] = encode_token(text)
    box = None
    if schema.spatial is not None and schema.shape is not None:
        raw = identifier.get(schema.spatial)
        if raw is None:
            raise _refuse_missing(schema.spatial, "notify")
        stored[schema.spatial] = points = read_shape(schema.spatial, schema.shape, bytes(raw))
        box = box_of(points)
    return build(schema.base_token, tokens, box), _encode_sorted(stored)


def _narrow(
    identifier: Mapping[str, Raw], schema: EventSchema, point: Pair | None, verb: str
) -> tuple[str, Filter]:
    """Topic pattern and filter of a query on an event type with schema."""
    _check_names(identifier, schema, verb)
    area = _read_area(identifier, schema, point, verb)
    conditions: dict[str, Condition] = {}
    shown: dict[str, str] = {}
    for name, field in schema.text_fields.items():
        raw = identifier.get(name)
        if raw is not None:
            conditions[name], shown[name] = read_condition(name, field, bytes(raw))
        elif field.required:
            raise _refuse_missing(name, verb)
    topic = ".".join((schema.base, *(shown.get(name, "*") for name in schema.key_order)))
    return topic, filter_by_schema(schema, conditions, area)


def _check_names(identifier: Mapping[str, Raw], schema: EventSchema, verb: str) -> None:
    for name in identifier:
        if schema.spatial == "point_cloud" and name in ("point_cloud", "point"):
            reason = (
                "is only supported for notify operations"
                if name == "point_cloud"
                else "is not supported for point-cloud schemas"
            )
            raise Rejected("INVALID", f"identifier.{name} {reason}; filter with identifier.polygon")
        if name in schema.text_fields or name == "point":
            continue
        if name != "polygon" or schema.spatial is None:
            raise _refuse_unknown(name, verb)


def _read_area(
    identifier: Mapping[str, Raw], schema: EventSchema, point: Pair | None, verb: str
) -> SpatialTest | None:
    """The spatial filter; a point stands for a required polygon, a polygon for a cloud."""
    if point is not None:
        return SpatialTest("point", (point,))
    if "polygon" in identifier:
        return SpatialTest("polygon", read_polygon(bytes(identifier["polygon"])))
    if schema.spatial is not None and schema.shape is not None and schema.shape.required:
        raise _refuse_missing(schema.spatial, verb)
    return None


def _refuse_unknown(name: str, verb: str) -> Rejected:
    return Rejected("INVALID", f"Unknown field '{clip(name)}' provided for {verb} operation")


def _refuse_missing(name: str, verb: str) -> Rejected:
    return Rejected("INVALID", f"Required field '{name}' missing for {verb} operation")
