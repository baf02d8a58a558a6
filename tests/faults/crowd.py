"""Hundreds of watchers in one process: each counts the events that arrive and parses nothing."""

import asyncio
from typing import cast

import msgspec

from tests.faults.publisher import EVENT_TYPE
from tests.faults.wire import abort, eventually, head

# Only events have an `id:` line on a stream that was asked for by POST.
_MARK = b"\nid: "
_KEPT = len(_MARK) - 1
_ESTABLISHED = b"connection_established"
_BUFFER = bytearray(256 << 10)


class Counting(asyncio.BufferedProtocol):
    """One stream. All of them receive into the same buffer, one after another."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._end = b""
        self._beginning = b""
        self.opened = False
        self.lost = False
        self.events = 0
        self.bytes = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.transport.write(self._request)

    def get_buffer(self, sizehint: int) -> bytearray:
        return _BUFFER

    def buffer_updated(self, size: int) -> None:
        self.bytes += size
        self.events += _BUFFER.count(_MARK, 0, size)
        self.events += (self._end + _BUFFER[: min(size, _KEPT)]).count(_MARK)
        self._end = bytes((self._end + _BUFFER[max(0, size - _KEPT) : size])[-_KEPT:])
        if not self.opened:
            self._beginning += _BUFFER[:size]
            self.opened = _ESTABLISHED in self._beginning

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


class Crowd:
    """So many live watchers of one stream."""

    def __init__(self) -> None:
        self.members: list[Counting] = []

    async def join(self, port: int, tenant: str, size: int) -> None:
        """Return when all of them are live."""
        body = msgspec.json.encode({"event_type": EVENT_TYPE, "identifier": {}})
        request = head("POST", "/api/v1/watch", tenant, length=len(body)) + body
        loop = asyncio.get_running_loop()
        for _ in range(size):
            _, member = await loop.create_connection(lambda: Counting(request), "127.0.0.1", port)
            self.members.append(member)
        await eventually(lambda: all(each.opened for each in self.members), "the crowd is live")

    def least(self) -> int:
        """Events that every member has received."""
        return min(each.events for each in self.members)

    def close(self) -> None:
        for each in self.members:
            abort(each)
