"""The judge of the property tests finds what it is there to find."""

import json
from typing import Any

import pytest

from tests.event_stream import Frame
from tests.properties.log_model import Judge, Life, LogModel, Session, Wanted

FIRST, SECOND = "aa", "bb"


@pytest.fixture
def log() -> LogModel:
    """Six events; every second one is of the north."""
    model = LogModel()
    fill(model, FIRST, 6)
    return model


def fill(model: LogModel, epoch: str, count: int) -> None:
    for sequence in range(1, count + 1):
        station = "south" if sequence % 2 else "north"
        model.append(sequence, epoch, {"station": station, "level": "1"}, sequence, 0)


def event(sequence: int, epoch: str = FIRST, **data: Any) -> Frame:
    station = "south" if sequence % 2 else "north"
    found = {"identifier": {"station": station, "level": "1"}, "payload": sequence, **data}
    content = {"id": f"reading@{sequence}", "specversion": "1.0", "data": found}
    return Frame("live-notification", json.dumps(content), f"{sequence}-{epoch}", None)


def gap(reason: str, expected: int, first: int) -> Frame:
    content = {"reason": reason, "expected": expected, "first_available": first}
    return Frame("gap", json.dumps(content), None, None)


def heartbeat(sequence: int, epoch: str = FIRST) -> Frame:
    return Frame("heartbeat", json.dumps({"sequence": sequence}), f"{sequence}-{epoch}", None)


def completed() -> Frame:
    return Frame("replay-control", json.dumps({"type": "replay_completed"}), None, None)


def closing() -> Frame:
    return Frame("connection-closing", json.dumps({"reason": "end_of_stream"}), None, None)


def judge(
    model: LogModel,
    *frames: Frame,
    after: int = 0,
    watch: bool = True,
    wanted: Wanted | None = None,
    began: int = 0,
    life: Life | None = None,
) -> None:
    life = life or model.lives[0]
    session = Session(after, watch, began, 1, life, life.last, turn_opened=1, frames=[*frames])
    Judge(model, wanted or Wanted()).judge(session)


def test_the_log_in_order_is_right(log: LogModel) -> None:
    judge(log, *map(event, range(1, 7)), heartbeat(6))
    judge(log, *map(event, range(4, 7)), after=3)
    judge(log, *map(event, (2, 4, 6)), heartbeat(6), wanted=Wanted("north"))
    judge(log, *map(event, range(1, 7)), completed(), closing(), watch=False)


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        ([event(1), event(3)], "lost"),
        ([event(1), heartbeat(2)], "lost"),
        ([event(1), event(1)], "repeated or disordered"),
        ([event(1), event(2), event(1)], "repeated or disordered"),
        ([event(1), event(2), heartbeat(1)], "went back"),
        ([event(1, payload="other")], "is not"),
        ([event(1), gap("expired", 2, 4)], "nothing was removed"),
        ([event(1), gap("reset", 2, 1)], "no log was destroyed"),
    ],
)
def test_what_is_lost_repeated_changed_or_made_up_is_found(
    log: LogModel, frames: list[Frame], fault: str
) -> None:
    with pytest.raises(AssertionError, match=fault):
        judge(log, *frames)


def test_a_replay_that_ends_too_early_is_found(log: LogModel) -> None:
    with pytest.raises(AssertionError, match="lost"):
        judge(log, event(1), completed(), watch=False)


def test_what_was_not_asked_for_is_found(log: LogModel) -> None:
    with pytest.raises(AssertionError, match="not asked for"):
        judge(log, event(1), wanted=Wanted("north"))


def test_deleted_events_need_not_come_and_must_not_afterwards(log: LogModel) -> None:
    assert log.delete(2)
    judge(log, event(1), event(3))
    judge(log, event(1), event(2))
    with pytest.raises(AssertionError, match="was gone before"):
        judge(log, event(1), event(2), began=log.clock)


def test_what_retention_took_must_be_told(log: LogModel) -> None:
    assert log.trim(3) == 3
    judge(log, event(1), gap("expired", 2, 4), event(4))
    with pytest.raises(AssertionError, match="no gap told"):
        judge(log, event(1), event(4))
    with pytest.raises(AssertionError, match="lost"):
        judge(log, event(1), gap("expired", 2, 4), event(5))


def test_another_log_must_be_told_and_read_from_its_start(log: LogModel) -> None:
    log.destroy()
    fill(log, SECOND, 3)
    judge(log, event(1), gap("reset", 2, 1), event(1, SECOND), event(2, SECOND))
    with pytest.raises(AssertionError, match="another log"):
        judge(log, event(1), event(2, SECOND))
    with pytest.raises(AssertionError, match="lost"):
        judge(log, event(1), gap("reset", 2, 1), event(2, SECOND))
    with pytest.raises(AssertionError, match="back in an earlier log"):
        judge(log, event(1), gap("reset", 2, 1), event(2))
