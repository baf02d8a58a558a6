"""A stream's life on its connection: opened, sending, closing with a reason. The one SSE response.

While it keeps up, a sweep writes to it and no task is spent on it. When it cannot take bytes, or has
something to read first, a task of its own brings it up to date.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import structlog
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from gateway import sse
from store.errors import StoreUnavailable

RETRY_SEC = (0.1, 1.0)
# What a stream is at ends within this when it is cancelled, or its connection is cut.
_FAREWELL_SEC = 2.0

logger = structlog.get_logger(__name__)


class Connection(Protocol):
    """A client's connection, as the server lends it to one stream.

    `written_bytes` counts what was written since it was borrowed.
    """

    written_bytes: int

    def borrow(self, on_left: Callable[[], None]) -> bool:
        """Have it to write on until it is given back, or the client has left, which is told.

        False: the client has left already.
        """

    def write(self, body: bytes) -> bool:
        """False: not sent, for the client has yet to take what was before it."""

    async def writable(self) -> None:
        """Wait until `write` may be tried again."""

    def give_back(self) -> None:
        """The stream has ended."""

    def unsent(self) -> int:
        """Bytes written that the client's side has not taken yet."""

    def abort(self) -> None:
        """Close at once, without waiting for what is unsent."""


class Census(Protocol):
    """Where streams register for heartbeats, deadlines and the drain."""

    def enter(self, stream: "EventStream") -> None: ...

    def leave(self, stream: "EventStream") -> None: ...


