"""Aviso wire contract §8: polygons, points and point clouds, published, watched and replayed."""

import json
from typing import Any

import pytest

from tests.contract.api import NOTIFICATION, PATHS, REPLAY, WATCH, Api, ask, assert_error
from tests.contract.schemas import SQUARE

pytestmark = pytest.mark.asyncio(loop_scope="session")

readings = pytest.mark.parametrize("operation", ["watch", "replay"])


def box(south: float, west: float, north: float, east: float) -> list[list[float]]:
    return [[south, west], [south, east], [north, east], [north, west], [south, west]]


async def selects(
    api: Api, event_type: str, stored: dict[str, object], asked: dict[str, object]
) -> bool:
    """Whether an event is found by a replay and seen by a watch, which must agree."""
    async with api.watch(event_type, asked) as live:
        await live.next()
        published = {"event_type": event_type, "identifier": {"name": "a", **stored}}
        response = await api.post(NOTIFICATION, published)
        assert response.status_code == 200, response.text
        sequence = response.json()["sequence"]
        found = sequence in await api.found(event_type, asked)
        await api.publish(event_type, {"name": "a", **_sure(event_type, asked)})
        first = (await live.notification()).sequence
        assert first == (sequence if found else sequence + 1)
    return found


def _sure(event_type: str, asked: dict[str, Any]) -> dict[str, object]:
    """A shape that the query wants for certain."""
    if "point" in asked:
        return {"polygon": box(-89, -179, 89, 179)}
    if event_type == "cloud":
        return {"point_cloud": [asked["polygon"][0]]}
    return {"polygon": asked["polygon"]}


# -- geometry


@pytest.mark.parametrize("event_type", ["area", "legacy_area"])
@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        (SQUARE, True),
        (box(5, 5, 15, 15), True),
        (box(2, 2, 3, 3), True),  # inside what is stored
        (box(-20, -20, 20, 20), True),  # around it
        (box(10, 0, 20, 10), True),  # a shared edge
        (box(10, 10, 20, 20), True),  # a shared vertex
        (box(0, 10.0001, 10, 20), False),
        (box(10.0000001, 0, 20, 10), False),
        (box(50, 50, 60, 60), False),
        # Its bounding box meets, the triangle itself does not.
        ([[9, 30], [30, 9], [30, 30], [9, 30]], False),
        ([[0, 30], [30, 0], [30, 30], [0, 30]], False),
        ([[0, 20], [20, 0], [20, 20], [0, 20]], True),  # touches the corner at 10,10
    ],
)
async def test_a_polygon_finds_the_polygons_it_intersects(
    api: Api, event_type: str, polygon: list[list[float]], expected: bool
) -> None:
    assert await selects(api, event_type, {"polygon": SQUARE}, {"polygon": polygon}) is expected


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("5,5", True),
        ("(5,5)", True),
        ([5, 5], True),
        (" ( 5 , 5 ) ", True),
        ("0.0001,0.0001", True),
        ("+5e0,.5e1", True),
        ("0,5", False),  # [?] on an edge: strictly inside only
        ("0,0", False),  # a vertex
        ("10,10", False),
        ("-1,5", False),
        ("5,11", False),
    ],
)
async def test_a_point_finds_the_polygons_that_hold_it_inside(
    api: Api, point: object, expected: bool
) -> None:
    assert await selects(api, "area", {"polygon": SQUARE}, {"point": point}) is expected


@pytest.mark.parametrize(
    ("cloud", "expected"),
    [
        ([[5, 5]], True),
        ([[50, 50], [5, 5]], True),
        ([[0, 5]], True),  # on the boundary
        ([[10, 10]], True),
        ([[10.0001, 10]], False),
        ([[-1, -1], [11, 11]], False),  # their box meets, no point does
    ],
)
async def test_a_polygon_finds_the_clouds_with_a_point_in_it_or_on_its_boundary(
    api: Api, cloud: list[list[float]], expected: bool
) -> None:
    assert await selects(api, "cloud", {"point_cloud": cloud}, {"polygon": SQUARE}) is expected


async def test_latitude_comes_first(api: Api) -> None:
    await api.publish("area", {"name": "a", "polygon": box(24, 121, 25, 122)})
    assert await api.found("area", {"point": "24.5,121.5"}) == [1]
    response = await api.post(REPLAY, ask("area", {"point": "121.5,24.5"}, from_id="1"))
    assert "latitude 121.5 is outside [-90, 90]" in response.json()["message"]


