"""The OpenAPI 3.1 document: every route, what it takes and every status it answers with.

Built once at start from the configured event types, so that a client, or a fuzzer, sees the bodies
this gateway takes and no others. Statuses are only those that a request can really meet.
"""

from collections.abc import Mapping
from typing import Literal

from gateway.openapi import bodies, playback, sessions, state
from gateway.openapi.answers import (
    JSON,
    PARAMETERS,
    SCHEMAS,
    SHAPE_CODES,
    TENANT_CODES,
    JsonSchema,
    about_paths,
    answer,
    body,
    error,
    media,
    parameters,
    reference,
    schema_paths,
)
from gateway.schema.catalog import Catalog

_DESCRIPTION = """Durable Server-Sent Events: publish events, watch them live, replay the past.

A stream is a `text/event-stream`. Its first frame says what it is (`connection_established` or
`replay_started`), notifications are CloudEvents, its last frame is `connection-closing`.
Every answer carries `X-Request-ID`; errors carry the same value as `request_id`."""

_PAYLOAD = {"payload": {"note": "hello"}}
_STREAM_EXAMPLE = """event: replay-control
data: {"batch_size":100,"type":"replay_started"}

event: replay
id: 7-3f2a
data: {"data":{"identifier":{},"payload":null},"id":"greeting@7"}

event: connection-closing
data: {"reason":"end_of_stream"}

"""


def build_document(
    catalog: Catalog,
    *,
    version: str,
    auth_mode: Literal["direct", "trusted_proxy"] | None = None,
    metrics: bool = False,
    metrics_path: str = "/metrics",
    lock_replays: bool = True,
) -> dict[str, object]:
    """The document of a gateway with these event types; ``metrics`` when they are on its port."""
    operations = _Operations(catalog, auth_mode, lock_replays=lock_replays)
    tags = ("publish", "streams", "sessions", "state", "configuration", "schema", "admin", "about")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Playhead",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in tags],
        "paths": {
            "/api/v1/notification": {"post": operations.publish()},
            "/api/v1/notifications": {"post": operations.publish_many()},
            "/api/v1/watch": {
                "post": operations.watch(),
                "get": operations.watch_by_get(),
            },
            "/api/v1/replay": {
                "post": operations.replay(),
                "get": operations.replay_by_get(),
            },
            **playback.paths(operations.playback_answers()),
            **state.paths(operations.playback_answers()),
            **schema_paths(),
            "/api/v1/admin/wipe/stream": {"delete": operations.wipe_stream()},
            "/api/v1/admin/wipe/all": {"delete": operations.wipe_all()},
            "/api/v1/admin/notification/{notification_id}": {"delete": operations.delete()},
            **about_paths(metrics_path if metrics else None),
        },
        "components": {
            "schemas": {**SCHEMAS, **sessions.SCHEMAS, **state.SCHEMAS},
            "parameters": {**PARAMETERS, **sessions.PARAMETERS},
            "securitySchemes": operations.security_schemes,
        },
    }


