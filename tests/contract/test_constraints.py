"""Aviso wire contract §7: constraints on watch and replay, by POST and by GET."""

import json
from collections.abc import Mapping

import pytest

from tests.contract.api import PATHS, REPLAY, WATCH, Api, ask, assert_error
from tests.contract.schemas import STORM

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Four storms; their severity, anomaly and region are their place in these rows.
SEVERITIES = [1, 3, 5, 7]
ANOMALIES = [-40.5, 0, 0.1, 100]
REGIONS = ["north", "South", "north", "South"]

CASES: list[tuple[str, Mapping[str, object], list[int]]] = [
    ("severity", {"eq": 3}, [2]),
    ("severity", {"eq": 2}, []),
    ("severity", {"in": [7, 1, 1, 2]}, [1, 4]),
    ("severity", {"in": [5]}, [3]),
    ("severity", {"gt": 3}, [3, 4]),
    ("severity", {"gte": 3}, [2, 3, 4]),
    ("severity", {"lt": 3}, [1]),
    ("severity", {"lte": 3}, [1, 2]),
    ("severity", {"between": [3, 5]}, [2, 3]),
    ("severity", {"between": [5, 5]}, [3]),
    ("severity", {"gt": 7}, []),
    ("severity", {"lt": 1}, []),
    ("anomaly", {"eq": 0.1}, [3]),
    ("anomaly", {"eq": 0}, [2]),
    ("anomaly", {"eq": -0.0}, [2]),
    ("anomaly", {"eq": 1e2}, [4]),
    ("anomaly", {"in": [100, -40.5]}, [1, 4]),
    ("anomaly", {"gt": 0}, [3, 4]),
    ("anomaly", {"gte": 0.1}, [3, 4]),
    ("anomaly", {"gt": 0.1}, [4]),
    ("anomaly", {"gt": 0.09999999999999999}, [3, 4]),
    ("anomaly", {"lt": 0.1}, [1, 2]),
    ("anomaly", {"lte": -40.5}, [1]),
    ("anomaly", {"between": [-40.5, 0.1]}, [1, 2, 3]),
    ("anomaly", {"between": [0, 0]}, [2]),
    ("region", {"eq": "NORTH"}, [1, 3]),
    ("region", {"eq": "south"}, [2, 4]),
    ("region", {"in": ["South", "North"]}, [1, 2, 3, 4]),
    ("region", {"in": ["SOUTH"]}, [2, 4]),
]


async def publish_four(api: Api) -> None:
    for severity, anomaly, region in zip(SEVERITIES, ANOMALIES, REGIONS, strict=True):
        await api.publish(
            "storm", {**STORM, "severity": severity, "anomaly": anomaly, "region": region}
        )


@pytest.mark.parametrize(("name", "constraint", "expected"), CASES, ids=str)
async def test_each_operator_selects_by_replay_watch_and_get(
    api: Api, name: str, constraint: Mapping[str, object], expected: list[int]
) -> None:
    async with api.watch("storm", {name: constraint}) as live:
        await live.next()
        await publish_four(api)
        # One more that is certain to match or not, as what ends the wait.
        assert await api.found("storm", {name: constraint}) == expected
        got = [each.sequence for each in await live.notifications(len(expected))]
        assert got == expected
    [(operator, operand)] = constraint.items()
    parts = operand if isinstance(operand, list) else [operand]
    parameter = ",".join(str(part) for part in parts)
    params = {"event_type": "storm", f"identifier.{name}.{operator}": parameter, "from_id": "1"}
    async with api.stream(REPLAY, params=params) as stream:
        frames = await stream.rest()
    assert [each.sequence for each in frames if each.is_notification] == expected