async def test_the_antimeridian_is_an_edge_like_any_other(api: Api) -> None:
    await api.publish("area", {"name": "a", "polygon": box(0, 170, 10, 180)})
    assert await api.found("area", {"polygon": box(0, -180, 10, -170)}) == []
    assert await api.found("area", {"point": "5,175"}) == [1]


async def test_spatial_and_other_filters_must_both_match(api: Api) -> None:
    for name, polygon in (("a", SQUARE), ("b", SQUARE), ("a", box(50, 50, 60, 60))):
        await api.publish("area", {"name": name, "polygon": polygon})
    assert await api.found("area", {"point": "5,5"}) == [1, 2]
    assert await api.found("area", {"point": "5,5", "name": "a"}) == [1]
    assert await api.found("area", {"polygon": SQUARE, "name": "b"}) == [2]
    assert await api.found("area", {"name": "a"}) == [1, 3]
    assert await api.found("area") == [1, 2, 3]


async def test_events_without_a_shape_match_no_spatial_filter(api: Api) -> None:
    await api.publish()
    assert await api.found("note", {"point": "5,5"}) == []
    assert await api.found("note") == [1]


async def test_a_point_satisfies_a_required_polygon_and_a_polygon_a_required_cloud(
    api: Api,
) -> None:
    await api.publish("zone", {"name": "a", "polygon": SQUARE})
    await api.publish("swarm", {"point_cloud": [[5, 5]]})
    assert await api.found("zone", {"point": "5,5"}) == [1]
    assert await api.found("zone", {"polygon": SQUARE}) == [1]
    assert await api.found("swarm", {"polygon": SQUARE}) == [1]


# -- notations


@pytest.mark.parametrize(
    "polygon",
    [
        SQUARE,
        "0,0,0,10,10,10,10,0,0,0",
        "(0,0,0,10,10,10,10,0,0,0)",
        " ( 0 , 0, 0.0,1e1, +10,10., 10,-0,0,0 ) ",
    ],
    ids=str,
)
async def test_a_polygon_may_be_text_or_an_array_and_comes_back_as_an_array(
    api: Api, polygon: object
) -> None:
    await api.publish("area", {"name": "a", "polygon": polygon})
    assert await api.found("area", {"polygon": polygon}) == [1]
    [event] = [each for each in await api.replay("area") if each.is_notification]
    assert event.data["data"]["identifier"]["polygon"] == SQUARE


async def test_a_cloud_keeps_order_and_repetition(api: Api) -> None:
    points = [[2, 1], [1, 2], [2, 1]]
    await api.publish("cloud", {"name": "a", "point_cloud": points})
    [event] = [each for each in await api.replay("cloud") if each.is_notification]
    assert event.data["data"]["identifier"]["point_cloud"] == points


BAD_POLYGONS: list[tuple[object, str]] = [
    ("", "no coordinates given"),
    ("()", "no coordinates given"),
    ("(0,0,0,1,1,1,0,0", "a parenthesis is missing"),
    ("0,0,0,1,1,1,0,0)", "a parenthesis is missing"),
    ("((0,0,0,1,1,1,0,0))", "parentheses must not be nested"),
    ("(0,0),(0,1),(1,1),(0,0)", "parentheses must not be nested"),
    ("0,0,0,1,1,1,0", "expected an even count of coordinates, got 7"),
    ("0,0,0,1,1,1,0,", "coordinate '' must be a number"),
    ("0,0,0,1,1,x,0,0", "coordinate 'x' must be a number"),
    ("0 0 0 1 1 1 0 0", "coordinate '0 0 0 1 1 1 0 0' must be a number"),
    ("0,0,0,nan,1,1,0,0", "coordinate 'nan' must be finite"),
    ("0,0,0,1,1,1", "a polygon needs at least 4 points, got 3"),
    ("0,0,0,0", "a polygon needs at least 4 points, got 2"),
    ("0,0,0,1,1,1,1,0", "the first and the last point must be the same"),
    ("0,0,91,1,1,1,0,0", "latitude 91.0 is outside [-90, 90]"),
    ("0,0,0,181,1,1,0,0", "longitude 181.0 is outside [-180, 180]"),
    ([], "a polygon needs at least 4 points, got 0"),
    ([[0, 0], [0, 1], [0, 0]], "a polygon needs at least 4 points, got 3"),
    ([[0, 0], [0, 1], [1, 1], [1, 0]], "the first and the last point must be the same"),
    ([[0, 0], [0, 1, 2], [1, 1], [0, 0]], "expected a two-element array [lat,lon]"),
    ([[0, 0], [0], [1, 1], [0, 0]], "expected a two-element array [lat,lon]"),
    ([[0, 0], "0,1", [1, 1], [0, 0]], "expected a two-element array [lat,lon]"),
    ([[0, 0], [0, "1"], [1, 1], [0, 0]], "longitude must be a number, got string"),
    ([[0, 0], [None, 1], [1, 1], [0, 0]], "latitude must be a number, got null"),
    ([[0, 0], [True, 1], [1, 1], [0, 0]], "latitude must be a number, got boolean"),
    ([[0, 0], [-90.1, 1], [1, 1], [0, 0]], "latitude -90.1 is outside [-90, 90]"),
    ([[0, 0], [0, 180.5], [1, 1], [0, 0]], "longitude 180.5 is outside [-180, 180]"),
    ({}, "got object"),
    ({"eq": "0,0,0,1,1,1,0,0"}, "got object"),
    (5, "got number"),
    (True, "got boolean"),
]


