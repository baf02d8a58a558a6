"""Aviso wire contract §6: every handler, end to end: what is published and what is asked for meet."""

from typing import Any

import pytest

from tests.contract.api import NOTIFICATION, REPLAY, WATCH, Api, ask, assert_error, notifications
from tests.contract.schemas import STORM

pytestmark = pytest.mark.asyncio(loop_scope="session")

# field, the canonical text, everything that means it
ACCEPTED: list[tuple[str, str, list[object]]] = [
    ("name", "Elpis", ["Elpis"]),
    ("name", "0x1", ["0x1"]),
    ("name", "a b ", ["a b "]),
    ("name", "äöü€", ["äöü€"]),
    ("name", "4", [4, "4"]),
    ("name", "1.0", [1.0, "1.0"]),
    ("name", "true", [True, "true"]),
    ("day", "20240229", ["2024-02-29", "20240229", "2024-060", 20240229]),
    ("day", "20231231", ["2023-12-31", "2023-365"]),
    ("day", "00010101", ["0001-01-01", "00010101"]),
    ("iso_day", "2024-02-29", ["2024-02-29", "20240229", "2024-060"]),
    ("run", "0900", ["9", "09", "9:00", "09:00", "0900", 9]),
    ("run", "0000", ["0", "00", "0:00", "0000", 0]),
    ("run", "2359", ["23:59", "2359", 2359]),
    ("region", "north", ["north", "NORTH", "North"]),
    ("region", "south", ["South", "south", "SOUTH"]),
    ("expver", "0001", ["1", 1, "0001", "001", "+1", ""]),
    ("expver", "0042", ["42", 42]),
    ("expver", "12345", ["12345", 12345]),
    ("expver", "4294967295", ["4294967295"]),
    ("expver", "prod", ["prod", "PROD", "Prod"]),
    ("expver", "-1", ["-1"]),
    ("expver", "4294967296", ["4294967296"]),
    ("severity", "4", ["4", 4, "+4", "004", "0000000000000000000000000000004"]),
    ("severity", "1", [1]),
    ("severity", "7", [7]),
    ("step", "-9223372036854775808", ["-9223372036854775808", -(2**63)]),
    ("step", "9223372036854775807", ["9223372036854775807", 2**63 - 1]),
    ("step", "0", ["0", "-0", "+0", 0]),
    ("step", "-5", ["-5", "-05", -5]),
    ("level", "1", ["1", "1.0", 1, 1.0, "1e0", "0.1e1", "+1", "01", "1."]),
    ("level", "10", ["1e1", "10", 10, 10.0]),
    ("level", "0.5", [".5", "0.5", 0.5, "5e-1", "5E-1"]),
    ("level", "0", ["0", "-0", "-0.0", 0, "0e9"]),
    ("level", "0.1", [0.1, "0.1", "0.10000000000000000000001"]),
    ("level", "100000000000000000000", ["1e20", 1e20]),
    ("level", "0.00001", ["1e-5", 1e-5]),
    ("level", "-273.15", [-273.15, "-273.15"]),
    ("anomaly", "-40.5", [-40.5]),
    ("anomaly", "100", [100, "1e2"]),
]

