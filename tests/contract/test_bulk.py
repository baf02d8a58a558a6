"""Aviso wire contract §13: many events in one request, each with its own result and its own time."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.contract.api import LABELS, NOTIFICATIONS, Api, assert_error, notifications
from tests.contract.schemas import STORM

pytestmark = pytest.mark.asyncio(loop_scope="session")

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def note(author: object = "ada", **more: object) -> dict[str, object]:
    return {"event_type": "note", "identifier": {"author": author}, **more}


async def send(
    api: Api, content: str | bytes, content_type: str = "application/x-ndjson"
) -> httpx.Response:
    return await api.post(NOTIFICATIONS, content=content, headers={"Content-Type": content_type})


def lines(*items: object) -> str:
    return "\n".join(json.dumps(item) for item in items)


async def test_an_array_is_answered_item_by_item_in_order(api: Api) -> None:
    response = await api.post(
        NOTIFICATIONS,
        [note(), note(""), {"event_type": "storm", "identifier": STORM}, note("bob")],
    )
    answer = response.json()
    assert response.status_code == 200
    assert set(answer) == {
        *("status", "request_id", "processed_at"),
        *("accepted", "rejected", "results"),
    }
    assert answer["request_id"] == response.headers["x-request-id"]
    assert INSTANT.fullmatch(answer["processed_at"])
    assert (answer["status"], answer["accepted"], answer["rejected"]) == ("partial", 3, 1)
    first, second, third, fourth = answer["results"]
    assert first == {"status": "success", "id": "note@1", "sequence": 1}
    assert second == {
        "status": "error",
        "code": "INVALID_NOTIFICATION_REQUEST",
        "error": LABELS["notification"],
        "message": "Field 'author' cannot be empty",
        "details": "Field 'author' cannot be empty",
    }
    assert third == {"status": "success", "id": "storm@1", "sequence": 1}
    assert fourth == {"status": "success", "id": "note@2", "sequence": 2}


@pytest.mark.parametrize(
    "content_type",
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "text/plain", ""],
)
async def test_lines_are_taken_by_any_name_and_ending(api: Api, content_type: str) -> None:
    body = f"{json.dumps(note())}\r\n\n  \n{json.dumps(note('bob'))}\n"
    answer = (await send(api, body, content_type)).json()
    assert (answer["status"], answer["accepted"]) == ("success", 2)
    assert [result["sequence"] for result in answer["results"]] == [1, 2]


async def test_one_object_is_one_line(api: Api) -> None:
    answer = (await api.post(NOTIFICATIONS, note())).json()
    assert answer["results"] == [{"status": "success", "id": "note@1", "sequence": 1}]
    answer = (await send(api, json.dumps(note(), indent=2), "application/json")).json()
    assert answer["results"] == [{"status": "success", "id": "note@2", "sequence": 2}]


async def test_a_bad_item_does_not_stop_the_others(api: Api) -> None:
    bad: list[tuple[str, str]] = [
        ("{", "INVALID_JSON"),
        ("nope", "INVALID_JSON"),
        ('{"event_type":"\\ud800","identifier":{}}', "INVALID_JSON"),
        ('{"x":1}', "UNKNOWN_FIELD"),
        ("[]", "INVALID_REQUEST_SHAPE"),
        ("5", "INVALID_REQUEST_SHAPE"),
        ('{"event_type":"note"}', "INVALID_REQUEST_SHAPE"),
        ('{"event_type":"note","identifier":{"author":"a"},"time":5}', "INVALID_REQUEST_SHAPE"),
        ('{"event_type":"note","identifier":{}}', "INVALID_NOTIFICATION_REQUEST"),
        ('{"event_type":"note","identifier":{"point":"1,2"}}', "INVALID_NOTIFICATION_REQUEST"),
        (
            '{"event_type":"note","identifier":{"author":"a"},"to_id":"1"}',
            "INVALID_NOTIFICATION_REQUEST",
        ),
        ('{"event_type":"a@b","identifier":{}}', "INVALID_NOTIFICATION_REQUEST"),
    ]
    good = json.dumps(note())
    body = "\n".join(f"{good}\n{line}" for line, _ in bad)
    answer = (await send(api, body)).json()
    assert (answer["accepted"], answer["rejected"]) == (len(bad), len(bad))
    codes = [result["code"] for result in answer["results"][1::2]]
    assert codes == [code for _, code in bad]
    assert [result["sequence"] for result in answer["results"][::2]] == [*range(1, len(bad) + 1)]
    assert len(await api.found()) == len(bad)


async def test_a_line_that_is_no_utf8_is_its_own_fault(api: Api) -> None:
    good = json.dumps(note()).encode()
    answer = (await send(api, good + b'\n{"event_type":"\xff"}\n' + good)).json()
    assert [result.get("code") for result in answer["results"]] == [None, "INVALID_JSON", None]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "INVALID_JSON"),
        (b" \n ", "INVALID_JSON"),
        (b"nope", "INVALID_JSON"),
        (b"[", "INVALID_JSON"),
        (b"[{]", "INVALID_JSON"),
        (b'[{"event_type":"note","identifier":{"author":"a"}},', "INVALID_JSON"),
        (b"[] []", "INVALID_JSON"),
        (b"[" * 100_000, "INVALID_JSON"),
        (b"\x00\xff", "INVALID_JSON"),
        (b'[{"event_type":"\xff","identifier":{}}]', "INVALID_JSON"),
        (b"{", "INVALID_JSON"),
        (b'{"event_type":"note",\n"identifier":{"author":"a"}', "INVALID_JSON"),
        (b'{"event_type":"note","identifier":{"author":"a"}', "INVALID_JSON"),
        (b"null", "INVALID_REQUEST_SHAPE"),
        (b"5", "INVALID_REQUEST_SHAPE"),
        (b'"text"', "INVALID_REQUEST_SHAPE"),
    ],
)
async def test_a_body_that_is_neither_array_nor_lines_is_refused_as_a_whole(
    api: Api, content: bytes, code: str
) -> None:
    response = await send(api, content, "application/json")
    found = assert_error(response, 400, code, LABELS["notification"])
    assert list(found) == ["code", "details", "error", "message", "request_id"]
    assert await api.found() == []


async def test_an_empty_list_is_a_success_without_results(api: Api) -> None:
    for response in (await api.post(NOTIFICATIONS, []), await send(api, "")):
        answer = response.json()
        assert response.status_code == 200
        assert (answer["status"], answer["accepted"], answer["results"]) == ("success", 0, [])


async def test_many_events_of_many_types_keep_their_order(api: Api) -> None:
    items = [
        {"event_type": f"type{place % 3}", "identifier": {"k": "v"}, "payload": place}
        for place in range(1500)
    ]
    answer = (await api.post(NOTIFICATIONS, items)).json()
    assert answer["accepted"] == 1500
    for kind in range(3):
        sequences = [result["sequence"] for result in answer["results"][kind::3]]
        assert sequences == list(range(1, 501))
        frames = notifications(await api.replay(f"type{kind}", from_id="460"))
        payloads = [each.data["data"]["payload"] for each in frames]
        assert payloads == [3 * (each.sequence - 1) + kind for each in frames]


# -- an event's own time


async def test_an_item_may_bring_its_own_time(api: Api) -> None:
    times = {
        "2018-02-06T15:50:42.999Z": "2018-02-06T15:50:42.999Z",
        "2018-02-06t15:50:43z": "2018-02-06T15:50:43.000Z",
        "2018-02-06 16:50:44+01:00": "2018-02-06T15:50:44.000Z",
        "2018-02-06T15:50:45.1239999Z": "2018-02-06T15:50:45.123Z",
    }
    answer = (await api.post(NOTIFICATIONS, [note(time=each) for each in times])).json()
    assert answer["accepted"] == 4, answer
    frames = notifications(await api.replay())
    assert [each.data["time"] for each in frames] == list(times.values())
    assert await api.found(from_date="2018-02-06T15:50:44Z") == [3, 4]


async def test_a_time_of_null_is_the_time_of_the_server(api: Api) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    answer = (await api.post(NOTIFICATIONS, [note(time=None)])).json()
    assert answer["accepted"] == 1
    [stored] = notifications(await api.replay())
    assert datetime.fromisoformat(stored.data["time"]) > before


async def test_a_time_before_the_last_event_is_refused_with_both_times(api: Api) -> None:
    items = [
        note(time="2018-02-06T12:00:00.500Z"),
        note(time="2018-02-06T12:00:00.499Z"),
        note(time="2018-02-06T12:00:00.500Z"),
        {"event_type": "loose", "identifier": {}, "time": "2018-02-06T11:00:00Z"},
    ]
    answer = (await api.post(NOTIFICATIONS, items)).json()
    assert [result["status"] for result in answer["results"]] == [
        *("success", "error", "success", "success")
    ]
    refused: dict[str, Any] = answer["results"][1]
    assert refused["code"] == "INVALID_NOTIFICATION_REQUEST"
    assert refused["message"] == (
        "time 2018-02-06T12:00:00.499Z is before the time of the stream's last event, "
        "2018-02-06T12:00:00.500Z"
    )
    await api.publish()
    answer = (await api.post(NOTIFICATIONS, [note(time="2018-02-06T12:00:01Z")])).json()
    assert "is before the time of the stream's last event, 20" in answer["results"][0]["message"]


async def test_a_time_in_the_future_is_refused_with_both_times(api: Api) -> None:
    for future in ("2100-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        answer = (await api.post(NOTIFICATIONS, [note(time=future)])).json()
        [result] = answer["results"]
        assert result["code"] == "INVALID_NOTIFICATION_REQUEST"
        assert re.fullmatch(
            rf"time {future[:-1]}\.000Z is in the future; it is "
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z now",
            result["message"],
        )
    assert await api.publish() == 1


@pytest.mark.parametrize(
    "time",
    [
        *("", "now", "2018-02-06", "1517932243", "2018-02-06T15:50:42", "2018-02-30T00:00:00Z"),
        *("1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2018-02-06T15:50:42+99:00"),
    ],
)
async def test_what_is_no_time_with_an_offset_is_refused(api: Api, time: str) -> None:
    answer = (await api.post(NOTIFICATIONS, [note(time=time)])).json()
    [result] = answer["results"]
    assert result["code"] == "INVALID_NOTIFICATION_REQUEST"
    assert result["message"].startswith(f"time must be a valid datetime. Got: '{time}'. Error: ")
    assert result["details"] in result["message"]


async def test_what_comes_after_a_recording_has_the_time_of_the_server(api: Api) -> None:
    await api.post(NOTIFICATIONS, [note(time="2018-02-06T12:00:00Z")])
    await api.publish()
    old, new = notifications(await api.replay())
    assert old.data["time"].startswith("2018-")
    assert not new.data["time"].startswith("2018-")