@pytest.mark.parametrize("operation", ["notification", "watch", "replay"])
@pytest.mark.parametrize(("polygon", "cause"), BAD_POLYGONS, ids=str)
async def test_a_bad_polygon_is_refused_with_its_cause(
    api: Api, operation: str, polygon: object, cause: str
) -> None:
    body: dict[str, object] = {
        "event_type": "area",
        "identifier": {"name": "a", "polygon": polygon},
    }
    if operation == "replay":
        body["from_id"] = "1"
    response = await api.post(PATHS[operation], body)
    found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
    assert found["message"].startswith("field 'polygon' must be a valid polygon: ")
    assert cause in found["message"]
    assert found["details"] in found["message"]


@pytest.mark.parametrize("operation", ["notification", "watch", "replay"])
async def test_a_number_that_is_not_finite_is_no_coordinate(api: Api, operation: str) -> None:
    start = "" if operation != "replay" else '"from_id":"1",'
    content = (
        f'{{"event_type":"area",{start}"identifier":{{"name":"a",'
        '"polygon":[[0,0],[1e999,1],[1,1],[0,0]]}}'
    )
    response = await api.post(PATHS[operation], content=content)
    assert response.status_code == 400
    assert response.json()["code"] in ("INVALID_JSON", f"INVALID_{operation.upper()}_REQUEST")


@readings
@pytest.mark.parametrize(
    "point",
    [
        *("", "5", "5,", ",5", "5,5,5", "5;5", "a,b", "(5,5", "5,5)", "((5,5))", "91,0", "0,181"),
        *("nan,0", "inf,0", "5 5", [], [5], [5, 5, 5], ["5", "5"], [91, 0], [None, 5], [[5, 5]]),
        *(None, 5, True, {}, {"eq": "5,5"}),
    ],
    ids=str,
)
async def test_a_bad_point_is_refused(api: Api, operation: str, point: object) -> None:
    response = await api.post(PATHS[operation], ask("area", {"point": point}, from_id="1"))
    found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
    beginning = "identifier.point must be a valid 'lat,lon' coordinate pair: "
    assert found["message"].startswith(beginning)


BAD_CLOUDS: list[tuple[object, str]] = [
    ("0,0", "must be a JSON array of [lat,lon] points"),
    ({}, "must be a JSON array of [lat,lon] points"),
    (5, "must be a JSON array of [lat,lon] points"),
    ([], "point cloud must contain at least one point"),
    ([[0, 0]] * 5, "point cloud contains 5 points, maximum is 4"),
    ([["x"]] * 5, "point cloud contains 5 points, maximum is 4"),
    ([[0, 0], [0]], "point 1 is invalid: expected a two-element array [lat,lon], got 1 elements"),
    ([5], "point 0 is invalid: expected a two-element array [lat,lon], got number"),
    ([["0", 0]], "point 0 is invalid: latitude must be a number, got string"),
    ([[0, None]], "point 0 is invalid: longitude must be a number, got null"),
    ([[0, 0], [90.5, 0]], "point 1 is invalid: latitude 90.5 is outside [-90, 90]"),
    ([[0, -180.5]], "point 0 is invalid: longitude -180.5 is outside [-180, 180]"),
]


@pytest.mark.parametrize(("cloud", "sentence"), BAD_CLOUDS, ids=str)
async def test_a_bad_cloud_is_refused_with_its_sentence(
    api: Api, cloud: object, sentence: str
) -> None:
    body = {"event_type": "cloud", "identifier": {"name": "a", "point_cloud": cloud}}
    found = assert_error(await api.post(NOTIFICATION, body), 400, "INVALID_NOTIFICATION_REQUEST")
    assert found["message"] == f"field 'point_cloud' {sentence}"


