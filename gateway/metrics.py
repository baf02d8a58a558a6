"""Every number the gateway shows to Prometheus (Aviso wire contract §11.2, prefix ``playhead_``).

Each ``Metrics`` owns its registry: nothing is global, two gateways in one process do not mix. The
number of series is bounded by the configuration: event types without a schema share the label
``generic``, routes are patterns, methods are the standard ones or ``other``. What is touched per
request or event is a plain number (``tally``), or a child bound to its labels once.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Generic, Literal, Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

from gateway.tally import Count, Counts, Distributions, Levels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN = "unknown"
GENERIC = "generic"
UNMATCHED = "unmatched"

BackendOperation = Literal["publish", "get_batch", "wipe_stream", "wipe_all", "delete_message"]
NotificationStatus = Literal["success", "error", "rejected"]

_OPERATIONS: tuple[BackendOperation, ...] = (
    "publish",
    "get_batch",
    "wipe_stream",
    "wipe_all",
    "delete_message",
)
_AUTH_OUTCOMES = ("success", "unauthorized", "forbidden", "service_unavailable")
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
_CONNECTION_SECONDS = (
    *(1, 5, 15, 30, 60, 300, 900, 1800),
    *(3600, 7200, 14400, 28800, 43200, 86400),
)
# The log answers in 50 µs to 2 ms: prometheus_client's own buckets begin at 5 ms.
_ANSWER_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_BATCH_EVENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_BACKEND = "redis"

# A `_created` series beside each counter would double what is scraped, for a time nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


class Restarting(Protocol):
    """A child process that counts how often it had to be started again."""

    @property
    def restarts(self) -> int: ...


class Capturing(Protocol):
    """What capture of a source says of itself; the lags are None while they are not known."""

    @property
    def state(self) -> str: ...

    @property
    def lag_bytes(self) -> int | None: ...

    @property
    def lag_sec(self) -> float | None: ...

    @property
    def changes(self) -> int: ...


class _Children(dict[tuple[str, ...], _Metric], Generic[_Metric]):
    """Children by label values: a dict look-up where ``labels()`` takes a lock and makes strings."""

    def __init__(self, family: _Metric) -> None:
        super().__init__()
        self._family = family

    def __missing__(self, labels: tuple[str, ...]) -> _Metric:
        child = self[labels] = self._family.labels(*labels)
        return child


class Metrics:
    """The gateway's counters. ``event_types`` are those of the schema: the labels there may be."""

    def __init__(self, version: str, event_types: Iterable[str] = ()) -> None:
        self._registry = CollectorRegistry()
        self._event_types = frozenset(event_types)
        self._stream_users: dict[tuple[str, str], int] = {}
        self._server: Restarting | None = None
        self._restarts_seen = 0
        self._captured: dict[str, int] = {}
        ProcessCollector(registry=self._registry)
        self._gauge("build_info", "Constant 1 with the version as label.", "version").labels(
            version
        ).set(1)
        self._declare_http()
        self._declare_log()
        self._declare_streams()
        self._declare_gateway()
        self._declare_capture()
        self._declare_playback()
        self._start_at_zero()

    def render(self) -> bytes:
        """Everything in the Prometheus text format; send it with ``CONTENT_TYPE``."""
        if self._server is not None:
            restarts = self._server.restarts
            self._embedded_restarts.inc(restarts - self._restarts_seen)
            self._restarts_seen = restarts
        return generate_latest(self._registry)

    def show_capture(self, source: str, status: Capturing) -> None:
        """How capture of a source is doing, as it was seen last."""
        unknown = float("nan")
        lag_bytes, lag_sec = status.lag_bytes, status.lag_sec
        self._capture_up.labels(source).set(status.state == "capturing")
        self._capture_lag_bytes.labels(source).set(unknown if lag_bytes is None else lag_bytes)
        self._capture_lag_seconds.labels(source).set(unknown if lag_sec is None else lag_sec)
        before = self._captured.get(source, 0)
        # Another process begins to count from nothing.
        new = status.changes - before if status.changes >= before else status.changes
        self._captured[source] = status.changes
        self._captured_changes.labels(source).inc(new)

    def watch_restarts(self, server: Restarting) -> None:
        """Show the restarts of the embedded server."""
        self._server = server

    # HTTP: `route` is the matched pattern, `unmatched` for a path nobody serves.

    def request_started(self, method: str) -> None:
        """A request came in; ``request_finished`` is owed for it."""
        self._in_flight[_method(method),].inc()

    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """The headers of the answer are ready, ``seconds`` after the request came in."""
        method = _method(method)
        self._in_flight[method,].dec()
        self._requests[route, method, str(status)].inc()
        self._request_seconds[route, method].observe(seconds)

    # The log.

    def backend(self, operation: BackendOperation) -> AbstractContextManager[None]:
        """Time one call to the log; an exception makes it an error, a cancelled call is not counted."""
        return _BackendCall(self, operation)

    def backend_finished(
        self, operation: BackendOperation, outcome: Literal["ok", "error"], seconds: float
    ) -> None:
        """One call to the log is over."""
        self._backend_calls[_BACKEND, operation, outcome].inc()
        self._backend_seconds[_BACKEND, operation, outcome].observe(seconds)

    def set_durability(self, durability: Mapping[str, object]) -> None:
        """What an acknowledgement of the log's server is worth."""
        self._durability.info({name: str(value) for name, value in durability.items()})

    # Publishing.

    def notifications(self, event_type: str | None, status: NotificationStatus) -> Count:
        """The counter of notifications; no event type is one that could not be parsed or is unknown."""
        return self._notifications[self._event_label(event_type), status]

    # Streams: `route` is the path, also for the GET forms.

    def stream_opened(self, route: str, event_type: str, user: str | None) -> None:
        """A stream has begun; ``stream_closed`` with the same words is owed for it."""
        label = self._event_label(event_type)
        self._connections[route, label].inc()
        self._connections_active[route, label].inc()
        if user is not None:
            streams = self._stream_users.get((route, user), 0)
            self._stream_users[route, user] = streams + 1
            if streams == 0:
                self._unique_users[route,].inc()

    def stream_closed(self, route: str, event_type: str, user: str | None, seconds: float) -> None:
        """A stream has ended, ``seconds`` after it began."""
        self._connections_active[route, self._event_label(event_type)].dec()
        self._connection_seconds[route,].observe(seconds)
        if user is not None:
            streams = self._stream_users.pop((route, user)) - 1
            if streams:
                self._stream_users[route, user] = streams
            else:
                self._unique_users[route,].dec()

    def stream(self, route: str, event_type: str, user: str | None) -> AbstractContextManager[None]:
        """Count a stream for as long as it is open."""
        return _StreamOpen(self, route, event_type, user)

    def events_sent(self, route: str, event_type: str) -> Count:
        """The counter of notifications sent into streams: ``inc`` by the number in a send."""
        return self._events_sent[route, self._event_label(event_type)]

    def stream_errors(self, route: str, event_type: str) -> Counter:
        """The counter of ``error`` frames."""
        return self._stream_errors[route, self._event_label(event_type)]

    # The gateway itself.

    def auth_outcomes(self, mode: str, outcome: str) -> Counter:
        """The counter of authentication attempts."""
        return self._auth_outcomes[mode, outcome]

    def background_failures(self, task: str) -> Counter:
        """The counter of a background task's deaths (it is restarted, or takes the process down)."""
        return self._background_failures[task,]

    def snapshot_taken(self, source: str, seconds: float) -> None:
        """A snapshot has been taken, in so many seconds."""
        self._snapshots[source, "ok"].inc()
        self._snapshot_seconds[source,].set(seconds)
        self._snapshot_time[source,].set_to_current_time()

    def snapshot_failed(self, source: str) -> None:
        self._snapshots[source, "error"].inc()

    def _event_label(self, event_type: str | None) -> str:
        if event_type is None:
            return UNKNOWN
        return event_type if event_type in self._event_types else GENERIC

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"playhead_{name}", text, labels, registry=self._registry)

    def _counts(self, name: str, text: str, *labels: str) -> Counts:
        family = Counts(f"playhead_{name}", text, labels)
        self._registry.register(family)
        return family

    def _distributions(self, name: str, text: str, *labels: str) -> Distributions:
        family = Distributions(f"playhead_{name}", text, labels, _ANSWER_SECONDS)
        self._registry.register(family)
        return family

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"playhead_{name}", text, labels, registry=self._registry)

    def _histogram(
        self,
        name: str,
        text: str,
        *labels: str,
        buckets: tuple[float, ...] = _ANSWER_SECONDS,
    ) -> Histogram:
        return Histogram(f"playhead_{name}", text, labels, buckets=buckets, registry=self._registry)

    def _declare_http(self) -> None:
        self._requests = self._counts(
            "http_requests_total",
            "HTTP requests by matched route.",
            *("route", "method", "status_code"),
        )
        self._request_seconds = self._distributions(
            "http_request_duration_seconds",
            "Time until the response headers are ready; of a stream, its setup.",
            *("route", "method"),
        )
        self._in_flight = Levels(
            "playhead_http_requests_in_flight",
            "HTTP requests whose response headers are not ready yet.",
            ("method",),
        )
        self._registry.register(self._in_flight)

    def _declare_log(self) -> None:
        self._backend_calls = self._counts(
            "backend_operations_total", "Calls to the log.", *("backend", "operation", "outcome")
        )
        self._backend_seconds = self._distributions(
            "backend_operation_duration_seconds",
            "Duration of calls to the log, as the caller sees it.",
            *("backend", "operation", "outcome"),
        )
        self._durability = Info(
            "playhead_durability",
            "What an acknowledgement of the log's server is worth.",
            registry=self._registry,
        )
        self.append_batch = self._histogram(
            "append_batch_events", "Events appended in one call.", buckets=_BATCH_EVENTS
        )
        self.tail_lag = self._gauge(
            "tail_lag_seconds",
            "How long the slowest reader of live events has heard nothing of its server.",
        )
        self.catch_ups = self._counter(
            "catch_ups_total",
            "Times a live stream could not take bytes at once and was caught up apart.",
        )
        self._snapshots = _Children(
            self._counter("snapshots_total", "Snapshots by source.", *("source", "outcome"))
        )
        self._snapshot_seconds = _Children(
            self._gauge("snapshot_duration_seconds", "Of the last snapshot.", "source")
        )
        self._snapshot_time = _Children(
            self._gauge("snapshot_timestamp_seconds", "When the last snapshot was taken.", "source")
        )
        self.snapshots_broken = self._counter(
            "snapshots_broken_total", "Snapshots that were found damaged and are not used."
        )
        self._embedded_restarts = self._counter(
            "embedded_restarts_total", "Restarts of the embedded server after it died."
        )

    def _declare_streams(self) -> None:
        self._connections = _Children(
            self._counter("sse_connections_total", "Streams opened.", *("route", "event_type"))
        )
        self._connections_active = _Children(
            self._gauge("sse_connections_active", "Streams open now.", *("route", "event_type"))
        )
        self._unique_users = _Children(
            self._gauge(
                "sse_unique_users_active",
                "Distinct authenticated users with open streams.",
                "route",
            )
        )
        self._events_sent = self._counts(
            "sse_events_sent_total",
            "Notifications sent into streams; control frames are not counted.",
            *("route", "event_type"),
        )
        self._stream_errors = _Children(
            self._counter(
                "sse_stream_errors_total",
                "Error frames sent into open streams.",
                *("route", "event_type"),
            )
        )
        self._connection_seconds = _Children(
            self._histogram(
                "sse_connection_duration_seconds",
                "Lifetime of streams, seen when they close.",
                "route",
                buckets=_CONNECTION_SECONDS,
            )
        )

    def _declare_gateway(self) -> None:
        self._notifications = self._counts(
            "notifications_total", "Notifications published.", *("event_type", "status")
        )
        self._auth_outcomes = _Children(
            self._counter("auth_requests_total", "Authentication attempts.", *("mode", "outcome"))
        )
        self._background_failures = _Children(
            self._counter("background_failures_total", "Deaths of background tasks.", "task")
        )
        self.draining = self._gauge(
            "draining", "1 while the gateway closes its streams to shut down."
        )

    def _declare_capture(self) -> None:
        self._capture_up = self._gauge(
            "capture_up", "1 while changes of the source are captured.", "source"
        )
        self._capture_lag_bytes = self._gauge(
            "capture_lag_bytes", "Write-ahead log of the source that is not captured yet.", "source"
        )
        self._capture_lag_seconds = self._gauge(
            "capture_lag_seconds",
            "How long ago everything committed at the source was in the log.",
            "source",
        )
        self._captured_changes = self._counter(
            "captured_changes_total",
            "Changes of the source that were written to the log.",
            "source",
        )

    def _declare_playback(self) -> None:
        self.changes_applied = self._counter(
            "playback_changes_applied_total", "Changes carried out in the playback database."
        )
        self.apply_lateness = self._histogram(
            "playback_apply_lateness_seconds",
            "How long after it was due a transaction was committed in the playback database.",
        )
        self.work_takeovers = self._counter(
            "playback_lease_takeovers_total",
            "Times this gateway went on with the work of one that had let go of it.",
        )

    def _start_at_zero(self) -> None:
        """Make the series an alert asks for before the first event makes them."""
        for event_type in sorted(self._event_types):
            self.notifications(event_type, "success")
            self.notifications(event_type, "error")
        self.notifications(None, "error")
        self.notifications(None, "rejected")
        for operation in _OPERATIONS:
            for outcome in ("ok", "error"):
                _ = self._backend_calls[_BACKEND, operation, outcome]
                _ = self._backend_seconds[_BACKEND, operation, outcome]
        for mode in ("direct", "trusted_proxy"):
            for outcome in _AUTH_OUTCOMES:
                self.auth_outcomes(mode, outcome)


