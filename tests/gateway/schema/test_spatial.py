"""Coordinates in every notation, the messages against wrong ones, and the geometry of §8."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.errors import Fault
from gateway.schema.spatial import (
    Points,
    SpatialTest,
    box_of,
    parse_cloud,
    parse_float,
    parse_point,
    parse_polygon,
)
from gateway.schema.topic import build

SQUARE: Points = ((0, 0), (0, 10), (10, 10), (10, 0), (0, 0))
TRIANGLE: Points = ((0, 0), (0, 1), (1, 1), (0, 0))


@pytest.mark.parametrize(
    "value",
    [
        '"0,0,0,1,1,1,0,0"',
        '"(0,0,0,1,1,1,0,0)"',
        '"  ( 0 , 0.0, 0,1e0 , +1,1. ,-0,0 )  "',
        "[[0,0],[0,1],[1,1],[0,0]]",
        "[ [0.0, 0], [-0.0, 1e0], [1, 1], [0, 0] ]",
    ],
)
def test_a_polygon_is_text_or_an_array(value: str) -> None:
    ring = parse_polygon(value.encode())
    assert ring == TRIANGLE
    assert "-0.0" not in repr(ring)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("null", "expected a string or an array of [lat,lon] pairs, got null"),
        ("4", "expected a string or an array of [lat,lon] pairs, got number"),
        ("true", "expected a string or an array of [lat,lon] pairs, got boolean"),
        ("{}", "expected a string or an array of [lat,lon] pairs, got object"),
        ('""', "no coordinates given"),
        ('" ( ) "', "no coordinates given"),
        ('"(0,0,0,1,1,1,0,0"', "a parenthesis is missing"),
        ('"0,0,0,1,1,1,0,0)"', "a parenthesis is missing"),
        ('"((0,0,0,1,1,1,0,0))"', "parentheses must not be nested"),
        ('"(0,0),(0,1),(1,1),(0,0)"', "parentheses must not be nested"),
        ('"0,0,0,1,1,1,0"', "expected an even count of coordinates, got 7"),
        ('"0,0,0,,1,1,0,0"', "coordinate '' must be a number"),
        ('"0,0,0,x,1,1,0,0"', "coordinate 'x' must be a number"),
        ('"0,0,0,1_0,1,1,0,0"', "coordinate '1_0' must be a number"),
        ('"0,0,0,nan,1,1,0,0"', "coordinate 'nan' must be finite"),
        ('"0,0,0,1e999,1,1,0,0"', "coordinate '1e999' must be finite"),
        ('"0,0,0,1,0,0"', "a polygon needs at least 4 points, got 3"),
        ('"0,0,0,1,1,1,1,0"', "the first and the last point must be the same"),
        ('"0,0,0,1,91,1,0,0"', "point 2 is invalid: latitude 91.0 is outside [-90, 90]"),
        ('"0,0,0,-181,1,1,0,0"', "point 1 is invalid: longitude -181.0 is outside [-180, 180]"),
        ("[]", "a polygon needs at least 4 points, got 0"),
        ("[[0,0],[0,1],[0,0]]", "a polygon needs at least 4 points, got 3"),
        ("[[0,0],[0,1],[1,1],[0,1]]", "the first and the last point must be the same"),
        (
            "[[0,0],[0],[1,1],[0,0]]",
            "point 1 is invalid: expected a two-element array [lat,lon], got 1 elements",
        ),
        (
            "[[0,0],[0,1,2],[1,1],[0,0]]",
            "point 1 is invalid: expected a two-element array [lat,lon], got 3 elements",
        ),
        (
            '[[0,0],"0,1",[1,1],[0,0]]',
            "point 1 is invalid: expected a two-element array [lat,lon], got string",
        ),
        ('[["0",0],[0,1],[1,1],[0,0]]', "point 0 is invalid: latitude must be a number, got str"),
        ("[[0,true],[0,1],[1,1],[0,0]]", "point 0 is invalid: longitude must be a number, got b"),
        ("[[0,null],[0,1],[1,1],[0,0]]", "point 0 is invalid: longitude must be a number, got n"),
        ("[[0,0],[0,1],[1e999,1],[0,0]]", "point 2 is invalid: latitude must be finite"),
        ("[[0,0],[0,1],[91,true],[0,0]]", "point 2 is invalid: longitude must be a number, got"),
        ("[[0,0],[0,1],[-90.5,1],[0,0]]", "point 2 is invalid: latitude -90.5 is outside"),
        ("[[0,0],[0,180.1],[1,1],[0,0]]", "point 1 is invalid: longitude 180.1 is outside"),
    ],
)
def test_a_wrong_polygon_is_refused_with_the_innermost_cause(value: str, cause: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_polygon(value.encode())
    assert caught.value.predicate.startswith(cause)
    innermost = caught.value.cause or caught.value.predicate
    assert caught.value.predicate.endswith(innermost)


@pytest.mark.parametrize(
    "value", ['"52.5,13.4"', '"(52.5,13.4)"', '" 52.5 , 13.4 "', "[52.5,13.4]", "[5.25e1,13.40]"]
)
def test_a_point_is_text_or_an_array(value: str) -> None:
    assert parse_point(value.encode()) == (52.5, 13.4)


@pytest.mark.parametrize("value", ['"90,180"', '"-90,-180"', "[90,-180]"])
def test_the_ends_of_the_earth_are_valid(value: str) -> None:
    assert parse_point(value.encode())


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ('"52.5"', "expected exactly two values, got 1"),
        ('"1,2,3"', "expected exactly two values, got 3"),
        ('""', "no coordinates given"),
        ('"(1,2"', "a parenthesis is missing"),
        ('"a,2"', "coordinate 'a' must be a number"),
        ('"90.1,0"', "latitude 90.1 is outside [-90, 90]"),
        ('"0,180.1"', "longitude 180.1 is outside [-180, 180]"),
        ("[1]", "expected a two-element array [lat,lon], got 1 elements"),
        ("[[1,2]]", "expected a two-element array [lat,lon], got 1 elements"),
        ("[1,2,3]", "expected a two-element array [lat,lon], got 3 elements"),
        ('["1",2]', "latitude must be a number, got string"),
        ("[91,2]", "latitude 91.0 is outside [-90, 90]"),
        ("[1,1e999]", "longitude must be finite"),
        ("4", "expected a string or an array, got number"),
        ("null", "expected a string or an array, got null"),
        ('{"lat":1}', "expected a string or an array, got object"),
    ],
)
def test_a_wrong_point_is_refused(value: str, cause: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_point(value.encode())
    assert caught.value.predicate == cause


def test_a_cloud_keeps_order_and_repetitions() -> None:
    assert parse_cloud(b"[[3,4],[1,2],[3,4]]", 3) == ((3.0, 4.0), (1.0, 2.0), (3.0, 4.0))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('"1,2"', "must be a JSON array of [lat,lon] points"),
        ("4", "must be a JSON array of [lat,lon] points"),
        ("{}", "must be a JSON array of [lat,lon] points"),
        ("[]", "point cloud must contain at least one point"),
        ("[[1,2],[1,2],[1,2],[1,2]]", "point cloud contains 4 points, maximum is 3"),
        ("[1,2]", "point 0 is invalid: expected a two-element array [lat,lon], got number"),
        ("[[1,2],[1,null]]", "point 1 is invalid: longitude must be a number, got null"),
        ("[[1,2],[1,-181]]", "point 1 is invalid: longitude -181.0 is outside [-180, 180]"),
    ],
)
def test_a_wrong_cloud_is_refused(value: str, sentence: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_cloud(value.encode(), 3)
    assert caught.value.predicate == sentence


def test_the_count_of_a_cloud_is_checked_before_its_size() -> None:
    with pytest.raises(Fault, match=r"^point cloud contains 10001 points, maximum is 10000$"):
        parse_cloud(msgspec.json.encode([(12.3456789, 98.7654321)] * 10_001), 10_000)


def test_the_canonical_json_of_a_cloud_has_at_most_61440_bytes() -> None:
    fits = [(1.5, 2.5)] * 6143 + [(1.25, 22.75)]
    assert len(msgspec.json.encode(fits)) == 61_444
    with pytest.raises(Fault, match=r"^point cloud canonical JSON is 61444 bytes, maximum is 6144"):
        parse_cloud(msgspec.json.encode(fits), 10_000)
    assert len(parse_cloud(msgspec.json.encode(fits[1:]), 10_000)) == 6143


@pytest.mark.parametrize("text", ["1" * 1101, "0." + "1" * 1100])
def test_a_number_longer_than_any_double_is_refused_before_it_is_read(text: str) -> None:
    with pytest.raises(Fault, match="must be a number"):
        parse_float(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_read_to_the_last_bit(number: float) -> None:
    assert parse_float(repr(number)) == number
    assert math.copysign(1, parse_float("-0")) == 1


def test_a_box_spans_all_points() -> None:
    assert box_of(((1, 20), (-3, 4), (2, -5))) == (-3, -5, 2, 20)


def store(**shapes: Points) -> tuple[bytes, bytes]:
    """Topic and event as stored for one shape."""
    [points] = shapes.values()
    event = {"data": {"identifier": {"name": "x", **shapes}, "payload": {}}, "id": "a@1"}
    return build("area", ["x"], box_of(points)), msgspec.json.encode(event)


def square(lat: float, lon: float, side: float) -> Points:
    """A closed square from its lower left corner."""
    return (
        (lat, lon),
        (lat, lon + side),
        (lat + side, lon + side),
        (lat + side, lon),
        (lat, lon),
    )


@pytest.mark.parametrize(
    ("stored", "met"),
    [
        (square(0, 0, 10), True),
        (square(5, 5, 10), True),
        (square(2, 2, 1), True),
        (square(-5, -5, 90), True),
        (square(10, 0, 5), True),
        (square(10, 10, 5), True),
        (square(10.000001, 0, 5), False),
        (square(20, 20, 5), False),
        (((11, 5), (5, 11), (11, 11), (11, 5)), True),
        (((12, 9), (9, 12), (12, 12), (12, 9)), False),
    ],
)
def test_polygons_match_when_they_share_a_point_even_on_the_edge(stored: Points, met: bool) -> None:
    assert SpatialTest("polygon", square(0, 0, 10)).matches(*store(polygon=stored)) is met
    assert SpatialTest("polygon", stored).matches(*store(polygon=square(0, 0, 10))) is met


@pytest.mark.parametrize(
    ("point", "inside"),
    [
        ((5, 5), True),
        ((0.000001, 5), True),
        ((0, 5), False),
        ((10, 5), False),
        ((0, 0), False),
        ((10, 10), False),
        ((11, 5), False),
    ],
)
def test_a_point_matches_only_strictly_inside(point: tuple[float, float], inside: bool) -> None:
    assert SpatialTest("point", (point,)).matches(*store(polygon=SQUARE)) is inside


@pytest.mark.parametrize(
    ("cloud", "met"),
    [
        (((5, 5),), True),
        (((0, 5),), True),
        (((10, 10),), True),
        (((50, 50), (10, 0)), True),
        (((10.000001, 5),), False),
        (((-5, -5), (15, 15)), False),
    ],
)
def test_a_cloud_matches_when_one_point_is_inside_or_on_the_boundary(
    cloud: Points, met: bool
) -> None:
    assert SpatialTest("polygon", SQUARE).matches(*store(point_cloud=cloud)) is met


def test_a_point_never_matches_a_cloud() -> None:
    assert not SpatialTest("point", ((5, 5),)).matches(*store(point_cloud=((5, 5),)))


def test_latitude_comes_first() -> None:
    wide = ((0, 0), (0, 100), (10, 100), (10, 0), (0, 0))
    assert SpatialTest("point", ((5, 90),)).matches(*store(polygon=wide))
    assert not SpatialTest("point", ((90, 5),)).matches(*store(polygon=wide))


def test_a_ring_around_a_point_does_not_match_it_and_boxes_alone_do_not_decide() -> None:
    hollow = ((0, 0), (0, 10), (10, 10), (10, 9), (1, 9), (1, 0), (0, 0))
    assert not SpatialTest("polygon", square(4, 4, 1)).matches(*store(polygon=hollow))


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"{}",
        b"not json",
        b'{"data":{"identifier":{"name":"x"}}}',
        b'{"data":{"identifier":{"polygon":"0,0,0,1"}}}',
        b'{"data":{"identifier":{"polygon":[]}}}',
        b'{"data":{"identifier":{"polygon":[[5,5]]}}}',
        b'{"data":{"identifier":{"point_cloud":[]}}}',
        b'{"data":{"identifier":{"point_cloud":null}}}',
        b'{"data":{"identifier":[]}}',
    ],
)
def test_an_event_without_a_readable_shape_does_not_match_and_does_not_raise(event: bytes) -> None:
    for test in (SpatialTest("polygon", SQUARE), SpatialTest("point", ((5, 5),))):
        assert test.matches(b"area.x>0.0,0.0,10.0,10.0", event) is False


@pytest.mark.parametrize("topic", [b"area.x", b"", b"area>", b"area.x>1,2", b"area.x>a,b,c,d"])
def test_a_topic_without_a_readable_box_does_not_match_and_does_not_raise(topic: bytes) -> None:
    _, event = store(polygon=SQUARE)
    assert SpatialTest("polygon", SQUARE).matches(topic, event) is False


def test_the_event_is_not_read_when_the_boxes_do_not_meet() -> None:
    assert SpatialTest("polygon", SQUARE).matches(b"area.x>20.0,0.0,30.0,10.0", b"x") is False


def test_equal_areas_have_equal_keys() -> None:
    text = SpatialTest("polygon", parse_polygon(b'"(0,0,0,1,1,1,-0,0)"'))
    array = SpatialTest("polygon", parse_polygon(b"[[0.0,0],[0,1],[1,1],[0,0]]"))
    assert text.key == array.key
    assert text.key != SpatialTest("polygon", SQUARE).key
    assert SpatialTest("point", ((0.0, 1.0),)).key != SpatialTest("point", ((1.0, 0.0),)).key


RINGS = st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=3, max_size=6).map(
    lambda points: tuple((float(lat), float(lon)) for lat, lon in [*points, points[0]])
)


@given(RINGS, RINGS)
def test_any_two_rings_even_crossed_or_flat_ones_are_compared_without_an_error(
    one: Points, other: Points
) -> None:
    met = SpatialTest("polygon", one).matches(*store(polygon=other))
    assert isinstance(met, bool)
    if set(one) & set(other):
        assert met


@given(
    st.tuples(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 9)),
    st.tuples(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 9)),
)
def test_squares_match_exactly_when_their_boxes_touch(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    touching = all(
        one[axis] <= other[axis] + other[2] and other[axis] <= one[axis] + one[2] for axis in (0, 1)
    )
    assert SpatialTest("polygon", square(*one)).matches(*store(polygon=square(*other))) is touching


@given(st.integers(-12, 12), st.integers(-12, 12))
def test_a_point_in_a_square_agrees_with_arithmetic(lat: int, lon: int) -> None:
    stored = store(polygon=square(-10, -10, 20))
    assert SpatialTest("point", ((lat, lon),)).matches(*stored) is (
        -10 < lat < 10 and -10 < lon < 10
    )
    cloud = store(point_cloud=((lat, lon),))
    assert SpatialTest("polygon", square(-10, -10, 20)).matches(*cloud) is (
        -10 <= lat <= 10 and -10 <= lon <= 10
    )
