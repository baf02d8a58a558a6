"""An HTTP server that answers what a test tells it to: faults that no healthy gateway shows."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

EVENT_STREAM = {"Content-Type": "text/event-stream"}


@dataclass(frozen=True)
class Reply:
    """One answer. `breaks`: the connection is lost after the body; `hangs`: it stays, silent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    hangs: bool = False

    @classmethod
    def json(cls, content: object, status: int = 200, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(content).encode(), named)

    @classmethod
    def stream(cls, *frames: str, breaks: bool = False, hangs: bool = False) -> "Reply":
        return cls(200, "".join(frames).encode(), EVENT_STREAM, breaks, hangs)


LOST = Reply(0)


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    params: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    """Answers the first request with the first reply, and so on; a request too many is lost."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.asked: list[Asked] = []
        self._replies = list(replies)
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client.makefile("rb") as file:
            method, target, _ = file.readline().decode().split()
            headers: dict[str, str] = {}
            while line := file.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = file.read(int(headers.get("content-length", "0")))
            parts = urlsplit(target)
            asked = Asked(method, parts.path, parse_qsl(parts.query), headers, body)
            self.asked.append(asked)
            reply = self._replies.pop(0) if self._replies else LOST
            self._answer(client, reply)
            if not reply.hangs:
                client.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket, reply: Reply) -> None:
        if reply is LOST:
            return
        headers = {"Connection": "close", **reply.headers}
        body = reply.body
        if reply.breaks or reply.hangs:
            headers["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        client.sendall(f"HTTP/1.1 {reply.status} Status\r\n{head}\r\n".encode() + body)

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def scripted(*replies: Reply) -> Iterator[ScriptedServer]:
    server = ScriptedServer(replies)
    try:
        yield server
    finally:
        server.close()
