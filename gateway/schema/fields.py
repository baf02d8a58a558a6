"""Field handlers (Aviso wire contract §6): what a value may be and its one canonical text.

Pure and total: ``canonical`` either returns the text that is stored and matched or raises Fault.
Canonical text is a fixed point: canonical(canonical(x)) == canonical(x).
"""

import re
from calendar import isleap
from datetime import date, timedelta
from decimal import Decimal
from math import isfinite
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, Struct

from gateway.schema.block import name_type, read_block, read_mapping
from gateway.schema.errors import Fault, SchemaError, clip
from gateway.schema.spatial import MAX_CLOUD_POINTS, Points, parse_cloud, parse_float, parse_polygon

I64_MIN: Final = -(2**63)
I64_MAX: Final = 2**63 - 1

_U32_DIGITS: Final = 10
_I64_DIGITS: Final = 19

_CALENDAR_DATE: Final = re.compile(r"([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})")
_DAY_OF_YEAR: Final = re.compile(r"([0-9]{4})-([0-9]{3})")
_TIME: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})|([0-9]{2})([0-9]{2})|([0-9]{1,2})")
_UNSIGNED: Final = re.compile(r"\+?0*([0-9]*)")
_SIGNED: Final = re.compile(r"([+-]?)([0-9]+)")

PositiveInt = Annotated[int, Meta(ge=1)]


class _Handler(Struct, frozen=True, kw_only=True):
    required: bool
    description: str | None = None

    options: ClassVar[tuple[str, ...]] = ()

    def describe(self) -> dict[str, object]:
        """The field as ``GET /schema`` shows it (§10)."""
        shown: dict[str, object] = {"type": type(self).__name__, "required": self.required}
        if self.description is not None:
            shown["description"] = self.description
        for option in self.options:
            shown[option] = getattr(self, option)
        return shown


class StringHandler(_Handler, frozen=True, kw_only=True):
    """Any text but none; ``max_length`` counts UTF-8 bytes."""

    max_length: PositiveInt | None = None
    options: ClassVar[tuple[str, ...]] = ("max_length",)

    def canonical(self, text: str) -> str:
        """The text unchanged."""
        if not text:
            raise Fault("cannot be empty")
        if self.max_length is not None:
            length = len(text.encode())
            if length > self.max_length:
                raise Fault(
                    f"exceeds maximum length of {self.max_length} characters, got: {length}"
                )
        return text


class DateHandler(_Handler, frozen=True, kw_only=True):
    """YYYY-MM-DD, YYYYMMDD or YYYY-DDD (day of the year)."""

    canonical_format: Literal["%Y%m%d", "%Y-%m-%d"] = "%Y%m%d"
    options: ClassVar[tuple[str, ...]] = ("canonical_format",)

    def canonical(self, text: str) -> str:
        """The date in ``canonical_format``."""
        try:
            day = _parse_date(text)
        except ValueError:
            raise Fault(
                f"must be a valid date (YYYY-MM-DD, YYYYMMDD or YYYY-DDD), got: '{clip(text)}'"
            ) from None
        iso = day.isoformat()
        return iso if self.canonical_format == "%Y-%m-%d" else iso.replace("-", "")


class TimeHandler(_Handler, frozen=True, kw_only=True):
    """An hour, or an hour and a minute."""

    def canonical(self, text: str) -> str:
        """HHMM."""
        match = _TIME.fullmatch(text)
        if match is not None:
            hour = int(match[1] or match[3] or match[5])
            minute = int(match[2] or match[4] or 0)
            if hour <= 23 and minute <= 59:
                return f"{hour:02}{minute:02}"
        raise Fault(f"must be a valid time (HH, HH:MM or HHMM), got: '{clip(text)}'")