# field, a value that is refused, the sentence after the field's name
REFUSED: list[tuple[str, object, str]] = [
    ("name", "", "cannot be empty"),
    ("name", "ten bytes!", "exceeds maximum length of 9 characters, got: 10"),
    ("name", "äöüäö", "exceeds maximum length of 9 characters, got: 10"),
    ("day", "", "must be a valid date"),
    ("day", "2024-02-30", "must be a valid date"),
    ("day", "2023-02-29", "must be a valid date"),
    ("day", "2023-366", "must be a valid date"),
    ("day", "2024-000", "must be a valid date"),
    ("day", "2024-13-01", "must be a valid date"),
    ("day", "0000-01-01", "must be a valid date"),
    ("day", "24-02-29", "must be a valid date"),
    ("day", "2024-2-9", "must be a valid date"),
    ("day", "29.02.2024", "must be a valid date"),
    ("day", "2024-0229", "must be a valid date"),
    ("day", "202402291", "must be a valid date"),
    ("day", "2024-02-29T00:00:00Z", "must be a valid date"),
    ("day", "٢٠٢٤٠٢٢٩", "must be a valid date"),
    ("run", "", "must be a valid time"),
    ("run", "24", "must be a valid time"),
    ("run", "23:60", "must be a valid time"),
    ("run", "2360", "must be a valid time"),
    ("run", "12:5", "must be a valid time"),
    ("run", "900", "must be a valid time"),
    ("run", "12:00:00", "must be a valid time"),
    ("run", "-1", "must be a valid time"),
    ("run", "9.0", "must be a valid time"),
    ("run", "١٢", "must be a valid time"),
    ("region", "west", "has invalid value 'west'. Allowed: [north, South]"),
    ("region", "", "has invalid value ''. Allowed: [north, South]"),
    ("region", True, "has invalid value 'true'. Allowed: [north, South]"),
    ("region", " north", "has invalid value ' north'. Allowed: [north, South]"),
    ("severity", "", "must be a valid integer, got: ''"),
    ("severity", "1.5", "must be a valid integer, got: '1.5'"),
    ("severity", 1.0, "must be a valid integer, got: '1.0'"),
    ("severity", "1.0", "must be a valid integer, got: '1.0'"),
    ("severity", "1e1", "must be a valid integer, got: '1e1'"),
    ("severity", " 1", "must be a valid integer, got: ' 1'"),
    ("severity", "٤", "must be a valid integer, got: '٤'"),
    ("severity", "1_0", "must be a valid integer, got: '1_0'"),
    ("severity", True, "must be a valid integer, got: 'true'"),
    ("severity", 0, "value 0 is outside allowed range [1, 7]"),
    ("severity", "8", "value 8 is outside allowed range [1, 7]"),
    ("step", 2**63, "must be a valid integer, got: '9223372036854775808'"),
    ("step", "-9223372036854775809", "must be a valid integer, got: '-9223372036854775809'"),
    ("level", "", "must be a valid number, got: ''"),
    ("level", "high", "must be a valid number, got: 'high'"),
    ("level", "1,5", "must be a valid number, got: '1,5'"),
    ("level", "0x10", "must be a valid number, got: '0x10'"),
    ("level", " 1", "must be a valid number, got: ' 1'"),
    ("level", "NaN", "must be a finite number, got: 'NaN'"),
    ("level", "-inf", "must be a finite number, got: '-inf'"),
    ("level", "infinity", "must be a finite number, got: 'infinity'"),
    ("level", "1e400", "must be a finite number, got: '1e400'"),
    ("anomaly", -40.51, "value -40.51 is outside allowed range [-40.5, 100]"),
    ("anomaly", 1e2 + 1, "value 101 is outside allowed range [-40.5, 100]"),
]


def _shown(case: object) -> str:
    return repr(case)[:40]


@pytest.mark.parametrize(("name", "canonical", "forms"), ACCEPTED, ids=_shown)
async def test_every_form_of_a_value_is_stored_as_one_and_found_by_every_form(
    api: Api, name: str, canonical: str, forms: list[object]
) -> None:
    async with api.watch("storm", {name: forms[-1]}) as live:
        await live.next()
        other = {"name": "other", "day": "2001-01-01", "iso_day": "2001-01-01", "run": "17"}
        await api.publish(
            "storm",
            {**STORM, **other, "level": 7, "severity": 2, "step": 3}
            | {
                "region": "north" if canonical == "south" else "South",
                "expver": "zz",
                "anomaly": 0,
            },
        )
        for form in forms:
            await api.publish("storm", {**STORM, name: form})
        for frame in await live.notifications(len(forms)):
            assert frame.data["data"]["identifier"][name] == canonical
        assert [each.sequence for each in live.seen if each.is_notification] == [
            *range(2, len(forms) + 2)
        ]
    for form in forms:
        frames = notifications(await api.replay("storm", {name: form}))
        assert [each.sequence for each in frames] == list(range(2, len(forms) + 2))
        assert {each.data["data"]["identifier"][name] for each in frames} == {canonical}


