"""Aviso wire contract §11.2 under the prefix ``playhead_``, read back as Prometheus reads it."""

from asyncio import CancelledError
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import CONTENT_TYPE, Metrics
from store.errors import StoreUnavailable

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(metrics: Metrics) -> Series:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return scrape(metrics).get((f"playhead_{name}", frozenset(labels.items())))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3", ["mars", "dissemination"])


def test_the_version_is_a_label(metrics: Metrics) -> None:
    assert value(metrics, "build_info", version="1.2.3") == 1
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_the_process_shows_itself(metrics: Metrics) -> None:
    names = {name for name, _ in scrape(metrics)}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= (
        names
    )


def test_two_gateways_in_one_process_do_not_mix(metrics: Metrics) -> None:
    other = Metrics("1.2.3", ["mars"])
    other.notifications("mars", "success").inc()
    assert value(other, "notifications_total", event_type="mars", status="success") == 1
    assert value(metrics, "notifications_total", event_type="mars", status="success") == 0


def test_alerts_find_their_series_before_the_first_event(metrics: Metrics) -> None:
    found = scrape(metrics)

    def labels_of(name: str) -> set[frozenset[tuple[str, str]]]:
        return {labels for found_name, labels in found if found_name == f"playhead_{name}"}

    assert labels_of("notifications_total") == {
        frozenset({("event_type", event_type), ("status", status)})
        for event_type, status in [
            ("mars", "success"),
            ("mars", "error"),
            ("dissemination", "success"),
            ("dissemination", "error"),
            ("unknown", "error"),
            ("unknown", "rejected"),
        ]
    }
    assert labels_of("auth_requests_total") == {
        frozenset({("mode", mode), ("outcome", outcome)})
        for mode in ("direct", "trusted_proxy")
        for outcome in ("success", "unauthorized", "forbidden", "service_unavailable")
    }
    operations = ("publish", "get_batch", "wipe_stream", "wipe_all", "delete_message")
    calls = {
        frozenset({("backend", "redis"), ("operation", operation), ("outcome", outcome)})
        for operation in operations
        for outcome in ("ok", "error")
    }
    assert labels_of("backend_operations_total") == calls
    assert labels_of("backend_operation_duration_seconds_count") == calls
    assert all(found["playhead_backend_operations_total", labels] == 0 for labels in calls)


def test_no_series_tells_only_when_another_was_made(metrics: Metrics) -> None:
    assert not [name for name, _ in scrape(metrics) if name.endswith("_created")]


def test_a_request_is_in_flight_until_its_headers_are_ready(metrics: Metrics) -> None:
    metrics.request_started("POST")
    assert value(metrics, "http_requests_in_flight", method="POST") == 1
    metrics.request_finished("/api/v1/watch", "POST", 200, 0.25)
    assert value(metrics, "http_requests_in_flight", method="POST") == 0
    labels = {"route": "/api/v1/watch", "method": "POST"}
    assert value(metrics, "http_requests_total", **labels, status_code="200") == 1
    assert value(metrics, "http_request_duration_seconds_sum", **labels) == 0.25


def test_made_up_methods_share_one_label(metrics: Metrics) -> None:
    for method in ("BREW", "get", "PROPFIND"):
        metrics.request_started(method)
        metrics.request_finished("unmatched", method, 405, 0)
    labels = {"route": "unmatched", "method": "other", "status_code": "405"}
    assert value(metrics, "http_requests_total", **labels) == 3
    assert value(metrics, "http_requests_in_flight", method="other") == 0


def test_made_up_event_types_share_one_label(metrics: Metrics) -> None:
    before = len(scrape(metrics))
    for number in range(1000):
        metrics.notifications(f"type {number}", "success").inc()
        metrics.events_sent("/api/v1/watch", f"type {number}").inc(2)
    assert value(metrics, "notifications_total", event_type="generic", status="success") == 1000
    labels = {"route": "/api/v1/watch", "event_type": "generic"}
    assert value(metrics, "sse_events_sent_total", **labels) == 2000
    assert len(scrape(metrics)) == before + 2


