"""The newest frames of a stream, for those who are only a little behind. Older ones are in the log."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Generic, TypeVar

from gateway import sse
from store.event import Entry

# A place in the order of the stream; places compare.
Place = TypeVar("Place", bound=tuple[int, ...])


class Ring(Generic[Place]):
    """At most so many frames and so many bytes, each at its place. Everything after `floor` is here."""

    def __init__(self, floor: Place, max_events: int, max_bytes: int) -> None:
        self._floor = floor
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._places: list[Place] = []
        self._frames: list[tuple[Entry | None, bytes]] = []

    def add(
        self, places: Sequence[Place], entries: Sequence[Entry | None], frames: Sequence[bytes]
    ) -> None:
        """The next frames, in order; an entry is what a filter looks at, None passes every filter."""
        self._places += places
        self._frames += zip(entries, frames, strict=True)
        self._bytes += sum(map(len, frames))
        drop = max(0, len(self._frames) - self._max_events)
        size = self._bytes - sum(len(frame) for _, frame in self._frames[:drop])
        while size > self._max_bytes:
            size -= len(self._frames[drop][1])
            drop += 1
        if drop:
            self._floor = self._places[drop - 1]
            del self._places[:drop]
            del self._frames[:drop]
            self._bytes = size

    @property
    def newest(self) -> Place:
        """Behind the last frame there is."""
        return self._places[-1] if self._places else self._floor

    def clear(self, floor: Place) -> None:
        """Forget all; who stands before `floor` has to read the log."""
        self._floor, self._bytes = floor, 0
        self._places.clear()
        self._frames.clear()

    def after(
        self, place: Place, match: sse.Match | None, max_bytes: int
    ) -> tuple[list[bytes], Place] | None:
        """Matching frames after a place, and how far the ring was looked through for them.

        Frames of one time are not parted. None when the ring does not reach back that far.
        """
        if place < self._floor:
            return None
        frames: list[bytes] = []
        size = 0
        everything = match is None or match.everything
        start = bisect_right(self._places, place)
        for index in range(start, len(self._places)):
            # The time is the first word of every place.
            if size >= max_bytes and self._places[index][0] != place[0]:
                break
            entry, frame = self._frames[index]
            if everything or entry is None or match is None or match.matches(*entry[1]):
                frames.append(frame)
                size += len(frame)
            place = self._places[index]
        return frames, place