@pytest.mark.parametrize(("name", "value", "sentence"), REFUSED, ids=_shown)
async def test_a_value_that_is_refused_is_refused_on_publish_watch_and_replay(
    api: Api, name: str, value: object, sentence: str
) -> None:
    published = await api.post(
        NOTIFICATION, {"event_type": "storm", "identifier": {**STORM, name: value}}
    )
    asked = {name: value}
    watched = await api.post(WATCH, ask("storm", asked))
    replayed = await api.post(REPLAY, ask("storm", asked, from_id="1"))
    for response, code in (
        (published, "INVALID_NOTIFICATION_REQUEST"),
        (watched, "INVALID_WATCH_REQUEST"),
        (replayed, "INVALID_REPLAY_REQUEST"),
    ):
        found = assert_error(response, 400, code)
        assert found["message"].startswith(f"Field '{name}' {sentence}"), found["message"]


@pytest.mark.parametrize(("path", "verb"), [(WATCH, "watch"), (REPLAY, "replay")])
async def test_a_required_field_must_be_asked_for_and_an_optional_one_may_be_left_out(
    api: Api, path: str, verb: str
) -> None:
    refused = await api.post(path, ask("order", {"version": "1"}, from_id="1"))
    found = assert_error(refused, 400, f"INVALID_{verb.upper()}_REQUEST")
    assert found["message"] == f"Required field 'shop' missing for {verb} operation"
    await api.publish("order", {"shop": "a", "version": "7"}, 1)
    assert await api.found("order", {"shop": "a"}) == [1]


@pytest.mark.parametrize(("path", "verb"), [(WATCH, "watch"), (REPLAY, "replay")])
@pytest.mark.parametrize("name", ["colour", "Region", "polygon", "point_cloud", "", "a" * 1000])
async def test_an_unknown_key_of_a_query_is_refused(
    api: Api, path: str, verb: str, name: str
) -> None:
    response = await api.post(path, ask("storm", {"region": "north", name: "1"}, from_id="1"))
    found = assert_error(response, 400, f"INVALID_{verb.upper()}_REQUEST")
    shown = name if len(name) <= 200 else name[:200] + "…"
    assert found["message"] == f"Unknown field '{shown}' provided for {verb} operation"


@pytest.mark.parametrize("path", [WATCH, REPLAY])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "Field 'region' cannot be null"),
        ([], "Field 'region' must be a scalar value or constraint object, got array"),
        (["north"], "Field 'region' must be a scalar value or constraint object, got array"),
    ],
)
async def test_a_null_or_an_array_is_no_filter(
    api: Api, path: str, value: object, sentence: str
) -> None:
    response = await api.post(path, ask("storm", {"region": value}, from_id="1"))
    assert response.json()["message"] == sentence


async def test_several_fields_must_all_match(api: Api) -> None:
    for region, severity, level in (("north", 1, 1), ("north", 2, 1), ("South", 2, 2)):
        await api.publish(
            "storm", {**STORM, "region": region, "severity": severity, "level": level}
        )
    found: dict[str, Any] = {
        "everything": await api.found("storm"),
        "one": await api.found("storm", {"severity": "02"}),
        "two": await api.found("storm", {"severity": 2, "region": "NORTH"}),
        "none": await api.found("storm", {"severity": 1, "region": "south"}),
        "mixed": await api.found("storm", {"severity": {"gte": 2}, "level": "2.0"}),
    }
    assert found == {
        "everything": [1, 2, 3],
        "one": [2, 3],
        "two": [2],
        "none": [],
        "mixed": [3],
    }
