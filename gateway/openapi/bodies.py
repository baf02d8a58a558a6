"""JSON Schemas of what the configured event types take, for the API document.

Where the gateway takes several notations of one value, the document shows those that a JSON Schema
can tell from wrong ones.
"""

from collections.abc import Mapping

from gateway.openapi.answers import JsonSchema
from gateway.schema.catalog import Catalog, EventSchema
from gateway.schema.constraints import list_operators
from gateway.schema.fields import (
    I64_MAX,
    I64_MIN,
    DateHandler,
    EnumHandler,
    Field,
    FloatHandler,
    IntHandler,
    PointCloudHandler,
    PolygonHandler,
    SpatialField,
    StringHandler,
    TimeHandler,
)

SEQUENCE: JsonSchema = {
    "type": "string",
    "pattern": "^[0-9]{1,19}$",
    "description": "Sequence in decimal digits, inclusive.",
}
TIME: JsonSchema = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": "^[0-9]{1,13}$"},
    ],
    "description": "RFC 3339, or unix time in seconds (up to 11 digits) or milliseconds; inclusive.",
}
_SCALAR: JsonSchema = {"type": ["string", "number", "boolean"], "minLength": 1}
_POINT: JsonSchema = {
    "type": "array",
    "prefixItems": [
        {"type": "number", "minimum": -90, "maximum": 90},
        {"type": "number", "minimum": -180, "maximum": 180},
    ],
    "minItems": 2,
    "maxItems": 2,
    "description": "[latitude, longitude] in degrees.",
}
_RING_EXAMPLE = [[52.5, 13.4], [52.6, 13.5], [52.5, 13.6], [52.5, 13.4]]
_RING: JsonSchema = {
    "type": "array",
    "items": _POINT,
    "minItems": 4,
    "description": "A closed ring of [latitude, longitude]: the last point repeats the first.",
    "examples": [_RING_EXAMPLE],
}

_DATE: JsonSchema = {
    "anyOf": [
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": "^[1-9][0-9]{3}(0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])$"},
        {"type": "string", "pattern": "^[1-9][0-9]{3}-(00[1-9]|0[1-9][0-9]|[12][0-9]{2})$"},
    ],
    "description": "YYYY-MM-DD, YYYYMMDD or YYYY-DDD (day of the year).",
}
_TIME_OF_DAY: JsonSchema = {
    "type": "string",
    "pattern": "^(([01]?[0-9]|2[0-3])(:[0-5][0-9])?|([01][0-9]|2[0-3])[0-5][0-9])$",
    "description": "HH, HH:MM or HHMM.",
}

# An event type without a schema: some text without control characters and '@'.
_NAME_PATTERN = "^[!-?A-~][ -?A-~]{0,200}$"


def notification(catalog: Catalog, *, bulk_item: bool = False) -> JsonSchema:
    """The body of a publication, or one item of a bulk one, which may carry its own time."""
    more: JsonSchema = {"time": {"type": "string", "format": "date-time"}} if bulk_item else {}
    variants = []
    for schema in _schemas(catalog):
        values = {name: _value(field) for name, field in schema.fields.items()}
        payload = ["payload"] if schema.payload_required else []
        properties: JsonSchema = {
            "event_type": {"const": schema.event_type},
            "identifier": _object(values, list(values)),
            "payload": {"not": {"type": "null"}} if payload else {},
            **more,
        }
        body = _object(properties, ["event_type", "identifier", *payload])
        variants.append({"title": schema.event_type, **body})
    return _either(variants + _without_schema(catalog, {"payload": {}, **more}))


def watch(catalog: Catalog) -> JsonSchema:
    """The body of a watch: live, or history and then live."""
    start = {"from_id": _or_null(SEQUENCE), "from_date": _or_null(TIME)}
    rule: JsonSchema = {"not": _given("from_id", "from_date")}
    return _either([{**body, **rule} for body in _streams(catalog, start)])


def replay(catalog: Catalog) -> JsonSchema:
    """The body of a replay: exactly one start, at most one end."""
    limits = {
        "from_id": _or_null(SEQUENCE),
        "from_date": _or_null(TIME),
        "to_id": _or_null(SEQUENCE),
        "to_date": _or_null(TIME),
    }
    rule: JsonSchema = {
        "oneOf": [_given("from_id"), _given("from_date")],
        "not": _given("to_id", "to_date"),
    }
    return _either([{**body, **rule} for body in _streams(catalog, limits)])


def examples(
    catalog: Catalog, more: Mapping[str, object], *, stored: bool = False
) -> dict[str, JsonSchema]:
    """A body that the gateway takes for each event type.

    ``stored``: an event to publish, which has all fields; else a stream of what must be given.
    """
    found: dict[str, JsonSchema] = {}
    for schema in _schemas(catalog):
        identifier: JsonSchema = {}
        for name, field in schema.fields.items():
            if not stored and not field.required:
                continue
            if not stored and name == "point_cloud":
                identifier["polygon"] = _RING_EXAMPLE
            else:
                identifier[name] = _sample(field)
        body = {"event_type": schema.event_type, "identifier": identifier, **more}
        found[schema.event_type] = body
    if not catalog.strict or not found:
        body = {"event_type": "greeting", "identifier": {"language": "en"}, **more}
        found.setdefault("greeting", body)
    return found


