"""A stream's life on its connection: opened, sending, closing with a reason. The one SSE response.

While it keeps up, a sweep writes to it and no task is spent on it but the server's own. When it
cannot take bytes, or has something to read first, a task of its own brings it up to date.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
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
    """What the server lets us see of a client's connection."""

    def unsent(self) -> int:
        """Bytes written that the client's side has not taken yet."""

    def abort(self) -> None:
        """Close at once, without waiting for what is unsent."""


class Census(Protocol):
    """Where streams register for heartbeats, deadlines and the drain."""

    def enter(self, stream: "EventStream") -> None: ...

    def leave(self, stream: "EventStream") -> None: ...


class _Resumed:
    """A coroutine that was driven by hand to its first wait, to be awaited from there."""

    __slots__ = ("_coroutine", "_waited_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waited_for: Any) -> None:
        self._coroutine = coroutine
        self._waited_for = waited_for

    def __await__(self) -> Generator[Any, Any, None]:
        while True:
            step: Callable[[], Any]
            try:
                step = partial(self._coroutine.send, (yield self._waited_for))
            except BaseException as error:  # noqa: BLE001 - handed on, as `yield from` would
                step = partial(self._coroutine.throw, error)
            try:
                self._waited_for = step()
            except StopIteration:
                return


class EventStream(EventSourceResponse, ABC):
    """Sends one stream; a subclass says what. A `Subscriber` of a sweep while it is live."""

    def __init__(
        self,
        *,
        topic: str,
        request_id: str,
        census: Census,
        send_timeout_sec: float,
        lifetime: Callable[[], AbstractContextManager[None]],
        on_events: Callable[[int], None],
        on_error: Callable[[], None],
    ) -> None:
        super().__init__(
            _no_content(),
            ping=0,
            headers={
                "Content-Type": "text/event-stream",  # else Starlette adds a charset
                "Cache-Control": "no-cache, no-transform",
                "Access-Control-Allow-Origin": "*",
            },
        )
        self.topic = topic
        self.request_id = request_id
        self._census = census
        self._send_timeout_sec = send_timeout_sec
        self._lifetime = lifetime
        self._on_events = on_events
        self._on_error = on_error
        self._task: asyncio.Task[None] | None = None
        self._blocked: _Resumed | None = None
        self._heartbeat_due = False
        self._closing: str | None = None
        self._ended = False
        self._raw_send: Send | None = None
        self._connection: Connection | None = None
        self._written_bytes = 0
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

    # -- the ASGI side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        if scope["http_version"] != "1.1" or _closes(scope):
            del self.headers["connection"]
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        # Past the start, frames go to the server directly: a wrapper a layer costs as much as a send.
        self._raw_send = scope.get("state", {}).get("server_send", send)
        self._connection = scope.get("extensions", {}).get("playhead", {}).get("connection")
        with self._lifetime():
            self._census.enter(self)
            try:
                self._start_task(self._live)
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                self._ended = True
                self._census.leave(self)
                if self._task is not None:
                    self._task.cancel()
                self.leave()

    def _start_task(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # Not a coroutine yet: one that is cancelled before its first step is never awaited.
        self._task = asyncio.create_task(self._guard(work))

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception:
            # A defect must end this stream audibly and leave the others alone.
            logger.exception("stream_failed", request_id=self.request_id)
            await self._fail("The stream failed inside the server")
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    # -- writing

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        assert self._raw_send is not None  # noqa: S101 - set before any task starts
        self._written_bytes += len(body)
        await self._raw_send({"type": "http.response.body", "body": body, "more_body": more})

    def push(self, body: bytes, events: int) -> bool:
        try:
            taken = self._drive(body, more=True)
        except Exception:
            # A defect must end this stream audibly; the sweep goes on with the others.
            logger.exception("stream_failed", request_id=self.request_id)
            self.leave()
            self.abort()
            return False
        if taken:
            if events:
                self._on_events(events)
            return True
        self._on_events(events)
        self.fall_back()
        self._start_task(self._catch_up)
        return False

    def _drive(self, body: bytes, *, more: bool) -> bool:
        """Send without a task. False: the server made us wait; `_blocked` holds the rest."""
        assert self._raw_send is not None  # noqa: S101 - set before any task starts
        self._written_bytes += len(body)
        sending: Any = self._raw_send(
            {"type": "http.response.body", "body": body, "more_body": more}
        )
        try:
            waited_for = sending.send(None)
        except StopIteration:
            return True
        self._blocked = _Resumed(sending, waited_for)
        return False

    async def _finish(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self.leave()
        closing = sse.connection_closing(self.topic, reason, self.request_id)
        await self._write(closing, more=False)

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
        if self._connection is None:
            return False
        unsent = self._connection.unsent()
        taken = self._written_bytes - unsent
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
        while not self._ended:
            if self._blocked is not None:
                blocked, self._blocked = self._blocked, None
                await blocked
            if self._closing is not None:
                await self._finish(self._closing)
                return
            if self._heartbeat_due:
                await self._write(self._take_heartbeat())
            written = self._written_bytes
            try:
                if await self.approach():
                    return
            except StoreUnavailable:
                await asyncio.sleep(random.uniform(*RETRY_SEC))  # noqa: S311 - spread, no secret
            if self._written_bytes == written:
                # A step may find nothing to wait for; were it to come to nothing for ever, all
                # others would wait for this stream.
                await asyncio.sleep(0)


def _closes(scope: Scope) -> bool:
    """Whether the connection ends with this stream, which the server says by a header of its own."""
    lines = (value for name, value in scope["headers"] if name == b"connection")
    return any(word in line.lower() for line in lines for word in (b"close", b"upgrade"))


async def _no_content() -> AsyncIterator[bytes]:
    """The parent's content: all is sent by `EventStream` itself."""
    return
    yield b""
