"""Parameters, headers and the JSON of answers: the parts of the API document that never change."""

from collections.abc import Iterable, Mapping

from store.capture_record import STATES as CAPTURE_STATES

JsonSchema = dict[str, object]

JSON = "application/json"
SHAPE_CODES = ("INVALID_JSON", "UNKNOWN_FIELD", "INVALID_REQUEST_SHAPE")
TENANT_CODES = ("INVALID_TENANT",)

_STRING: JsonSchema = {"type": "string"}
_INTEGER: JsonSchema = {"type": "integer"}
_UUID: JsonSchema = {"type": "string", "format": "uuid"}
_REQUEST_ID: JsonSchema = {
    "X-Request-ID": {
        "required": True,
        "schema": _UUID,
        "description": "Made for this request; also `request_id` in the answer and in frames.",
    }
}


def _object(properties: Mapping[str, object], optional: Iterable[str] = ()) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in set(optional)],
    }


_IDENTIFIER_FIELD: JsonSchema = {
    "type": "object",
    "properties": {
        "type": _STRING,
        "required": {"type": "boolean"},
        "description": _STRING,
    },
    "required": ["type", "required"],
}

SCHEMAS: JsonSchema = {
    "Error": {
        **_object(
            {
                "code": {**_STRING, "description": "Stable, for programs."},
                "error": {**_STRING, "description": "A short label."},
                "message": {**_STRING, "description": "A sentence that holds the wrong value."},
                "details": {
                    "anyOf": [_STRING, {"$ref": "#/components/schemas/Session"}],
                    "description": "The innermost cause; the session, with a 409.",
                },
                "request_id": _UUID,
                "configured_event_types": {
                    "type": "array",
                    "items": _STRING,
                    "description": "With UNKNOWN_EVENT_TYPE.",
                },
                "topic": {**_STRING, "description": "With SSE_STREAM_INITIALIZATION_FAILED."},
            },
            optional=("details", "configured_event_types", "topic"),
        ),
    },
    "Published": _object(
        {
            "status": {"const": "success"},
            "request_id": _UUID,
            "processed_at": {"type": "string", "format": "date-time"},
            "id": {**_STRING, "description": "`<event type>@<sequence>`"},
            "sequence": {"type": "integer", "minimum": 1},
        }
    ),
    "PublishedMany": _object(
        {
            "status": {"enum": ["success", "partial"]},
            "request_id": _UUID,
            "processed_at": {"type": "string", "format": "date-time"},
            "accepted": {"type": "integer", "minimum": 0},
            "rejected": {"type": "integer", "minimum": 0},
            "results": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Result"},
                "description": "One per item, in order.",
            },
        }
    ),
    "Result": {
        "oneOf": [
            _object({"status": {"const": "success"}, "id": _STRING, "sequence": _INTEGER}),
            _object(
                {
                    "status": {"const": "error"},
                    "code": _STRING,
                    "error": _STRING,
                    "message": _STRING,
                    "details": _STRING,
                }
            ),
        ]
    },
    "EventSchema": _object(
        {
            "payload": {
                "anyOf": [{"type": "null"}, _object({"required": {"type": "boolean"}})],
            },
            "identifier": {"type": "object", "additionalProperties": _IDENTIFIER_FIELD},
        }
    ),
    "Schemas": _object(
        {
            "status": {"const": "success"},
            "schema": {
                "type": "object",
                "additionalProperties": {"$ref": "#/components/schemas/EventSchema"},
            },
            "event_types": {"type": "array", "items": _STRING},
            "total_schemas": {"type": "integer", "minimum": 0},
            "message": _STRING,
        },
        optional=("message",),
    ),
    "Schema": _object(
        {
            "status": {"const": "success"},
            "event_type": _STRING,
            "schema": {"$ref": "#/components/schemas/EventSchema"},
        }
    ),
    "SchemaNotFound": _object(
        {
            "status": {"const": "error"},
            "message": _STRING,
            "available_types": {"type": "array", "items": _STRING},
            "request_id": _UUID,
        },
        optional=("available_types",),
    ),
    "Done": _object({"success": {"type": "boolean"}, "message": _STRING, "request_id": _UUID}),
    "Deleted": _object(
        {
            "success": {"type": "boolean"},
            "message": _STRING,
            "notification_id": _STRING,
            "request_id": _UUID,
        }
    ),
    "ServerSentEvent": _object(
        {
            "event": {
                "enum": [
                    "live-notification",
                    "replay",
                    "replay-control",
                    "heartbeat",
                    "gap",
                    "error",
                    "connection-closing",
                ]
            },
            "data": {
                **_STRING,
                "contentMediaType": JSON,
                "description": "JSON: a CloudEvent, or what the gateway says about the stream.",
            },
            "id": {**_STRING, "description": "`<sequence>-<epoch>`, where to go on after."},
            "retry": {"type": ["integer", "string"], "description": "Milliseconds."},
        },
        optional=("id", "retry"),
    ),
    "Health": _object({"status": {"const": "ok"}}),
    "Readiness": _object(
        {
            "status": {"enum": ["ready", "not_ready"]},
            "backend_connected": {"type": "boolean"},
            "round_trip_ms": {"type": ["number", "null"]},
            "tail_lag_ms": {"type": ["number", "null"]},
            "durability": {"type": "object", "additionalProperties": _STRING},
            "draining": {"type": "boolean"},
            "capture": {
                "type": "object",
                "additionalProperties": {"$ref": "#/components/schemas/CaptureStatus"},
                "description": "How capture of each configured source is doing.",
            },
        },
        optional=("capture",),
    ),
    "CaptureStatus": _object(
        {
            "state": {
                **_STRING,
                "enum": list(CAPTURE_STATES),
                "description": "`down`: the source is away; `store_down`: the log is; `refused`: "
                "the source is not set up for it, `error` says what to change; `lost`: changes are "
                "gone; `silent`: no process captures.",
            },
            "lag_bytes": {
                "type": ["integer", "null"],
                "description": "Write-ahead log of the source that is not in the log yet.",
            },
            "lag_sec": {
                "type": ["number", "null"],
                "description": "How long ago everything that was committed was in the log.",
            },
            "through_ms": {"type": "integer", "description": "The same as ms since 1970."},
            "error": {"type": ["string", "null"]},
            "warnings": {"type": "array", "items": _STRING},
            "changes": {"type": "integer", "description": "Written since its process began."},
            "restarts": {"type": "integer"},
            "updated_ms": {"type": "integer", "description": "When this was told."},
        }
    ),
}

