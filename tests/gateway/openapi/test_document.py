"""The API document: valid, whole, and true to what the gateway takes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema_rs import Draft202012Validator, meta
from schemathesis.specs.openapi.definitions import OPENAPI_31

from gateway.openapi.document import build_document
from gateway.schema.catalog import Catalog
from gateway.schema.errors import Rejected
from gateway.schema.query import Operation, parse, publication, query

SCHEMA = {
    "storm": {
        "payload": {"required": True},
        "topic": {"base": "weather", "key_order": ["region", "run", "severity", "anomaly", "day"]},
        "identifier": {
            "region": {"type": "EnumHandler", "required": True, "values": ["north", "south"]},
            "run": {"type": "TimeHandler", "required": True, "description": "Of the model."},
            "severity": {"type": "IntHandler", "required": False, "range": [1, 7]},
            "anomaly": {"type": "FloatHandler", "required": False, "range": [-40.5, 40]},
            "day": {"type": "DateHandler", "required": False},
            "polygon": {"type": "PolygonHandler", "required": False},
        },
    },
    "flood": {
        "identifier": {
            "version": {"type": "ExpverHandler", "required": False},
            "level": {"type": "FloatHandler", "required": False},
            "count": {"type": "IntHandler", "required": False},
            "river": {"type": "StringHandler", "required": True, "max_length": 9},
            "polygon": {"type": "PolygonHandler", "required": True},
        },
    },
    "clouds": {
        "identifier": {
            "name": {"type": "StringHandler", "required": False},
            "point_cloud": {"type": "PointCloudHandler", "required": True, "max_points": 9},
        },
    },
    "maybe_clouds": {
        "identifier": {"point_cloud": {"type": "PointCloudHandler", "required": False}},
    },
    "plain": {"identifier": {}},
}
CATALOGS = {
    "strict": Catalog.parse(SCHEMA, None),
    "permissive": Catalog.parse(SCHEMA, False),
    "without a schema": Catalog.parse(None, None),
}
OPERATIONS: list[tuple[str, Operation]] = [
    ("/api/v1/notification", "notification"),
    ("/api/v1/watch", "watch"),
    ("/api/v1/replay", "replay"),
]
# Rules of the gateway that no JSON Schema can say (an integer may there be written 5.0).
BEYOND_JSON_SCHEMA = (
    "the first and the last point",
    "must be a valid integer",
    "expects integer value",
    "expects array of integers",
    "expects min <= max",
    "must not be lower than from_id",
    "must not be earlier than from_date",
    "years 1 to 9999",
    "must be a valid date",
)


def walk(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def build(catalog: str = "strict", **options: Any) -> dict[str, Any]:
    document = build_document(CATALOGS[catalog], version="1.2.3", **options)
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]


def take(body: bytes, operation: Operation, catalog: Catalog) -> None:
    request = parse(body, operation, catalog)
    if operation == "notification":
        publication(request, catalog)
    else:
        query(request, operation, catalog)


@pytest.mark.parametrize("catalog", CATALOGS)
@pytest.mark.parametrize("auth_mode", [None, "direct", "trusted_proxy"])
def test_the_document_is_valid_openapi(catalog: str, auth_mode: str | None) -> None:
    validator = Draft202012Validator(OPENAPI_31)
    errors = [error.message for error in validator.iter_errors(build(catalog, auth_mode=auth_mode))]
    assert errors == []


@pytest.mark.parametrize("catalog", CATALOGS)
def test_every_schema_in_it_is_a_valid_schema(catalog: str) -> None:
    for node in walk(build(catalog)):
        if "schema" in node and "$ref" not in node["schema"]:
            assert meta.is_valid(node["schema"]), node["schema"]


def test_every_reference_leads_somewhere() -> None:
    document = build(auth_mode="direct", metrics=True)
    references = [node["$ref"] for node in walk(document) if "$ref" in node]
    assert references
    for reference in references:
        at = document
        for key in reference.removeprefix("#/").split("/"):
            at = at[key]


def test_every_route_is_described() -> None:
    found = {(path, method) for path, method, _ in operations(build(metrics=True))}
    assert found == {
        ("/api/v1/notification", "post"),
        ("/api/v1/notifications", "post"),
        ("/api/v1/watch", "post"),
        ("/api/v1/watch", "get"),
        ("/api/v1/replay", "post"),
        ("/api/v1/replay", "get"),
        ("/v1/state", "get"),
        ("/v1/changes", "get"),
        ("/v1/replay/init", "post"),
        *((f"/v1/replay/{{id}}/{verb}", "put") for verb in ("start", "stop", "seek", "end")),
        ("/v1/replay/{id}/stream", "get"),
        ("/v1/replay/reset", "post"),
        ("/v1/replay/current-session", "get"),
        ("/v1/replay/sessions", "get"),
        ("/v1/configuration", "get"),
        ("/v1/configuration/snapshot-interval", "put"),
        ("/v1/configuration/snapshot-list-tables", "put"),
        ("/api/v1/schema", "get"),
        ("/api/v1/schema/{event_type}", "get"),
        ("/api/v1/admin/wipe/stream", "delete"),
        ("/api/v1/admin/wipe/all", "delete"),
        ("/api/v1/admin/notification/{notification_id}", "delete"),
        ("/health", "get"),
        ("/ready", "get"),
        ("/", "get"),
        ("/metrics", "get"),
    }
    assert "/metrics" not in build()["paths"]
    assert "/numbers" in build(metrics=True, metrics_path="/numbers")["paths"]


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations(build(metrics=True))]
    assert len(names) == len(set(names))


def test_every_answer_carries_the_request_id() -> None:
    for _, _, operation in operations(build(auth_mode="direct", metrics=True)):
        for answer in operation["responses"].values():
            assert "X-Request-ID" in answer["headers"]


def test_credentials_are_described_only_when_they_are_asked_for() -> None:
    for path, _, operation in operations(build()):
        assert "security" not in operation
        assert "401" not in operation["responses"]
        # A session that is another tenant's is refused to everybody.
        assert ("403" in operation["responses"]) == (path == "/v1/replay/{id}/end")


@pytest.mark.parametrize(
    ("auth_mode", "schemes", "codes"),
    [
        ("trusted_proxy", [{"bearer": []}], ["BACKEND_UNAVAILABLE"]),
        ("direct", [{"bearer": []}, {"basic": []}], ["BACKEND_UNAVAILABLE", "SERVICE_UNAVAILABLE"]),
    ],
)
def test_administration_needs_credentials_and_streams_may_do_without(
    auth_mode: str, schemes: list[object], codes: list[str]
) -> None:
    paths = build(auth_mode=auth_mode)["paths"]
    wipe = paths["/api/v1/admin/wipe/all"]["delete"]
    assert wipe["security"] == schemes
    assert {"401", "403"} <= set(wipe["responses"])
    assert paths["/api/v1/watch"]["post"]["security"] == [{}, *schemes]
    assert "security" not in paths["/api/v1/schema"]["get"]
    unavailable = wipe["responses"]["503"]["content"]["application/json"]["schema"]["allOf"][1]
    assert unavailable["properties"]["code"]["enum"] == codes


@pytest.mark.parametrize("catalog", CATALOGS)
@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_every_example_is_taken(catalog: str, path: str, operation: Operation) -> None:
    document = build(catalog)
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for example in content["examples"].values():
        take(json.dumps(example["value"]).encode(), operation, CATALOGS[catalog])
        assert Draft202012Validator(content["schema"]).is_valid(example["value"])


def test_every_event_type_has_an_example() -> None:
    path = build("permissive")["paths"]["/api/v1/notifications"]["post"]
    examples = path["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {*SCHEMA, "greeting"}


@pytest.mark.parametrize("catalog", CATALOGS)
@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_bodies_made_from_it_are_taken_but_for_rules_no_schema_can_say(
    catalog: str, path: str, operation: Operation
) -> None:
    schema = schemathesis.openapi.from_dict(build(catalog))
    refused: list[str] = []

    @given(case=schema[path]["POST"].as_strategy())
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        try:
            take(json.dumps(case.body).encode(), operation, CATALOGS[catalog])
        except Rejected as rejected:
            if not any(rule in rejected.message for rule in BEYOND_JSON_SCHEMA):
                refused.append(f"{rejected.message}: {json.dumps(case.body)}")

    check()
    assert refused == []


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("notification", {"event_type": "storm", "identifier": {}, "payload": 1}),
        ("notification", {"event_type": "plain", "identifier": {}, "more": 1}),
        ("notification", {"event_type": "plain", "identifier": {"x": "1"}}),
        ("notification", {"event_type": "other", "identifier": {}}),
        ("watch", {"event_type": "storm", "identifier": {}}),
        ("watch", {"event_type": "flood", "identifier": {"river": "Rhine"}}),
        ("watch", {"event_type": "clouds", "identifier": {}}),
        ("watch", {"event_type": "plain", "identifier": {}, "to_id": "5"}),
        ("watch", {"event_type": "plain", "identifier": {}, "from_id": "5", "from_date": "5"}),
        ("replay", {"event_type": "plain", "identifier": {}}),
        ("replay", {"event_type": "plain", "identifier": {}, "from_id": 5}),
        (
            "replay",
            {
                "event_type": "storm",
                "identifier": {"region": {"gt": "north"}, "run": "12"},
                "from_id": "1",
            },
        ),
    ],
)
def test_what_it_calls_wrong_is_refused(operation: Operation, body: dict[str, object]) -> None:
    path = {name: path for path, name in OPERATIONS}[operation]
    content = build()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert not Draft202012Validator(content["schema"]).is_valid(body)
    with pytest.raises(Rejected):
        take(json.dumps(body).encode(), operation, CATALOGS["strict"])


def test_get_parameters_name_every_field_and_its_constraints() -> None:
    parameters = build()["paths"]["/api/v1/replay"]["get"]["parameters"]
    names = {parameter["name"] for parameter in parameters if "name" in parameter}
    assert {
        *("event_type", "from_id", "from_date", "to_id", "to_date"),
        *("identifier.region", "identifier.region.eq", "identifier.region.in"),
        *("identifier.severity", "identifier.severity.between", "identifier.polygon"),
        *("identifier.point", "identifier.run"),
    } <= names
    assert not {"identifier.run.eq", "identifier.point_cloud", "identifier.region.gt"} & names
