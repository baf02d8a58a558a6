"""Playback sessions and their configuration, for the API document."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.openapi.answers import (
    JSON,
    SHAPE_CODES,
    TENANT_CODES,
    JsonSchema,
    answer,
    error,
    media,
    parameters,
    reference,
)
from gateway.openapi.sessions import STRING, TENANT, TIME, TIME_OR_NULL, closed

_RETRY_AFTER: JsonSchema = {"Retry-After": {"required": True, "schema": STRING}}
_STREAM_EXAMPLE = """event: session
id: 1-1517875200000--1-0
data: {"id":"4f0c…","status":"MSG_START_OK","replay_speed":4}

event: system-time
id: 1-1517875204000-0-7
data: {"speed":4.0,"timestamp":"2018-02-06T00:00:04.000Z"}

event: replay
id: 1-1517875204107-0-8
data: {"data":{"identifier":{},"payload":null},"id":"greeting@8"}

"""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers that depend on what is configured: parts of `responses`, and `security`."""

    refusals: Mapping[str, object]
    unavailable: Mapping[str, object]
    stream_unavailable: Mapping[str, object]
    security: Mapping[str, object]


def active(description: str) -> JsonSchema:
    """The tenant's session lock is taken."""
    return error(description, ["REPLAY_SESSION_ACTIVE"], _RETRY_AFTER)


def paths(answers: Answers) -> JsonSchema:
    """`/v1/replay/…` and `/v1/configuration/…`."""
    session = _Sessions(answers)
    return {
        "/v1/replay/init": {"post": session.init()},
        "/v1/replay/{id}/start": {"put": session.start()},
        "/v1/replay/{id}/stop": {"put": session.stop()},
        "/v1/replay/{id}/seek": {"put": session.seek()},
        "/v1/replay/{id}/end": {"put": session.end()},
        "/v1/replay/{id}/stream": {"get": session.stream()},
        "/v1/replay/reset": {"post": session.reset()},
        "/v1/replay/current-session": {"get": session.current()},
        "/v1/replay/sessions": {"get": session.active()},
        "/v1/configuration": {"get": session.configuration()},
        "/v1/configuration/snapshot-interval": {"put": session.set_interval()},
        "/v1/configuration/snapshot-list-tables": {"put": session.set_tables()},
    }


