"""A filter says of every stored event what a plain reading of the query would say."""

import json
import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.catalog import Catalog
from gateway.schema.filter import Filter
from gateway.schema.query import Publication, parse, publication, query

SCHEMA: dict[str, object] = {
    "mars": {
        "topic": {"base": "diss.x", "key_order": ["name", "class", "step", "level"]},
        "identifier": {
            "class": {"type": "EnumHandler", "values": ["od", "rd", "ea"], "required": False},
            "step": {"type": "IntHandler", "required": False},
            "level": {"type": "FloatHandler", "required": False},
            "name": {"type": "StringHandler", "required": False},
        },
    },
    "area": {
        "topic": {"base": "area", "key_order": ["polygon", "name"]},
        "identifier": {
            "name": {"type": "StringHandler", "required": False},
            "polygon": {"type": "PolygonHandler", "required": False},
        },
    },
    "quake": {
        "identifier": {
            "net": {"type": "StringHandler", "required": False},
            "point_cloud": {"type": "PointCloudHandler", "required": False},
        }
    },
}
CATALOG = Catalog.parse(SCHEMA, False)
EVENT = {"name": "a.b*c>%", "class": "od", "step": 4, "level": 2.5}
SQUARE = [[0, 0], [0, 10], [10, 10], [10, 0], [0, 0]]


def publish(event_type: str, identifier: object, catalog: Catalog = CATALOG) -> Publication:
    body = json.dumps({"event_type": event_type, "identifier": identifier}).encode()
    return publication(parse(body, "notification", catalog), catalog)


def narrow(event_type: str, identifier: object, catalog: Catalog = CATALOG) -> Filter:
    body = json.dumps({"event_type": event_type, "identifier": identifier}).encode()
    return query(parse(body, "watch", catalog), "watch", catalog).filter


def wants(wanted: Filter, stored: Publication) -> bool:
    event = b'{"data":{"identifier":' + stored.identifier + b',"payload":null},"id":"x@1"}'
    return wanted.matches(stored.topic, event)


@pytest.mark.parametrize(
    ("identifier", "match"),
    [
        ({"class": "od"}, True),
        ({"class": "OD"}, True),
        ({"class": "rd"}, False),
        ({"step": 4}, True),
        ({"step": "+04"}, True),
        ({"step": 40}, False),
        ({"level": 2.5}, True),
        ({"level": "2.50e0"}, True),
        ({"level": 25}, False),
        ({"name": "a.b*c>%"}, True),
        ({"name": "a"}, False),
        ({"name": "*"}, False),
        ({"name": "a.b*c>%", "class": "od", "step": 4, "level": 2.5}, True),
        ({"name": "a.b*c>%", "class": "od", "step": 4, "level": 2.6}, False),
        ({"class": {"eq": "od"}}, True),
        ({"class": {"in": ["rd", "OD"]}}, True),
        ({"class": {"in": ["rd", "ea"]}}, False),
        ({"step": {"eq": 4}}, True),
        ({"step": {"in": [1, 2, 4]}}, True),
        ({"step": {"in": [1, 2]}}, False),
        ({"step": {"gt": 3}}, True),
        ({"step": {"gt": 4}}, False),
        ({"step": {"gte": 4}}, True),
        ({"step": {"gte": 5}}, False),
        ({"step": {"lt": 5}}, True),
        ({"step": {"lt": 4}}, False),
        ({"step": {"lte": 4}}, True),
        ({"step": {"lte": 3}}, False),
        ({"step": {"between": [4, 4]}}, True),
        ({"step": {"between": [5, 9]}}, False),
        ({"level": {"eq": 2.5}}, True),
        ({"level": {"in": [2.5, 9]}}, True),
        ({"level": {"gt": 2.4999999999999996}}, True),
        ({"level": {"gt": 2.5}}, False),
        ({"level": {"between": [2, 3]}}, True),
        ({"level": {"lt": 2.5}}, False),
        ({"step": {"gt": 3}, "level": {"lt": 3}, "class": "od"}, True),
        ({"step": {"gt": 3}, "level": {"lt": 2}, "class": "od"}, False),
    ],
)
def test_a_filter_matches_canonical_values_and_exact_numbers(
    identifier: object, match: bool
) -> None:
    wanted = narrow("mars", identifier)
    assert not wanted.everything
    assert wants(wanted, publish("mars", EVENT)) is match


