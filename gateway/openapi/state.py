"""The state of a time and the changes between two, for the API document."""

from gateway.openapi.answers import (
    JSON,
    TENANT_CODES,
    JsonSchema,
    error,
    media,
    parameters,
    reference,
)
from gateway.openapi.playback import Answers
from gateway.openapi.sessions import STRING, TIME

_RETRY_AFTER: JsonSchema = {"Retry-After": {"required": True, "schema": STRING}}
_STATE_EXAMPLE = """{"table":"public.vehicle","key":{"id":1},"row":{"id":1,"speed":80.5}}
{"complete":true,"at":"2026-02-06T00:00:00.000Z","rows":1}
"""
_CHANGES_EXAMPLE = """{"data":{"identifier":{"key":"1","op":"u","table":"public.vehicle"},"payload":{}},"id":"change@8"}
{"complete":true,"from":"2026-02-06T00:00:00.000Z","to":"2026-02-06T01:00:00.000Z","changes":1}
"""
_FRAMES_EXAMPLE = """event: state
data: {"table":"public.vehicle","rows":[{"key":{"id":1},"row":{"id":1,"speed":80.5}}]}

event: state-complete
data: {"at":"2026-02-06T00:00:00.000Z","rows":1}

event: connection-closing
data: {"reason":"end_of_stream"}

"""
SCHEMAS: JsonSchema = {
    "StateEvent": {
        "type": "object",
        "properties": {
            "event": {
                "enum": [
                    *("state", "state-complete", "replay", "replay-control"),
                    *("error", "connection-closing"),
                ]
            },
            "data": {**STRING, "contentMediaType": JSON},
            "id": STRING,
        },
        "required": ["event", "data"],
    },
}


def paths(answers: Answers) -> JsonSchema:
    """`/v1/state` and `/v1/changes`."""
    at = _time("at", "The rows are as they were then, changes of this very time included.")
    start = _time("from", "The first time.")
    end = _time("to", "The last time; changes of it are included.")
    return {
        "/v1/state": {
            "get": _operation(
                answers,
                "state",
                summary="Every row as it was at a time",
                times=[at],
                example=_STATE_EXAMPLE,
                description="The rows. Without the line that says `complete` the answer was cut off.",
            )
        },
        "/v1/changes": {
            "get": _operation(
                answers,
                "changes",
                summary="What changed between two times",
                times=[start, end],
                example=_CHANGES_EXAMPLE,
                description="The stored events, in order, and a line that says `complete`.",
            )
        },
    }


def _time(name: str, description: str) -> JsonSchema:
    return {
        "name": name,
        "in": "query",
        "required": True,
        "schema": TIME,
        "description": description,
    }


def _operation(
    answers: Answers,
    name: str,
    *,
    summary: str,
    times: list[JsonSchema],
    example: str,
    description: str,
) -> JsonSchema:
    tables: JsonSchema = {
        "name": "tables",
        "in": "query",
        "schema": STRING,
        "description": "`schema.table`, several separated by commas; without it all tables.",
    }
    content = {
        "application/x-ndjson": {"schema": STRING, "example": example},
        "text/event-stream": {
            "schema": reference("schemas", "StateEvent"),
            "example": _FRAMES_EXAMPLE,
        },
    }
    unavailable = error(
        "Capture has not come so far, the log or the snapshots cannot be read now, or the gateway "
        "is shutting down.",
        [
            *("CAPTURE_BEHIND", "SNAPSHOTS_UNAVAILABLE"),
            *("BACKEND_UNAVAILABLE", "SHUTTING_DOWN", "SERVICE_UNAVAILABLE"),
        ],
        _RETRY_AFTER,
    )
    return {
        "operationId": name,
        "tags": ["state"],
        "summary": summary,
        "parameters": [*times, tables, *parameters("TenantId", "TenantIdQuery")],
        **answers.security,
        "responses": {
            "200": media(description, content),
            "400": error(
                "The request is not acceptable, or that time is not kept: then the message names "
                "the earliest valid one.",
                [*TENANT_CODES, "INVALID_STATE_REQUEST", "OUT_OF_RANGE"],
            ),
            **answers.refusals,
            "414": error("The query string is too long.", ["QUERY_TOO_LARGE"]),
            "503": unavailable,
        },
    }
