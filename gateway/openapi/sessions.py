"""The JSON of playback sessions and their parameters, for the API document."""

from collections.abc import Mapping

from gateway.openapi.answers import JSON, JsonSchema, reference

STRING: JsonSchema = {"type": "string"}
_UUID: JsonSchema = {"type": "string", "format": "uuid"}
TIME: JsonSchema = {"type": "string", "format": "date-time"}
TIME_OR_NULL: JsonSchema = {"type": ["string", "null"], "format": "date-time"}
TENANT: JsonSchema = {
    "tenant_id": {
        "type": ["string", "null"],
        "format": "uuid",
        "description": "Whose session is meant; must not disagree with token, header or query.",
    }
}


def closed(properties: Mapping[str, object], *required: str) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _whole(properties: Mapping[str, object]) -> JsonSchema:
    return closed(properties, *properties)


def _enveloped(data: JsonSchema) -> JsonSchema:
    return _whole({"data": data, "message": STRING, "sent_at": TIME})


_STATUSES = [
    f"{part}_{step}"
    for part in ("DB_INIT", "MSG_INIT", "MSG_START", "MSG_STOP", "MSG_END", "DB_END")
    for step in ("REQUESTED", "IN_PROGRESS", "OK", "KO")
]
_DISPLAYED = [
    f"REPLAY_{verb}_{step}"
    for verb in ("INIT", "START", "STOP", "END")
    for step in ("REQUESTED", "IN_PROGRESS", "OK", "KO")
]

SCHEMAS: JsonSchema = {
    "Session": _whole(
        {
            "id": _UUID,
            "tenant_id": _UUID,
            "status": {
                "enum": _STATUSES,
                "description": "The step inside; without a playback database never one under way.",
            },
            "display_status": {"enum": _DISPLAYED, "description": "What people see."},
            "replay_start_timestamp": TIME,
            "replay_end_timestamp": TIME,
            "replay_last_timestamp": {**TIME, "description": "The playhead, in event time."},
            "replay_speed": {"type": "number", "minimum": 0},
            "event_types": {"type": "array", "items": STRING},
            "error": {"type": ["string", "null"], "description": "Why a KO."},
        }
    ),
    "SessionAnswer": _enveloped(reference("schemas", "Session")),
    "SessionOrNone": _enveloped({"anyOf": [reference("schemas", "Session"), {"type": "null"}]}),
    "SessionList": _enveloped({"type": "array", "items": reference("schemas", "Session")}),
    "Configuration": _enveloped(
        _whole(
            {
                "snapshot_interval": {**STRING, "description": "Cron of 5 fields; empty: off."},
                "list_tables": {
                    "type": "array",
                    "items": STRING,
                    "description": "`schema.table`; none: all captured tables.",
                },
                "next_snapshot": TIME_OR_NULL,
            }
        )
    ),
    "SessionEvent": {
        "type": "object",
        "properties": {
            "event": {
                "enum": [
                    *("session", "system-time", "state", "state-complete", "change"),
                    *("replay", "gap", "error", "connection-closing"),
                ]
            },
            "data": {
                **STRING,
                "contentMediaType": JSON,
                "description": "JSON: the session, its time, a stored event, or what befell the "
                "stream.",
            },
            "id": {**STRING, "description": "A place in the session, where to go on after."},
            "retry": {"type": ["integer", "string"], "description": "Milliseconds."},
        },
        "required": ["event", "data"],
    },
}

_CURSOR: JsonSchema = {
    "type": "string",
    "pattern": "^[0-9]{1,15}-[0-9]{1,15}-(-1|[0-9]{1,10})-[0-9]{1,19}(-state)?$",
}
PARAMETERS: JsonSchema = {
    "TenantIdQuery": {
        "name": "tenant_id",
        "in": "query",
        "schema": _UUID,
        "description": "As `X-Tenant-ID`; must not disagree with it.",
    },
    "SessionId": {"name": "id", "in": "path", "required": True, "schema": _UUID},
    "SessionCursor": {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": _CURSOR,
        "description": "The `id:` of the last frame received; the stream goes on after it.",
    },
    "SessionCursorQuery": {
        "name": "last_event_id",
        "in": "query",
        "schema": _CURSOR,
        "description": "As `Last-Event-ID`, for a first connection.",
    },
}