def test_a_query_without_narrowing_is_everything_and_matches_any_topic() -> None:
    for event_type in ("mars", "area", "quake", "other"):
        wanted = narrow(event_type, {})
        assert wanted.everything
        assert wanted.matches(b"whatever", b"")


def test_whole_numbers_beyond_a_double_are_compared_exactly() -> None:
    stored = publish("mars", EVENT | {"step": 2**53 + 1})
    assert wants(narrow("mars", {"step": {"gt": 2**53}}), stored)
    assert not wants(narrow("mars", {"step": {"lte": 2**53}}), stored)
    assert not wants(narrow("mars", {"step": 2**53}), stored)


@pytest.mark.parametrize(
    "topic",
    [
        b"",
        b".",
        b"diss%2Ex",
        b"diss%2Ex.a.od.4",
        b"diss%2Ex.a.od.4.1.extra",
        b"diss.x.a.od.4.1",
        b"other.a.od.4.1",
        b"mars.class=od.level=1.name=a.step=4",
        b"diss%2Ex.a.od.four.1",
        b"diss%2Ex.a.od.4_0.1",
        b"diss%2Ex.a.od. 4.1",
        b"diss%2Ex.a.od..1",
        b"diss%2Ex.a.od." + b"9" * 5000 + b".1",
        b"\xff\xfe",
        b"diss%2Ex.a.od.4.%",
        b"diss%2Ex.a.od.4.nan",
        b"diss%2Ex.a.od.4.inf",
    ],
)
def test_a_topic_of_another_shape_does_not_match_and_never_raises(topic: bytes) -> None:
    for step in ({"between": [0, 9]}, {"in": [1, 2]}, 4):
        for level in ({"gte": -(10**9)}, {"in": [1.5, 1]}):
            assert narrow("mars", {"step": step, "level": level}).matches(topic, b"") is False


def test_events_stored_before_a_schema_or_without_one_only_match_everything() -> None:
    loose = Catalog.parse(None, False)
    early = publish("mars", {"class": "od", "step": 4}, loose)
    assert not wants(narrow("mars", {"class": "od"}), early)
    assert not wants(narrow("mars", {"class": "od"}, loose), publish("mars", EVENT))
    assert wants(narrow("mars", {}), early)


def test_a_bounding_box_after_the_topic_does_not_disturb_the_tokens() -> None:
    stored = publish("area", {"name": "x", "polygon": SQUARE})
    assert stored.topic == b"area..x>0.0,0.0,10.0,10.0"
    assert wants(narrow("area", {"name": "x"}), stored)
    assert not wants(narrow("area", {"name": "y"}), stored)
    assert wants(narrow("area", {"name": "x", "point": "5,5"}), stored)
    assert not wants(narrow("area", {"name": "y", "point": "5,5"}), stored)
    assert not wants(narrow("area", {"name": "x", "point": "15,5"}), stored)


def test_a_polygon_in_the_key_order_is_matched_by_its_shape_not_by_its_text() -> None:
    stored = publish("area", {"name": "x", "polygon": SQUARE})
    assert wants(narrow("area", {"polygon": "(1,1,1,2,2,2,1,1)"}), stored)
    assert wants(narrow("area", {"polygon": SQUARE}), stored)
    assert not wants(narrow("area", {"polygon": "(11,11,11,12,12,12,11,11)"}), stored)


def test_a_cloud_is_matched_by_a_polygon() -> None:
    stored = publish("quake", {"net": "us", "point_cloud": [[50, 50], [10, 10]]})
    assert wants(narrow("quake", {"polygon": SQUARE}), stored)
    assert wants(narrow("quake", {"polygon": SQUARE, "net": "us"}), stored)
    assert not wants(narrow("quake", {"polygon": SQUARE, "net": "uw"}), stored)


def test_a_point_on_a_schema_without_polygon_is_accepted_and_matches_nothing() -> None:
    wanted = narrow("mars", {"point": "1,2"})
    assert not wanted.everything
    assert not wants(wanted, publish("mars", EVENT))
    assert not wants(narrow("other", {"point": "1,2"}), publish("other", {"a": "1"}))


