"""from_id, from_date, to_id and to_date: every form, every message, and their order (§2)."""

import pytest

from gateway.schema.errors import Rejected
from gateway.schema.limits import (
    End,
    FromSequence,
    FromTime,
    Start,
    ToSequence,
    ToTime,
    read_event_time,
    read_limits,
)
from gateway.schema.request import Operation, Request

U64 = 2**64 - 1


def read(
    limits: dict[str, str], operation: Operation = "replay"
) -> tuple[Start | None, End | None]:
    request = Request(
        event_type="mars",
        identifier={},
        from_id=limits.get("from_id"),
        from_date=limits.get("from_date"),
        to_id=limits.get("to_id"),
        to_date=limits.get("to_date"),
    )
    return read_limits(request, operation)


def refuse(limits: dict[str, str], operation: Operation = "replay") -> Rejected:
    with pytest.raises(Rejected) as caught:
        read(limits, operation)
    assert caught.value.kind == "INVALID"
    return caught.value


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("0", 0),
        ("5", 5),
        ("+5", 5),
        ("0005", 5),
        ("0" * 5000 + "1", 1),
        (str(U64), U64),
        ("+0", 0),
    ],
)
def test_a_sequence_is_an_unsigned_64_bit_number(text: str, sequence: int) -> None:
    assert read({"from_id": text}) == (FromSequence(sequence), None)
    assert read({"from_id": "0", "to_id": text}) == (FromSequence(0), ToSequence(sequence))
    assert read({"from_id": text}, "watch") == (FromSequence(sequence), None)


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
@pytest.mark.parametrize("name", ["from_id", "from_date", "to_id", "to_date"])
def test_an_empty_limit_is_refused(name: str, text: str) -> None:
    assert refuse({name: text}).message.startswith(f"{name} cannot be empty")


@pytest.mark.parametrize(
    "text",
    ["-1", "1.5", " 5", "5 ", str(2**64), "9" * 5000, "+", "++5", "five", "1e3", "٥", "1_0", "5\n"],
)
@pytest.mark.parametrize("name", ["from_id", "to_id"])
def test_another_sequence_is_refused_and_shown(name: str, text: str) -> None:
    refusal = refuse({name: text})
    start = f"{name} must be a valid positive integer. Got: '{text[:200]}"
    assert refusal.message.startswith(start)
    assert refusal.message.endswith(refusal.details)
    assert len(refusal.message) < 400


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("0", 0, 0),
        (" 1772020800 ", 1_772_020_800_000, 1_772_020_800_000),
        ("1772020800123", 1_772_020_800_123, 1_772_020_800_123),
        ("2026-02-25T12:00:00Z", 1_772_020_800_000, 1_772_020_800_000),
        ("2026-02-25T12:00:00.0005Z", 1_772_020_800_001, 1_772_020_800_000),
        ("1500-01-01T00:00:00Z", -14_831_769_600_000, -14_831_769_600_000),
        ("2300-01-01 00:00:00", 10_413_792_000_000, 10_413_792_000_000),
    ],
)
def test_a_date_is_a_millisecond_inside_the_limit_on_both_sides(
    text: str, first: int, last: int
) -> None:
    assert read({"from_date": text}) == (FromTime(first), None)
    assert read({"from_id": "0", "to_date": text}) == (FromSequence(0), ToTime(last))
    assert read({"from_date": text}, "watch") == (FromTime(first), None)


@pytest.mark.parametrize("name", ["from_date", "to_date"])
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("2026-02-25", "expected RFC 3339"),
        ("yesterday", "expected RFC 3339"),
        ("-5", "negative unix timestamps are not supported"),
        ("2026-02-30T00:00:00Z", "no such date or time"),
    ],
)
def test_another_date_is_refused_and_shown(name: str, text: str, cause: str) -> None:
    refusal = refuse({name: text})
    assert refusal.message.startswith(
        f"{name} must be a valid datetime/timestamp. Got: '{text}'. Error: {cause}"
    )
    assert refusal.details.startswith(cause)


def test_a_watch_may_have_no_limits() -> None:
    assert read({}, "watch") == (None, None)


@pytest.mark.parametrize("limits", [{}, {"to_id": "5"}, {"to_date": "5"}])
def test_a_replay_needs_a_start(limits: dict[str, str]) -> None:
    assert refuse(limits).message.startswith(
        "Replay endpoint requires either from_id or from_date parameter. "
    )


@pytest.mark.parametrize("limits", [{"to_id": "5"}, {"to_date": "5"}, {"to_id": "not looked at"}])
def test_an_end_is_for_replay_only(limits: dict[str, str]) -> None:
    assert refuse(limits, "watch").message == (
        "to_id and to_date are only supported for the replay endpoint, not /watch"
    )


@pytest.mark.parametrize("operation", ["watch", "replay"])
def test_both_starts_are_refused(operation: Operation) -> None:
    refusal = refuse({"from_id": "5", "from_date": "5"}, operation)
    assert refusal.message.startswith("Cannot specify both from_id and from_date. ")


def test_both_ends_are_refused() -> None:
    refusal = refuse({"from_id": "5", "to_id": "5", "to_date": "5"})
    assert refusal.message.startswith("Cannot specify both to_id and to_date. ")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"from_id": "+5", "to_id": "04"},
            "to_id (4) must not be lower than from_id (5)",
        ),
        (
            {"from_date": "2026-02-25T12:00:00.5", "to_date": "1772020800"},
            "to_date (2026-02-25T12:00:00+00:00) must not be earlier than "
            "from_date (2026-02-25T12:00:00.500+00:00)",
        ),
        (
            {
                "from_date": "2026-02-25T12:00:00.0000002Z",
                "to_date": "2026-02-25T12:00:00.0000001Z",
            },
            "to_date (2026-02-25T12:00:00.000000100+00:00) must not be earlier than "
            "from_date (2026-02-25T12:00:00.000000200+00:00)",
        ),
    ],
)
def test_an_end_before_its_start_is_refused(limits: dict[str, str], message: str) -> None:
    assert refuse(limits).message == message


@pytest.mark.parametrize(
    "limits",
    [
        {"from_id": "5", "to_id": "5"},
        {"from_date": "1772020800", "to_date": "2026-02-25T13:00:00+01:00"},
        {"from_id": "5", "to_date": "0"},
        {"from_date": "2300-01-01T00:00:00Z", "to_id": "0"},
    ],
)
def test_equal_limits_and_limits_of_different_kinds_are_fine(limits: dict[str, str]) -> None:
    start, end = read(limits)
    assert start is not None
    assert end is not None


def test_limits_are_checked_in_the_order_of_the_contract() -> None:
    wrong = {"from_id": "x", "from_date": "x", "to_id": "x", "to_date": "x"}
    for name in ("from_id", "from_date", "to_id", "to_date"):
        assert refuse(wrong).message.startswith(f"{name} must be")
        wrong[name] = "5"
    assert refuse(wrong).message.startswith("Cannot specify both from_id")
    del wrong["from_id"], wrong["from_date"]
    assert refuse(wrong).message.startswith("Cannot specify both to_id")


def test_the_time_of_an_event_is_read_or_refused() -> None:
    assert read_event_time("2018-01-31T01:49:59.650Z") == 1_517_363_399_650
    with pytest.raises(Rejected) as caught:
        read_event_time("yesterday")
    assert caught.value.kind == "INVALID"
    assert caught.value.message.startswith("time must be a valid datetime. Got: 'yesterday'. Error")
    assert caught.value.message.endswith(caught.value.details)
