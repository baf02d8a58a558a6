"""A request's body or URL parameters, read as far as the first five checks go (Aviso wire contract
§2): JSON, unknown keys, shape, event type, no point. Who may ask is decided between this and query.py.

One typed decode reads a good body; only a bad one is read again, step by step, for the sentence
of the first check it fails.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from gateway.schema.catalog import Catalog, EventSchema, find_name_fault
from gateway.schema.constraints import NUMBER_OPERATORS
from gateway.schema.errors import Fault, Rejected, clip
from gateway.schema.fields import FloatHandler, IntHandler, TextField, format_float, parse_i64
from gateway.schema.jsontext import TOO_DEEP, find_json_fault, is_too_deep, kind_of
from gateway.schema.spatial import parse_float

Operation = Literal["notification", "watch", "replay"]

_LIMITS: Final = ("from_id", "from_date", "to_id", "to_date")
_TEXTS: Final = (*_LIMITS, "time")
_PREFIX: Final = "identifier."
_SELECTION: Final = ("event_type", "identifier.<field>", "identifier.<field>.<operator>")
# An end on a watch is read, for the contract's own sentence against it, but nobody is advised to.
_PARAMETERS: Final[dict[Operation, tuple[str, ...]]] = {
    "notification": _SELECTION,
    "watch": (*_SELECTION, "from_id", "from_date", "last_event_id"),
    "replay": (*_SELECTION, *_LIMITS, "last_event_id"),
}
NULL: Final = b"null"


class Request(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request that has the right shape: values are JSON as sent, nothing in them was looked at."""

    event_type: str
    identifier: dict[str, Raw]
    from_id: str | None = None
    from_date: str | None = None
    to_id: str | None = None
    to_date: str | None = None
    payload: Raw = Raw(NULL)


class BulkItem(Request, frozen=True, gc=False, forbid_unknown_fields=True):
    """A notification among many, which may say when it happened."""

    time: str | None = None


_decode_body: Final = msgspec.json.Decoder(Request).decode
_decode_bulk_item: Final = msgspec.json.Decoder(BulkItem).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode


def parse(
    body: bytes, operation: Operation, catalog: Catalog, *, bulk_item: bool = False
) -> Request:
    """The request in a JSON body; ``bulk_item`` makes it a BulkItem. Raises Rejected."""
    decode = _decode_bulk_item if bulk_item else _decode_body
    try:
        # Raw pieces are checked as JSON but not as UTF-8; what is stored must be both.
        body.decode()
        request: Request = decode(body)
    except (ValueError, msgspec.DecodeError, RecursionError):
        request = _examine(body, bulk_item)
    else:
        if is_too_deep(body):
            raise _reject_json(TOO_DEEP)
    if catalog.get(request.event_type) is None:
        _check_name(request.event_type, catalog)
    if operation == "notification" and "point" in request.identifier:
        raise Rejected(
            "INVALID",
            "identifier.point is only supported for watch/replay endpoints, not /notification",
        )
    return request


def request_from_params(
    params: Sequence[tuple[str, str]],
    operation: Operation,
    catalog: Catalog,
    *,
    ignored: frozenset[str] = frozenset(),
) -> Request:
    """The watch or replay in the parameters of a GET, decoded, in order. Raises Rejected.

    ``identifier.<field>=<value>`` and ``identifier.<field>.<operator>=<operand>``, commas between
    the operands of ``in`` and ``between``; an operand gets the JSON type the field's handler
    needs. ``last_event_id`` and the ``ignored`` names belong to somebody else and are skipped.
    """
    texts: dict[str, str] = {}
    identifiers: list[tuple[str, str]] = []
    for name, value in params:
        if name == "last_event_id" or name in ignored:
            continue
        _check_unicode(name, value)
        if name in texts:
            raise _reject_shape(f"parameter '{clip(name)}' is given more than once")
        texts[name] = value
        if name.startswith(_PREFIX) and len(name) > len(_PREFIX):
            identifiers.append((name.removeprefix(_PREFIX), value))
        elif name != "event_type" and name not in _LIMITS:
            raise _reject_unknown(name, _PARAMETERS[operation])
    if "event_type" not in texts:
        raise _reject_shape("missing field 'event_type'")
    event_type = texts["event_type"]
    if catalog.get(event_type) is None:
        _check_name(event_type, catalog)
    return Request(
        event_type=event_type,
        identifier=_collect_identifier(identifiers, catalog.get(event_type)),
        from_id=texts.get("from_id"),
        from_date=texts.get("from_date"),
        to_id=texts.get("to_id"),
        to_date=texts.get("to_date"),
    )


