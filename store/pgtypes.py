"""One definition of a row's JSON: what PostgreSQL's `to_json(row)` writes under `SESSION_SETTINGS`. Pure.

`to_json` makes it from a value's text form, as logical decoding sends it; `select_list` makes
PostgreSQL's own `to_json` write the same bytes. What PostgreSQL would write for a type of its own
making (composite, hstore, ...) may change with casts, so such a value is its text form, a string.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

# The output functions of types and `to_json` depend on these, so every session sets them.
SESSION_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    # Names of regclass and the like are written with their schema, whatever a role's own path is.
    "search_path": "pg_catalog",
    # Rows that a policy hides make a query fail: without them a state would look complete.
    "row_security": "off",
}


class Form(Enum):
    """How the text of a value becomes JSON."""

    TEXT = "text"
    BOOL = "bool"
    NUMBER = "number"
    JSON = "json"
    JSONB = "jsonb"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    ARRAY = "array"
    # A string of the text form, where `to_json` might write something else.
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Kind:
    """The form of a type; of an array, its elements' kind and what separates them."""

    form: Form
    element: "Kind | None" = None
    delimiter: str = ","


TEXT = Kind(Form.TEXT)
OPAQUE = Kind(Form.OPAQUE)

# The types whose JSON is not a string; by OID, which is fixed for PostgreSQL's own.
_BUILT_IN = {
    16: Form.BOOL,
    20: Form.NUMBER,
    21: Form.NUMBER,
    23: Form.NUMBER,
    114: Form.JSON,
    700: Form.NUMBER,
    701: Form.NUMBER,
    1114: Form.TIMESTAMP,
    1184: Form.TIMESTAMPTZ,
    1700: Form.NUMBER,
    3802: Form.JSONB,
}
FIRST_USER_OID = 16384
# int2vector and oidvector: text without braces, which `to_json` takes for arrays.
_VECTORS = (22, 30)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as its values are rendered."""

    name: str
    type_oid: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class PgType:
    """A row of pg_type, as far as it decides on a kind. `category` is its typtype."""

    oid: int
    category: str
    base_oid: int
    element_oid: int
    delimiter: str


def kind_of(oid: int, types: dict[int, PgType]) -> Kind:
    """The kind of a type, from it and every type it is made of; OPAQUE for one that is unknown."""
    if oid in _BUILT_IN:
        return Kind(_BUILT_IN[oid])
    found = types.get(oid)
    if found is None or oid in _VECTORS:
        return OPAQUE
    if found.category == "d":
        return kind_of(found.base_oid, types)
    if found.element_oid:
        element = kind_of(found.element_oid, types)
        if element.form is Form.OPAQUE:
            return OPAQUE
        delimiter = types[found.element_oid].delimiter if found.element_oid in types else ","
        return Kind(Form.ARRAY, element, delimiter)
    if found.category == "e" or (found.category in "brm" and oid < FIRST_USER_OID):
        return TEXT
    return OPAQUE


_encode_string = msgspec.json.Encoder().encode
# Between the tokens of a `json` value only: inside its strings they are always escaped.
_BLANKS = bytes.maketrans(b"\t\n\r", b"   ")
_FINITE_END = frozenset(b"0123456789")


def string(text: bytes) -> bytes:
    """A JSON string as PostgreSQL escapes it: `"`, `\\` and what lies below U+0020."""
    return _encode_string(str(text, "utf-8"))


def _bool(text: bytes) -> bytes:
    return b"true" if text == b"t" else b"false"


def _number(text: bytes) -> bytes:
    # NaN and the infinities are no JSON numbers.
    return text if text[-1] in _FINITE_END else b'"%b"' % text


def _json(text: bytes) -> bytes:
    return text.translate(_BLANKS)


def _jsonb(text: bytes) -> bytes:
    return text


def _timestamp(text: bytes) -> bytes:
    return b'"%b"' % text.replace(b" ", b"T", 1)


def _timestamptz(text: bytes) -> bytes:
    # "2024-01-01 12:00:00+00", with " BC" behind it before the first year; "infinity" has no zone.
    return b'"%b"' % text.replace(b" ", b"T", 1).replace(b"+00", b"+00:00", 1)


_CONVERTERS: dict[Form, Callable[[bytes], bytes]] = {
    Form.TEXT: string,
    Form.BOOL: _bool,
    Form.NUMBER: _number,
    Form.JSON: _json,
    Form.JSONB: _jsonb,
    Form.TIMESTAMP: _timestamp,
    Form.TIMESTAMPTZ: _timestamptz,
    Form.OPAQUE: string,
}


def converter(kind: Kind) -> Callable[[bytes], bytes]:
    """`to_json` of one kind, found once for many values."""
    if kind.element is None:
        return _CONVERTERS[kind.form]
    return _array_converter(converter(kind.element), kind.delimiter.encode())


def to_json(kind: Kind, text: bytes) -> bytes:
    """The JSON of a value that is not null, from PostgreSQL's text form of it in UTF-8."""
    return converter(kind)(text)


