"""Aviso wire contract §10: wiping and deleting, answers and effects."""

from urllib.parse import quote

import httpx
import pytest

from tests.contract.api import Api
from tests.contract.schemas import SCHEMAS, STORM

pytestmark = pytest.mark.asyncio(loop_scope="session")


def assert_answer(response: httpx.Response, status: int, message: str) -> None:
    answer = response.json()
    assert response.status_code == status, answer
    assert answer["success"] is (status == 200)
    assert answer["message"] == message
    assert answer["request_id"] == response.headers["x-request-id"]


async def wipe(api: Api, name: str) -> httpx.Response:
    return await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": name})


async def delete(api: Api, notification_id: str) -> httpx.Response:
    path = f"/api/v1/admin/notification/{quote(notification_id, safe='')}"
    return await api.send("DELETE", path)


@pytest.mark.parametrize("name", ["storm", "STORM", "weather", "Weather", "WEATHER"])
async def test_a_stream_is_wiped_by_event_type_or_base_in_any_case(api: Api, name: str) -> None:
    await api.publish("storm", STORM)
    await api.publish()
    response = await wipe(api, name)
    assert set(response.json()) == {"success", "message", "request_id"}
    assert_answer(response, 200, f"Successfully wiped stream: {name}")
    assert await api.found("storm") == []
    assert await api.found() == [1]
    # Of a configured event type, also when there is nothing to wipe.
    assert_answer(await wipe(api, name), 200, f"Successfully wiped stream: {name}")


@pytest.mark.parametrize("name", ["tempest", "", "storm ", "weather.*", "*"])
async def test_wiping_an_unknown_stream_is_404_with_those_there_are(api: Api, name: str) -> None:
    await api.publish("loose", {})
    known = ", ".join(sorted([*SCHEMAS, "loose"]))
    message = f"Stream not found: {name}. Known event types: {known}"
    assert_answer(await wipe(api, name), 404, message)


async def test_a_stream_without_schema_is_wiped_by_its_name(api: Api) -> None:
    await api.publish("loose", {})
    assert_answer(await wipe(api, "loose"), 200, "Successfully wiped stream: loose")
    assert await api.found("loose") == []
    assert await api.publish("loose", {}) == 2


async def test_wiping_all_wipes_every_stream_of_the_tenant(api: Api) -> None:
    for event_type in ("note", "loose"):
        await api.publish(event_type)
    response = await api.send("DELETE", "/api/v1/admin/wipe/all")
    assert set(response.json()) == {"success", "message", "request_id"}
    assert_answer(response, 200, "Successfully wiped all data")
    for event_type in ("note", "loose"):
        assert await api.found(event_type) == []
    assert_answer(
        await api.send("DELETE", "/api/v1/admin/wipe/all"), 200, "Successfully wiped all data"
    )


async def test_a_live_watch_goes_on_after_a_wipe(api: Api) -> None:
    async with api.watch() as stream:
        await stream.next()
        await api.publish()
        await stream.notification()
        await wipe(api, "note")
        await api.publish()
        assert (await stream.notification()).sequence == 2


@pytest.mark.parametrize("name", ["storm", "STORM", "weather", "Weather"])
async def test_one_notification_is_deleted_by_event_type_or_base(api: Api, name: str) -> None:
    for _ in range(3):
        await api.publish("storm", STORM)
    response = await delete(api, f"{name}@2")
    answer = response.json()
    assert set(answer) == {"success", "message", "notification_id", "request_id"}
    assert answer["notification_id"] == f"{name}@2"
    assert_answer(response, 200, "Notification deleted")
    assert await api.found("storm") == [1, 3]
    assert_answer(await delete(api, f"{name}@2"), 404, "Notification not found")
    assert await api.publish("storm", STORM) == 4


@pytest.mark.parametrize(
    "notification_id",
    ["storm@1", "tempest@1", "storm@18446744073709551615", "storm@00001", "storm@+1"],
)
async def test_what_is_not_there_is_not_found(api: Api, notification_id: str) -> None:
    response = await delete(api, notification_id)
    assert response.json()["notification_id"] == notification_id
    assert_answer(response, 404, "Notification not found")


@pytest.mark.parametrize(
    ("notification_id", "message"),
    [
        ("storm", "notification_id must be in '<stream>@<sequence>' format"),
        ("@1", "notification_id must be in '<stream>@<sequence>' format"),
        ("storm@", "notification_id must be in '<stream>@<sequence>' format"),
        ("@", "notification_id must be in '<stream>@<sequence>' format"),
        ("storm@one", "notification_id sequence must be a positive integer"),
        ("storm@-1", "notification_id sequence must be a positive integer"),
        ("storm@1.5", "notification_id sequence must be a positive integer"),
        ("storm@ 1", "notification_id sequence must be a positive integer"),
        ("storm@18446744073709551616", "notification_id sequence must be a positive integer"),
        ("storm@1@2", "notification_id sequence must be a positive integer"),
        ("storm@1/2", "notification_id sequence must be a positive integer"),
        ("storm@0", "notification_id sequence must be greater than zero"),
        ("storm@000", "notification_id sequence must be greater than zero"),
    ],
)
async def test_a_bad_notification_id_is_refused_with_its_sentence(
    api: Api, notification_id: str, message: str
) -> None:
    response = await delete(api, notification_id)
    assert response.json()["notification_id"] == notification_id
    assert_answer(response, 400, message)


@pytest.mark.parametrize("event_type", ["a/b", "a b", "ä%2F", "a?b=c#d"])
async def test_the_id_is_decoded_and_answered_as_decoded(api: Api, event_type: str) -> None:
    await api.publish(event_type, {})
    response = await delete(api, f"{event_type}@1")
    assert response.json()["notification_id"] == f"{event_type}@1"
    assert_answer(response, 200, "Notification deleted")


async def test_without_any_id_there_is_no_such_route(api: Api) -> None:
    response = await api.send("DELETE", "/api/v1/admin/notification/")
    assert response.status_code in (400, 404)
