"""What a log holds, as a test knows it, and the judgement of what a reader of it was sent.

Pure. The rule: the matching part of the log after the reader's cursor, each event once, in order,
or it was told of the gap.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.event_stream import Frame

_ENDLESS = 1 << 64


@dataclass(slots=True)
class Event:
    """`gone`: the model's clock when it was removed; `told`: by a trim or a wipe, so with a gap."""

    sequence: int
    identifier: dict[str, str]
    payload: Any
    ms: int
    gone: int | None = None
    told: bool = False


@dataclass(slots=True)
class Life:
    """A log from its first event to its destruction by an operator. `floor`: as the log keeps it."""

    number: int
    epoch: str
    events: list[Event] = field(default_factory=list)
    floor: int = 0
    destroyed: bool = False

    @property
    def last(self) -> int:
        return len(self.events)

    @property
    def kept(self) -> list[Event]:
        return [event for event in self.events if event.gone is None]


@dataclass(slots=True)
class LogModel:
    """All lives of one log. The clock counts the changes."""

    lives: list[Life] = field(default_factory=list)
    clock: int = 0
    turns: int = 0  # beginnings and ends of lives

    @property
    def current(self) -> Life | None:
        return self.lives[-1] if self.lives and not self.lives[-1].destroyed else None

    @property
    def last(self) -> int:
        return self.current.last if self.current else 0

    def life(self, epoch: str) -> Life:
        [found] = [life for life in self.lives if life.epoch == epoch]
        return found

    def append(
        self, sequence: int, epoch: str, identifier: dict[str, str], payload: Any, ms: int
    ) -> None:
        self.clock += 1
        life = self.current
        if life is None:
            assert all(epoch != other.epoch for other in self.lives), "an epoch came twice"
            self.turns += 1
            life = Life(len(self.lives), epoch)
            self.lives.append(life)
        assert epoch == life.epoch, "the epoch changed under a log that was not destroyed"
        assert sequence == life.last + 1, "sequences are not dense"
        life.events.append(Event(sequence, identifier, payload, ms))

    def delete(self, sequence: int) -> bool:
        self.clock += 1
        life = self.current
        if life is None or sequence > life.last or life.events[sequence - 1].gone is not None:
            return False
        life.events[sequence - 1].gone = self.clock
        return True

    def trim(self, keep: int) -> int:
        """Remove all but so many of the newest; the number removed."""
        self.clock += 1
        life = self.current
        if life is None:
            return 0
        kept = life.kept
        removed = kept[: max(0, len(kept) - keep)]
        for event in removed:
            event.gone, event.told = self.clock, True
        if removed:
            life.floor = kept[len(removed)].sequence - 1 if keep and kept else life.last
        return len(removed)

    def wipe(self) -> None:
        self.trim(0)
        if self.current is not None:
            self.current.floor = self.current.last

    def destroy(self) -> None:
        self.clock += 1
        if self.current is not None:
            self.turns += 1
            self.current.destroyed = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter on the identifiers of the model's events."""

    station: str | None = None
    least: int | None = None

    def matches(self, event: Event) -> bool:
        return (self.station is None or event.identifier["station"] == self.station) and (
            self.least is None or int(event.identifier["level"]) >= self.least
        )


@dataclass(slots=True)
class Session:
    """One connection of a reader: what it asked for, how the log stood, what it was sent.

    `after`: the sequence behind which it is to start, None for what comes from now on. `strict` is
    off where the start is no place in the log that could be missed: a date, and sequence 0.
    """

    after: int | None
    watch: bool
    began: int
    turn: int
    life_before: Life | None
    last_before: int
    until: int | None = None
    strict: bool = True
    cursor_life: Life | None = None
    turn_opened: int | None = None
    last_opened: int = 0
    frames: list[Frame] = field(default_factory=list)

    @property
    def life(self) -> Life | None:
        """The life that the session starts in, if that can be said."""
        if self.cursor_life is not None:
            return self.cursor_life
        return self.life_before if self.settled else None

    @property
    def settled(self) -> bool:
        """No log came or went while it was opened."""
        return self.turn == self.turn_opened