def _examine(body: bytes, bulk_item: bool) -> Request:
    """The body by the order of checks; returns only when an overwritten duplicate was at fault."""
    fault = find_json_fault(body)
    if fault is not None:
        raise _reject_json(fault)
    kind = kind_of(body.strip()[:1])
    if kind != "object":
        raise _reject_shape(f"expected an object, got {kind}")
    struct = BulkItem if bulk_item else Request
    fields = {name: bytes(raw) for name, raw in _decode_object(body).items()}
    for name in fields:
        if name not in struct.__struct_fields__:
            raise _reject_unknown(name, struct.__struct_fields__)
    for name, expected in (("event_type", "string"), ("identifier", "object")):
        if name not in fields:
            raise _reject_shape(f"missing field '{name}'")
        if kind_of(fields[name]) != expected:
            raise _reject_shape(
                f"field '{name}' must be of type {expected}, got {kind_of(fields[name])}"
            )
    for name in _TEXTS:
        kind = kind_of(fields.get(name, NULL))
        if kind not in ("string", "null"):
            raise _reject_shape(f"field '{name}' must be of type string or null, got {kind}")
    last_wins = msgspec.json.encode({name: Raw(value) for name, value in fields.items()})
    return (_decode_bulk_item if bulk_item else _decode_body)(last_wins)


def _check_name(event_type: str, catalog: Catalog) -> None:
    if catalog.strict:
        raise Rejected(
            "UNKNOWN_EVENT_TYPE",
            f"unknown event type '{clip(event_type)}'",
            configured_event_types=catalog.event_types,
        )
    fault = find_name_fault(event_type)
    if fault is not None:
        raise Rejected("INVALID", f"event_type {fault}. Got: '{clip(event_type)}'", fault)


def _check_unicode(*texts: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise _reject_shape("a parameter is not valid Unicode") from None


def _collect_identifier(
    parameters: list[tuple[str, str]], schema: EventSchema | None
) -> dict[str, Raw]:
    values: dict[str, bytes] = {}
    constraints: dict[str, dict[str, Raw]] = {}
    for name, text in parameters:
        field, operator = _split_name(name, schema)
        if operator is None:
            values[field] = msgspec.json.encode(text)
        else:
            handler = None if schema is None else schema.text_fields.get(field)
            operand = _type_operand(handler, operator, text)
            constraints.setdefault(field, {})[operator] = Raw(operand)
    for field, operators in constraints.items():
        if field in values:
            sentence = f"Field '{clip(field)}' is given both as a value and as a constraint"
            raise Rejected("INVALID", sentence)
        values[field] = msgspec.json.encode(operators)
    return {field: Raw(value) for field, value in values.items()}


def _split_name(name: str, schema: EventSchema | None) -> tuple[str, str | None]:
    """Field and operator of ``<field>[.<operator>]``; a declared field of that name wins."""
    field, separator, operator = name.rpartition(".")
    if not separator:
        return name, None
    if schema is None:
        # Without this the filter would be on a key "step.gt" that no event has: silence.
        return (field, operator) if operator in NUMBER_OPERATORS else (name, None)
    if name in schema.fields or field not in schema.fields:
        return name, None
    return field, operator


def _type_operand(handler: TextField | None, operator: str, text: str) -> bytes:
    if operator in ("in", "between"):
        return b"[" + b",".join(_type_value(handler, part) for part in text.split(",")) + b"]"
    return _type_value(handler, text)


def _type_value(handler: TextField | None, text: str) -> bytes:
    """A number for a numeric field when the text is one; the constraint refuses the rest."""
    if isinstance(handler, IntHandler):
        whole = parse_i64(text.strip())
        if whole is not None:
            return str(whole).encode()
    elif isinstance(handler, FloatHandler):
        try:
            return format_float(parse_float(text.strip())).encode()
        except Fault:
            return msgspec.json.encode(text)
    return msgspec.json.encode(text)


def _reject_json(cause: str) -> Rejected:
    return Rejected("INVALID_JSON", f"JSON parsing failed: {cause}", cause)


def _reject_shape(cause: str) -> Rejected:
    return Rejected("INVALID_REQUEST_SHAPE", f"Request deserialization failed: {cause}", cause)


def _reject_unknown(name: str, allowed: Sequence[str]) -> Rejected:
    cause = f"Unknown field '{clip(name)}' in request. Allowed fields: [{', '.join(allowed)}]"
    return Rejected("UNKNOWN_FIELD", f"Request contains unknown fields: {cause}", cause)