class EventStream(ABC):
    """Sends one stream; a subclass says what. A `Subscriber` of a sweep while it is live."""

    # There may be ten thousand, so no dictionary each.
    __slots__ = (
        "_blocked",
        "_census",
        "_closing",
        "_connection",
        "_ended",
        "_heartbeat_due",
        "_lifetime",
        "_on_error",
        "_on_events",
        "_send_timeout_sec",
        "_stalled_sec",
        "_taken_bytes",
        "_task",
        "request_id",
        "topic",
    )

    def __init__(
        self,
        *,
        topic: str,
        request_id: str,
        census: Census,
        send_timeout_sec: float,
        lifetime: AbstractContextManager[None],
        on_events: Callable[[int], None],
        on_error: Callable[[], None],
    ) -> None:
        """`lifetime` is entered when the stream begins, and left when it has ended."""
        self.topic = topic
        self.request_id = request_id
        self._census = census
        self._send_timeout_sec = send_timeout_sec
        self._lifetime = lifetime
        self._on_events = on_events
        self._on_error = on_error
        self._task: asyncio.Task[None] | None = None
        self._blocked = b""
        self._heartbeat_due = False
        self._closing: str | None = None
        self._ended = False
        self._connection: Connection | None = None
        self._taken_bytes = 0
        self._stalled_sec = 0.0

    # -- what a subclass is

    @abstractmethod
    async def open(self) -> bool:
        """Write the first frames and what comes before the newest. True: now `approach`."""

    @abstractmethod
    async def approach(self) -> bool:
        """One step towards the newest event. True when the sweep has taken over."""

    @abstractmethod
    def fall_back(self) -> None:
        """Leave the sweep, and note up to where everything is sent; `approach` goes on from there."""

    @abstractmethod
    def leave(self) -> None:
        """Let go of what the stream is fed by; may be called twice."""

    @abstractmethod
    def heartbeat(self) -> bytes:
        """A frame for when nothing else is sent, or b"" where there is always something."""

    @property
    @abstractmethod
    def limited(self) -> bool:
        """Whether the maximum duration holds and heartbeats are sent."""

    # -- beginning and end

    def begin(self, connection: Connection) -> None:
        """Send on this connection, until the end of the stream or of the connection."""
        if not connection.borrow(self._on_left):
            with self._lifetime:  # lets go of what was taken for it
                return
        self._connection = connection
        self._lifetime.__enter__()
        self._census.enter(self)
        self._start_task(self._live)

    def _on_left(self) -> None:
        """The client closed its connection, or it was aborted."""
        self._ended = True
        if self._task is not None:
            self._task.cancel()
        self.leave()
        self._settle()

    def _settle(self) -> None:
        self._census.leave(self)
        self._lifetime.__exit__(None, None, None)

    def _start_task(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # Not a coroutine yet: one that is cancelled before its first step is never awaited.
        self._task = asyncio.create_task(self._guard(work))

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception:
            # A defect must end this stream audibly and leave the others alone.
            logger.exception("stream_failed", request_id=self.request_id)
            await self._end_defective()
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    async def _end_defective(self) -> None:
        try:
            if not self._ended:
                await self._fail("The stream failed inside the server")
                return
            self._on_error()
        except Exception:
            logger.exception("farewell_failed", request_id=self.request_id)
        self.abort()  # else its client would wait on, for what nobody sends

    # -- writing

    async def _write(self, body: bytes) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - set before any task starts
        while not connection.write(body):
            await connection.writable()

    def push(self, body: bytes, events: int) -> bool:
        connection = self._connection
        assert connection is not None  # noqa: S101 - only who has begun is a member
        if events:
            self._on_events(events)
        try:
            if connection.write(body):
                return True
        except Exception:
            # A defect must end this stream audibly; the sweep goes on with the others.
            logger.exception("stream_failed", request_id=self.request_id)
            self.leave()
            self.abort()
            return False
        self._blocked = body
        self.fall_back()
        self._start_task(self._catch_up)
        return False

    async def _finish(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self.leave()
        await self._write(sse.connection_closing(self.topic, reason, self.request_id))
        assert self._connection is not None  # noqa: S101 - it was written to
        self._connection.give_back()
        self._settle()

    async def _fail(self, message: str) -> None:
        """Tell that the stream cannot go on, and end it."""
        self._on_error()
        await self._write(sse.failed(self.topic, message, self.request_id))
        await self._finish("end_of_stream")

    # -- called by the census

    @property
    def live(self) -> bool:
        """Served by the sweep, with nothing of its own under way."""
        return self._task is None and not self._ended

    def beat(self) -> None:
        """A heartbeat is due."""
        if not self.limited:
            return
        if self.live:
            self.push(self.heartbeat(), 0)
        else:
            self._heartbeat_due = True

    def _take_heartbeat(self) -> bytes:
        """The heartbeat that is due, if one is."""
        due, self._heartbeat_due = self._heartbeat_due, False
        return self.heartbeat() if due else b""

    def close(self, reason: str) -> None:
        """End the stream with its closing frame; at once when live, else as soon as it can."""
        if self._ended or self._closing is not None:
            return
        self._closing = reason
        if self.live:
            self.leave()  # else the sweep could write after the closing frame
            self._start_task(partial(self._finish, reason))

    def stalled(self, passed_sec: float) -> bool:
        """Asked regularly: has the client taken no byte for the send timeout, and is owed some?

        The kernel's own time-out for this (TCP_USER_TIMEOUT) is none: it also ends a connection
        whose client reads on, slowly, as long as its window has no room for a whole segment.
        """
        connection = self._connection
        if connection is None or connection.written_bytes == self._taken_bytes:
            return False  # all was taken when it was asked before, which costs a system call
        unsent = connection.unsent()
        taken = connection.written_bytes - unsent
        if unsent == 0 or taken > self._taken_bytes:
            self._taken_bytes, self._stalled_sec = taken, 0.0
            return False
        self._stalled_sec += passed_sec
        return self._stalled_sec >= self._send_timeout_sec

    def fail(self, message: str) -> None:
        """End the stream now, whatever it is at, with a frame that says why."""
        if self._ended:
            return
        self.leave()  # else the sweep could write after the closing frame
        self._start_task(partial(self._break_off, self._task, message))

    async def _break_off(self, task: asyncio.Task[None] | None, message: str) -> None:
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=_FAREWELL_SEC)
            if not task.done():
                self.abort()  # it might write after the closing frame
                return
        await self._fail(message)

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()
        elif self._task is not None:
            self._task.cancel()

    # -- the own task

    async def _live(self) -> None:
        if await self.open():
            await self._catch_up()

    async def _catch_up(self) -> None:
        assert self._connection is not None  # noqa: S101 - set before any task starts
        while not self._ended:
            if self._blocked:
                blocked, self._blocked = self._blocked, b""
                await self._write(blocked)
            if self._closing is not None:
                await self._finish(self._closing)
                return
            if self._heartbeat_due:
                await self._write(self._take_heartbeat())
            written = self._connection.written_bytes
            try:
                if await self.approach():
                    return
            except StoreUnavailable:
                await asyncio.sleep(random.uniform(*RETRY_SEC))  # noqa: S311 - spread, no secret
            if self._connection.written_bytes == written:
                # A step may find nothing to wait for; were it to come to nothing for ever, all
                # others would wait for this stream.
                await asyncio.sleep(0)


class StreamResponse(EventSourceResponse):
    """The head of a stream's answer. Behind it the stream has the connection to itself."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(
            _no_content(),
            ping=0,
            headers={
                "Content-Type": "text/event-stream",  # else Starlette adds a charset
                "Cache-Control": "no-cache, no-transform",
                "Access-Control-Allow-Origin": "*",
            },
        )
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        if scope["http_version"] != "1.1" or _closes(scope):
            del self.headers["connection"]
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self.stream.begin(scope["extensions"]["playhead"]["connection"])


def _closes(scope: Scope) -> bool:
    """Whether the connection ends with this stream, which the server says by a header of its own."""
    lines = (value for name, value in scope["headers"] if name == b"connection")
    return any(word in line.lower() for line in lines for word in (b"close", b"upgrade"))


async def _no_content() -> AsyncIterator[bytes]:
    """The parent's content: all is sent by `EventStream` itself."""
    return
    yield b""