class Judge:
    """Walks through the sessions of one reader in order. Raises AssertionError with the fault."""

    def __init__(self, log: LogModel, wanted: Wanted) -> None:
        self._log = log
        self._wanted = wanted
        self._life: Life | None = None
        self._at: int | None = None
        # Up to here nothing need come: a number past the end was asked for, or a gap was told. It
        # may come: what the log lost can still be among a gateway's newest frames.
        self._asked = self._told = 0
        self._strict = True
        self._least_life = 0

    def judge(self, session: Session) -> None:
        self._life, self._at, self._strict = session.life, session.after, session.strict
        self._asked = self._told = self._least_life = 0
        if session.after is not None and session.cursor_life is None:
            if session.settled:
                # A number past the end is no error and no cursor: what comes next is live.
                self._asked, self._at = session.after, min(session.after, session.last_before)
            else:
                # Which log was asked, nobody can say: anything may come first.
                self._asked, self._at = _ENDLESS, 0
        for frame in session.frames:
            match frame.kind:
                case "event":
                    self._on_event(frame, session)
                case "heartbeat":
                    self._on_claim(frame, int(frame.data["sequence"]), session)
                case "connection_established":
                    if frame.id is not None:
                        self._on_claim(frame, int(frame.id.partition("-")[0]), session)
                case "gap":
                    self._on_gap(frame.data)
                case "replay_completed":
                    self._on_completed(session)
                case "connection-closing":
                    assert frame.data["reason"] == "end_of_stream", frame
                    assert not session.watch, "a watch was closed"
                case kind:
                    assert kind == "replay_started", f"unexpected {frame}"

    def _enter(self, frame: Frame) -> None:
        """Learn from the frame's id which life this is; another one needs a gap before."""
        epoch = (frame.id or "").partition("-")[2]
        if not epoch:
            return
        life = self._log.life(epoch)
        if self._life is None:
            assert life.number >= self._least_life, f"back in an earlier log: {frame}"
            self._life = life
        assert life is self._life, f"another log, and no gap told: {frame}"

    def _on_event(self, frame: Frame, session: Session) -> None:
        assert frame.id is not None
        assert int(frame.id.partition("-")[0]) == frame.sequence, "id and event disagree"
        self._enter(frame)
        assert self._life is not None
        event = self._life.events[frame.sequence - 1]
        stored = {"identifier": event.identifier, "payload": event.payload}
        assert frame.data["data"] == stored, f"{frame.text[:300]} is not {str(stored)[:300]}"
        assert self._wanted.matches(event), f"not asked for: {event}"
        assert event.gone is None or event.gone > session.began, f"was gone before: {event}"
        assert self._at is not None, "an event before the first position"
        assert event.sequence > self._at, (
            f"{event.sequence} after {self._at}: repeated or disordered"
        )
        assert session.until is None or event.sequence <= session.until, f"past the end: {event}"
        self._account(event.sequence - 1)
        self._at = event.sequence

    def _on_claim(self, frame: Frame, sequence: int, session: Session) -> None:
        """A position: everything that matches up to it was sent."""
        self._enter(frame)
        if self._at is None:
            first, last = session.last_before, session.last_opened
            if session.settled:
                assert first <= sequence <= last, f"live from {sequence}, not {first} to {last}"
            self._at = sequence
        assert sequence >= self._at, f"a position went back from {self._at}: {frame}"
        self._account(sequence)
        self._at = sequence

    def _on_gap(self, gap: Any) -> None:
        first = gap["first_available"]
        if gap["reason"] == "reset":
            suspects = [self._life] if self._life else self._log.lives[self._least_life :]
            assert any(life.destroyed for life in suspects), f"no log was destroyed: {gap}"
            if self._life is not None:
                self._least_life = self._life.number + 1
            self._life, self._at, self._asked, self._told = None, 0, 0, first - 1
            return
        assert gap["reason"] == "expired", gap
        assert self._at is not None
        assert gap["expected"] > self._at, f"events up to {self._at} came already: {gap}"
        assert first > gap["expected"], gap
        if self._life is not None:
            assert gap["expected"] <= self._life.floor, f"nothing was removed there: {gap}"
        self._account(gap["expected"] - 1)
        self._at, self._told = gap["expected"] - 1, max(self._told, first - 1)

    def _on_completed(self, session: Session) -> None:
        # What a watch has not had by now comes live, or with a gap.
        if session.watch or self._life is None or not session.settled:
            return
        end = session.last_before
        self._account(end if session.until is None else min(end, session.until))

    def _account(self, upto: int) -> None:
        """Everything from behind the last place up to this sequence was rightly not sent."""
        assert self._at is not None
        for event in self._life.events[self._at : upto] if self._life else ():
            if self._wanted.matches(event) and event.sequence > max(self._asked, self._told):
                assert event.gone is not None, f"lost: {event}"
                assert not (event.told and self._strict), f"removed, and no gap told: {event}"
        self._strict = True
        if self._asked == _ENDLESS:
            self._asked = 0