class EnumHandler(_Handler, frozen=True, kw_only=True):
    """One of the listed values, in any case."""

    values: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
    options: ClassVar[tuple[str, ...]] = ("values",)

    def canonical(self, text: str) -> str:
        """The value in lower case."""
        lower = text.lower()
        if lower in self.values or any(value.lower() == lower for value in self.values):
            return lower
        raise Fault(f"has invalid value '{clip(text)}'. Allowed: [{', '.join(self.values)}]")


class ExpverHandler(_Handler, frozen=True, kw_only=True):
    """An experiment version: a number of up to 32 bits, or a name."""

    default: Annotated[str, Meta(min_length=1)] | None = None
    options: ClassVar[tuple[str, ...]] = ("default",)

    def canonical(self, text: str) -> str:
        """A number padded with zeros to four digits, a name in lower case."""
        text = text or self.default or ""
        if not text:
            raise Fault("cannot be empty")
        match = _UNSIGNED.fullmatch(text)
        if match is not None and text != "+" and len(match[1]) <= _U32_DIGITS:
            number = int(match[1] or "0")
            if number < 2**32:
                return f"{number:04}"
        return text.lower()


class IntHandler(_Handler, frozen=True, kw_only=True):
    """A whole number of 64 bits, optionally inside an inclusive range."""

    range: tuple[int, int] | None = None
    options: ClassVar[tuple[str, ...]] = ("range",)

    def canonical(self, text: str) -> str:
        """The decimal digits without leading zeros."""
        number = parse_i64(text)
        if number is None:
            raise Fault(f"must be a valid integer, got: '{clip(text)}'")
        self.check_range(number, "value")
        return str(number)

    def check_range(self, number: int, noun: str) -> None:
        """Fault when the number is outside the range of the field."""
        if self.range is not None and not self.range[0] <= number <= self.range[1]:
            low, high = self.range
            raise Fault(f"{noun} {number} is outside allowed range [{low}, {high}]")


class FloatHandler(_Handler, frozen=True, kw_only=True):
    """A finite double, optionally inside an inclusive range."""

    range: tuple[float, float] | None = None
    options: ClassVar[tuple[str, ...]] = ("range",)

    def canonical(self, text: str) -> str:
        """The shortest decimal text that reads back as the same double, without exponent."""
        try:
            number = parse_float(text)
        except Fault as fault:
            reason = "finite" if fault.predicate == "must be finite" else "valid"
            raise Fault(f"must be a {reason} number, got: '{clip(text)}'") from None
        self.check_range(number, "value")
        return format_float(number)

    def check_range(self, number: float, noun: str) -> None:
        """Fault when the number is outside the range of the field."""
        if self.range is not None and not self.range[0] <= number <= self.range[1]:
            low, high = (format_float(bound) for bound in self.range)
            raise Fault(f"{noun} {format_float(number)} is outside allowed range [{low}, {high}]")


class PolygonHandler(_Handler, frozen=True, kw_only=True):
    """A closed ring of [lat, lon]."""

    def parse(self, value: bytes) -> Points:
        """The ring of a JSON string or array."""
        try:
            return parse_polygon(value)
        except Fault as fault:
            raise Fault(
                f"must be a valid polygon: {fault.predicate}", fault.cause or fault.predicate
            ) from None


class PointCloudHandler(_Handler, frozen=True, kw_only=True):
    """Points as [lat, lon], order and repetitions kept."""

    max_points: Annotated[int, Meta(ge=1, le=MAX_CLOUD_POINTS)] = MAX_CLOUD_POINTS
    options: ClassVar[tuple[str, ...]] = ("max_points",)

    def parse(self, value: bytes) -> Points:
        """The points of a JSON array."""
        return parse_cloud(value, self.max_points)


TextField = (
    StringHandler
    | DateHandler
    | TimeHandler
    | EnumHandler
    | ExpverHandler
    | IntHandler
    | FloatHandler
)
SpatialField = PolygonHandler | PointCloudHandler
Field = TextField | SpatialField