PARAMETERS: JsonSchema = {
    "TenantId": {
        "name": "X-Tenant-ID",
        "in": "header",
        "schema": _UUID,
        "description": "Whose log is meant; without it the default tenant's.",
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "description": "The same key with the same body is stored once.",
    },
    "LastEventId": {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}(-[0-9a-f]{1,32})?$"},
        "description": "The `id:` of the last frame received; the stream goes on after it.",
    },
    "LastEventIdQuery": {
        "name": "last_event_id",
        "in": "query",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}(-[0-9a-f]{1,32})?$"},
        "description": "As `Last-Event-ID`, for a first connection.",
    },
    "NotificationId": {
        "name": "notification_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.-]+@[1-9][0-9]{0,17}$"},
        "description": "`<event type>@<sequence>`; the base of the topic will do for the type.",
        "example": "greeting@7",
    },
    "EventType": {
        "name": "event_type",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    },
}


def reference(kind: str, name: str) -> JsonSchema:
    return {"$ref": f"#/components/{kind}/{name}"}


def parameters(*names: str) -> list[JsonSchema]:
    return [reference("parameters", name) for name in names]


def body(content: Mapping[str, object]) -> JsonSchema:
    return {"required": True, "content": content}


def answer(description: str, *names: str) -> JsonSchema:
    """An answer in JSON that has one of these schemas."""
    schemas = [reference("schemas", name) for name in names]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return media(description, {JSON: {"schema": schema}})


def error(
    description: str, codes: Iterable[str], headers: Mapping[str, object] | None = None
) -> JsonSchema:
    """A refusal in the one error shape, with one of these codes."""
    listed = sorted(set(codes))
    narrowed = {"properties": {"code": {"enum": listed}}}
    schema = {"allOf": [reference("schemas", "Error"), narrowed]}
    text = f"{description} Codes: {', '.join(listed)}."
    return media(text, {JSON: {"schema": schema}}, headers)


def media(
    description: str, content: Mapping[str, object], headers: Mapping[str, object] | None = None
) -> JsonSchema:
    return {
        "description": description,
        "headers": {**_REQUEST_ID, **(headers or {})},
        "content": content,
    }


def about_paths(metrics_path: str | None) -> JsonSchema:
    """The routes that say something about the gateway; they need no credentials."""
    text = {"schema": _STRING}
    paths: JsonSchema = {
        "/health": _get("health", "Whether the process answers", answer("It does.", "Health")),
        "/ready": _get(
            "ready",
            "Whether requests should be sent here",
            answer("They should.", "Readiness"),
            {"503": answer("The log's server is away, or the gateway is draining.", "Readiness")},
        ),
        "/": _get("home", "Home page", media("A page.", {"text/html": text})),
    }
    if metrics_path is not None:
        found = media("Prometheus text format.", {"text/plain": text})
        paths[metrics_path] = _get("metrics", "Metrics", found)
    return paths


def schema_paths() -> JsonSchema:
    """The two routes of the catalogue; they need no credentials."""
    bad_tenant: JsonSchema = {"400": error("The tenant is not acceptable.", TENANT_CODES)}
    unknown: JsonSchema = {"404": answer("There is no such event type.", "SchemaNotFound", "Error")}
    return {
        "/api/v1/schema": _get(
            "schemas",
            "What every event type takes",
            answer("All of them.", "Schemas"),
            bad_tenant,
            tag="schema",
            takes=["TenantId"],
        ),
        "/api/v1/schema/{event_type}": _get(
            "schema",
            "What one event type takes",
            answer("Its schema.", "Schema"),
            {**bad_tenant, **unknown},
            tag="schema",
            takes=["TenantId", "EventType"],
        ),
    }


def _get(
    operation: str,
    summary: str,
    found: JsonSchema,
    more: Mapping[str, object] | None = None,
    *,
    tag: str = "about",
    takes: Iterable[str] = (),
) -> JsonSchema:
    described: JsonSchema = {
        "operationId": operation,
        "tags": [tag],
        "summary": summary,
        "parameters": parameters(*takes),
        "responses": {"200": found, **(more or {})},
    }
    return {"get": described}