REFUSED: list[tuple[str, str, str]] = [
    ("severity", "{}", "constraint must contain exactly one operator"),
    ("severity", '{"gt":1,"lt":3}', "constraint must contain exactly one operator"),
    ("region", "{}", "constraint must contain exactly one operator"),
    (
        "severity",
        '{"ne":1}',
        "constraint has invalid operator 'ne'. Allowed: eq, in, gt, gte, lt, lte, between",
    ),
    ("severity", '{"GT":1}', "constraint has invalid operator 'GT'. Allowed: eq, in, gt"),
    ("region", '{"gt":"north"}', "constraint has invalid operator 'gt'. Allowed: eq, in"),
    (
        "region",
        '{"between":["a","b"]}',
        "constraint has invalid operator 'between'. Allowed: eq, in",
    ),
    *(
        (
            "severity",
            f'{{"{operator}":{operand}}}',
            f"constraint operator '{operator}' expects integer value",
        )
        for operator in ("eq", "gt", "gte", "lt", "lte")
        for operand in ('"4"', "4.0", "true", "null", "[4]", "{}", "1e0", "99999999999999999999")
    ),
    *(
        (
            "anomaly",
            f'{{"{operator}":{operand}}}',
            f"constraint operator '{operator}' expects numeric value",
        )
        for operator in ("eq", "gt", "gte", "lt", "lte")
        for operand in ('"4"', "true", "null", "[4]", "{}", "1e999")
    ),
    ("region", '{"eq":4}', "constraint operator 'eq' expects string value"),
    ("region", '{"eq":["north"]}', "constraint operator 'eq' expects string value"),
    ("region", '{"in":"north"}', "constraint operator 'in' expects array of strings"),
    ("region", '{"in":["north",1]}', "constraint operator 'in' expects"),
    ("region", '{"in":[]}', "constraint operator 'in' must contain at least one value"),
    ("region", '{"eq":"west"}', "has invalid value 'west'. Allowed: [north, South]"),
    ("region", '{"in":["north","west"]}', "has invalid value 'west'. Allowed: [north, South]"),
    ("severity", '{"in":4}', "constraint operator 'in' expects array of integers"),
    ("severity", '{"in":[4,"5"]}', "constraint operator 'in' expects array of integers"),
    ("severity", '{"in":[]}', "constraint operator 'in' must contain at least one value"),
    ("anomaly", '{"in":[]}', "constraint operator 'in' must contain at least one value"),
    ("severity", '{"between":4}', "constraint operator 'between' expects [min,max]"),
    *(
        (
            "severity",
            f'{{"between":{operand}}}',
            "constraint operator 'between' expects exactly two values [min,max]",
        )
        for operand in ("[]", "[1]", "[1,2,3]")
    ),
    ("severity", '{"between":[5,3]}', "constraint operator 'between' expects min <= max"),
    ("anomaly", '{"between":[1,0.5]}', "constraint operator 'between' expects min <= max"),
    ("severity", '{"between":["1","2"]}', "constraint operator 'between' expects integer value"),
    *(
        (
            "severity",
            f'{{"{operator}":{operand}}}',
            "constraint value 8 is outside allowed range [1, 7]",
        )
        for operator, operand in (
            *(("eq", "8"), ("gt", "8"), ("lte", "8"), ("in", "[1,8]"), ("between", "[1,8]")),
        )
    ),
    ("anomaly", '{"gt":-41}', "constraint value -41 is outside allowed range [-40.5, 100]"),
]
UNSUPPORTED = ["run", "day", "iso_day", "expver", "name"]


@pytest.mark.parametrize("operation", ["watch", "replay"])
@pytest.mark.parametrize(("name", "constraint", "sentence"), REFUSED, ids=str)
async def test_a_bad_constraint_is_refused_with_its_sentence(
    api: Api, operation: str, name: str, constraint: str, sentence: str
) -> None:
    content = f'{{"event_type":"storm","from_id":"1","identifier":{{"{name}":{constraint}}}}}'
    response = await api.post(PATHS[operation], content=content)
    found = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST")
    assert found["message"].startswith(f"Field '{name}' {sentence}"), found["message"]


@pytest.mark.parametrize("operation", ["watch", "replay"])
@pytest.mark.parametrize("constraint", [{"eq": "1"}, {}, {"in": ["1"]}], ids=json.dumps)
@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_other_handlers_support_no_constraints(
    api: Api, operation: str, name: str, constraint: dict[str, object]
) -> None:
    response = await api.post(PATHS[operation], ask("storm", {name: constraint}, from_id="1"))
    assert response.status_code == 400
    assert response.json()["message"] == (
        f"Field '{name}' does not support constraint filters; expected scalar value"
    )


@pytest.mark.parametrize("path", [WATCH, REPLAY])
async def test_a_constraint_needs_a_schema(api: Api, path: str) -> None:
    response = await api.post(path, ask("no_schema", {"level": {"gt": 1}}, from_id="1"))
    assert response.status_code == 400
    assert response.json()["message"] == (
        "Field 'level' constraint object is not supported without schema"
    )


@pytest.mark.parametrize("path", [WATCH, REPLAY])
@pytest.mark.parametrize("event_type", ["note", "area"])
async def test_a_point_is_no_constraint(api: Api, path: str, event_type: str) -> None:
    response = await api.post(path, ask(event_type, {"point": {"eq": "1,2"}}, from_id="1"))
    assert response.status_code == 400
    assert response.json()["message"].startswith("identifier.point must be a valid 'lat,lon'")
