"""Who is sent what a session's player plays, in the moment it plays it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from store.merge import Place

# A sweep gives way after so many sends (about 20 us each), so that requests are answered meanwhile.
_SENDS_BEFORE_YIELD = 256


class Watcher(Protocol):
    """One client's stream of the session."""

    def push(self, body: bytes, events: int) -> bool:
        """Take bytes at once. False: it blocked, took them over, and is no member any more."""

    def on_types(self, event_types: Sequence[str]) -> None:
        """From now on events of these types are played."""

    def on_ended(self) -> None:
        """Nothing more is played."""

    def on_sought(self) -> None:
        """Another run has begun, whose state is owed: be no member until it is sent."""


class Audience:
    """Members stand where the player stands. Some have been sent more, by another gateway.

    Gateways agree on the time to a millisecond or so, and hear of a stop at different moments: one
    that comes from a quicker one waits for the player to come up to it, and gets nothing twice.
    """

    def __init__(self) -> None:
        self._members: dict[Watcher, None] = {}
        self._early: dict[Watcher, Place] = {}

    def join(self, watcher: Watcher, own: Place, reached: Place) -> bool:
        """Be sent what comes after its own place. False when it lies behind what is reached."""
        if own < reached:
            return False
        if own > reached:
            self._early[watcher] = own
        else:
            self._members[watcher] = None
        return True

    def part(self, watcher: Watcher) -> None:
        self._members.pop(watcher, None)
        self._early.pop(watcher, None)

    def place_of(self, watcher: Watcher, reached: Place) -> Place:
        """Up to where a member has been sent everything."""
        return self._early.get(watcher, reached)

    def reset(self) -> None:
        """The places of before compare no more: all stand where the player does."""
        self._members |= dict.fromkeys(self._early)
        self._early.clear()

    def on_sought(self) -> None:
        for watcher in (*self._members, *self._early):
            watcher.on_sought()

    async def send_control(self, render: Callable[[Place], bytes], reached: Place) -> None:
        """A frame of the gateway's own, rendered for who stands at a place."""
        members = list(self._members)
        for watcher, own in list(self._early.items()):
            watcher.push(render(own), 0)
        await self._sweep(members, render(reached), 0)

    async def send_events(
        self, places: Sequence[Place], frames: Sequence[bytes], reached: Place
    ) -> None:
        """Frames in order, which bring the members to a place; may be none."""
        members = list(self._members)
        for watcher, own in list(self._early.items()):
            if own <= reached:
                del self._early[watcher]
                self._members[watcher] = None
                pairs = zip(places, frames, strict=True)
                rest = [frame for place, frame in pairs if place > own]
                if rest:
                    watcher.push(b"".join(rest), len(rest))
        if frames:
            await self._sweep(members, b"".join(frames), len(frames))

    async def _sweep(self, members: Sequence[Watcher], body: bytes, events: int) -> None:
        # Who joins while it gives way stands behind what is being sent already.
        for sent, watcher in enumerate(members, 1):
            if watcher in self._members:
                watcher.push(body, events)
            if sent % _SENDS_BEFORE_YIELD == 0:
                await asyncio.sleep(0)
