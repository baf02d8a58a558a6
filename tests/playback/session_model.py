"""What the playback contract lets the sessions of a tenant do, and whether answers can be so. Pure.

An answer carries the session, so that a state, a verb and its answer give the next state, or cannot
be. Verbs that were sent at once are explained by some order of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

RESTING = ("MSG_INIT_OK", "MSG_STOP_OK", "MSG_START_OK")
DISPLAYED = {
    "DB_INIT_KO": "REPLAY_INIT_KO",
    "MSG_INIT_OK": "REPLAY_INIT_OK",
    "MSG_START_OK": "REPLAY_START_OK",
    "MSG_STOP_OK": "REPLAY_STOP_OK",
    "DB_END_OK": "REPLAY_END_OK",
}
# The server's clock and ours are not read at once, and it counts whole ms.
_SLACK_MS = 5.0

Kind = Literal["init", "again", "start", "stop", "seek", "end", "reset", "current"]


@dataclass(frozen=True, slots=True)
class Verb:
    """One call; times in ms. `valid`: its body can be served. `fails`: its start cannot be restored.

    `foreign`: the session is another tenant's.
    """

    kind: Kind
    session: str = ""
    start: int = 0
    end: int = 0
    event_types: tuple[str, ...] = ()
    speed: float = 1.0
    valid: bool = True
    fails: bool = False
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the wall times (ms) between which the server did it."""

    status: int
    body: Mapping[str, Any]
    began: float
    ended: float

    @property
    def session(self) -> Any:
        return self.body.get("data")

    def refuses(self, status: int, code: str) -> bool:
        return self.status == status and self.body.get("code") == code


@dataclass(frozen=True, slots=True)
class State:
    """A session, whose playhead stood there at some time of `since`."""

    id: str
    tenant: str
    status: str
    start: int
    end: int
    playhead: int
    speed: float
    event_types: tuple[str, ...]
    since: tuple[float, float]

    def reach(self, answer: Answer) -> tuple[float, float]:
        """Between which places the playhead stood when the server answered."""
        if self.status != "MSG_START_OK":
            return self.playhead, self.playhead
        first, last = self.since
        least = self.playhead + max(0.0, answer.began - last - _SLACK_MS) * self.speed
        most = self.playhead + (answer.ended - first + _SLACK_MS) * self.speed
        return min(least - 1, self.end), min(most + 1, self.end)

    def settled(self, answer: Answer) -> list["State"]:
        """What it may have been by then: one that plays stops at its end by itself."""
        if self.status != "MSG_START_OK":
            return [self]
        least, most = self.reach(answer)
        found = [self] if least < self.end else []
        if most >= self.end:
            found.append(replace(self, status="MSG_STOP_OK", playhead=self.end))
        return found

    def told(
        self, session: Mapping[str, Any] | None, answer: Answer, **changes: Any
    ) -> "State | None":
        """The state with these changes, if that is what was told; its playhead is the told one."""
        if session is None:
            return None
        told = ms_of(session["replay_last_timestamp"])
        least, most = self.reach(answer)
        if "playhead" in changes:
            least = most = changes["playhead"]
        changes |= {"playhead": told, "since": (answer.began, answer.ended)}
        found = replace(self, **changes)
        right = least <= told <= most and session == {
            "id": found.id,
            "tenant_id": found.tenant,
            "status": found.status,
            "display_status": DISPLAYED[found.status],
            "replay_start_timestamp": text_of(found.start),
            "replay_end_timestamp": text_of(found.end),
            "replay_last_timestamp": text_of(told),
            "replay_speed": found.speed,
            "event_types": list(found.event_types),
            "error": session["error"] if found.status == "DB_INIT_KO" else None,
        }
        return found if right else None


def explain(state: State | None, verbs: Sequence[tuple[Verb, Answer]]) -> Iterator[State | None]:
    """The states in which verbs sent at once may have left a tenant; none: they cannot be so."""
    if not verbs:
        yield state
    for place, (verb, answer) in enumerate(verbs):
        rest = [*verbs[:place], *verbs[place + 1 :]]
        for now in [None] if state is None else state.settled(answer):
            for after in _step(now, verb, answer):
                yield from explain(after, rest)


def _step(state: State | None, verb: Verb, answer: Answer) -> list[State | None]:
    """Where one verb led, by its answer; nowhere, if it may not answer so."""
    if not verb.valid:
        return [state] if answer.refuses(400, "INVALID_SESSION_REQUEST") else []
    if verb.kind == "current":
        return _unchanged(state, answer, answer.session)
    if verb.kind in {"init", "again"}:
        return _init(state, verb, answer)
    if verb.kind == "reset" and state is None:
        return [None] if answer.status == 200 and answer.session is None else []
    if verb.kind != "reset" and (state is None or state.id != verb.session):
        if verb.kind == "end" and verb.foreign:
            return [state] if answer.refuses(403, "FORBIDDEN") else []
        return [state] if answer.refuses(404, "SESSION_NOT_FOUND") else []
    assert state is not None
    return _of_session(state, verb, answer)


def _of_session(state: State, verb: Verb, answer: Answer) -> list[State | None]:
    session = answer.session
    found: list[State | None] = []
    if verb.kind in {"end", "reset"}:
        ended = answer.status == 200 and state.told(session, answer, status="DB_END_OK")
        return [None] if ended else []
    allowed = RESTING[1:] if verb.kind == "stop" else RESTING
    if state.status not in allowed:
        told = answer.refuses(409, "REPLAY_WRONG_STATE")
        return _unchanged(state, answer, answer.body["details"]) if told else []
    if verb.kind == "seek" and not state.start <= verb.start <= state.end:
        return [state] if answer.refuses(400, "INVALID_SESSION_REQUEST") else []
    if answer.status != 200:
        return []
    if verb.kind == "stop":
        found = [state.told(session, answer, status="MSG_STOP_OK")]
    elif verb.kind == "seek":
        found = [state.told(session, answer, playhead=verb.start)]
    else:
        found = [state.told(session, answer, status="MSG_START_OK", speed=verb.speed)]
        if ms_of(session["replay_last_timestamp"]) == state.end:
            # Nothing was left to play.
            found = [state.told(session, answer, status="MSG_STOP_OK", speed=verb.speed)]
    return [each for each in found if each is not None]


def _init(state: State | None, verb: Verb, answer: Answer) -> list[State | None]:
    session = answer.session
    if state is not None and not (verb.kind == "again" and state.id == verb.session):
        told = answer.refuses(409, "REPLAY_SESSION_ACTIVE")
        return _unchanged(state, answer, answer.body["details"]) if told else []
    if state is None and verb.kind == "again":
        return [None] if answer.refuses(404, "SESSION_NOT_FOUND") else []
    if answer.status != 201 or (state is not None and session["id"] != state.id):
        return []
    status = "DB_INIT_KO" if verb.fails else "MSG_INIT_OK"
    made = State(
        id=session["id"],
        tenant=session["tenant_id"],
        status=status,
        start=verb.start,
        end=verb.end,
        playhead=verb.start,
        speed=1.0,
        event_types=verb.event_types,
        since=(answer.began, answer.ended),
    )
    found = made.told(session, answer)
    return [] if found is None else [found]


def _unchanged(state: State | None, answer: Answer, session: Any) -> list[State | None]:
    """What was told is the state; that it plays is known no better than before."""
    if state is None or session is None:
        return [None] if state is None and session is None else []
    return [] if state.told(session, answer) is None else [state]


def ms_of(text: str) -> int:
    moment = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return round(moment.total_seconds() * 1000)


def text_of(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
