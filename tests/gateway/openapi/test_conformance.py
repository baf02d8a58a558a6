"""A real gateway asked by schemathesis, with what its document allows and with what it forbids."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import example_configuration, merge
from tests.servers import GatewayProcess, Valkey, running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    ("POST", "/api/v1/notification"),
    ("POST", "/api/v1/notifications"),
    ("POST", "/api/v1/watch"),
    ("GET", "/api/v1/watch"),
    ("POST", "/api/v1/replay"),
    ("GET", "/api/v1/replay"),
    ("GET", "/api/v1/schema"),
    ("GET", "/api/v1/schema/{event_type}"),
    ("DELETE", "/api/v1/admin/wipe/stream"),
    ("DELETE", "/api/v1/admin/wipe/all"),
    ("DELETE", "/api/v1/admin/notification/{notification_id}"),
    ("POST", "/v1/replay/init"),
    ("PUT", "/v1/replay/{id}/start"),
    ("PUT", "/v1/replay/{id}/stop"),
    ("PUT", "/v1/replay/{id}/seek"),
    ("PUT", "/v1/replay/{id}/end"),
    ("GET", "/v1/replay/{id}/stream"),
    ("POST", "/v1/replay/reset"),
    ("GET", "/v1/replay/current-session"),
    ("GET", "/v1/replay/sessions"),
    ("GET", "/v1/state"),
    ("GET", "/v1/changes"),
    ("GET", "/v1/configuration"),
    ("PUT", "/v1/configuration/snapshot-interval"),
    ("PUT", "/v1/configuration/snapshot-list-tables"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/"),
]


@pytest.fixture(scope="module", params=["strict", "permissive"])
def schema(
    request: pytest.FixtureRequest, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    configuration = example_configuration()
    merge(
        configuration,
        {
            "store": {"url": valkey.url},
            "notification_schema_strict": request.param == "strict",
            # A watch that nobody reads to its end is closed by the gateway.
            "watch_endpoint": {"connection_max_duration_sec": 0.05},
            "logging": {"format": "json"},
        },
    )
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), configuration)
    with running(process):
        yield schemathesis.openapi.from_url(f"{process.url}/api-docs/openapi.json")
        assert not [line for line in process.log_lines() if line["level"] in {"error", "critical"}]


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (method, path, mode)
        for method, path in OPERATIONS
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        # The others take nothing that could be wrong.
        if mode is GenerationMode.POSITIVE or path.startswith(("/api/", "/v1/"))
    ],
)
def test_every_answer_is_as_the_document_says(
    schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    strategy = schema[path][method].as_strategy(generation_mode=mode)

    @given(case=strategy)
    @settings(
        # A watch stays open until the gateway looks, about once a second, for those to close.
        max_examples=6 if path.endswith("watch") else 25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    check()