def _method(method: str) -> str:
    return method if method in _METHODS else "other"


class _BackendCall(AbstractContextManager[None]):
    """A call to the log that is timed. Not a generator, which costs as much as what it counts."""

    __slots__ = ("_metrics", "_operation", "_started")

    def __init__(self, metrics: Metrics, operation: BackendOperation) -> None:
        self._metrics = metrics
        self._operation = operation
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = perf_counter() - self._started
        if kind is None:
            self._metrics.backend_finished(self._operation, "ok", seconds)
        elif issubclass(kind, Exception):
            self._metrics.backend_finished(self._operation, "error", seconds)


class _StreamOpen(AbstractContextManager[None]):
    """A stream that is counted. Not a generator: each of ten thousand streams keeps one."""

    __slots__ = ("_event_type", "_metrics", "_opened", "_route", "_user")

    def __init__(self, metrics: Metrics, route: str, event_type: str, user: str | None) -> None:
        self._metrics = metrics
        self._route = route
        self._event_type = event_type
        self._user = user
        self._opened = 0.0

    def __enter__(self) -> None:
        self._metrics.stream_opened(self._route, self._event_type, self._user)
        self._opened = perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = perf_counter() - self._opened
        self._metrics.stream_closed(self._route, self._event_type, self._user, seconds)