@pytest.mark.parametrize(
    ("stored", "identifier", "match"),
    [
        ({"a": "1", "b": "2", "c": "3"}, {"a": "1"}, True),
        ({"a": "1", "b": "2", "c": "3"}, {"b": "2"}, True),
        ({"a": "1", "b": "2", "c": "3"}, {"c": "3", "a": "1"}, True),
        ({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "2", "c": "3"}, True),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, False),
        ({"a": "1", "b": "2"}, {"a": "1", "d": "1"}, False),
        ({"a": "12"}, {"a": "1"}, False),
        ({"aa": "1"}, {"a": "1"}, False),
        ({"a": 1.0}, {"a": "1.0"}, True),
        ({"a": 1.0}, {"a": 1}, False),
        ({"a": True}, {"a": "true"}, True),
        ({"a=b": "c"}, {"a": "b=c"}, False),
        ({"a": "b=c"}, {"a": "b=c"}, True),
        ({"x.y": "a>b*%"}, {"x.y": "a>b*%"}, True),
        ({"a": "1.b=2"}, {"b": "2"}, False),
        ({"": "x"}, {"": "x"}, True),
        ({}, {"a": "1"}, False),
        ({"a": "\n"}, {"a": "\n"}, True),
    ],
)
def test_without_schema_an_event_matches_when_it_carries_all_the_pairs(
    stored: object, identifier: object, match: bool
) -> None:
    assert wants(narrow("other", identifier), publish("other", stored)) is match


def test_equal_queries_have_equal_filters_whatever_their_notation() -> None:
    same: list[tuple[str, Any, Any]] = [
        ("mars", {"class": "OD", "step": 4}, {"step": {"eq": 4}, "class": {"in": ["od"]}}),
        ("mars", {"level": {"in": [1, 2.0]}}, {"level": {"in": [2, 1.0, 1]}}),
        ("area", {"polygon": SQUARE}, {"polygon": "0,0,0,10,10,10,10,0,-0,0"}),
        ("area", {"point": [1, 2]}, {"point": "(1.0, 2)"}),
        ("other", {"a": "1", "b": True}, {"b": "true", "a": 1}),
    ]
    for event_type, one, other in same:
        assert narrow(event_type, one) == narrow(event_type, other)
        assert hash(narrow(event_type, one)) == hash(narrow(event_type, other))


def test_different_queries_have_different_keys() -> None:
    filters = [
        narrow(event_type, identifier)
        for event_type, identifier in (
            ("mars", {}),
            ("mars", {"step": 4}),
            ("mars", {"level": 4}),
            ("mars", {"step": {"gt": 4}}),
            ("mars", {"step": {"gte": 4}}),
            ("mars", {"step": {"lte": 4}}),
            ("mars", {"point": "1,2"}),
            ("mars", {"point": "2,1"}),
            ("area", {}),
            ("area", {"polygon": SQUARE}),
            ("other", {}),
            ("other", {"step": "4"}),
            ("other", {"name": "*"}),
            ("another", {"step": "4"}),
        )
    ]
    assert len({wanted.key for wanted in filters}) == len(filters)
    assert filters[0] != "mars"


WHOLE = {"name": "a.b", "class": "od", "step": 4, "level": 2.5}
TABLES = Catalog.parse(None, None, changes=True)


