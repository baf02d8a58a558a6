"""The calls of a gateway's playback sessions, and a session as they answer it."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import httpx
import msgspec

from gateway.client import CallRefused, Client, ClientError

_PATIENCE_SEC = 3.0
_PAUSE_SEC = 0.2

_Answer = TypeVar("_Answer")


class RemoteSession(msgspec.Struct, frozen=True):
    """Playback contract, session JSON."""

    id: str
    tenant_id: str
    status: str
    display_status: str
    replay_start_timestamp: datetime
    replay_end_timestamp: datetime
    replay_last_timestamp: datetime
    replay_speed: float
    event_types: list[str]
    error: str | None

    @property
    def playing(self) -> bool:
        return self.status == "MSG_START_OK"

    @property
    def starting(self) -> bool:
        return self.status in ("MSG_START_REQUESTED", "MSG_START_IN_PROGRESS")

    @property
    def ended(self) -> bool:
        return self.status == "DB_END_OK"

    @property
    def at_end(self) -> bool:
        """Stopped because there is no more, or by somebody at that very moment."""
        return (
            self.status == "MSG_STOP_OK" and self.replay_last_timestamp >= self.replay_end_timestamp
        )


class _One(msgspec.Struct, frozen=True):
    data: RemoteSession


class _OneAsItIs(msgspec.Struct, frozen=True):
    data: msgspec.Raw


class _ManyAsTheyAre(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]


decode_session = msgspec.json.Decoder(RemoteSession).decode
_decode_one = msgspec.json.Decoder(_One).decode
_decode_one_as_it_is = msgspec.json.Decoder(_OneAsItIs).decode
_decode_many = msgspec.json.Decoder(_ManyAsTheyAre).decode


class Controls:
    """Raises ClientError, and where it is not said otherwise httpx.RequestError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def init(self, start: str, end: str | None, event_types: Sequence[str]) -> RemoteSession:
        """Make the tenant's session. What went wrong is a ClientError, whatever it was."""
        body: dict[str, object] = {"replay_requested_timestamp": start}
        if end is not None:
            body["replay_end_timestamp"] = end
        if event_types:
            body["event_types"] = event_types
        try:
            return self._call("POST", "init", body)
        except httpx.RequestError as error:
            # Asked again it would find its own session in the way, if there is one.
            why = self._client.on_failure(error)
            raise ClientError(f"{why}; a session it may have begun ends by itself") from error

    def start(self, session_id: str, speed: float) -> RemoteSession:
        return self._call("PUT", f"{session_id}/start", {"replay_speed": speed})

    def stop(self, session_id: str) -> RemoteSession:
        return self._call("PUT", f"{session_id}/stop", {})

    def seek(self, session_id: str, to: datetime) -> RemoteSession:
        return self._call(
            "PUT", f"{session_id}/seek", {"timestamp": to.isoformat(timespec="milliseconds")}
        )

    def end(self, session_id: str) -> None:
        """End it, unless it has ended. Tries for some seconds; what is in the way is a ClientError."""
        deadline = time.monotonic() + _PATIENCE_SEC
        said = False
        while True:
            try:
                self._call("PUT", f"{session_id}/end", {})
            except httpx.RequestError as error:
                why = self._client.on_failure(error)
            except CallRefused as error:
                if error.status == 404:
                    return
                why = str(error)
                if not error.passing:
                    raise
            else:
                return
            if time.monotonic() > deadline:
                raise ClientError(why)
            if not said:
                self._client.say(f"{why}; trying to end the session")
                said = True
            time.sleep(_PAUSE_SEC)

    def current(self) -> list[msgspec.Raw]:
        """The session of the client's tenant, if it has one, as the gateway writes it."""
        session = self._list("v1/replay/current-session", _decode_one_as_it_is).data
        return [] if bytes(session) == b"null" else [session]

    def active(self) -> list[msgspec.Raw]:
        """The sessions of all tenants, as the gateway writes them."""
        return self._list("v1/replay/sessions", _decode_many).data

    def _list(self, path: str, decode: Callable[[bytes], _Answer]) -> _Answer:
        try:
            return self._client.call("GET", path, decode)
        except httpx.RequestError as error:
            raise ClientError(self._client.on_failure(error)) from error

    def _call(self, method: str, path: str, body: object) -> RemoteSession:
        content = msgspec.json.encode(body)
        return self._client.call(method, f"v1/replay/{path}", _decode_one, content).data
