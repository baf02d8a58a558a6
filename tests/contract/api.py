"""A client of one gateway for one tenant, as thin as a test can read."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from tests.conftest import RunningGateway
from tests.contract.reader import Frame, Params, Stream, open_stream, query

NOTIFICATION = "/api/v1/notification"
NOTIFICATIONS = "/api/v1/notifications"
WATCH = "/api/v1/watch"
REPLAY = "/api/v1/replay"
PATHS = {"notification": NOTIFICATION, "watch": WATCH, "replay": REPLAY}
LABELS = {
    "notification": "Invalid Notification Request",
    "watch": "Invalid Watch Request",
    "replay": "Invalid Replay Request",
}


class Api:
    """Requests in the name of one tenant (its own by default, so that tests share a gateway)."""

    def __init__(self, gateway: RunningGateway, tenant: str) -> None:
        self.gateway = gateway
        self.tenant = tenant
        self.headers = {"X-Tenant-ID": tenant}
        self.http = gateway.client

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content: bytes | str | None = None,
        params: Params = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        return await self.http.request(
            method,
            path,
            json=body,
            content=content,
            params=query(params),
            headers={**self.headers, **(headers or {})},
        )

    async def post(self, path: str, body: object = None, **more: Any) -> httpx.Response:
        return await self.send("POST", path, body, **more)

    async def publish(
        self,
        event_type: str = "note",
        identifier: Mapping[str, object] | None = None,
        payload: object = None,
    ) -> int:
        """Publish an event that must be accepted; its sequence."""
        identifier = {"author": "ada"} if identifier is None else identifier
        body = {"event_type": event_type, "identifier": identifier, "payload": payload}
        response = await self.post(NOTIFICATION, body)
        assert response.status_code == 200, response.text
        sequence: int = response.json()["sequence"]
        return sequence

    async def publish_many(self, count: int, event_type: str = "note", author: str = "ada") -> None:
        """So many events whose payload is their place, from 1."""
        items = [
            {"event_type": event_type, "identifier": {"author": author}, "payload": place}
            for place in range(1, count + 1)
        ]
        response = await self.post(NOTIFICATIONS, items)
        assert response.json()["accepted"] == count, response.text

    def stream(
        self,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        params: Params = None,
        headers: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[Stream]:
        """POST with a body, GET with parameters."""
        return open_stream(
            self.http,
            "GET" if body is None else "POST",
            path,
            json=body,
            params=params,
            headers={**self.headers, **(headers or {})},
        )

    def watch(
        self,
        event_type: str = "note",
        identifier: Mapping[str, object] | None = None,
        /,
        **limits: str,
    ) -> AbstractAsyncContextManager[Stream]:
        return self.stream(WATCH, ask(event_type, identifier, **limits))

    async def replay(
        self,
        event_type: str = "note",
        identifier: Mapping[str, object] | None = None,
        /,
        **limits: str,
    ) -> list[Frame]:
        """Every frame of a replay, from the beginning unless told otherwise."""
        if "from_id" not in limits and "from_date" not in limits:
            limits["from_id"] = "0"
        async with self.stream(REPLAY, ask(event_type, identifier, **limits)) as stream:
            return await stream.rest()

    async def found(
        self,
        event_type: str = "note",
        identifier: Mapping[str, object] | None = None,
        /,
        **limits: str,
    ) -> list[int]:
        """The sequences that a replay delivers."""
        return [
            each.sequence
            for each in notifications(await self.replay(event_type, identifier, **limits))
        ]


def ask(
    event_type: str, identifier: Mapping[str, object] | None = None, /, **limits: str
) -> dict[str, object]:
    return {"event_type": event_type, "identifier": dict(identifier or {}), **limits}


def notifications(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.is_notification]


def kinds(frames: list[Frame]) -> list[str]:
    """What the frames are, in order: names of notifications, types of control frames."""
    return [frame.kind for frame in frames]


def assert_error(
    response: httpx.Response, status: int, code: str, error: str | None = None
) -> dict[str, Any]:
    """The one shape of errors; its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) >= {"code", "error", "message", "request_id"}, body
    assert body["code"] == code
    assert error is None or body["error"] == error
    assert body["request_id"] == response.headers["x-request-id"]
    return body
