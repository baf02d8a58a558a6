"""One identifier value of a request as its canonical text or shape, or the sentence against it."""

from collections.abc import Mapping
from typing import Final

from msgspec import Raw

from gateway.schema.constraints import Condition, Exactly, parse_constraint
from gateway.schema.errors import Fault, Rejected, clip
from gateway.schema.fields import PolygonHandler, SpatialField, TextField
from gateway.schema.jsontext import kind_of, scalar_text
from gateway.schema.request import Operation
from gateway.schema.spatial import Pair, Points, parse_point
from gateway.schema.topic import encode_token

VERBS: Final[dict[Operation, str]] = {
    "notification": "notify",
    "watch": "watch",
    "replay": "replay",
}

# A polygon may filter the points of a cloud, whose schema declares no field for it.
_POLYGON: Final = PolygonHandler(required=False)


def read_text(name: str, field: TextField, value: bytes) -> str:
    """The canonical text of a scalar."""
    text = scalar_text(value)
    if text is None:
        raise _refuse_kind(name, value)
    try:
        return field.canonical(text)
    except Fault as fault:
        raise _name_field("Field", name, fault) from None


def read_condition(name: str, field: TextField, value: bytes) -> tuple[Condition, str]:
    """What a filter value asks for, and how the topic pattern of the query shows it."""
    if kind_of(value) != "object":
        text = read_text(name, field, value)
        return Exactly(encode_token(text)), text
    try:
        return parse_constraint(field, value), "*"
    except Fault as fault:
        raise _name_field("Field", name, fault) from None


def read_shape(name: str, field: SpatialField, value: bytes) -> Points:
    """The points of a polygon or a cloud."""
    if kind_of(value) == "null":
        raise _refuse_kind(name, value)
    try:
        return field.parse(value)
    except Fault as fault:
        raise _name_field("field", name, fault) from None


def read_polygon(value: bytes) -> Points:
    """The ring of ``identifier.polygon`` as a filter."""
    return read_shape("polygon", _POLYGON, value)


def read_point(identifier: Mapping[str, Raw]) -> Pair | None:
    """``identifier.point`` as a filter: its syntax, and that it is the only spatial one."""
    if "point" not in identifier:
        return None
    if "polygon" in identifier:
        raise Rejected(
            "INVALID",
            "Cannot specify both identifier.polygon and identifier.point. "
            "Provide only one spatial filter.",
        )
    try:
        return parse_point(bytes(identifier["point"]))
    except Fault as fault:
        raise Rejected(
            "INVALID",
            "identifier.point must be a valid 'lat,lon' coordinate pair: " + fault.predicate,
            fault.cause or fault.predicate,
        ) from None


def read_loose(identifier: Mapping[str, Raw], operation: Operation) -> dict[str, str]:
    """The texts of an event type without schema, keys sorted."""
    texts: dict[str, str] = {}
    for name in sorted(identifier):
        value = bytes(identifier[name])
        text = scalar_text(value)
        if text is None:
            if kind_of(value) == "object" and operation != "notification":
                raise _name_field(
                    "Field", name, Fault("constraint object is not supported without schema")
                )
            raise _refuse_kind(name, value)
        if not text:
            raise _name_field("Field", name, Fault("cannot be empty"))
        texts[name] = text
    return texts


def _refuse_kind(name: str, value: bytes) -> Rejected:
    kind = kind_of(value)
    if kind == "null":
        fault = Fault("cannot be null")
    elif kind == "object":
        fault = Fault("constraint object is not supported for notify operation")
    else:
        fault = Fault(f"must be a scalar value or constraint object, got {kind}")
    return _name_field("Field", name, fault)


def _name_field(noun: str, name: str, fault: Fault) -> Rejected:
    sentence = f"{noun} '{clip(name)}' {fault.predicate}"
    return Rejected("INVALID", sentence, fault.cause)