class _Sessions:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def init(self) -> JsonSchema:
        properties = {
            "replay_requested_timestamp": {**TIME, "description": "Start of the range."},
            "replay_end_timestamp": {
                **TIME_OR_NULL,
                "description": "End of the range; cut to now. Without it a configured length.",
            },
            "event_types": {
                "type": ["array", "null"],
                "items": STRING,
                "minItems": 1,
                "description": "Without them all that the tenant has.",
            },
            "session_id": {
                "type": ["string", "null"],
                "description": "The tenant's own session, to be initialised again.",
            },
        }
        location = {"Location": {"required": True, "schema": STRING}}
        created = {JSON: {"schema": reference("schemas", "SessionAnswer")}}
        return self._operation(
            "initSession",
            "Take the tenant's lock and make a session",
            body=_body(
                closed({**properties, **TENANT}, "replay_requested_timestamp"),
                {
                    "replay_requested_timestamp": "2018-02-06T00:00:00Z",
                    "replay_end_timestamp": "2018-02-06T06:00:00Z",
                },
            ),
            responses={
                "201": media("The session.", created, location),
                "400": _refused("The range cannot be played.", "INVALID_SESSION_REQUEST"),
                "404": error("There is no such session.", ["SESSION_NOT_FOUND"]),
                "409": active("The tenant has a session; `details` is that session."),
            },
        )

    def start(self) -> JsonSchema:
        speed = {
            "type": "number",
            "default": 1,
            "description": "Within the configured limits; 0, where it is allowed: at once.",
        }
        return self._verb(
            "start",
            "Play from the playhead, or change the speed",
            {"replay_speed": speed},
            {"replay_speed": 4},
            invalid=True,
        )

    def stop(self) -> JsonSchema:
        return self._verb("stop", "Pause; the playhead stays", {}, {})

    def seek(self) -> JsonSchema:
        return self._verb(
            "seek",
            "Move the playhead inside of the range",
            {"timestamp": TIME},
            {"timestamp": "2018-02-06T03:00:00Z"},
            required=("timestamp",),
            invalid=True,
        )

    def end(self) -> JsonSchema:
        operation = self._verb("end", "End the session and free the lock", {}, {}, states=False)
        responses = operation["responses"]
        assert isinstance(responses, dict)  # noqa: S101 - made in this file
        responses["403"] = error(
            "The session is another tenant's, or the user may not do this.", ["FORBIDDEN"]
        )
        return operation

    def reset(self) -> JsonSchema:
        return self._operation(
            "resetSession",
            "Free the tenant's lock, whatever holds it",
            description="Without any tenant the only active session is meant.",
            body=_body(closed(TENANT), {}, required=False),
            responses={
                "200": answer("The session that was ended, if there was one.", "SessionOrNone"),
                "400": _refused("Several tenants have one.", "INVALID_SESSION_REQUEST"),
            },
        )

    def current(self) -> JsonSchema:
        return self._operation(
            "currentSession",
            "The tenant's session",
            description="Without any tenant the only active session is meant.",
            responses={
                "200": answer("It, or null.", "SessionOrNone"),
                "400": error(
                    "The tenant is not acceptable, or several have a session.",
                    [*TENANT_CODES, "INVALID_SESSION_REQUEST"],
                ),
            },
        )

    def active(self) -> JsonSchema:
        return self._operation(
            "activeSessions",
            "The sessions there are",
            description="Of all tenants, or of the one that is named; for an administrator.",
            responses={
                "200": answer("They, by tenant.", "SessionList"),
                "400": error("The tenant is not acceptable.", TENANT_CODES),
            },
        )

    def stream(self) -> JsonSchema:
        content = {"schema": reference("schemas", "SessionEvent"), "example": _STREAM_EXAMPLE}
        operation = self._operation(
            "streamSession",
            "Watch a session as it plays",
            description="Events in the total order of the tenant's streams, when they are due.",
            takes=("SessionId", "SessionCursor", "SessionCursorQuery"),
            responses={
                "200": media("A stream of such events.", {"text/event-stream": content}),
                "400": error(
                    "The tenant or the place to go on from is not acceptable.",
                    [*TENANT_CODES, "INVALID_SESSION_REQUEST"],
                ),
                "404": _NO_SESSION,
            },
        )
        responses = operation["responses"]
        assert isinstance(responses, dict)  # noqa: S101 - made in this file
        responses |= self._answers.stream_unavailable
        return operation

    def configuration(self) -> JsonSchema:
        return self._operation(
            "configuration",
            "When snapshots are taken, and of which tables",
            tag="configuration",
            responses={
                "200": answer("The settings.", "Configuration"),
                "400": error("The tenant is not acceptable.", TENANT_CODES),
            },
        )

    def set_interval(self) -> JsonSchema:
        return self._set(
            "setSnapshotInterval",
            "Set when snapshots are taken",
            "snapshot_interval",
            "0 */6 * * *",
        )

    def set_tables(self) -> JsonSchema:
        return self._set(
            "setSnapshotTables",
            "Set of which tables snapshots are taken",
            "list_tables",
            'public.orders, public."Order Lines"',
        )

    def _set(self, name: str, summary: str, field: str, example: str) -> JsonSchema:
        return self._operation(
            name,
            summary,
            tag="configuration",
            body=_body(closed({field: STRING, **TENANT}, field), {field: example}),
            responses={
                "200": answer("All settings.", "Configuration"),
                "400": _refused("That is no such setting.", "INVALID_CONFIGURATION_REQUEST"),
            },
        )

    def _verb(
        self,
        verb: str,
        summary: str,
        properties: Mapping[str, object],
        example: Mapping[str, object],
        *,
        required: tuple[str, ...] = (),
        invalid: bool = False,
        states: bool = True,
    ) -> JsonSchema:
        codes = ["INVALID_SESSION_REQUEST"] if invalid else []
        responses: JsonSchema = {
            "200": answer("The session after it.", "SessionAnswer"),
            "400": _refused("The body is not acceptable.", *codes),
            "404": _NO_SESSION,
        }
        if states:
            responses["409"] = error(
                "The session's status does not allow it; `details` is the session.",
                ["REPLAY_WRONG_STATE"],
            )
        return self._operation(
            f"{verb}Session",
            summary,
            takes=("SessionId",),
            body=_body(
                closed({**properties, **TENANT}, *required), example, required=bool(required)
            ),
            responses=responses,
        )

    def _operation(
        self,
        name: str,
        summary: str,
        *,
        responses: JsonSchema,
        body: JsonSchema | None = None,
        description: str = "",
        takes: Iterable[str] = (),
        tag: str = "sessions",
    ) -> JsonSchema:
        limits = {"414": error("The query string is too long.", ["QUERY_TOO_LARGE"])}
        if body is not None:
            limits["413"] = error("The body is too large.", ["BODY_TOO_LARGE"])
        return {
            "operationId": name,
            "tags": [tag],
            "summary": summary,
            **({"description": description} if description else {}),
            "parameters": parameters("TenantId", "TenantIdQuery", *takes),
            **({} if body is None else {"requestBody": body}),
            **self._answers.security,
            "responses": {
                **responses,
                **self._answers.refusals,
                **limits,
                **self._answers.unavailable,
            },
        }


_NO_SESSION = error("There is no such session.", ["SESSION_NOT_FOUND", "NOT_FOUND"])


def _refused(description: str, *codes: str) -> JsonSchema:
    return error(description, [*SHAPE_CODES, *TENANT_CODES, *codes])


def _body(
    schema: JsonSchema, example: Mapping[str, object], *, required: bool = True
) -> JsonSchema:
    content = {JSON: {"schema": schema, "examples": {"example": {"value": example}}}}
    return {"required": required, "content": content}
