"""A client of the session calls for one tenant, as thin as a test can read."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.contract.api import assert_error

PAST = datetime(2018, 2, 6, tzinfo=UTC)
START = "2018-02-06T00:00:00.000Z"
END = "2018-02-06T01:00:00.000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
SESSION_KEYS = [
    *("display_status", "error", "event_types", "id", "replay_end_timestamp"),
    *("replay_last_timestamp", "replay_speed", "replay_start_timestamp", "status", "tenant_id"),
]


def moment(seconds: float) -> str:
    """So long after the start of the recording, as the service writes times."""
    text = (PAST + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class Controls:
    """Requests in the name of one tenant, or of nobody in particular."""

    def __init__(self, http: httpx.AsyncClient, tenant: str | None) -> None:
        self.http = http
        self.tenant = tenant
        self.headers = {} if tenant is None else {"X-Tenant-ID": tenant}

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        return await self.http.request(
            method,
            path,
            json=body,
            content=content,
            params=params,
            headers={**self.headers, **(headers or {})},
        )

    async def init(self, start: str = START, end: str | None = END, **more: Any) -> httpx.Response:
        body = {"replay_requested_timestamp": start, "replay_end_timestamp": end, **more}
        body = {name: value for name, value in body.items() if value is not None}
        return await self.send("POST", "/v1/replay/init", body)

    async def put(self, session: str, verb: str, **body: Any) -> httpx.Response:
        return await self.send("PUT", f"/v1/replay/{session}/{verb}", body or None)

    async def start(self, session: str, speed: float | None = None) -> httpx.Response:
        return await self.put(
            session, "start", **({} if speed is None else {"replay_speed": speed})
        )

    async def stop(self, session: str) -> httpx.Response:
        return await self.put(session, "stop")

    async def seek(self, session: str, timestamp: str) -> httpx.Response:
        return await self.put(session, "seek", timestamp=timestamp)

    async def end(self, session: str) -> httpx.Response:
        return await self.put(session, "end")

    async def reset(self) -> httpx.Response:
        return await self.send("POST", "/v1/replay/reset")

    async def current(self) -> Any:
        """The session, or None."""
        return done(await self.send("GET", "/v1/replay/current-session"), null=True)

    async def begin(self, start: str = START, end: str | None = END, **more: Any) -> Any:
        """A session that must be given."""
        return done(await self.init(start, end, **more), 201)

    async def record(self, seconds: Sequence[float], event_type: str = "reading") -> None:
        """Events of the past, so long after the start of the recording, numbered from 1."""
        items = [
            {
                "event_type": event_type,
                "identifier": {"station": "north"},
                "payload": number,
                "time": moment(each),
            }
            for number, each in enumerate(seconds, 1)
        ]
        answer = await self.send("POST", "/api/v1/notifications", items)
        assert answer.json()["accepted"] == len(items), answer.text


def done(response: httpx.Response, status: int = 200, *, null: bool = False) -> Any:
    """The session of an answer that must be a success."""
    data = _data(response, status)
    if not (null and data is None):
        assert sorted(data) == SESSION_KEYS
    return data


def done_many(response: httpx.Response) -> list[dict[str, Any]]:
    """The sessions of an answer that must be a success."""
    data: list[dict[str, Any]] = _data(response, 200)
    assert all(sorted(session) == SESSION_KEYS for session in data)
    return data


def _data(response: httpx.Response, status: int) -> Any:
    """The `data` of an answer in the one shape of successes."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert sorted(body) == ["data", "message", "sent_at"]
    assert isinstance(body["message"], str)
    assert body["message"]
    return body["data"]


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of a refusal in the one shape of errors."""
    found = assert_error(response, status, code)
    # Who may not is told no more than that.
    assert "details" in found or status in {401, 403}
    assert set(found) <= {"code", "details", "error", "message", "request_id"}
    return found
