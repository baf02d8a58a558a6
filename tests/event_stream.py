"""An event stream as the standard reads it, over a bare socket that is read only when asked.

Written from WHATWG HTML §9.2.6 alone, so that it does not share a mistake with what it judges.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

DEADLINE_SEC = 60.0
_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Frame:
    """One dispatched event; `id` is None when the frame itself had none."""

    event: str
    text: str
    id: str | None
    retry: int | None

    @property
    def data(self) -> Any:
        return json.loads(self.text)

    @property
    def kind(self) -> str:
        """The `type` of a control frame, `event` for a stored event, else the name."""
        data = self.data
        return "event" if "specversion" in data else str(data.get("type", self.event))

    @property
    def sequence(self) -> int:
        return int(self.data["id"].rpartition("@")[2])


class Parser:
    """§9.2.6. Comments and unknown fields are kept, for the gateway sends none."""

    def __init__(self) -> None:
        self.strange: list[str] = []
        self._line = b""
        self._after_cr = False
        self._first = True
        self._clear()

    def _clear(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        found: list[Frame] = []
        if self._after_cr and chunk:
            # The CR has ended its line already; this LF belongs to it.
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r") or (self._after_cr and not chunk)
        *lines, self._line = _LINE_END.split(self._line + chunk)
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            if self._first:
                self._first, line = False, line.removeprefix("\ufeff")
            if line:
                self._field(line)
                continue
            if self._data:
                text = "\n".join(self._data)
                found.append(Frame(self._event or "message", text, self._id, self._retry))
            self._clear()
        return found

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry = int(value)
        else:
            self.strange.append(line)


class OpenStream:
    """One response. Nothing is taken off the socket but by `receive` and what waits with it."""

    def __init__(self, connection: socket.socket) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.frames: list[Frame] = []
        self.parser = Parser()
        self.ended = False
        self.body = b""
        self._connection = connection
        self._rest = b""
        self._taken = 0

    async def receive(self) -> None:
        """Take what has arrived, or wait for it. `ended` is set at the end of the response."""
        data = await asyncio.get_running_loop().sock_recv(self._connection, 1 << 16)
        if not data:
            self.ended = True
            return
        self._rest += data
        if self.status == 0:
            head, separator, rest = self._rest.partition(b"\r\n\r\n")
            if not separator:
                return
            self._rest = rest
            first, *lines = head.decode("latin-1").split("\r\n")
            self.status = int(first.split(" ")[1])
            pairs = (line.partition(":") for line in lines)
            self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        if self.headers.get("transfer-encoding") != "chunked":
            self.body, self._rest = self.body + self._rest, b""
            self.ended = len(self.body) >= int(self.headers["content-length"])
            return
        while not self.ended:
            size, separator, rest = self._rest.partition(b"\r\n")
            length = int(size, 16) if separator else 0
            if not separator or len(rest) < length + 2:
                return
            assert rest[length : length + 2] == b"\r\n"
            self._rest = rest[length + 2 :]
            self.ended = length == 0
            self.frames += self.parser.feed(rest[:length])

    async def until(
        self, wanted: str | Callable[[Frame], object], timeout: float = DEADLINE_SEC
    ) -> Frame:
        """The next frame, of those not looked at yet, of a kind or that a predicate accepts."""
        async with asyncio.timeout(timeout):
            while True:
                while self._taken < len(self.frames):
                    frame = self.frames[self._taken]
                    self._taken += 1
                    if frame.kind == wanted if isinstance(wanted, str) else wanted(frame):
                        return frame
                assert not self.ended, f"ended, status {self.status}, {self.frames} {self.body!r}"
                await self.receive()

    async def events(self, count: int, timeout: float = DEADLINE_SEC) -> list[Frame]:
        """The next stored events."""
        return [await self.until("event", timeout) for _ in range(count)]

    async def rest(self, timeout: float = DEADLINE_SEC) -> list[Frame]:
        """All frames up to the end, those from before among them."""
        async with asyncio.timeout(timeout):
            while not self.ended:
                await self.receive()
        return self.frames

    def close(self) -> None:
        self._connection.close()


@asynccontextmanager
async def open_stream(
    port: int, request: bytes, *, receive_buffer: int | None = None
) -> AsyncIterator[OpenStream]:
    """Send a request. A small receive buffer makes the kernel hold little for who does not read."""
    connection = socket.socket()
    stream = OpenStream(connection)
    try:
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request)
        yield stream
    finally:
        stream.close()


def get(path: str, params: Mapping[str, str], tenant: str, **headers: str) -> bytes:
    """A GET request; header names with underscores for dashes."""
    return _head("GET", f"{path}?{urlencode(params)}", tenant, headers, 0)


def post(path: str, body: object, tenant: str, **headers: str) -> bytes:
    content = json.dumps(body).encode()
    return _head("POST", path, tenant, headers, len(content)) + content


def _head(method: str, target: str, tenant: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1", f"x-tenant-id: {tenant}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode("latin-1")