def test_what_could_not_be_parsed_is_unknown(metrics: Metrics) -> None:
    metrics.notifications(None, "rejected").inc()
    assert value(metrics, "notifications_total", event_type="unknown", status="rejected") == 1


def test_a_stream_is_counted_from_opening_to_closing(metrics: Metrics) -> None:
    labels = {"route": "/api/v1/watch", "event_type": "mars"}
    metrics.stream_opened("/api/v1/watch", "mars", None)
    assert value(metrics, "sse_connections_active", **labels) == 1
    metrics.stream_errors("/api/v1/watch", "mars").inc()
    metrics.stream_closed("/api/v1/watch", "mars", None, 20)
    assert value(metrics, "sse_connections_active", **labels) == 0
    assert value(metrics, "sse_connections_total", **labels) == 1
    assert value(metrics, "sse_stream_errors_total", **labels) == 1
    seconds = "sse_connection_duration_seconds_bucket"
    assert value(metrics, seconds, route="/api/v1/watch", le="15.0") == 0
    assert value(metrics, seconds, route="/api/v1/watch", le="30.0") == 1
    assert value(metrics, seconds, route="/api/v1/watch", le="86400.0") == 1


def test_users_are_counted_once_however_many_streams_they_have(metrics: Metrics) -> None:
    def users(route: str) -> float | None:
        return value(metrics, "sse_unique_users_active", route=route)

    for user in ("ada", "ada", "eve", None):
        metrics.stream_opened("/api/v1/watch", "mars", user)
    metrics.stream_opened("/api/v1/replay", "mars", "ada")
    assert users("/api/v1/watch") == 2
    assert users("/api/v1/replay") == 1
    metrics.stream_closed("/api/v1/watch", "mars", "ada", 1)
    metrics.stream_closed("/api/v1/watch", "mars", None, 1)
    assert users("/api/v1/watch") == 2
    metrics.stream_closed("/api/v1/watch", "mars", "ada", 1)
    metrics.stream_closed("/api/v1/watch", "mars", "eve", 1)
    assert users("/api/v1/watch") == 0
    assert users("/api/v1/replay") == 1


def test_calls_to_the_log_are_timed_by_outcome(metrics: Metrics) -> None:
    with metrics.backend("publish"):
        pass
    with pytest.raises(StoreUnavailable), metrics.backend("publish"):
        raise StoreUnavailable
    with pytest.raises(CancelledError), metrics.backend("publish"):
        raise CancelledError
    labels = {"backend": "redis", "operation": "publish"}
    assert value(metrics, "backend_operations_total", **labels, outcome="ok") == 1
    assert value(metrics, "backend_operations_total", **labels, outcome="error") == 1
    assert value(metrics, "backend_operation_duration_seconds_count", **labels, outcome="ok") == 1


def test_the_rest_of_the_gateway_has_its_numbers(metrics: Metrics) -> None:
    metrics.append_batch.observe(3)
    metrics.tail_lag.set(0.5)
    metrics.catch_ups.inc()
    metrics.background_failures("retention").inc()
    metrics.auth_outcomes("direct", "success").inc()
    metrics.draining.set(1)
    metrics.set_durability({"appendfsync": "always"})
    assert value(metrics, "append_batch_events_bucket", le="2.0") == 0
    assert value(metrics, "append_batch_events_bucket", le="4.0") == 1
    assert value(metrics, "tail_lag_seconds") == 0.5
    assert value(metrics, "catch_ups_total") == 1
    assert value(metrics, "background_failures_total", task="retention") == 1
    assert value(metrics, "auth_requests_total", mode="direct", outcome="success") == 1
    assert value(metrics, "draining") == 1
    assert value(metrics, "durability_info", appendfsync="always") == 1


def test_restarts_of_the_embedded_server_are_read_from_it(metrics: Metrics) -> None:
    @dataclass
    class Server:
        restarts: int = 0

    assert value(metrics, "embedded_restarts_total") == 0
    server = Server()
    metrics.watch_restarts(server)
    for restarts in (0, 2, 2, 3):
        server.restarts = restarts
        assert value(metrics, "embedded_restarts_total") == restarts
