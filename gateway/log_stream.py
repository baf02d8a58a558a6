"""Watch and replay: one log's history, then its live events.

History is read in pages by a task of the stream's own; live it is a member of its channel.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway import sse
from gateway.fanout import Channel, Fanout, Filter
from gateway.reading import Reading, place_before
from gateway.stream import RETRY_SEC, Census, EventStream
from store.errors import StoreError, StoreUnavailable
from store.event import Gap, GapReason, Page, Position, StreamKey
from store.log import EventLog

CATCH_UP_BYTES = 256 << 10

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


class Selector(Filter, Protocol):
    """A filter that may know the few topics there are of all that it matches."""

    @property
    def topics(self) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What one stream is to send. `from_browser`: an EventSource, which resumes by `id:` alone."""

    stream: StreamKey
    topic: str
    match: Selector
    reading: Reading
    watch: bool
    max_history: int
    request_id: str
    first_frame: bytes
    from_browser: bool


class LogStream(EventStream):
    """Sends what one request asked for of one log."""

    __slots__ = (
        "_channel",
        "_epoch",
        "_fanout",
        "_limits",
        "_log",
        "_plan",
        "_position",
        "_reset",
    )

    def __init__(
        self,
        plan: StreamPlan,
        *,
        log: EventLog,
        fanout: Fanout,
        census: Census,
        limits: StreamLimits,
        lifetime: AbstractContextManager[None],
        on_events: Callable[[int], None],
        on_error: Callable[[], None],
    ) -> None:
        super().__init__(
            topic=plan.topic,
            request_id=plan.request_id,
            census=census,
            send_timeout_sec=limits.send_timeout_sec,
            lifetime=lifetime,
            on_events=on_events,
            on_error=on_error,
        )
        self._plan = plan
        self._log = log
        self._fanout = fanout
        self._limits = limits
        self._position = plan.reading.after or plan.reading.head.last
        self._epoch = plan.reading.head.epoch
        self._channel: Channel | None = None
        self._reset = False

    @property
    def limited(self) -> bool:
        return self._plan.watch  # a replay ends by itself

    def leave(self) -> None:
        if self._channel is not None:
            self._channel.part(self, self._plan.match)
            self._fanout.detach(self._plan.stream, self, self._channel)
            self._channel = None

    def fall_back(self) -> None:
        channel = self._channel
        assert channel is not None  # noqa: S101 - only a member is pushed to
        self._note_place(channel)
        channel.part(self, self._plan.match)
        self._fanout.on_catch_up()

    def _note_place(self, channel: Channel) -> None:
        self._position, self._epoch = channel.place_of(self, self._plan.match), channel.epoch

    def heartbeat(self) -> bytes:
        if self.live and self._channel is not None:
            self._note_place(self._channel)
        frame_id = sse.cursor(self._position, self._epoch) if self._plan.from_browser else None
        return sse.heartbeat(self.topic, self._position.sequence, frame_id=frame_id)

    # -- history

    async def open(self) -> bool:
        plan = self._plan
        body = plan.first_frame
        if plan.reading.gap is not None:
            body += sse.gap(plan.topic, plan.reading.gap)
        if plan.reading.after is None:
            body += self.heartbeat()
        await self._write(body)
        if plan.reading.after is not None and not await self._history():
            return False
        if not plan.watch:
            await self._finish("end_of_stream")
        return plan.watch

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
                else:
                    body += self._take_heartbeat()
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
        heard, delay = time.monotonic(), RETRY_SEC[0]
        while self._position < until:
            pages = self._log.range(
                self._plan.stream,
                self._position,
                until,
                epoch=self._epoch,
                page_size=self._limits.page_size,
                topics=self._plan.match.topics,
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
                        heard, delay = time.monotonic(), RETRY_SEC[0]
            except StoreUnavailable as error:
                lost_sec = time.monotonic() - heard
                if not patient and lost_sec >= self._limits.backend_patience_sec:
                    await self._give_up(error)
                    return
                if self._heartbeat_due:
                    await self._write(self._take_heartbeat())
                if self._closing is not None:
                    await self._finish(self._closing)
                    return
                pause = delay * random.uniform(0.5, 1.5)  # noqa: S311 - spread, no secret
                await asyncio.sleep(pause)
                delay = min(delay * 2, RETRY_SEC[1])

    async def _give_up(self, error: StoreError) -> None:
        logger.warning("history_lost", error=str(error), request_id=self.request_id)
        await self._fail("The log cannot be read now; resume from the last event received")

    # -- live

    def on_gap(self, gap: Gap, before: Position) -> None:
        if not self.push(sse.gap(self.topic, gap), 0):
            # It is told as soon as the client takes it: not to be found in the log once more.
            self._position = before

    def on_reset(self) -> None:
        """The channel was closed, which the own task finds out by itself where there is one."""
        if self.live and self._channel is not None:
            self._note_place(self._channel)
            self._start_task(self._catch_up)

    async def approach(self) -> bool:
        if self._channel is not None and self._channel.closed:
            # Its log is no more. That is news, unless this stream has come to the new one already.
            self._reset = self._reset or self._channel.epoch in (b"", self._epoch)
            self.leave()
        if self._reset:
            await self._reopen()
        if self._channel is None:
            self._channel = await self._fanout.attach(
                self._plan.stream, self, self._position, self._epoch
            )
            if self._ended:
                # Its client left meanwhile, and a library below swallowed the cancellation.
                self.leave()
                return True
        channel = self._channel
        if channel.epoch not in (b"", self._epoch):
            await self._reconcile(channel)
        elif self._heartbeat_due or self._closing is not None:
            return False  # what came up while this step waited goes before joining
        elif channel.join(self, self._plan.match, self._position.sequence):
            return True
        elif self._position > channel.position:
            # Looked at again now and then, for a heartbeat or the end of the stream.
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SEC[1]):
                    await channel.reached(self._position.sequence)
        else:
            await self._forward(channel)
        return False

    async def _reconcile(self, channel: Channel) -> None:
        """This stream and its channel know the log by two epochs: the server says who is behind."""
        head = await self._log.head(self._plan.stream)
        if head.epoch != channel.epoch:
            self.leave()
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
                body += self._take_heartbeat()
                if body:
                    await self._write(body)
                    self._on_events(len(frames))
                if self._closing is not None:
                    return

    async def _reopen(self) -> None:
        """Tell that the log is another one and start at its first event."""
        stream = self._plan.stream
        head = await self._log.head(stream)
        start = await place_before(self._log, stream, head, head.floor + 1)
        self._reset = False
        self.leave()
        gap = Gap(GapReason.RESET, self._position.sequence + 1, head.first_available)
        self._position, self._epoch = start, head.epoch
        await self._write(sse.gap(self.topic, gap))