_HANDLERS: Final[dict[str, type[Field]]] = {
    handler.__name__: handler
    for handler in (
        StringHandler,
        DateHandler,
        TimeHandler,
        EnumHandler,
        ExpverHandler,
        IntHandler,
        FloatHandler,
        PolygonHandler,
        PointCloudHandler,
    )
}
# Queries know the two shapes by these names; another name could be stored but never asked for.
_SPATIAL_NAMES: Final[dict[str, type[Field]]] = {
    "polygon": PolygonHandler,
    "point_cloud": PointCloudHandler,
}


def read_field(name: str, raw: object, path: str) -> Field:
    """The field declared at ``path``; SchemaError says what to change."""
    block = read_mapping(raw, path)
    handler = _find_handler(block.pop("type", None), path)
    _check_name(name, handler, path)
    field = read_block(block, handler, path)
    if isinstance(field, IntHandler | FloatHandler) and field.range is not None:
        low, high = field.range
        if not low <= high:
            raise SchemaError(f"{path}.range: the minimum {low} is above the maximum {high}")
        if isinstance(field, FloatHandler) and not (isfinite(low) and isfinite(high)):
            raise SchemaError(f"{path}.range: the bounds must be finite numbers")
        if isinstance(field, IntHandler) and not I64_MIN <= low <= high <= I64_MAX:
            raise SchemaError(f"{path}.range: the bounds must be 64-bit integers")
    return field


def parse_i64(text: str) -> int | None:
    """The number of ``[+-]digits``, or None when it is no 64-bit integer."""
    if len(text) < _I64_DIGITS and text.isascii() and text.isdigit():
        return int(text)
    match = _SIGNED.fullmatch(text)
    if match is None:
        return None
    digits = match[2].lstrip("0") or "0"
    if len(digits) > _I64_DIGITS:
        return None
    number = int(match[1] + digits)
    return number if I64_MIN <= number <= I64_MAX else None


def format_float(number: float) -> str:
    """The shortest decimal text of a finite double, no exponent, integers without ".0"."""
    text = repr(number)
    if "e" in text:
        text = format(Decimal(text), "f")
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def _parse_date(text: str) -> date:
    calendar = _CALENDAR_DATE.fullmatch(text)
    if calendar is not None:
        return date(int(calendar[1]), int(calendar[3]), int(calendar[4]))
    day_of_year = _DAY_OF_YEAR.fullmatch(text)
    if day_of_year is None:
        raise ValueError(text)
    year, number = int(day_of_year[1]), int(day_of_year[2])
    if not 1 <= number <= 365 + isleap(year):
        raise ValueError(text)
    return date(year, 1, 1) + timedelta(days=number - 1)


def _find_handler(type_name: object, path: str) -> type[Field]:
    known = ", ".join(_HANDLERS)
    if type_name is None:
        raise SchemaError(f"{path}.type: this key is required. Known types: {known}")
    if not isinstance(type_name, str):
        raise SchemaError(f"{path}.type: expected text, got {name_type(type_name)}")
    if type_name == "PointHandler":
        raise SchemaError(
            f"{path}.type: PointHandler cannot be declared. 'point' is a filter of watch and "
            "replay that every schema with a polygon understands without declaring it; to store "
            "points declare point_cloud with PointCloudHandler"
        )
    if type_name not in _HANDLERS:
        raise SchemaError(f"{path}.type: unknown type '{clip(type_name)}'. Known types: {known}")
    return _HANDLERS[type_name]


def _check_name(name: str, handler: type[Field], path: str) -> None:
    if name == "point":
        raise SchemaError(f"{path}: 'point' is reserved as a filter of watch and replay")
    expected = _SPATIAL_NAMES.get(name)
    if expected is not None and handler is not expected:
        raise SchemaError(f"{path}.type: the field '{name}' must have the type {expected.__name__}")
    for spatial_name, spatial in _SPATIAL_NAMES.items():
        if handler is spatial and name != spatial_name:
            raise SchemaError(
                f"{path}.type: {spatial.__name__} is for a field named '{spatial_name}'"
            )
