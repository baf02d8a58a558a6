"""What a query asks of one field (Aviso wire contract §7), in the form the filter tests.

A value or ``eq`` is a token that must be equal, ``in`` a set of tokens, everything else an interval
of exact numbers: whole ones for Int, doubles for Float.
"""

from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Raw

from gateway.schema.errors import Fault, clip
from gateway.schema.fields import (
    EnumHandler,
    FloatHandler,
    IntHandler,
    TextField,
    format_float,
    parse_i64,
)
from gateway.schema.jsontext import decode_string, kind_of
from gateway.schema.spatial import parse_float
from gateway.schema.topic import encode_token

NUMBER_OPERATORS: Final = ("eq", "in", "gt", "gte", "lt", "lte", "between")
ENUM_OPERATORS: Final = ("eq", "in")

ConstrainedField = IntHandler | FloatHandler | EnumHandler

_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode


@dataclass(frozen=True, slots=True)
class Exactly:
    """The token must be this one."""

    token: str

    @property
    def key(self) -> object:
        """The same for equal conditions, JSON-ready."""
        return self.token


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The token must be one of these."""

    tokens: frozenset[str]

    @property
    def key(self) -> object:
        """The same for equal conditions, JSON-ready."""
        return sorted(self.tokens)


@dataclass(frozen=True, slots=True)
class Interval:
    """The token must be a number from ``low`` to ``high``; None is no bound, exclusive if open."""

    whole: bool
    low: int | float | None = None
    high: int | float | None = None
    open: bool = False

    @property
    def key(self) -> object:
        """The same for equal conditions, JSON-ready."""
        return {"whole": self.whole, "low": self.low, "high": self.high, "open": self.open}

    def holds(self, token: bytes) -> bool:
        """Whether an encoded token is a number inside; what is no number is not."""
        try:
            number = int(token) if self.whole else float(token.replace(b"%2E", b"."))
        except ValueError:
            return False
        if self.open:
            return (self.low is None or number > self.low) and (
                self.high is None or number < self.high
            )
        return (self.low is None or number >= self.low) and (
            self.high is None or number <= self.high
        )


Condition = Exactly | AnyOf | Interval


def list_operators(field: TextField) -> tuple[str, ...]:
    """The operators a field understands; none for most handlers."""
    if isinstance(field, IntHandler | FloatHandler):
        return NUMBER_OPERATORS
    return ENUM_OPERATORS if isinstance(field, EnumHandler) else ()


def parse_constraint(field: TextField, value: bytes) -> Condition:
    """The condition of a JSON object with exactly one operator; Fault otherwise."""
    if not isinstance(field, ConstrainedField):
        raise Fault("does not support constraint filters; expected scalar value")
    operators = _decode_object(value)
    if len(operators) != 1:
        raise Fault("constraint must contain exactly one operator")
    [(operator, raw)] = operators.items()
    allowed = list_operators(field)
    if operator not in allowed:
        raise Fault(
            f"constraint has invalid operator '{clip(operator)}'. Allowed: {', '.join(allowed)}"
        )
    if isinstance(field, EnumHandler):
        return _parse_enum(field, operator, bytes(raw))
    return _parse_number(field, operator, bytes(raw))


def _parse_enum(field: EnumHandler, operator: str, value: bytes) -> Condition:
    noun = "string value" if operator == "eq" else "array of strings"
    items = [value] if operator == "eq" else _parse_list(operator, value, noun)
    tokens = frozenset(_parse_member(field, operator, item, noun) for item in items)
    return _match_tokens(tokens)


def _parse_member(field: EnumHandler, operator: str, value: bytes, noun: str) -> str:
    if kind_of(value) != "string":
        raise Fault(_expects(operator, noun))
    return encode_token(field.canonical(decode_string(value)))


def _parse_number(field: IntHandler | FloatHandler, operator: str, value: bytes) -> Condition:
    whole = isinstance(field, IntHandler)
    single = "integer value" if whole else "numeric value"
    if operator == "in":
        noun = "array of integers" if whole else "array of numeric values"
        items = _parse_list(operator, value, noun)
        numbers = [_parse_operand(field, operator, item, noun) for item in items]
        return _match_tokens(frozenset(_tokenize(number) for number in numbers))
    if operator == "between":
        return _parse_between(field, value)
    number = _parse_operand(field, operator, value, single)
    if operator == "eq":
        return Exactly(_tokenize(number))
    if operator in ("gt", "gte"):
        return Interval(whole, low=number, open=operator == "gt")
    return Interval(whole, high=number, open=operator == "lt")


def _parse_between(field: IntHandler | FloatHandler, value: bytes) -> Condition:
    whole = isinstance(field, IntHandler)
    if kind_of(value) != "array":
        raise Fault(_expects("between", "[min,max]"))
    items = _decode_array(value)
    if len(items) != 2:
        raise Fault(_expects("between", "exactly two values [min,max]"))
    noun = "integer value" if whole else "numeric value"
    low, high = (_parse_operand(field, "between", bytes(item), noun) for item in items)
    if low > high:
        raise Fault(_expects("between", "min <= max"))
    return Interval(whole, low, high)


def _parse_operand(
    field: IntHandler | FloatHandler, operator: str, value: bytes, noun: str
) -> int | float:
    if kind_of(value) != "number":
        raise Fault(_expects(operator, noun))
    text = value.decode()
    if isinstance(field, IntHandler):
        whole = parse_i64(text)
        if whole is None:
            raise Fault(_expects(operator, noun))
        field.check_range(whole, "constraint value")
        return whole
    try:
        number = parse_float(text)
    except Fault:
        raise Fault(_expects(operator, noun)) from None
    field.check_range(number, "constraint value")
    return number


def _parse_list(operator: str, value: bytes, noun: str) -> list[bytes]:
    if kind_of(value) != "array":
        raise Fault(_expects(operator, noun))
    items = _decode_array(value)
    if not items:
        raise Fault(f"constraint operator '{operator}' must contain at least one value")
    return [bytes(item) for item in items]


def _match_tokens(tokens: frozenset[str]) -> Condition:
    if len(tokens) == 1:
        [token] = tokens
        return Exactly(token)
    return AnyOf(tokens)


def _tokenize(number: int | float) -> str:
    return encode_token(format_float(number) if isinstance(number, float) else str(number))


def _expects(operator: str, what: str) -> str:
    return f"constraint operator '{operator}' expects {what}"
