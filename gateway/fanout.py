"""Who watches what: subscribers grouped by filter, and the sweep that sends each group its bytes.

A frame is matched once a group, and joined once for all who stand at one place: they are handed the
same bytes. A sweep that cannot keep up goes round and sends each what has come since its last turn.
A member that cannot take it leaves for its own task and is back when it has caught up: nobody waits.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from gateway import sse
from gateway.ring import Ring
from store.event import Entry, Gap, Position, StreamKey
from store.tail import Tail

# A sweep gives way after so many sends (about 8 us each): to publish an event takes several turns of
# the loop, and with longer ones events came in so slowly under load that each went out by itself.
SENDS_BEFORE_YIELD = 64
_MATCHES_A_SEND = 10
# More is read only when this has been sent: else one write grew past what a client takes at once.
_PENDING_BYTES = 256 << 10


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


class _Batch:
    """Events that came together, after a place, until everybody has been sent them."""

    def __init__(self, after: Position, entries: Sequence[Entry], frames: Sequence[bytes]) -> None:
        self.after = after
        self.size = sum(map(len, frames))
        self._entries = entries
        self._frames = frames
        self._chosen: dict[str, tuple[bytes, int]] = {}

    def chosen(self, match: Filter) -> tuple[bytes, int]:
        """What passes a filter, joined, and of how many events."""
        found = self._chosen.get(match.key)
        if found is None:
            frames = self._frames
            if not match.everything:
                matches = match.matches
                frames = [
                    frame
                    for frame, (_, (topic, event)) in zip(frames, self._entries, strict=True)
                    if matches(topic, event)
                ]
            found = self._chosen[match.key] = b"".join(frames), len(frames)
        return found

    def __len__(self) -> int:
        return len(self._frames)


class Channel:
    """One stream that somebody watches: its newest frames and its subscribers."""

    def __init__(
        self,
        position: Position,
        epoch: bytes,
        ring: Ring[Position],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`on_failure` is told when a sweep ends before everybody has been served."""
        self.position = position
        self.epoch = epoch
        self.ring = ring
        self.users: dict[Subscriber, None] = {}
        self.closed = False
        self._on_failure = on_failure
        # Each member with the place up to which it has been sent everything.
        self._groups: dict[str, tuple[Filter, dict[Subscriber, Position]]] = {}
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._pending: list[_Batch] = []
        self._sweeping: asyncio.Task[None] | None = None

    def place_of(self, member: Subscriber, match: Filter) -> Position:
        """Up to where a member has been sent everything."""
        group = self._groups.get(match.key)
        return self.position if group is None else group[1].get(member, self.position)

    def join(self, subscriber: Subscriber, match: Filter, sequence: int) -> bool:
        """Become a member that the sweep serves. False when it has not caught up to this sequence."""
        if self.closed or sequence != self.position.sequence:
            return False
        self._groups.setdefault(match.key, (match, {}))[1][subscriber] = self.position
        return True

    def part(self, subscriber: Subscriber, match: Filter) -> None:
        """Be no member any more; a user still."""
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
        self._pending.append(_Batch(self.position, entries, frames))
        self.position = position
        self._wake()
        if self._sweeping is None:
            turns = self._sweep()
            if next(turns, None) is not None:
                self._sweeping = asyncio.create_task(self._go_on(turns))
                self._sweeping.add_done_callback(self._swept)
        pending = sum(batch.size for batch in self._pending)
        if self._sweeping is not None and pending > _PENDING_BYTES:
            await asyncio.wait([self._sweeping])

    async def _go_on(self, turns: Iterator[int]) -> None:
        try:
            for _ in turns:
                await asyncio.sleep(0)
        finally:
            # Here: what comes before the task is known to be done would wait for what comes next.
            self._sweeping = None

    def _swept(self, sweep: asyncio.Task[None]) -> None:
        if not sweep.cancelled() and (failure := sweep.exception()) is not None:
            self._on_failure(failure)

    def _sweep(self) -> Iterator[int]:
        """Send everybody all that is pending at its turn, round after round until nothing is.

        What comes meanwhile is sent to those whose turn is next, so nobody waits for two rounds.
        Yields between turns, each time how much was done in it.
        """
        done = 0
        until: Position | None = None
        while until is not self.position:
            until = newest = self.position
            for match, members in list(self._groups.values()):
                body, events = b"", 0
                after: Position | None = None
                for member in list(members):
                    place = members.get(member)
                    if place is None or place is newest:
                        continue
                    if place is not after:
                        after = place
                        body, events, asked = self._news(match, place)
                        # Matching is cheaper than a send, but there may be many events.
                        done += asked // _MATCHES_A_SEND
                    members[member] = newest
                    if events:
                        member.push(body, events)
                        done += 1
                    if done >= SENDS_BEFORE_YIELD:
                        yield done
                        done, after, newest = 0, None, self.position
            self._pending = [batch for batch in self._pending if batch.after >= until]

    def _news(self, match: Filter, place: Position) -> tuple[bytes, int, int]:
        """All that a filter lets pass after a place, of how many events, and out of how many."""
        batches = [batch for batch in self._pending if batch.after >= place]
        found = [batch.chosen(match) for batch in batches]
        body = found[0][0] if len(found) == 1 else b"".join([body for body, _ in found])
        return body, sum(events for _, events in found), sum(map(len, batches))

    def on_gap(self, gap: Gap, before: Position) -> None:
        for _ in self._sweep():
            pass  # what comes before the gap is told before it
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
        for subscriber in list(self.users):
            subscriber.on_reset()
        # A sweep under way has no one to serve any more.
        for _, members in self._groups.values():
            members.clear()
        self._groups.clear()


class Fanout:
    """The channels of one process, one per watched stream."""

    def __init__(
        self,
        tail: Tail,
        *,
        ring_events: int,
        ring_bytes: int,
        on_failure: Callable[[BaseException], None],
        on_catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_failure` is told when a sweep ends before everybody has been served."""
        self._tail = tail
        self._ring_events = ring_events
        self._ring_bytes = ring_bytes
        self._channels: dict[StreamKey, Channel] = {}
        self._on_failure = on_failure
        self.on_catch_up = on_catch_up

    async def attach(
        self, stream: StreamKey, subscriber: Subscriber, position: Position, epoch: bytes
    ) -> Channel:
        """Use the stream's channel, which follows the log from this position or an earlier one."""
        channel = self._channels.get(stream)
        if channel is None or channel.closed:
            ring = Ring(position, self._ring_events, self._ring_bytes)
            channel = Channel(position, epoch, ring, on_failure=self._on_failure)
            self._channels[stream] = channel
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
