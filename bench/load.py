"""A lean HTTP/1.1 load client on asyncio protocols: requests in a row, and frames counted as bytes."""

import asyncio
import time
from collections.abc import Callable
from typing import cast


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """The bytes of one request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Requester(asyncio.Protocol):
    """Sends the same request again as soon as it is answered; notes each answer's time in s."""

    def __init__(self, payload: Callable[[], bytes | None], done: asyncio.Future[None]) -> None:
        self._payload = payload
        self._done = done
        self._sent = 0.0
        self._buffer = b""
        self.seconds: list[float] = []
        self.failures = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._next()

    def _next(self) -> None:
        payload = self._payload()
        if payload is None:
            if not self._done.done():
                self._done.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(payload)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        start = lower.index(b"content-length:") + 15
        length = int(lower[start : lower.find(b"\r\n", start) % (len(lower) + 1)])
        if len(body) < length:
            return
        self._buffer = b""
        self.seconds.append(time.perf_counter() - self._sent)
        self.failures += not head.startswith(b"HTTP/1.1 200")
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("closed by the server"))


class Watcher(asyncio.Protocol):
    """Opens a stream and counts the frames that carry a marker, also across reads."""

    def __init__(self, opening: bytes, marker: bytes, wanted: int) -> None:
        self._opening = opening
        self._marker = marker
        self._wanted = wanted
        self._rest = b""
        self.count = 0
        self.bytes = 0
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[float] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._opening)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        if not self.opened.done() and b"\n\n" in self._rest + data:
            self.opened.set_result(None)
        text = self._rest + data
        self.count += text.count(self._marker)
        # A marker cut in two is counted when its second half comes.
        self._rest = text[-(len(self._marker) - 1) :]
        if self.count >= self._wanted and not self.done.done():
            self.done.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.opened, self.done):
            if not future.done():
                future.set_exception(exc or ConnectionError(f"closed after {self.count} frames"))
                future.exception()