def parameter_names(catalog: Catalog) -> list[str]:
    """The ``identifier.`` parameters that the GET forms take, over all event types."""
    names: dict[str, None] = {}
    for schema in _schemas(catalog):
        for name, field in schema.text_fields.items():
            names[f"identifier.{name}"] = None
            for operator in list_operators(field):
                names[f"identifier.{name}.{operator}"] = None
        if schema.spatial is not None:
            names["identifier.polygon"] = None
        if schema.spatial == "polygon":
            names["identifier.point"] = None
    return list(names)


def _schemas(catalog: Catalog) -> list[EventSchema]:
    found = (catalog.get(event_type) for event_type in catalog.event_types)
    return [schema for schema in found if schema is not None]


def _streams(catalog: Catalog, positions: Mapping[str, object]) -> list[JsonSchema]:
    variants = []
    for schema in _schemas(catalog):
        properties: JsonSchema = {
            "event_type": {"const": schema.event_type},
            "identifier": _asked_identifier(schema),
            **positions,
        }
        body = _object(properties, ["event_type", "identifier"])
        variants.append({"title": schema.event_type, **body})
    return variants + _without_schema(catalog, positions)


def _without_schema(catalog: Catalog, more: Mapping[str, object]) -> list[JsonSchema]:
    """The body for event types without a schema, unless they are refused."""
    if catalog.strict and catalog.event_types:
        return []
    name: JsonSchema = {"type": "string", "pattern": _NAME_PATTERN}
    if catalog.event_types:
        name["not"] = {"enum": list(catalog.event_types)}
    identifier: JsonSchema = {
        "type": "object",
        "additionalProperties": _SCALAR,
        "propertyNames": {"not": {"enum": ["point", "polygon", "point_cloud"]}},
    }
    properties: JsonSchema = {"event_type": name, "identifier": identifier, **more}
    body = _object(properties, ["event_type", "identifier"])
    return [{"title": "an event type without a schema", **body}]


def _asked_identifier(schema: EventSchema) -> JsonSchema:
    """The identifier of a watch or replay: required fields, and spatial ones by rules of theirs."""
    properties = {name: _asked(field) for name, field in schema.text_fields.items()}
    required = [name for name, field in schema.text_fields.items() if field.required]
    must_be_given = schema.spatial is not None and schema.fields[schema.spatial].required
    if schema.spatial == "point_cloud":
        spatial = ["polygon"] if must_be_given else []
        return _object({**properties, "polygon": _RING}, [*required, *spatial])
    properties["point"] = _POINT
    if schema.spatial is None:
        return _object(properties, required)
    properties["polygon"] = _RING
    rule: JsonSchema = {"not": {"required": ["polygon", "point"]}}
    if must_be_given:
        rule = {"oneOf": [{"required": ["polygon"]}, {"required": ["point"]}]}
    return {**_object(properties, required), **rule}


def _asked(field: Field) -> JsonSchema:
    """A value or a constraint of a watch or replay."""
    operators = () if isinstance(field, SpatialField) else list_operators(field)
    if not operators:
        return _value(field)
    one = _value(field)
    constraint: JsonSchema = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {operator: _operands(operator, one) for operator in operators},
    }
    return {"anyOf": [one, constraint]}


def _value(field: Field) -> JsonSchema:
    """A value of an event."""
    schema = _plain_value(field)
    return schema if field.description is None else {**schema, "description": field.description}


def _plain_value(field: Field) -> JsonSchema:
    match field:
        case StringHandler(max_length=None):
            return _SCALAR
        case StringHandler():
            # The limit counts bytes, a JSON Schema characters: ASCII is where they agree.
            return {"type": "string", "pattern": f"^[ -~]{{1,{field.max_length}}}$"}
        case DateHandler():
            return _DATE
        case TimeHandler():
            return _TIME_OF_DAY
        case EnumHandler():
            return {"type": "string", "enum": field.values}
        case IntHandler():
            low, high = field.range or (I64_MIN, I64_MAX)
            return {"type": "integer", "minimum": low, "maximum": high}
        case FloatHandler(range=None):
            return {"type": "number"}
        case FloatHandler(range=(low, high)):
            return {"type": "number", "minimum": low, "maximum": high}
        case PolygonHandler():
            return _RING
        case PointCloudHandler():
            return {
                "type": "array",
                "items": _POINT,
                "minItems": 1,
                "maxItems": field.max_points,
            }
        case _:
            return {"type": "string", "minLength": 1}


def _sample(field: Field) -> object:
    match field:
        case EnumHandler():
            return field.values[0]
        case IntHandler() | FloatHandler():
            return 5 if field.range is None else field.range[0]
        case DateHandler():
            return "2026-02-25"
        case TimeHandler():
            return "12:00"
        case PolygonHandler():
            return _RING_EXAMPLE
        case PointCloudHandler():
            return _RING_EXAMPLE[:1]
        case _:
            return "1"


def _or_null(schema: JsonSchema) -> JsonSchema:
    """A null is the same as leaving it out."""
    return {"anyOf": [schema, {"type": "null"}]}


def _given(*names: str) -> JsonSchema:
    return {"required": list(names), "properties": {name: {"type": "string"} for name in names}}


def _operands(operator: str, one: JsonSchema) -> JsonSchema:
    match operator:
        case "in":
            return {"type": "array", "items": one, "minItems": 1}
        case "between":
            return {"type": "array", "items": one, "minItems": 2, "maxItems": 2}
        case _:
            return one


def _object(properties: Mapping[str, object], required: list[str]) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _either(variants: list[JsonSchema]) -> JsonSchema:
    return variants[0] if len(variants) == 1 else {"oneOf": variants}