@pytest.mark.parametrize(
    ("event_type", "identifier", "topics"),
    [
        ("mars", WHOLE, [b"diss%2Ex.a%2Eb.od.4.2%2E5"]),
        (
            "mars",
            {**WHOLE, "class": {"in": ["rd", "od"]}, "step": {"in": [4, 5]}},
            [b"diss%%2Ex.a%%2Eb.%b.%d.2%%2E5" % (c, s) for c in (b"od", b"rd") for s in (4, 5)],
        ),
        ("mars", {**WHOLE, "step": {"in": [*range(16)]}}, 16),
        ("mars", {**WHOLE, "step": {"in": [*range(17)]}}, []),
        ("mars", {**WHOLE, "step": {"gte": 4}}, []),
        ("mars", {"name": "a.b", "class": "od", "step": 4}, []),
        ("mars", {}, []),
        # The log may have values of an enum that the configuration names no more.
        ("mars", {"name": "a.b", "step": 4, "level": 2.5}, []),
        ("area", {"name": "a", "polygon": SQUARE}, [b"area..a"]),
        ("area", {"point": [1, 2]}, []),
        ("quake", {"net": "x", "polygon": SQUARE}, [b"quake.x"]),
        ("other", {"a": "1"}, []),
        ("change", {"table": "public.t", "key": "1", "op": "u"}, [b"change.public%2Et.u.1"]),
        (
            "change",
            {"table": "public.t", "key": "1"},
            [b"change.public%%2Et.%b.1" % op for op in (b"c", b"u", b"d", b"t")],
        ),
        ("change", {"table": "public.t"}, []),
    ],
)
def test_the_topics_are_known_where_the_query_leaves_few(
    event_type: str, identifier: object, topics: list[bytes] | int
) -> None:
    found = narrow(event_type, identifier, TABLES if event_type == "change" else CATALOG).topics
    assert (len(found) if isinstance(topics, int) else list(found)) == topics


NAMES = st.sampled_from(["a", "b", "a.b", "*", ">", "%2A", "é=", "a b"])
STEPS = st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63 - 1])
LEVELS = st.sampled_from([0.0, 0.1, 0.5, 1.0, -1.0, 1e-9, 1e21, 2.5])
EVENTS = st.fixed_dictionaries(
    {"name": NAMES, "class": st.sampled_from(["od", "rd", "ea"]), "step": STEPS, "level": LEVELS}
)


def constrain(operands: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        operands,
        st.tuples(st.sampled_from(["eq", "gt", "gte", "lt", "lte"]), operands).map(
            lambda pair: {pair[0]: pair[1]}
        ),
        st.lists(operands, min_size=1, max_size=3).map(lambda items: {"in": items}),
        st.tuples(operands, operands).map(lambda pair: {"between": sorted(pair)}),
    )


QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES,
        "class": st.sampled_from(["od", "rd", {"eq": "od"}, {"in": ["od", "ea"]}]),
        "step": constrain(STEPS),
        "level": constrain(LEVELS),
    },
)


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, operands: value in operands,
    "between": lambda value, operands: bool(operands[0] <= value <= operands[1]),
}


def accepts(asked: Any, value: Any) -> bool:
    """The plain meaning of a filter value."""
    if not isinstance(asked, dict):
        return bool(asked == value)
    [(name, operand)] = asked.items()
    return COMPARE[name](value, operand)


@given(EVENTS, QUERIES)
def test_a_filter_agrees_with_the_plain_meaning_of_the_query(
    event: dict[str, Any], asked: dict[str, Any]
) -> None:
    wanted = narrow("mars", asked)
    expected = all(accepts(asked[name], event[name]) for name in asked)
    stored = publish("mars", event)
    assert wants(wanted, stored) == expected
    assert wanted.everything == (not asked)
    assert not expected or not wanted.topics or stored.topic in wanted.topics


PAIRS = st.dictionaries(
    st.text(".=a>é", max_size=2).filter(lambda name: name != "point"),
    st.text(".=a>%", min_size=1, max_size=2),
    max_size=4,
)


@given(PAIRS, PAIRS)
def test_without_schema_a_filter_is_the_subset_relation(
    event: dict[str, str], asked: dict[str, str]
) -> None:
    assert wants(narrow("other", asked), publish("other", event)) == (
        asked.items() <= event.items()
    )
    assert wants(narrow("other", event), publish("other", event))


@given(EVENTS, EVENTS, st.binary(max_size=30))
def test_no_bytes_make_a_filter_raise(
    event: dict[str, Any], other: dict[str, Any], topic: bytes
) -> None:
    asked = {**event, "step": {"gt": -5}, "level": {"lte": 1e300}}
    assert narrow("mars", asked).matches(topic, topic) is False
    assert narrow("area", {"polygon": SQUARE}).matches(topic, topic) is False
    assert narrow("other", {"a": str(other["name"])}).matches(topic, topic) in (True, False)
