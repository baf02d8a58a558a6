"""Who watches what: subscribers grouped by filter, and the sweep that sends each group its bytes.

A frame is matched once a group and joined once; every member is handed the same bytes. A member
that cannot take them leaves for its own task and comes back when it has caught up: nobody waits.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway import sse
from gateway.ring import Ring
from store.event import Entry, Gap, Position, StreamKey
from store.tail import Tail

# A sweep gives way after so many sends (about 20 us each), so that requests are answered meanwhile.
SENDS_BEFORE_YIELD = 256
_MATCHES_A_SEND = 10


class Filter(sse.Match, Protocol):
    """A match that can tell whether another one is the same."""

    @property
    def key(self) -> str: ...


class Subscriber(Protocol):
    """One open stream, as the sweep sees it."""

    def push(self, body: bytes, events: int) -> bool:
        """Take bytes at once. False: it blocked, took them over, and is no member any more."""

    def on_gap(self, gap: Gap, before: Position) -> None:
        """Live events, up to this place, were removed before this process could read them."""

    def on_reset(self) -> None:
        """The log is another one; the channel is closed."""


class Channel:
    """One stream that somebody watches: its newest frames and its subscribers."""

    def __init__(self, position: Position, epoch: bytes, ring: Ring[Position]) -> None:
        self.position = position
        self.epoch = epoch
        self.ring = ring
        self.users: dict[Subscriber, None] = {}
        self.closed = False
        self._groups: dict[str, tuple[Filter, dict[Subscriber, None]]] = {}
        self._waiting: dict[asyncio.Future[None], int] = {}
        # Members that the sweep under way has still to serve, and where they stand.
        self._unswept: set[Subscriber] = set()
        self._swept_from = position

    def place_of(self, member: Subscriber) -> Position:
        """Up to where a member has been sent everything."""
        return self._swept_from if member in self._unswept else self.position

    def join(self, subscriber: Subscriber, match: Filter, sequence: int) -> bool:
        """Become a member that the sweep serves. False when it has not caught up to this sequence."""
        if self.closed or sequence != self.position.sequence:
            return False
        self._groups.setdefault(match.key, (match, {}))[1][subscriber] = None
        return True

    def part(self, subscriber: Subscriber, match: Filter) -> None:
        """Be no member any more; a user still."""
        self._unswept.discard(subscriber)
        group = self._groups.get(match.key)
        if group is not None:
            group[1].pop(subscriber, None)
            if not group[1]:
                del self._groups[match.key]

    async def reached(self, sequence: int) -> None:
        """Wait until the tail has delivered this sequence, or the channel is closed."""
        if self.closed or self.position.sequence >= sequence:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = sequence
        try:
            await future
        finally:
            del self._waiting[future]

    async def on_entries(self, entries: Sequence[Entry], position: Position, epoch: bytes) -> None:
        frames = sse.event_frames(sse.LIVE, entries, epoch)
        self.epoch = epoch
        self.ring.add([Position.parse(entry_id) for entry_id, _ in entries], entries, frames)
        # Fixed before the first send: who joins while the sweep gives way has these events already.
        groups = [(match, list(members)) for match, members in self._groups.values()]
        self._swept_from, self.position = self.position, position
        self._unswept = {member for _, members in groups for member in members}
        self._wake()
        # Matching an event is cheaper than a send, about ten to one, but there are many of them.
        done = 0
        for match, members in groups:
            done += len(entries) // _MATCHES_A_SEND
            if done >= SENDS_BEFORE_YIELD:
                done = 0
                await asyncio.sleep(0)
            if match.everything:
                chosen = frames
            else:
                matches = match.matches
                chosen = [
                    frame
                    for frame, (_, (topic, event)) in zip(frames, entries, strict=True)
                    if matches(topic, event)
                ]
            if not chosen:
                continue
            body, count = b"".join(chosen), len(chosen)
            for subscriber in members:
                if subscriber in self._unswept:
                    self._unswept.discard(subscriber)
                    subscriber.push(body, count)
                    done += 1
                    if done >= SENDS_BEFORE_YIELD:
                        done = 0
                        await asyncio.sleep(0)
        self._unswept.clear()

    def on_gap(self, gap: Gap, before: Position) -> None:
        # Who is not live stands before the gap and finds it in the log.
        self.ring.clear(before)
        for _, members in list(self._groups.values()):
            for subscriber in list(members):
                subscriber.on_gap(gap, before)

    def _wake(self) -> None:
        for future, sequence in self._waiting.items():
            if not future.done() and (self.closed or self.position.sequence >= sequence):
                future.set_result(None)

    def on_reset(self) -> None:
        self.closed = True
        self._wake()
        self._groups.clear()
        for subscriber in list(self.users):
            subscriber.on_reset()
        self._unswept.clear()


class Fanout:
    """The channels of one process, one per watched stream."""

    def __init__(
        self,
        tail: Tail,
        *,
        ring_events: int,
        ring_bytes: int,
        on_catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._tail = tail
        self._ring_events = ring_events
        self._ring_bytes = ring_bytes
        self._channels: dict[StreamKey, Channel] = {}
        self.on_catch_up = on_catch_up

    async def attach(
        self, stream: StreamKey, subscriber: Subscriber, position: Position, epoch: bytes
    ) -> Channel:
        """Use the stream's channel, which follows the log from this position or an earlier one."""
        channel = self._channels.get(stream)
        if channel is None or channel.closed:
            ring = Ring(position, self._ring_events, self._ring_bytes)
            channel = self._channels[stream] = Channel(position, epoch, ring)
            channel.users[subscriber] = None
            try:
                await self._tail.follow(stream, position, epoch, channel)
            except BaseException:
                # Its client left meanwhile: the channel would be kept, and read, for nobody.
                self.detach(stream, subscriber, channel)
                raise
        channel.users[subscriber] = None
        return channel

    def retire(self, stream: StreamKey, channel: Channel) -> None:
        """Close a channel whose log was destroyed before the tail could notice."""
        if self._channels.get(stream) is channel:
            self._tail.leave(stream)
            del self._channels[stream]
            if not channel.closed:
                channel.on_reset()

    def detach(self, stream: StreamKey, subscriber: Subscriber, channel: Channel) -> None:
        channel.users.pop(subscriber, None)
        if not channel.users and self._channels.get(stream) is channel:
            self._tail.leave(stream)
            del self._channels[stream]
            channel.closed = True
