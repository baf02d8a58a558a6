"""Aviso wire contract §10 and §4: what the gateway tells of its schemas."""

from typing import Any

import pytest

from tests.conftest import Start
from tests.contract.api import Api
from tests.contract.schemas import SCHEMAS

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_catalogue_lists_every_event_type(api: Api) -> None:
    answer = (await api.send("GET", "/api/v1/schema")).json()
    assert set(answer) == {"status", "schema", "event_types", "total_schemas"}
    assert answer["status"] == "success"
    assert sorted(answer["event_types"]) == sorted(SCHEMAS)
    assert answer["total_schemas"] == len(SCHEMAS)
    assert set(answer["schema"]) == set(SCHEMAS)
    for shown in answer["schema"].values():
        assert set(shown) == {"payload", "identifier"}


async def test_one_schema_shows_payload_and_identifier_only(api: Api) -> None:
    response = await api.send("GET", "/api/v1/schema/storm")
    answer = response.json()
    assert set(answer) == {"status", "event_type", "schema"}
    assert (answer["status"], answer["event_type"]) == ("success", "storm")
    assert set(answer["schema"]) == {"payload", "identifier"}
    assert answer["schema"]["payload"] == {"required": False}
    catalogue = (await api.send("GET", "/api/v1/schema")).json()
    assert catalogue["schema"]["storm"] == answer["schema"]


@pytest.mark.parametrize(
    ("event_type", "field", "expected"),
    [
        ("storm", "name", {"type": "StringHandler", "required": False, "max_length": 9}),
        ("note", "author", {"type": "StringHandler", "required": False, "max_length": None}),
        ("order", "shop", {"type": "StringHandler", "required": True, "max_length": None}),
        (
            "storm",
            "day",
            {"type": "DateHandler", "required": False, "canonical_format": "%Y%m%d"},
        ),
        (
            "storm",
            "run",
            {"type": "TimeHandler", "required": False, "description": "Of the model."},
        ),
        (
            "storm",
            "region",
            {"type": "EnumHandler", "required": False, "values": ["north", "South"]},
        ),
        ("storm", "expver", {"type": "ExpverHandler", "required": False, "default": "1"}),
        ("order", "version", {"type": "ExpverHandler", "required": False, "default": None}),
        ("storm", "severity", {"type": "IntHandler", "required": False, "range": [1, 7]}),
        ("storm", "step", {"type": "IntHandler", "required": False, "range": None}),
        ("storm", "anomaly", {"type": "FloatHandler", "required": False, "range": [-40.5, 100]}),
        ("storm", "level", {"type": "FloatHandler", "required": False, "range": None}),
        ("area", "polygon", {"type": "PolygonHandler", "required": False}),
        ("cloud", "point_cloud", {"type": "PointCloudHandler", "required": False, "max_points": 4}),
    ],
)
async def test_a_field_shows_its_options_unset_ones_as_null(
    api: Api, event_type: str, field: str, expected: dict[str, Any]
) -> None:
    answer = (await api.send("GET", f"/api/v1/schema/{event_type}")).json()
    assert answer["schema"]["identifier"][field] == expected


async def test_a_schema_without_payload_block_shows_null(api: Api) -> None:
    shown = (await api.send("GET", "/api/v1/schema/note")).json()["schema"]
    assert shown["payload"] is None
    shown = (await api.send("GET", "/api/v1/schema/order")).json()["schema"]
    assert shown["payload"] == {"required": True}


@pytest.mark.parametrize("name", ["tempest", "Storm", "weather", "a/b", "%20", "%2e%2e", "ä"])
async def test_an_unknown_schema_is_told_with_those_there_are(api: Api, name: str) -> None:
    response = await api.send("GET", f"/api/v1/schema/{name}")
    answer = response.json()
    assert response.status_code == 404
    assert set(answer) == {"status", "message", "available_types", "request_id"}
    assert answer["status"] == "error"
    decoded = {"%20": " ", "%2e%2e": ".."}.get(name, name)
    assert answer["message"] == f"Event type '{decoded}' not found"
    assert sorted(answer["available_types"]) == sorted(SCHEMAS)
    assert answer["request_id"] == response.headers["x-request-id"]


async def test_without_any_schema_both_routes_say_so(start_gateway: Start) -> None:
    async with start_gateway(notification_schema=None) as gateway:
        catalogue = await gateway.client.get("/api/v1/schema")
        one = await gateway.client.get("/api/v1/schema/note")
    assert catalogue.status_code == 200
    assert catalogue.json() == {
        "status": "success",
        "message": "No notification schema configured",
        "schema": {},
        "event_types": [],
        "total_schemas": 0,
    }
    assert one.status_code == 404
    assert one.json() == {
        "status": "error",
        "message": "No notification schema configured",
        "request_id": one.headers["x-request-id"],
    }
