"""A stream's life: opened, history, live, closing with a reason. The one SSE response.

While it keeps up, the fan-out's sweep writes to it and no task is spent on it but the server's own.
When it cannot take bytes, or reads history, a task of its own reads the log from its position.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from gateway import sse
from gateway.fanout import Channel, Fanout, Filter
from gateway.reading import Reading
from store.errors import StoreError, StoreUnavailable
from store.event import ORIGIN, Gap, GapReason, Page, Position, StreamKey
from store.log import EventLog

CATCH_UP_BYTES = 256 << 10
_RETRY_SEC = (0.1, 1.0)

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Times in seconds, sizes in events."""

    heartbeat_sec: float
    max_duration_sec: float
    send_timeout_sec: float
    backend_patience_sec: float
    page_size: int
    batch_delay_ms: int


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What one stream is to send. `from_browser`: an EventSource, which resumes by `id:` alone."""

    stream: StreamKey
    topic: str
    match: Filter
    reading: Reading
    watch: bool
    max_history: int
    request_id: str
    first_frame: bytes
    from_browser: bool


class Connection(Protocol):
    """What the server lets us see of a client's connection."""

    def unsent(self) -> int:
        """Bytes written that the client's side has not taken yet."""

    def abort(self) -> None:
        """Close at once, without waiting for what is unsent."""


class Census(Protocol):
    """Where streams register for heartbeats, deadlines and the drain."""

    def enter(self, stream: "EventStreamResponse") -> None: ...

    def leave(self, stream: "EventStreamResponse") -> None: ...


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


