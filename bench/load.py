"""A lean HTTP/1.1 load client on asyncio protocols: requests in a row, and frames counted as bytes.

A watcher counts a mark in what it reads; the server's own numbers, where it has dense ones, show at
each read that nothing was lost or repeated. Some look closely: at the number and the time of every
frame. It shares the processors with the server: `bench.ceiling` tells what it can do alone.
"""

import asyncio
import contextlib
import resource
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias, cast

from bench.event import MARK, SENT, now_us, stamped
from bench.figure import Wrong

# A client has about 28,000 ports for one address of its own and one of the server.
_PORTS = 20_000
_OPENING_AT_ONCE = 200
_SEAM = len(MARK) - 1
_LINE_END = 10
# What the Aviso API answers with 200 to a request for many that it has stored in part, or not at all.
_PARTIAL = b'"status":"partial"'
PATIENCE_SEC = 120.0
# They take turns at an even rate, so that one answer that is slow keeps no other back.
_SENDERS = 4

# Host and port.
Address: TypeAlias = tuple[str, int]


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """The bytes of one request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def raise_descriptor_limit() -> int:
    """To the hard limit, for the servers that are started here as well; what it is then."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Requester(asyncio.Protocol):
    """Sends the next request as soon as the last is answered; notes each answer's time in s."""

    def __init__(self, payload: Callable[[], bytes | None] = lambda: None) -> None:
        self._payload = payload
        self._sent = 0.0
        self._buffer = b""
        self.seconds = array("d")
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._next()

    def ask(self, payload: bytes) -> asyncio.Future[None]:
        """Send this one; done when it is answered."""
        self.done = asyncio.get_running_loop().create_future()
        self._write(payload)
        return self.done

    def _next(self) -> None:
        payload = self._payload()
        if payload is not None:
            self._write(payload)
        elif not self.done.done():
            self.done.set_result(None)

    def _write(self, payload: bytes) -> None:
        self._sent = time.perf_counter()
        self._transport.write(payload)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + _content_length(data, end):
            self._buffer = data
            return
        self._buffer = b""
        self.seconds.append(time.perf_counter() - self._sent)
        if not data.startswith(b"HTTP/1.1 2") or _PARTIAL in data:
            self._fail(Wrong(f"a request was answered {data[:400]!r}"))
            return
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Wrong(f"the server closed a connection: {exc}"))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()


def _content_length(data: bytes, end: int) -> int:
    head = data[:end].lower()
    start = head.find(b"content-length:")
    if start < 0:
        if head.startswith(b"http/1.1 204"):
            return 0
        raise Wrong(f"an answer does not tell its length: {data[:400]!r}")
    stop = head.find(b"\r", start)
    return int(head[start + 15 : stop if stop > 0 else end])


async def connect(address: Address, make: Callable[[], Requester]) -> Requester:
    return (await asyncio.get_running_loop().create_connection(make, *address))[1]


async def send(
    address: Address, connections: int, requests: Iterator[bytes]
) -> tuple[Sequence[float], float]:
    """Send all, each connection one after the other's answer; the seconds of each, and of all.

    Raises Wrong when one is refused.
    """
    make = partial(Requester, partial(next, requests, None))
    clients: list[Requester] = []
    started = time.perf_counter()
    try:
        clients += [await connect(address, make) for _ in range(connections)]
        await asyncio.gather(*(client.done for client in clients))
        took = time.perf_counter() - started
    finally:
        for client in clients:
            client.close()
    seconds = array("d")
    for client in clients:
        seconds.extend(client.seconds)
    return seconds, took


async def send_at_rate(address: Address, publications: Sequence[bytes], rate: float) -> float:
    """Send at an even rate (1/s), each stamped with when it is due; the most one was late, in s.

    What is late because the server is slow counts for the server: the stamp is not that of sending.
    """
    started = time.perf_counter() + 0.01
    clients = [await connect(address, Requester) for _ in range(_SENDERS)]

    async def drive(first: int) -> float:
        late = 0.0
        for number in range(first, len(publications), _SENDERS):
            due = started + number / rate
            await asyncio.sleep(due - time.perf_counter())
            late = max(late, time.perf_counter() - due)
            await clients[first].ask(stamped(publications[number], int(due * 1e6)))
        return late

    try:
        return max(await asyncio.gather(*map(drive, range(_SENDERS))))
    finally:
        for client in clients:
            client.close()


