"""Which stored events a query wants: decided on the bytes of the topic wherever that is enough.

The hot path of every reading. A topic of another shape (an earlier schema, no schema) does not
match and never raises; only a spatial filter looks into the event, after its bounding box met.
"""

import re
from collections.abc import Callable, Collection, Mapping
from itertools import product
from math import prod
from typing import Final

import msgspec

from gateway.schema.catalog import EventSchema
from gateway.schema.constraints import AnyOf, Condition, Exactly, Interval
from gateway.schema.fields import EnumHandler
from gateway.schema.spatial import SpatialTest
from gateway.schema.topic import build, encode_pair, encode_token

_ANY: Final = rb"[^.>]*"
_WHOLE: Final = rb"(-?[0-9]+)"
_DECIMAL: Final = rb"(-?[0-9]+(?:%2E[0-9]+)?)"
_SHAPE: Final = rb"(?:>.*)?"
# Each topic more makes a look into the log's index dearer.
_MAX_TOPICS: Final = 16


class Filter:
    """What a query narrows down to. Equal queries have an equal ``key``, and are equal.

    ``everything``: there is no narrowing, callers need not ask. ``topics``: what matches has one of
    these topics, not counting a shape; empty when they are many or not known. ``matches`` takes the
    stored topic and the stored CloudEvent JSON; it is a pure function of the two.
    """

    __slots__ = ("_decide", "_spatial", "everything", "key", "topics")

    def __init__(
        self,
        key: str,
        decide: Callable[[bytes], object] | None,
        spatial: SpatialTest | None = None,
        topics: tuple[bytes, ...] = (),
    ) -> None:
        self.key = key
        self.topics = topics
        self.everything = decide is None and spatial is None
        self._decide = decide
        self._spatial = spatial

    def matches(self, topic: bytes, event: bytes) -> bool:
        """Whether the query wants the event."""
        if self._decide is not None and not self._decide(topic):
            return False
        return self._spatial is None or self._spatial.matches(topic, event)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def filter_by_schema(
    schema: EventSchema, conditions: Mapping[str, Condition], spatial: SpatialTest | None
) -> Filter:
    """The filter of a query on an event type with schema; a field without condition may be any."""
    key = _make_key(
        schema.event_type,
        schema.base,
        {name: conditions[name].key for name in sorted(conditions)},
        None if spatial is None else spatial.key,
    )
    if not conditions:
        return Filter(key, None, spatial)
    parts = [re.escape(schema.base_token.encode())]
    checks: list[Callable[[bytes], bool]] = []
    for name in schema.key_order:
        condition = conditions.get(name)
        if condition is None:
            parts.append(_ANY)
        elif isinstance(condition, Exactly):
            parts.append(re.escape(condition.token.encode()))
        else:
            parts.append(_capture(condition))
            checks.append(_make_check(condition))
    match = re.compile(rb"\.".join(parts) + _SHAPE, re.DOTALL).fullmatch
    decide = _CheckedMatch(match, checks) if checks else match
    return Filter(key, decide, spatial, _list_topics(schema, conditions))


def filter_by_pairs(event_type: str, values: Mapping[str, str]) -> Filter:
    """The filter of a query on an event type without schema: events that carry all the pairs."""
    key = _make_key(event_type, None, dict(sorted(values.items())), None)
    if not values:
        return Filter(key, None)
    needles = [f".{encode_pair(name, values[name])}.".encode() for name in sorted(values)]
    return Filter(key, _PairMatch(f"{encode_token(event_type)}.".encode(), needles))


def _list_topics(schema: EventSchema, conditions: Mapping[str, Condition]) -> tuple[bytes, ...]:
    """Every topic that can match, if the conditions leave few."""
    choices = [_list_tokens(schema, name, conditions.get(name)) for name in schema.key_order]
    if not 0 < prod(map(len, choices)) <= _MAX_TOPICS:
        return ()
    return tuple(build(schema.base_token, tokens) for tokens in product(*choices))


def _list_tokens(schema: EventSchema, name: str, condition: Condition | None) -> Collection[str]:
    """Every token that a field can have; none when they are not known."""
    if isinstance(condition, Exactly):
        return (condition.token,)
    if isinstance(condition, AnyOf):
        return sorted(condition.tokens)
    if name == schema.spatial:
        return ("",)
    field = schema.fields[name]
    # The values of other enums are the configuration's: the log may have some that it once named.
    if condition is None and schema.captured and isinstance(field, EnumHandler):
        return [encode_token(value) for value in field.values]
    return ()


class _CheckedMatch:
    """A topic pattern whose groups must also pass a check each."""

    __slots__ = ("_checks", "_match")

    def __init__(
        self,
        match: Callable[[bytes], re.Match[bytes] | None],
        checks: list[Callable[[bytes], bool]],
    ) -> None:
        self._match = match
        self._checks = checks

    def __call__(self, topic: bytes) -> bool:
        found = self._match(topic)
        if found is None:
            return False
        return all(check(token) for check, token in zip(self._checks, found.groups(), strict=True))


class _PairMatch:
    """An event type and pairs that must all be among the tokens of a topic without schema."""

    __slots__ = ("_needles", "_start")

    def __init__(self, start: bytes, needles: list[bytes]) -> None:
        self._start = start
        self._needles = needles

    def __call__(self, topic: bytes) -> bool:
        if not topic.startswith(self._start):
            return False
        line = topic + b"."
        return all(needle in line for needle in self._needles)


def _capture(condition: AnyOf | Interval) -> bytes:
    if isinstance(condition, AnyOf):
        return b"(" + _ANY + b")"
    return _WHOLE if condition.whole else _DECIMAL


def _make_check(condition: AnyOf | Interval) -> Callable[[bytes], bool]:
    if isinstance(condition, AnyOf):
        return frozenset(token.encode() for token in condition.tokens).__contains__
    return condition.holds


def _make_key(*parts: object) -> str:
    return msgspec.json.encode(parts).decode()