class EventStreamResponse(EventSourceResponse):
    """Sends one stream. A `Subscriber` of the fan-out while live."""

    def __init__(
        self,
        plan: StreamPlan,
        *,
        log: EventLog,
        fanout: Fanout,
        census: Census,
        limits: StreamLimits,
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
        self._plan = plan
        self._log = log
        self._fanout = fanout
        self._census = census
        self._limits = limits
        self._lifetime = lifetime
        self._on_events = on_events
        self._on_error = on_error
        self._position = plan.reading.after or plan.reading.head.last
        self._epoch = plan.reading.head.epoch
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._blocked: _Resumed | None = None
        self._heartbeat_due = False
        self._reset = False
        self._closing: str | None = None
        self._ended = False
        self._raw_send: Send | None = None
        self._connection: Connection | None = None
        self._last_unsent = -1
        self._stalled_sec = 0.0

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
                self._start_task(self._open)
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                self._ended = True
                self._census.leave(self)
                if self._task is not None:
                    self._task.cancel()
                self._leave_channel()

    def _leave_channel(self) -> None:
        if self._channel is not None:
            self._channel.part(self, self._plan.match)
            self._fanout.detach(self._plan.stream, self, self._channel)
            self._channel = None

    def _start_task(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # Not a coroutine yet: one that is cancelled before its first step is never awaited.
        self._task = asyncio.create_task(self._guard(work))

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception:
            # A defect must end this stream audibly and leave the others alone.
            logger.exception("stream_failed", request_id=self._plan.request_id)
            self._on_error()
            message = "The stream failed inside the server"
            await self._write(sse.failed(self._plan.topic, message, self._plan.request_id))
            await self._finish("end_of_stream")
        finally:
            self._task = None

    # -- writing

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        assert self._raw_send is not None  # noqa: S101 - set before any task starts
        await self._raw_send({"type": "http.response.body", "body": body, "more_body": more})

    def push(self, body: bytes, events: int) -> bool:
        if self._drive(body, more=True):
            if events:
                self._on_events(events)
            return True
        channel = self._channel
        assert channel is not None  # noqa: S101 - only a member is pushed to
        self._on_events(events)
        self._position, self._epoch = channel.place_of(self), channel.epoch
        channel.part(self, self._plan.match)
        self._fanout.on_catch_up()
        self._start_task(self._catch_up)
        return False

    def _drive(self, body: bytes, *, more: bool) -> bool:
        """Send without a task. False: the server made us wait; `_blocked` holds the rest."""
        assert self._raw_send is not None  # noqa: S101 - set before any task starts
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
        self._leave_channel()
        plan = self._plan
        closing = sse.connection_closing(plan.topic, reason, plan.request_id)
        await self._write(closing, more=False)

    # -- called by the census

    @property
    def limited(self) -> bool:
        """Whether the maximum duration holds: a replay ends by itself."""
        return self._plan.watch

    @property
    def live(self) -> bool:
        """Served by the sweep, with nothing of its own under way."""
        return self._task is None and not self._ended

    def beat(self) -> None:
        """A heartbeat is due. A replay has none: it ends by itself."""
        if not self._plan.watch:
            return
        if not self.live:
            self._heartbeat_due = True
        elif self._channel is not None:
            self._position, self._epoch = self._channel.place_of(self), self._channel.epoch
            self.push(self._heartbeat(), 0)

    def _heartbeat(self) -> bytes:
        self._heartbeat_due = False
        frame_id = sse.cursor(self._position, self._epoch) if self._plan.from_browser else None
        return sse.heartbeat(self._plan.topic, self._position.sequence, frame_id=frame_id)

    def close(self, reason: str) -> None:
        """End the stream with its closing frame; at once when live, else as soon as it can."""
        if self._ended or self._closing is not None:
            return
        self._closing = reason
        if self.live:
            self._leave_channel()  # else the sweep could write after the closing frame
            self._start_task(partial(self._finish, reason))

    def stalled(self, passed_sec: float) -> bool:
        """Asked regularly: has the client taken no byte for the send timeout?"""
        if self._task is None or self._connection is None:
            self._last_unsent, self._stalled_sec = -1, 0.0
            return False
        unsent = self._connection.unsent()
        if unsent == 0 or unsent != self._last_unsent:
            self._last_unsent, self._stalled_sec = unsent, 0.0
            return False
        self._stalled_sec += passed_sec
        return self._stalled_sec >= self._limits.send_timeout_sec

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()
        elif self._task is not None:
            self._task.cancel()

    # -- history

    async def _open(self) -> None:
        plan = self._plan
        body = plan.first_frame
        if plan.reading.gap is not None:
            body += sse.gap(plan.topic, plan.reading.gap)
        if plan.reading.after is None:
            body += self._heartbeat()
        await self._write(body)
        if plan.reading.after is not None and not await self._history():
            return
        if not plan.watch:
            await self._finish("end_of_stream")
            return
        await self._catch_up()

    async def _history(self) -> bool:
        """Send the past up to the boundary. False when the stream has ended with it."""
        plan = self._plan
        remaining = plan.max_history
        async with aclosing(self._pages(plan.reading.until, patient=False)) as pages:
            async for page in pages:
                if plan.watch and page.gap is not None and page.gap.reason is GapReason.RESET:
                    self._reset = True  # told, and read from its start, when live
                    break
                frames = sse.event_frames(sse.REPLAY, page.entries, page.epoch, plan.match)
                body = b"" if page.gap is None else sse.gap(plan.topic, page.gap)
                exceeded = len(frames) > remaining
                if exceeded:
                    del frames[remaining:]
                remaining -= len(frames)
                body += b"".join(frames)
                if exceeded:
                    body += sse.replay_limit_reached(plan.topic, plan.max_history)
                elif self._heartbeat_due:
                    body += self._heartbeat()
                if body:
                    await self._write(body)
                    self._on_events(len(frames))
                if exceeded:
                    await self._finish("end_of_stream")
                    return False
                if self._closing is not None:
                    await self._finish(self._closing)
                    return False
                if self._limits.batch_delay_ms:
                    await asyncio.sleep(self._limits.batch_delay_ms / 1000)
        if self._ended:
            return False
        await self._write(sse.replay_completed(plan.topic))
        return True

    async def _pages(self, until: Position, *, patient: bool) -> AsyncGenerator[Page, None]:
        """Pages from the own position on, which moves with them; a lost server is waited for.

        Not patient: after `backend_patience_sec` without an answer the stream ends with an error.
        """
        heard, delay = time.monotonic(), _RETRY_SEC[0]
        while self._position < until:
            pages = self._log.range(
                self._plan.stream,
                self._position,
                until,
                epoch=self._epoch,
                page_size=self._limits.page_size,
            )
            try:
                async with aclosing(pages):
                    async for page in pages:
                        reset = page.gap is not None and page.gap.reason is GapReason.RESET
                        if not reset:
                            # Before the page is sent: a heartbeat that leaves with it tells this.
                            self._position = page.position
                        yield page
                        if reset:
                            return
                        heard, delay = time.monotonic(), _RETRY_SEC[0]
            except StoreUnavailable as error:
                lost_sec = time.monotonic() - heard
                if not patient and lost_sec >= self._limits.backend_patience_sec:
                    await self._give_up(error)
                    return
                if self._heartbeat_due:
                    await self._write(self._heartbeat())
                if self._closing is not None:
                    await self._finish(self._closing)
                    return
                pause = delay * random.uniform(0.5, 1.5)  # noqa: S311 - spread, no secret
                await asyncio.sleep(pause)
                delay = min(delay * 2, _RETRY_SEC[1])

    async def _give_up(self, error: StoreError) -> None:
        self._on_error()
        logger.warning("history_lost", error=str(error), request_id=self._plan.request_id)
        message = "The log cannot be read now; resume from the last event received"
        await self._write(sse.failed(self._plan.topic, message, self._plan.request_id))
        await self._finish("end_of_stream")

    # -- live

    def on_gap(self, gap: Gap) -> None:
        self.push(sse.gap(self._plan.topic, gap), 0)

    def on_reset(self) -> None:
        """The channel was closed under a live stream: find the new log."""
        self._reset = True
        if self.live:
            if self._channel is not None:
                self._position, self._epoch = self._channel.place_of(self), self._channel.epoch
            self._start_task(self._catch_up)

    async def _catch_up(self) -> None:
        """From the own position to the newest event, by ring or log; then the sweep takes over."""
        while not self._ended:
            if self._blocked is not None:
                blocked, self._blocked = self._blocked, None
                await blocked
            if self._closing is not None:
                await self._finish(self._closing)
                return
            if self._heartbeat_due:
                await self._write(self._heartbeat())
            try:
                if await self._approach():
                    return
            except StoreUnavailable:
                await asyncio.sleep(random.uniform(*_RETRY_SEC))  # noqa: S311 - spread, no secret

    async def _approach(self) -> bool:
        """One step towards the newest event. True when the sweep has taken over."""
        if self._reset:
            await self._reopen()
        if self._channel is None:
            self._channel = await self._fanout.attach(
                self._plan.stream, self, self._position, self._epoch
            )
            if self._ended:
                # Its client left meanwhile, and a library below swallowed the cancellation.
                self._leave_channel()
                return True
        channel = self._channel
        if channel.epoch not in (b"", self._epoch):
            await self._reconcile(channel)
        elif self._heartbeat_due:
            return False
        elif channel.join(self, self._plan.match, self._position.sequence):
            return True
        elif self._position > channel.position:
            # Looked at again now and then, for a heartbeat or the end of the stream.
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SEC[1]):
                    await channel.reached(self._position.sequence)
        else:
            await self._forward(channel)
        return False

    async def _reconcile(self, channel: Channel) -> None:
        """This stream and its channel know the log by two epochs: the server says who is behind."""
        head = await self._log.head(self._plan.stream)
        if head.epoch != channel.epoch:
            self._leave_channel()
            self._fanout.retire(self._plan.stream, channel)
        if self._epoch and self._epoch != head.epoch:
            self._reset = True
        elif head.epoch == channel.epoch:
            # Opened before there was a log, which came into being since.
            self._epoch = channel.epoch

    async def _forward(self, channel: Channel) -> None:
        """Send what lies between the own position and the channel's, or the next part of it."""
        plan = self._plan
        found = channel.ring.after(self._position, plan.match, CATCH_UP_BYTES)
        if found is not None:
            frames, self._position = found
            if frames:
                await self._write(b"".join(frames))
                self._on_events(len(frames))
            return
        async with aclosing(self._pages(channel.position, patient=True)) as pages:
            async for page in pages:
                if page.gap is not None and page.gap.reason is GapReason.RESET:
                    self._reset = True
                    return
                frames = sse.event_frames(sse.LIVE, page.entries, page.epoch, plan.match)
                body = b"" if page.gap is None else sse.gap(plan.topic, page.gap)
                body += b"".join(frames)
                if self._heartbeat_due:
                    body += self._heartbeat()
                if body:
                    await self._write(body)
                    self._on_events(len(frames))
                if self._closing is not None:
                    return

    async def _reopen(self) -> None:
        """Tell that the log is another one and start at its first event."""
        head = await self._log.head(self._plan.stream)
        self._reset = False
        self._leave_channel()
        gap = Gap(GapReason.RESET, self._position.sequence + 1, head.first_available)
        # Not short of the last event where nothing is kept: such a place looks like lost history.
        emptied = head.floor == head.last.sequence
        self._position = head.last if emptied else Position(ORIGIN.ms, head.floor)
        self._epoch = head.epoch
        await self._write(sse.gap(self._plan.topic, gap))


def _closes(scope: Scope) -> bool:
    """Whether the connection ends with this stream, which the server says by a header of its own."""
    lines = (value for name, value in scope["headers"] if name == b"connection")
    return any(word in line.lower() for line in lines for word in (b"close", b"upgrade"))


async def _no_content() -> AsyncIterator[bytes]:
    """The parent's content: all is sent by `EventStreamResponse` itself."""
    return
    yield b""
