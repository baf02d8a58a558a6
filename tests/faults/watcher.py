"""A watcher as EventSource or an Aviso client is one: it resumes behind the last event it received."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec

from tests.faults.publisher import EVENT_TYPE
from tests.faults.wire import LOST, Frame, Frames, abort, head, open_frames

_RETRY_SEC = 0.05


class Watcher:
    """Follows one stream until stopped, over as many connections as it takes.

    `received` are the sequences in the order of arrival, over all connections.
    """

    def __init__(
        self,
        ports: list[int],
        tenant: str,
        *,
        form: Literal["GET", "POST"] = "GET",
        from_sequence: int | None = 1,
        station: str | None = None,
        event_type: str = EVENT_TYPE,
        receive_buffer: int | None = None,
    ) -> None:
        self.received: list[int] = []
        self.epochs: set[str] = set()
        self.gaps: list[Any] = []
        self.failures: list[Any] = []
        self.closings: list[str] = []
        self.heartbeats = 0
        self.openings = 0
        self.last_id = ""
        # For a watch without history: the position that its first heartbeat told.
        self.began_behind: int | None = None
        self.station = station
        self.from_sequence = from_sequence
        self._ports = ports
        self.tenant = tenant
        self._form = form
        self.event_type = event_type
        self._receive_buffer = receive_buffer
        self._protocol: Frames | None = None
        self._stopping = False

    @property
    def last(self) -> int:
        """The last sequence received."""
        return self.received[-1] if self.received else 0

    @property
    def opened(self) -> bool:
        return self.openings > 0

    async def run(self) -> None:
        attempt = 0
        while not self._stopping:
            port = self._ports[attempt % len(self._ports)]
            attempt += 1
            try:
                self._protocol = await open_frames(
                    port, self._request(), self._on_frame, self._receive_buffer
                )
                if not self._stopping:
                    await self._protocol.closed
                assert self._protocol.status in (0, 200, 503), self._protocol.refusal
            except LOST:
                pass
            finally:
                abort(self._protocol)
            if not self._stopping:
                await asyncio.sleep(_RETRY_SEC)

    def stop(self) -> None:
        self._stopping = True
        abort(self._protocol)

    def drop(self) -> None:
        """Lose the connection, as a network does."""
        abort(self._protocol)

    def pause(self) -> None:
        """Take no byte any more."""
        assert self._protocol is not None
        assert self._protocol.transport is not None
        self._protocol.transport.pause_reading()

    def resume(self) -> None:
        assert self._protocol is not None
        assert self._protocol.transport is not None
        self._protocol.transport.resume_reading()

    def _request(self) -> bytes:
        if self._form == "POST":
            body: dict[str, Any] = {"event_type": self.event_type, "identifier": {}}
            if self.station is not None:
                body["identifier"] = {"station": self.station}
            if self.received or self.from_sequence is not None:
                body["from_id"] = str(self.last + 1 if self.received else self.from_sequence)
            encoded = msgspec.json.encode(body)
            return head("POST", "/api/v1/watch", self.tenant, length=len(encoded)) + encoded
        query = {"event_type": self.event_type}
        if self.station is not None:
            query["identifier.station"] = self.station
        if self.from_sequence is not None:
            query["from_id"] = str(self.from_sequence)
        headers: Mapping[str, str] = {"last-event-id": self.last_id} if self.last_id else {}
        return head("GET", f"/api/v1/watch?{urlencode(query)}", self.tenant, headers)

    def _on_frame(self, frame: Frame) -> None:
        if frame.id:
            self.last_id = frame.id
        if frame.is_event:
            sequence, _, epoch = frame.id.partition("-")
            self.received.append(int(sequence))
            self.epochs.add(epoch)
            return
        match frame.name, frame.json():
            case "gap", gap:
                self.gaps.append(gap)
            case "error", failure:
                self.failures.append(failure)
            case "connection-closing", {"reason": reason}:
                self.closings.append(reason)
            case "heartbeat", {"sequence": sequence}:
                self.heartbeats += 1
                if self.began_behind is None:
                    self.began_behind = sequence
            case _, {"type": "connection_established" | "replay_started"}:
                self.openings += 1


async def read_log(port: int, tenant: str, event_type: str = EVENT_TYPE) -> list[tuple[int, Any]]:
    """Every event of the log, as a replay tells it: sequence and payload, in order."""
    found: list[tuple[int, Any]] = []
    closings: list[Any] = []

    def on_frame(frame: Frame) -> None:
        if frame.is_event:
            event = frame.json()
            sequence = int(frame.id.partition("-")[0])
            assert event["id"] == f"{event_type}@{sequence}"
            found.append((sequence, event["data"]["payload"]))
        elif frame.name in ("connection-closing", "error", "gap"):
            closings.append(frame.json().get("reason"))

    query = urlencode({"event_type": event_type, "from_id": "1"})
    request = head("GET", f"/api/v1/replay?{query}", tenant)
    protocol = await open_frames(port, request, on_frame)
    await protocol.closed
    assert closings == ["end_of_stream"], (protocol.status, protocol.refusal, closings)
    return found
