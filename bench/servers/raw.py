"""The limit: a uvloop protocol that writes bytes and does nothing else. Prints its port.

`/publish` writes the body to each watcher at once, `/join` what came in a time joined; `/replay`
sends frames from memory; anything else is answered.
"""

import asyncio
import sys
from typing import cast

import uvloop

from bench.event import rendered
from bench.load import raise_descriptor_limit

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: opened\n\n"
_PAGE = 500
# As long as a sweep of the gateway waits for more.
_JOIN_SEC = 0.02


class _Server:
    def __init__(self) -> None:
        self.watchers: set[asyncio.Transport] = set()
        self.page = b"".join(map(_frame, map(rendered, range(_PAGE))))
        self._pending: list[bytes] = []

    def publish(self, event: bytes) -> None:
        frame = _frame(event)
        for transport in self.watchers:
            transport.write(frame)

    def join(self, event: bytes) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_later(_JOIN_SEC, self._sweep)
        self._pending.append(_frame(event))

    def _sweep(self) -> None:
        frames = b"".join(self._pending)
        self._pending.clear()
        for transport in self.watchers:
            transport.write(frames)


def _frame(event: bytes) -> bytes:
    return b"event: live-notification\nid: 1234567-64d1a2b3c4d5e\ndata: %b\n\n" % event


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._buffer = b""
        self._pages = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        head, separator, body = data.partition(b"\r\n\r\n")
        at = head.find(b"Content-Length: ")
        if not separator or (at >= 0 and len(body) < int(head[at + 16 :].partition(b"\r")[0])):
            self._buffer = data
            return
        self._buffer = b""
        path = head.split(b" ", 2)[1]
        if path == b"/watch":
            self._server.watchers.add(self._transport)
            self._transport.write(_STREAM)
        elif path.startswith(b"/replay"):
            self._pages = int(path.rpartition(b"=")[2]) // _PAGE
            self._transport.write(_STREAM)
            self.resume_writing()
        else:
            if path == b"/publish":
                self._server.publish(body)
            elif path == b"/join":
                self._server.join(body)
            self._transport.write(_ANSWER)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        while self._pages and not self._paused:
            self._pages -= 1
            self._transport.write(self._server.page)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pages = 0
        self._server.watchers.discard(self._transport)


async def _serve() -> None:
    raise_descriptor_limit()
    server = _Server()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    sys.exit(uvloop.run(_serve()))
