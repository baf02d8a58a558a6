"""The words that everything else is said in: streams, positions, pages, drafts and gaps. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from msgspec import Struct

# One item of XRANGE or XREAD as the parser hands it over: [entry id, [topic, stored JSON]], lists
# at run time. Kept as it comes, because a million of them a second pass by.
Entry: TypeAlias = tuple[bytes, tuple[bytes, bytes]]


class StreamKey(NamedTuple):
    """One log: the events of one type of one tenant."""

    tenant: str
    event_type: str


class Position(NamedTuple):
    """A place in a log: everything up to and including this entry lies behind it.

    Also the entry id, ``<ms>-<sequence>``: event time in ms since 1970 (UTC), then the dense
    per-stream number. Between two entries any position is valid, so ``(ms, sequence - 1)`` stands
    just before an entry.
    """

    ms: int
    sequence: int

    @property
    def entry_id(self) -> bytes:
        return b"%d-%d" % self

    @classmethod
    def parse(cls, entry_id: bytes) -> "Position":
        ms, _, sequence = entry_id.partition(b"-")
        return cls(int(ms), int(sequence))


ORIGIN = Position(0, 0)


def rfc3339(ms: int) -> str:
    """A time of the log, ms since 1970, as it is written: UTC with milliseconds."""
    moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class GapReason(StrEnum):
    """Why a cursor cannot be honoured.

    ``expired``: retention or a wipe removed what follows it. ``reset``: the log it was taken from
    is not this one. ``ahead``: it lies past the newest event.
    """

    EXPIRED = "expired"
    RESET = "reset"
    AHEAD = "ahead"


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that a reader asked for and will never get: told, never hidden."""

    reason: GapReason
    expected: int
    first_available: int


@dataclass(frozen=True, slots=True)
class Head:
    """A log as it stood at one moment; all zero and an empty epoch when it does not exist.

    ``last`` is the highest position ever assigned (it survives deletes, trims and wipes), ``floor``
    the highest sequence that retention or a wipe removed.
    """

    epoch: bytes
    floor: int
    last: Position
    first_sequence: int

    @property
    def first_available(self) -> int:
        """The sequence of the oldest event kept, or of the next one when none is."""
        return self.first_sequence or self.last.sequence + 1


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive entries of a log, oldest first.

    ``position`` is how far the log has been looked through; ``gap`` tells what was removed between
    the reader's position and the first entry of this page.
    """

    entries: Sequence[Entry]
    position: Position
    epoch: bytes
    gap: Gap | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """What surrounds sequence and time in the stored JSON of every event of one stream.

    The stored JSON is ``head <sequence> middle <time> tail``; see `Draft` for the head.
    """

    middle: bytes
    tail: bytes


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's promise that two requests with this key are one: key and fingerprint of the body."""

    key: bytes
    fingerprint: bytes


class Draft(Struct, frozen=True, gc=False):
    """An event before it has a place: the log adds sequence and time in the act of storing it.

    ``time_ms`` is the event's own time (ms since 1970, UTC); None takes the server's.
    """

    topic: bytes
    head: bytes
    time_ms: int | None = None
    idempotency: Idempotency | None = None

    @property
    def size(self) -> int:
        return len(self.topic) + len(self.head)


class Mark(NamedTuple):
    """How far a source has been written into a stream: a change of its transaction log.

    ``generation`` grows when the source is another one than before, whose places mean nothing to
    its predecessor's; ``lsn`` is the transaction's place, ``number`` the change's in it, of those in
    this stream, from 0.
    """

    generation: int
    lsn: int
    number: int

    @property
    def text(self) -> bytes:
        return b"%08x/%016x/%08x" % self

    @classmethod
    def parse(cls, text: bytes) -> "Mark | None":
        if not text:
            return None
        generation, lsn, number = text.split(b"/")
        return cls(int(generation, 16), int(lsn, 16), int(number, 16))


class ChangeDraft(NamedTuple):
    """A captured change before it has a place. ``time_ms`` is its commit time, ms since 1970."""

    time_ms: int
    topic: bytes
    head: bytes


class KeptRow(NamedTuple):
    """That the draft with this number, from 1, is the newest event with a row, by its ``field``.

    It is found again, or forgotten if it is not to be ``kept``: without a ``field``, with all rows
    of the table.
    """

    table: str
    field: bytes
    draft: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one source for one stream, stored together or not at all.

    Stored only while the stream has the mark ``expected``, which then becomes ``mark``. ``opened``
    is the number, from 1, of the draft that begins a transaction whose end is not among these, 0
    when it began in earlier ones, None when every transaction here ends here.
    """

    source: str
    expected: Mark | None
    mark: Mark
    drafts: Sequence[ChangeDraft]
    opened: int | None = None
    rows: Sequence[KeptRow] = ()


@dataclass(frozen=True, slots=True)
class Marked:
    """What an append of changes found: the mark the stream has now, and whether it was stored."""

    stored: bool
    mark: Mark | None
    position: Position
    epoch: bytes


class Appended(Struct, frozen=True, gc=False):
    """Stored. ``repeated`` when an earlier request with the same idempotency key had stored it."""

    ms: int
    sequence: int
    epoch: bytes
    repeated: bool = False

    @property
    def position(self) -> Position:
        return Position(self.ms, self.sequence)


class Refusal(StrEnum):
    """Why the log would not take an event: its time, or a key that was used for another event."""

    BEFORE_LAST = "before_last"
    IN_FUTURE = "in_future"
    KEY_REUSED = "key_reused"


@dataclass(frozen=True, slots=True)
class Refused:
    """Not stored. ``limit_ms`` is the time that was passed over (last event, or now)."""

    refusal: Refusal
    limit_ms: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long events are kept; None means without limit. ``max_bytes`` is the server's estimate."""

    max_age_ms: int | None = None
    max_count: int | None = None
    max_bytes: int | None = None