_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def _array_converter(
    convert: Callable[[bytes], bytes], delimiter: bytes
) -> Callable[[bytes], bytes]:
    mark = re.escape(delimiter)
    token = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^{}"%b]+)|([{}%b])' % (mark, mark), re.DOTALL)
    signs = {b"{": b"[", b"}": b"]", delimiter: b","}

    def array(text: bytes) -> bytes:
        # Bounds that do not start with 1 stand before the elements: [0:1]={7,8}.
        start = text.index(b"=") + 1 if text[:1] == b"[" else 0
        parts: list[bytes] = []
        for quoted, bare, sign in token.findall(text, start):
            if sign:
                parts.append(signs[sign])
            elif bare:
                parts.append(b"null" if bare == b"NULL" else convert(bare))
            else:
                parts.append(convert(_ESCAPED.sub(rb"\1", quoted)))
        return b"".join(parts)

    return array


def quote_identifier(name: str) -> str:
    """A name for SQL, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


# Means the same without its quotes.
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$]*")


def table_name(schema: str, table: str) -> str:
    """`schema.table` as events and requests write it: quotes only where they change something."""
    return ".".join(
        name if _PLAIN_NAME.fullmatch(name) else quote_identifier(name) for name in (schema, table)
    )


def quote_literal(text: str) -> str:
    """A text for SQL, whatever it holds."""
    quoted = text.replace("'", "''")
    return f" E'{quoted}'".replace("\\", "\\\\") if "\\" in text else f"'{quoted}'"


def select_list(columns: Sequence[Column], alias: str) -> str:
    """SQL expressions, named as the columns, whose `to_json` is what `to_json` here makes."""
    return ", ".join(
        f"{_expression(column.kind, f'{alias}.{quote_identifier(column.name)}')}"
        f" AS {quote_identifier(column.name)}"
        for column in columns
    )


def _expression(kind: Kind, value: str) -> str:
    if kind.form is Form.OPAQUE:
        # Not `::text`: a type may have a cast of its own that differs from its text form, and a
        # composite of nulls IS NULL without being one.
        return f"CASE WHEN num_nulls({value}) = 0 THEN format('%s', {value}) END"
    innermost = kind
    while innermost.element is not None:
        innermost = innermost.element
    if innermost.form is not Form.JSON:
        return value
    text = f"{value}::text" if kind.element is None else f"to_json({value})::text"
    return f"translate({text}, E'\\t\\n\\r', '   ')::json"


_UUID = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def tenant_of(text: bytes | None) -> str | None:
    """The tenant that a column's text names: a UUID in lower case; None when it is none."""
    if text is None:
        return None
    lower = text.lower()
    return lower.decode() if _UUID.fullmatch(lower) else None


def tenant_expression(column: str, alias: str, fallback: str) -> str:
    """SQL for the tenant of a row, as `tenant_of` finds it, or the fallback."""
    text = f"lower({alias}.{quote_identifier(column)}::text)"
    pattern = "'^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'"
    return f"CASE WHEN {text} ~ {pattern} THEN {text} ELSE {quote_literal(fallback)} END"