async def test_a_cloud_has_a_default_limit_of_points_and_one_of_bytes(api: Api) -> None:
    many = await api.post(
        NOTIFICATION, {"event_type": "swarm", "identifier": {"point_cloud": [[0, 0]] * 10_001}}
    )
    found = assert_error(many, 400, "INVALID_NOTIFICATION_REQUEST")
    assert found["message"] == (
        "field 'point_cloud' point cloud contains 10001 points, maximum is 10000"
    )
    wide = [[12.3456789, 123.456789]] * 3000
    size = len(json.dumps(wide, separators=(",", ":")))
    large = await api.post(
        NOTIFICATION, {"event_type": "swarm", "identifier": {"point_cloud": wide}}
    )
    found = assert_error(large, 400, "INVALID_NOTIFICATION_REQUEST")
    assert found["message"] == (
        f"field 'point_cloud' point cloud canonical JSON is {size} bytes, maximum is 61440 bytes"
    )
    assert await api.publish("swarm", {"point_cloud": [[1.5, 2]] * 6000}) == 1


# -- rules


@readings
async def test_a_polygon_and_a_point_exclude_each_other(api: Api, operation: str) -> None:
    both = {"polygon": SQUARE, "point": "5,5"}
    for event_type in ("area", "cloud", "note"):
        response = await api.post(PATHS[operation], ask(event_type, both, from_id="1"))
        found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
        assert found["message"] == (
            "Cannot specify both identifier.polygon and identifier.point. "
            "Provide only one spatial filter."
        )


@readings
async def test_a_required_shape_must_be_asked_for(api: Api, operation: str) -> None:
    for event_type, field in (("zone", "polygon"), ("swarm", "point_cloud")):
        response = await api.post(PATHS[operation], ask(event_type, {}, from_id="1"))
        found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
        assert found["message"] == f"Required field '{field}' missing for {operation} operation"


@readings
@pytest.mark.parametrize("event_type", ["cloud", "swarm"])
async def test_a_cloud_is_asked_for_by_polygon_only(
    api: Api, operation: str, event_type: str
) -> None:
    refusals = {
        "point_cloud": ([[5, 5]], "identifier.point_cloud is only supported for notify"),
        "point": ("5,5", "identifier.point is not supported for point-cloud schemas"),
    }
    for name, (value, beginning) in refusals.items():
        asked = {name: value}
        response = await api.post(PATHS[operation], ask(event_type, asked, from_id="1"))
        found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
        assert found["message"].startswith(beginning)


@readings
async def test_a_polygon_needs_a_schema_that_has_one(api: Api, operation: str) -> None:
    response = await api.post(PATHS[operation], ask("note", {"polygon": SQUARE}, from_id="1"))
    found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
    assert found["message"] == f"Unknown field 'polygon' provided for {operation} operation"


async def test_a_shape_is_asked_for_by_get_too(api: Api) -> None:
    await api.publish("area", {"name": "a", "polygon": SQUARE})
    await api.publish("area", {"name": "a", "polygon": box(50, 50, 60, 60)})
    for name, value in (("polygon", "(5,5,5,6,6,6,5,5)"), ("point", "5,5")):
        params = {"event_type": "area", "from_id": "1", f"identifier.{name}": value}
        for path in (REPLAY, WATCH):
            async with api.stream(path, params=params) as stream:
                await stream.until("replay_completed")
            assert [each.sequence for each in stream.seen if each.is_notification] == [1]


@pytest.mark.parametrize(
    "polygon",
    [
        [[0, 0], [10, 10], [0, 10], [10, 0], [0, 0]],  # crosses itself
        [[5, 5], [5, 5], [5, 5], [5, 5]],  # a point
        [[0, 0], [5, 5], [10, 10], [0, 0]],  # a line
        [[-90, -180], [-90, 180], [90, 180], [90, -180], [-90, -180]],  # everywhere
        [[0, 0], [0, 10], [10, 10], [10, 0], [0, 0], [0, 10], [0, 0]],  # a spike
    ],
    ids=str,
)
async def test_odd_rings_are_stored_asked_for_and_break_nothing(
    api: Api, polygon: list[list[float]]
) -> None:
    await api.publish("area", {"name": "odd", "polygon": polygon})
    await api.publish("area", {"name": "square", "polygon": SQUARE})
    await api.publish("cloud", {"name": "a", "point_cloud": [[5, 5]]})
    for asked in ({"polygon": polygon}, {"polygon": SQUARE}, {"point": "5,5"}):
        assert set(await api.found("area", asked)) <= {1, 2}
    assert 2 in await api.found("area", {"polygon": polygon})
    assert await api.found("cloud", {"polygon": polygon}) in ([], [1])
