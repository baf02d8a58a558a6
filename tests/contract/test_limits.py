"""Aviso wire contract §2.1-2.3: from_id, from_date, to_id and to_date, accepted and rejected."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.contract.api import (
    LABELS,
    NOTIFICATIONS,
    PATHS,
    WATCH,
    Api,
    ask,
    assert_error,
    kinds,
    notifications,
)
from tests.contract.reader import Frame

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Four events at times of their own: 1 and 2 in one second, 3 a day later, 4 now.
TIMES = [
    "2018-02-06T15:50:42.100Z",
    "2018-02-06T15:50:42.900Z",
    "2018-02-07T15:50:43Z",
]


async def record(api: Api) -> None:
    items: list[dict[str, object]] = [
        {"event_type": "note", "identifier": {"author": "ada"}, "time": time} for time in TIMES
    ]
    items.append({"event_type": "note", "identifier": {"author": "ada"}})
    response = await api.post(NOTIFICATIONS, items)
    assert response.json()["accepted"] == 4, response.text


async def refused(api: Api, operation: str, **limits: str) -> dict[str, Any]:
    response = await api.post(PATHS[operation], ask("note", **limits))
    return assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST", LABELS[operation])


readings = pytest.mark.parametrize("operation", ["watch", "replay"])


# -- sequences


@pytest.mark.parametrize(
    ("from_id", "expected"),
    [
        ("0", [1, 2, 3, 4]),
        ("1", [1, 2, 3, 4]),
        ("3", [3, 4]),
        ("4", [4]),
        ("5", []),
        ("99", []),
        ("+3", [3, 4]),
        ("003", [3, 4]),
        ("18446744073709551615", []),
        ("000000000000000000000000000000003", [3, 4]),
    ],
)
async def test_from_id_is_an_inclusive_unsigned_64_bit_number(
    api: Api, from_id: str, expected: list[int]
) -> None:
    await record(api)
    frames = await api.replay(from_id=from_id)
    assert [each.sequence for each in notifications(frames)] == expected
    assert frames[0].data["from_sequence"] == int(from_id)
    assert frames[0].data["from_date"] is None
    assert kinds(frames)[-2:] == ["replay_completed", "connection-closing"]


@readings
@pytest.mark.parametrize(
    "from_id",
    [
        *("-1", "-0", "1.5", "1.0", "1e3", "18446744073709551616", "99999999999999999999999"),
        *(" 1", "1 ", "\t1", "1\n", "0x10", "one", "+", "++1", "+-1", "1_000", "1,000", "٣", "①"),
        "9" * 5000,
    ],
)
async def test_what_is_no_sequence_is_refused_with_the_value(
    api: Api, operation: str, from_id: str
) -> None:
    found = await refused(api, operation, from_id=from_id)
    assert found["message"].startswith("from_id must be a valid positive integer. Got: '")
    assert from_id[:100] in found["message"]
    assert len(found["message"]) < 600
    if operation == "replay":
        found = await refused(api, operation, from_id="1", to_id=from_id)
        assert found["message"].startswith("to_id must be a valid positive integer. Got: '")


@readings
@pytest.mark.parametrize("value", ["", " ", "\t\n "])
@pytest.mark.parametrize("name", ["from_id", "from_date"])
async def test_an_empty_start_is_refused(api: Api, operation: str, name: str, value: str) -> None:
    found = await refused(api, operation, **{name: value})
    assert found["message"].startswith(f"{name} cannot be empty")


@pytest.mark.parametrize("value", ["", "   "])
@pytest.mark.parametrize("name", ["to_id", "to_date"])
async def test_an_empty_end_is_refused(api: Api, name: str, value: str) -> None:
    found = await refused(api, "replay", from_id="1", **{name: value})
    assert found["message"].startswith(f"{name} cannot be empty")


# -- dates


@pytest.mark.parametrize(
    ("from_date", "expected"),
    [
        # unix seconds and milliseconds: up to 11 significant digits are seconds
        ("1517932243", [3, 4]),
        ("1517932242", [1, 2, 3, 4]),
        ("1517932242100", [1, 2, 3, 4]),
        ("1517932242101", [2, 3, 4]),
        ("+1517932242900", [2, 3, 4]),
        ("0001517932242101", [2, 3, 4]),
        ("00000000001517932243", [3, 4]),
        ("0", [1, 2, 3, 4]),
        ("5", [1, 2, 3, 4]),
        ("99999999999", []),
        # RFC 3339, with every letter, fraction and offset
        ("2018-02-06T15:50:42.100Z", [1, 2, 3, 4]),
        ("2018-02-06T15:50:42.9Z", [2, 3, 4]),
        ("2018-02-06T15:50:42.1000001Z", [2, 3, 4]),
        ("2018-02-06t15:50:42.900000000000000000000z", [2, 3, 4]),
        ("2018-02-06 15:50:43Z", [3, 4]),
        ("2018-02-06T23:50:42.9+08:00", [2, 3, 4]),
        ("2018-02-06T11:20:42.9-04:30", [2, 3, 4]),
        ("2018-02-06 15:50:42.9+00:00", [2, 3, 4]),
        ("2018-02-06 15:50:42.9-00:00", [2, 3, 4]),
        # without an offset it is UTC
        ("2018-02-06T15:50:42.900", [2, 3, 4]),
        ("2018-02-06 15:50:43", [3, 4]),
        # trimmed
        ("  2018-02-06 15:50:43\n", [3, 4]),
        (" 1517932243 ", [3, 4]),
        # far from now
        ("1500-01-01T00:00:00Z", [1, 2, 3, 4]),
        ("0001-01-01T00:00:00Z", [1, 2, 3, 4]),
        ("2300-01-01T00:00:00Z", []),
        ("9999-12-31T23:59:59Z", []),
    ],
)
async def test_from_date_takes_unix_times_and_date_times_inclusively(
    api: Api, from_date: str, expected: list[int]
) -> None:
    await record(api)
    assert await api.found(from_date=from_date) == expected


@readings
@pytest.mark.parametrize(
    "value",
    [
        *("2026-02-25", "2026-02-25T", "2026-02-25T12", "2026-02-25T12:00"),
        *("2026-02-25T12:00:00+0100", "2026-02-25T12:00:00+01", "2026-02-25T12:00:00 +01:00"),
        *("2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "2026-02-25T24:00:00Z"),
        *("2026-02-25T12:60:00Z", "2026-02-25T12:00:61Z", "2026-02-25T12:00:00+24:00"),
        *("26-02-25T12:00:00Z", "2026-2-5T12:00:00Z", "2026-02-25T12:00:00.Z"),
        *("yesterday", "now", "1.5", "1e9", "12:00", "2026-02-25_12:00:00Z", "+", "٣", "0x5"),
        "9" * 30,
    ],
)
async def test_what_is_no_date_is_refused_with_the_value(
    api: Api, operation: str, value: str
) -> None:
    found = await refused(api, operation, from_date=value)
    beginning = f"from_date must be a valid datetime/timestamp. Got: '{value}'. Error: "
    assert found["message"].startswith(beginning)
    assert found["message"] == beginning + found["details"]
    if operation == "replay":
        found = await refused(api, "replay", from_id="1", to_date=value)
        assert found["message"].startswith(f"to_date{beginning.removeprefix('from_date')}")


@readings
@pytest.mark.parametrize("value", ["-1", "-1517932242"])
async def test_a_negative_unix_time_has_its_own_sentence(
    api: Api, operation: str, value: str
) -> None:
    found = await refused(api, operation, from_date=value)
    assert "negative unix timestamps are not supported" in found["message"]


async def test_a_date_of_eight_digits_is_a_unix_time(api: Api) -> None:
    """Not the date it looks like: `[+]digits` is unix time, whatever its length."""
    await record(api)
    assert await api.found(from_date="20180207") == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("from_date", "shown"),
    [
        ("2018-02-06T15:50:42.100Z", "2018-02-06T15:50:42Z"),
        ("2018-02-06T16:50:42+01:00", "2018-02-06T15:50:42Z"),
        ("1517932242", "2018-02-06T15:50:42Z"),
        ("0", "1970-01-01T00:00:00Z"),
        ("1500-06-01T00:00:00Z", "1500-06-01T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("2300-01-01T00:00:00Z", "2300-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59Z"),
    ],
)
async def test_replay_started_shows_the_start_in_seconds(
    api: Api, from_date: str, shown: str
) -> None:
    frames = await api.replay(from_date=from_date)
    assert frames[0].data["from_date"] == shown
    assert frames[0].data["from_sequence"] is None


# -- combinations


@readings
async def test_both_starts_are_refused(api: Api, operation: str) -> None:
    found = await refused(api, operation, from_id="1", from_date="0")
    assert found["message"].startswith("Cannot specify both from_id and from_date. ")


@pytest.mark.parametrize("limits", [{}, {"to_id": "5"}, {"to_date": "5"}])
async def test_a_replay_needs_a_start(api: Api, limits: Mapping[str, str]) -> None:
    found = await refused(api, "replay", **limits)
    assert found["message"].startswith(
        "Replay endpoint requires either from_id or from_date parameter. "
    )


async def test_both_ends_are_refused(api: Api) -> None:
    found = await refused(api, "replay", from_id="1", to_id="1", to_date="0")
    assert found["message"].startswith("Cannot specify both to_id and to_date. ")


async def test_an_end_before_its_start_is_refused_with_both(api: Api) -> None:
    found = await refused(api, "replay", from_id="5", to_id="4")
    assert found["message"] == "to_id (4) must not be lower than from_id (5)"
    found = await refused(api, "replay", from_date="2026-02-25T12:00:00.5+01:00", to_date="1")
    assert found["message"] == (
        "to_date (1970-01-01T00:00:01+00:00) must not be earlier than "
        "from_date (2026-02-25T11:00:00.500+00:00)"
    )


async def test_equal_limits_and_limits_of_different_kinds_are_fine(api: Api) -> None:
    await record(api)
    assert await api.found(from_id="2", to_id="2") == [2]
    assert await api.found(from_date=TIMES[1], to_date=TIMES[1]) == [2]
    assert await api.found(from_id="4", to_date="0") == []
    assert await api.found(from_date="2300-01-01T00:00:00Z", to_id="1") == []


# -- the end


@pytest.mark.parametrize(
    ("limits", "expected", "end_sequence"),
    [
        ({}, [1, 2, 3, 4], None),
        ({"to_id": "2"}, [1, 2], 2),
        ({"to_id": "4"}, [1, 2, 3, 4], 4),
        ({"to_id": "99"}, [1, 2, 3, 4], 4),
        ({"to_id": "18446744073709551615"}, [1, 2, 3, 4], 4),
        ({"to_date": "2018-02-06T15:50:42.100Z"}, [1], 1),
        ({"to_date": "2018-02-06T15:50:42.899999999Z"}, [1], 1),
        ({"to_date": "2018-02-06T15:50:42.9Z"}, [1, 2], 2),
        ({"to_date": "1517932243"}, [1, 2], 2),
        ({"to_date": "2300-01-01T00:00:00Z"}, [1, 2, 3, 4], 4),
        # before everything: an empty replay that completes
        ({"to_date": "2018-02-06T15:50:42.099Z"}, [], 0),
        ({"to_date": "1500-01-01T00:00:00Z"}, [], 0),
        ({"to_id": "0"}, [], 0),
    ],
)
async def test_the_end_is_resolved_when_the_replay_starts(
    api: Api, limits: dict[str, str], expected: list[int], end_sequence: int | None
) -> None:
    await record(api)
    frames = await api.replay(from_id="0", **limits)
    assert [each.sequence for each in notifications(frames)] == expected
    assert frames[0].data["end_sequence"] == end_sequence
    assert kinds(frames)[-2:] == ["replay_completed", "connection-closing"]


async def test_a_date_before_all_that_is_kept_ends_just_before_it(api: Api) -> None:
    await record(api)
    await api.send("DELETE", "/api/v1/admin/notification/note@1")
    frames = await api.replay(from_id="1", to_date=TIMES[0])
    assert notifications(frames) == []
    assert frames[0].data["end_sequence"] == 1


async def test_only_events_up_to_the_end_count_towards_the_limit(api: Api) -> None:
    await api.publish_many(5, "capped")
    frames = await api.replay("capped", from_id="1", to_id="3")
    assert [each.sequence for each in notifications(frames)] == [1, 2, 3]
    assert "replay_completed" in kinds(frames)
    frames = await api.replay("capped", from_id="1", to_id="4")
    assert "notification_replay_limit_reached" in kinds(frames)


async def test_an_end_on_a_log_that_does_not_exist(api: Api) -> None:
    for limits in ({"to_id": "7"}, {"to_date": "2300-01-01T00:00:00Z"}):
        frames = await api.replay(from_id="3", **limits)
        assert kinds(frames) == ["replay_started", "replay_completed", "connection-closing"]
        assert frames[0].data["end_sequence"] == 0


# -- a start past the end


@pytest.mark.parametrize(
    "limits", [{"from_id": "5"}, {"from_id": "99"}, {"from_date": "2300-01-01T00:00:00Z"}]
)
async def test_a_watch_from_beyond_the_end_is_an_empty_history_and_then_live(
    api: Api, limits: dict[str, str]
) -> None:
    await record(api)
    async with api.stream(WATCH, ask("note", **limits)) as stream:
        assert (await stream.next()).kind == "replay_started"
        assert (await stream.next()).kind == "replay_completed"
        assert await api.publish() == 5
        live = await stream.notification()
        assert (live.event, live.sequence) == ("live-notification", 5)


async def test_a_time_between_two_events_starts_at_the_later_one(api: Api) -> None:
    await record(api)
    day_after = datetime(2018, 2, 7, tzinfo=UTC)
    assert await api.found(from_date=day_after.isoformat()) == [3, 4]
    assert await api.found(from_date=(day_after + timedelta(days=1)).isoformat()) == [4]


async def test_a_start_by_the_time_an_event_shows_finds_that_event(api: Api) -> None:
    await asyncio.gather(*(api.publish() for _ in range(20)))
    shown: list[Frame] = notifications(await api.replay())
    for frame in shown:
        found = await api.found(from_date=frame.data["time"])
        assert found[0] <= frame.sequence
        assert found[-1] == 20
        earlier = shown[found[0] - 1]
        assert earlier.data["time"] == frame.data["time"]
