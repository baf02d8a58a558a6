"""HTTP/1.1 over bare transports: one request after another, and streams that can stop being read.

Lean on purpose: hundreds of streams and hundreds of thousands of events pass through one process.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import httptools
import msgspec

# What a fault looks like from the client's side.
LOST = (OSError, EOFError)
TIMEOUT_SEC = 60.0


async def eventually(
    predicate: Callable[[], object],
    description: str,
    timeout: float = 60.0,
    poll_sec: float = 0.01,
) -> None:
    """Return when the predicate holds; fail with the description when it does not in time."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {description}")
        await asyncio.sleep(poll_sec)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Client:
    """One keep-alive connection. A lost one raises one of `LOST`, and the next request opens anew."""

    def __init__(self, port: int, tenant: str) -> None:
        self.port = port
        self.tenant = tenant
        self._writer: asyncio.StreamWriter | None = None
        self._reader = asyncio.StreamReader()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SEC,
    ) -> Answer:
        try:
            async with asyncio.timeout(timeout):
                if self._writer is None:
                    self._reader, self._writer = await asyncio.open_connection(
                        "127.0.0.1", self.port
                    )
                self._writer.write(head(method, path, self.tenant, headers, len(body)) + body)
                return await self._answer()
        except BaseException:
            self.close()
            raise

    async def _answer(self) -> Answer:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(_header(line) for line in lines if line)
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        answer = Answer(int(first.split(" ")[1]), headers, body)
        if headers.get("connection") == "close":
            self.close()
        return answer

    async def publish(
        self, notification: object, key: str | None = None, timeout: float = TIMEOUT_SEC
    ) -> Answer:
        path = "/api/v1/notification"
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.request("POST", path, msgspec.json.encode(notification), headers, timeout)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


def head(
    method: str, path: str, tenant: str, headers: Mapping[str, str] | None = None, length: int = 0
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"x-tenant-id: {tenant}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event, its data not parsed."""

    name: str
    id: str
    data: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.data)

    @property
    def is_event(self) -> bool:
        """A stored event, rather than a frame of the gateway's own."""
        return self.data.startswith(b'{"data":')


class Frames(asyncio.Protocol):
    """The protocol of one open stream: calls `on_frame` with each frame that has arrived whole."""

    def __init__(self, request: bytes, on_frame: Callable[[Frame], None]) -> None:
        self._request = request
        self._on_frame = on_frame
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.refusal = b""
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.status != 200:
            self.refusal += body
            return
        *frames, self._rest = (self._rest + body).split(b"\n\n")
        for frame in frames:
            self._on_frame(_parse(frame))

    def on_message_complete(self) -> None:
        assert self.transport is not None
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


def _parse(frame: bytes) -> Frame:
    fields = {}
    for line in frame.split(b"\n"):
        name, _, value = line.partition(b": ")
        fields[name] = value
    return Frame(
        fields.get(b"event", b"").decode(), fields.get(b"id", b"").decode(), fields[b"data"]
    )


async def open_frames(
    port: int, request: bytes, on_frame: Callable[[Frame], None], receive_buffer: int | None = None
) -> Frames:
    """Connect, and send the request. A small receive buffer makes the kernel hold little."""
    loop = asyncio.get_running_loop()
    connecting = socket.socket()
    try:
        connecting.setblocking(False)
        if receive_buffer is not None:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await loop.sock_connect(connecting, ("127.0.0.1", port))
        _, protocol = await loop.create_connection(
            lambda: Frames(request, on_frame), sock=connecting
        )
    except BaseException:
        connecting.close()
        raise
    return protocol


def abort(protocol: asyncio.BaseProtocol | None) -> None:
    transport = getattr(protocol, "transport", None)
    if transport is not None:
        with suppress(RuntimeError):
            transport.abort()