class Watcher(asyncio.Protocol):
    """Opens a stream and counts the frames of events, also across reads.

    `sequence` is what stands before the server's dense number in a frame. `close`: keeps the number
    of each frame and its latency in us. `on_frames` is told how many came at each read.
    Not `waits`: its events come at once, without a word that it is open.
    """

    __slots__ = (
        "_base", "_close", "_on_frames", "_opening", "_rest", "_seam", "_sequence", "_wanted",
        "bytes", "count", "done", "latencies_us", "numbers", "opened", "transport", "wrong",
    )  # fmt: skip

    def __init__(
        self,
        opening: bytes,
        wanted: int,
        *,
        sequence: bytes | None = None,
        close: bool = False,
        waits: bool = True,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        self._opening = opening
        self._wanted = wanted
        self._sequence = sequence
        self._close = close
        self._on_frames = on_frames
        self._base: int | None = None
        self._seam = b""
        self._rest = b""
        self.count = 0
        self.bytes = 0
        self.wrong: str | None = None
        self.numbers = array("q")
        self.latencies_us = array("q")
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        if not waits:
            self.opened.set_result(None)
        self.done: asyncio.Future[float] = loop.create_future()

    @property
    def last(self) -> int | None:
        """The server's number of the last event that was looked at."""
        return None if self._base is None else self._base + self.count

    def itself(self) -> "Watcher":
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._opening)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        count = data.count(MARK)
        if self._seam:
            count += (self._seam + data[:_SEAM]).count(MARK)
        # The mark has no line end in it: it cannot be cut where a read ends with one.
        cut = data[-1] != _LINE_END
        self._seam = (self._seam + data[-_SEAM:])[-_SEAM:] if cut else b""
        if not count:
            if not self.opened.done():
                self._open(data)
            elif self._close:
                self._look(data)
            return
        self.count += count
        if not self.opened.done():
            self.opened.set_result(None)
        if self._close:
            self._look(data)
        if self._sequence is not None:
            self._check(data)
        if self._on_frames is not None:
            self._on_frames(count)
        if self.count >= self._wanted:
            self._finish()

    def _open(self, data: bytes) -> None:
        self._rest += data
        head = self._rest.find(b"\r\n\r\n")
        if head >= 0 and not self._rest.startswith(b"HTTP/1.1 200"):
            self.opened.set_exception(Wrong(f"a stream was refused: {self._rest[:400]!r}"))
        elif head >= 0 and (end := self._rest.find(b"\n\n", head + 4)) >= 0:
            self._rest = self._rest[end + 2 :] if self._close else b""
            self.opened.set_result(None)

    def _look(self, data: bytes) -> None:
        text = self._rest + data if self._rest else data
        end = text.rfind(b"\n") + 1
        now = now_us()
        for number, sent in SENT.findall(text, 0, end):
            self.numbers.append(int(number))
            self.latencies_us.append(now - int(sent))
        self._rest = text[end:]

    def _check(self, data: bytes) -> None:
        assert self._sequence is not None
        at = data.rfind(self._sequence)
        if at < 0:
            return
        at += len(self._sequence)
        end = data.find(b'"', at)
        if end < 0:
            return
        # A frame that has begun after this one is counted already.
        count = self.count - data.count(MARK, end)
        last = int(data[at:end])
        if self._base is None:
            self._base = last - count
        elif last != self._base + count and self.wrong is None:
            self.wrong = f"{count} frames came after {self._base}, and the last is {last}"

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.opened, self.done):
            if not future.done():
                future.set_exception(Wrong(f"a stream ended after {self.count} frames: {exc}"))
                future.exception()

    def verify(self, numbers: Iterable[int] | None = None) -> None:
        """Raise Wrong for frames too few or too many, and for others than those numbers."""
        if self.wrong is None and self.count != self._wanted:
            self.wrong = f"{self.count} frames came of {self._wanted}"
        if self.wrong is None and self._close and numbers is not None:
            missing = set(numbers).symmetric_difference(self.numbers)
            if missing or len(set(self.numbers)) != len(self.numbers):
                self.wrong = f"lost or never published: {sorted(missing)[:5]}, or one came twice"
        if self.wrong is not None:
            raise Wrong(self.wrong)


async def watch(address: Address, watchers: Sequence[Watcher]) -> None:
    """Connect them, and return when all their streams are open."""
    loop = asyncio.get_running_loop()
    local = address[0].startswith("127.")
    for start in range(0, len(watchers), _OPENING_AT_ONCE):
        part = watchers[start : start + _OPENING_AT_ONCE]
        # More addresses of one's own than one has ports for.
        own = (f"127.0.0.{2 + start // _PORTS}", 0) if local and start >= _PORTS else None
        await asyncio.gather(
            *(loop.create_connection(each.itself, *address, local_addr=own) for each in part)
        )
        async with asyncio.timeout(PATIENCE_SEC):
            await asyncio.gather(*(each.opened for each in part))


async def await_all(watchers: Sequence[Watcher]) -> float:
    """The moment when the last has all its frames; raises Wrong when they do not come."""
    try:
        async with asyncio.timeout(PATIENCE_SEC):
            return max(await asyncio.gather(*(each.done for each in watchers)))
    except TimeoutError:
        worst = min(watchers, key=lambda each: each.count)
        raise Wrong(f"{worst.count} frames came, and then none for long") from None


def leave(watchers: Iterable[Watcher]) -> None:
    for each in watchers:
        each.transport.abort()