class _Operations:
    """The operations that depend on what is configured."""

    def __init__(
        self,
        catalog: Catalog,
        auth_mode: Literal["direct", "trusted_proxy"] | None,
        *,
        lock_replays: bool,
    ) -> None:
        self._catalog = catalog
        self._lock_replays = lock_replays
        self.security_schemes: JsonSchema = {}
        self._refusals: JsonSchema = {}
        if auth_mode is not None:
            self.security_schemes["bearer"] = {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
            }
            self._refusals = {
                "401": error(
                    "Credentials are missing or not valid.",
                    ["UNAUTHORIZED"],
                    {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
                ),
                "403": error("The user may not do this.", ["FORBIDDEN"]),
            }
        silent = []
        if auth_mode == "direct":
            self.security_schemes["basic"] = {"type": "http", "scheme": "basic"}
            silent = ["SERVICE_UNAVAILABLE"]
        self._unavailable = _not_now("BACKEND_UNAVAILABLE", *silent)
        self._stream_unavailable = _not_now("BACKEND_UNAVAILABLE", "SHUTTING_DOWN", *silent)

    def playback_answers(self) -> playback.Answers:
        return playback.Answers(
            refusals=self._refusals,
            unavailable=self._unavailable,
            stream_unavailable=self._stream_unavailable,
            security=self._security(optional=False),
        )

    def publish(self) -> JsonSchema:
        schema = bodies.notification(self._catalog)
        examples = bodies.examples(self._catalog, _PAYLOAD, stored=True)
        return {
            "operationId": "publish",
            "tags": ["publish"],
            "summary": "Publish one event",
            "description": "Answered when the event is stored.",
            "parameters": parameters("TenantId", "IdempotencyKey"),
            "requestBody": body({JSON: {"schema": schema, "examples": _named(examples)}}),
            **self._security(optional=True),
            "responses": {
                "200": answer("Stored.", "Published"),
                "400": error("The event is not acceptable.", _body_codes("NOTIFICATION")),
                **self._refusals,
                "413": _TOO_LARGE,
                "422": error("The key was used for another event.", ["IDEMPOTENCY_KEY_REUSED"]),
                "500": error(
                    "The event could not be stored.",
                    ["NOTIFICATION_STORAGE_FAILED"],
                ),
                **self._unavailable,
            },
        }

    def publish_many(self) -> JsonSchema:
        item = bodies.notification(self._catalog, bulk_item=True)
        examples = bodies.examples(self._catalog, _PAYLOAD, stored=True)
        arrays = {name: {"value": [example]} for name, example in examples.items()}
        return {
            "operationId": "publishMany",
            "tags": ["publish"],
            "summary": "Publish many events",
            "description": "A JSON array or one JSON object a line. Every item has its own result, "
            "in order; one that is refused does not stop the others. An item may carry its own "
            "`time`, not before the last event of its stream and not in the future.",
            "parameters": parameters("TenantId", "IdempotencyKey"),
            "requestBody": body(
                {
                    JSON: {"schema": {"type": "array", "items": item}, "examples": arrays},
                    "application/x-ndjson": {"schema": {"type": "string"}},
                }
            ),
            **self._security(optional=True),
            "responses": {
                "200": answer("A result per item.", "PublishedMany"),
                "400": error(
                    "The body is no array and no lines of JSON.",
                    [
                        "INVALID_JSON",
                        "INVALID_REQUEST_SHAPE",
                        "INVALID_NOTIFICATION_REQUEST",
                        *TENANT_CODES,
                    ],
                ),
                **self._refusals,
                "413": _TOO_LARGE,
                "500": error("An event could not be stored.", ["NOTIFICATION_STORAGE_FAILED"]),
                **self._unavailable,
            },
        }

    def watch(self) -> JsonSchema:
        return self._stream(
            "watch",
            "Watch live, or history and then live",
            {
                "schema": bodies.watch(self._catalog),
                "examples": _named(bodies.examples(self._catalog, {})),
            },
        )

    def watch_by_get(self) -> JsonSchema:
        return self._stream_by_get("watch", "Watch from a browser", "from_id", "from_date")

    def replay(self) -> JsonSchema:
        return self._stream(
            "replay",
            "Replay history and close",
            {
                "schema": bodies.replay(self._catalog),
                "examples": _named(bodies.examples(self._catalog, {"from_id": "1"})),
            },
        )

    def replay_by_get(self) -> JsonSchema:
        return self._stream_by_get(
            "replay", "Replay to a browser", "from_id", "from_date", "to_id", "to_date"
        )

    def _stream(self, operation: str, summary: str, content: JsonSchema) -> JsonSchema:
        return {
            "operationId": operation,
            "tags": ["streams"],
            "summary": summary,
            "parameters": parameters("TenantId"),
            "requestBody": body({JSON: content}),
            **self._security(optional=True),
            "responses": {**self._stream_answers(operation), "413": _TOO_LARGE},
        }

    def _stream_by_get(self, operation: str, summary: str, *positions: str) -> JsonSchema:
        return {
            "operationId": f"{operation}ByGet",
            "tags": ["streams"],
            "summary": summary,
            "description": "For `EventSource`: every notification has an `id:`, and a reconnection "
            "goes on after the `Last-Event-ID` it sends. Constraints are "
            "`identifier.<field>.<operator>=<operand>`, with commas for `in` and `between`.",
            "parameters": [
                *parameters("TenantId", "LastEventId", "LastEventIdQuery"),
                self._event_type_parameter(),
                *self._identifier_parameters(),
                *(_position_parameter(name) for name in positions),
            ],
            **self._security(optional=True),
            "responses": {
                **self._stream_answers(operation),
                "414": error("The query string is too long.", ["QUERY_TOO_LARGE"]),
            },
        }

    def _event_type_parameter(self) -> JsonSchema:
        schema: JsonSchema = {"type": "string", "minLength": 1}
        if self._catalog.strict and self._catalog.event_types:
            schema["enum"] = list(self._catalog.event_types)
        return {"name": "event_type", "in": "query", "required": True, "schema": schema}

    def _identifier_parameters(self) -> list[JsonSchema]:
        return [
            {"name": name, "in": "query", "schema": {"type": "string", "minLength": 1}}
            for name in bodies.parameter_names(self._catalog)
        ]

    def _stream_answers(self, operation: str) -> JsonSchema:
        stream = {"schema": reference("schemas", "ServerSentEvent"), "example": _STREAM_EXAMPLE}
        locked: JsonSchema = {}
        if operation == "replay" and self._lock_replays:
            locked["409"] = playback.active("A session of the tenant that is named is active.")
        return {
            "200": media("A stream of such events.", {"text/event-stream": stream}),
            "400": error("The request is not acceptable.", _body_codes(operation.upper())),
            **self._refusals,
            **locked,
            "500": error("The stream could not begin.", ["SSE_STREAM_INITIALIZATION_FAILED"]),
            **self._stream_unavailable,
        }

    def wipe_stream(self) -> JsonSchema:
        schema: JsonSchema = {
            "type": "object",
            "properties": {"stream_name": {"type": "string"}},
            "required": ["stream_name"],
            "additionalProperties": False,
        }
        example = {"stream_name": (*self._catalog.event_types, "greeting")[0]}
        return {
            "operationId": "wipeStream",
            "tags": ["admin"],
            "summary": "Remove every event of a stream",
            "description": "Named by event type or base of the topic, in any case. Sequences go on.",
            "parameters": parameters("TenantId"),
            "requestBody": body({JSON: {"schema": schema, "example": example}}),
            **self._security(optional=False),
            "responses": {
                "200": answer("Wiped.", "Done"),
                "400": error("The body is not acceptable.", [*SHAPE_CODES, *TENANT_CODES]),
                **self._refusals,
                "404": answer("There is no such stream.", "Done"),
                "413": _TOO_LARGE,
                "415": error("The body is not JSON.", ["UNSUPPORTED_MEDIA_TYPE"]),
                "500": answer("The log refused.", "Done"),
                **self._unavailable,
            },
        }

    def wipe_all(self) -> JsonSchema:
        return {
            "operationId": "wipeAll",
            "tags": ["admin"],
            "summary": "Remove every event of the tenant",
            "parameters": parameters("TenantId"),
            **self._security(optional=False),
            "responses": {
                "200": answer("Wiped.", "Done"),
                "400": error("The tenant is not acceptable.", TENANT_CODES),
                **self._refusals,
                "500": answer("The log refused.", "Done"),
                **self._unavailable,
            },
        }

    def delete(self) -> JsonSchema:
        return {
            "operationId": "deleteNotification",
            "tags": ["admin"],
            "summary": "Remove one event",
            "parameters": parameters("TenantId", "NotificationId"),
            **self._security(optional=False),
            "responses": {
                "200": answer("Removed.", "Deleted"),
                "400": answer("That is no notification id, or no tenant.", "Deleted", "Error"),
                **self._refusals,
                "404": answer("There is no such notification.", "Deleted", "Error"),
                "500": answer("The log refused.", "Deleted"),
                **self._unavailable,
            },
        }

    def _security(self, *, optional: bool) -> JsonSchema:
        """Public streams take requests without credentials; administration never does."""
        if not self.security_schemes:
            return {}
        schemes: list[object] = [{name: []} for name in self.security_schemes]
        return {"security": [{}, *schemes] if optional else schemes}


_TOO_LARGE = error("The body is too large.", ["BODY_TOO_LARGE"])


def _named(examples: Mapping[str, JsonSchema]) -> JsonSchema:
    return {name: {"value": example} for name, example in examples.items()}


def _not_now(*codes: str) -> JsonSchema:
    headers = {"Retry-After": {"required": True, "schema": {"type": "string"}}}
    return {"503": error("Not now: try again later.", codes, headers)}


def _position_parameter(name: str) -> JsonSchema:
    schema = bodies.SEQUENCE if name.endswith("_id") else bodies.TIME
    return {"name": name, "in": "query", "schema": schema}


def _body_codes(operation: str) -> list[str]:
    return [
        *SHAPE_CODES,
        *TENANT_CODES,
        "UNKNOWN_EVENT_TYPE",
        f"INVALID_{operation}_REQUEST",
    ]
