"""Aviso wire contract §13: `Idempotency-Key` on one and on many, also after a part was stored."""

import asyncio
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.conftest import Start
from tests.contract.api import NOTIFICATION, NOTIFICATIONS, Api, assert_error
from tests.contract.schemas import SCHEMAS
from tests.servers import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")


def note(author: str = "ada", **more: object) -> dict[str, object]:
    return {"event_type": "note", "identifier": {"author": author}, **more}


async def send(api: Api, key: str, body: object, path: str = NOTIFICATION) -> httpx.Response:
    return await api.post(path, body, headers={"Idempotency-Key": key})


async def test_the_same_request_again_is_stored_once_and_answered_alike(api: Api) -> None:
    first = (await send(api, "key", note(payload=1))).json()
    await api.publish()
    second = (await send(api, "key", note(payload=1))).json()
    assert (first["id"], first["sequence"]) == ("note@1", 1)
    assert (second["id"], second["sequence"]) == ("note@1", 1)
    assert second["status"] == "success"
    assert await api.found() == [1, 2]


async def test_forms_of_one_event_are_one_event(api: Api) -> None:
    """What is compared is what would be stored: canonical values, compact JSON."""
    await send(
        api, "key", {"event_type": "order", "identifier": {"shop": "a", "version": 1}, "payload": 5}
    )
    again = {"identifier": {"version": "0001", "shop": "a"}, "payload": 5, "event_type": "order"}
    assert (await send(api, "key", again)).json()["sequence"] == 1


async def test_concurrent_requests_with_one_key_are_one_event(api: Api) -> None:
    answers = await asyncio.gather(*(send(api, "key", note(payload=1)) for _ in range(20)))
    assert {answer.json()["sequence"] for answer in answers} == {1}
    assert await api.found() == [1]


async def test_another_event_under_a_used_key_is_refused(api: Api) -> None:
    await send(api, "key", note(payload=1))
    for other in (note(payload=2), note("bob", payload=1)):
        found = assert_error(await send(api, "key", other), 422, "IDEMPOTENCY_KEY_REUSED")
        assert list(found) == ["code", "details", "error", "message", "request_id"]
    assert await api.found() == [1]


async def test_keys_are_apart_by_tenant_event_type_and_spelling(api: Api) -> None:
    other = Api(api.gateway, str(uuid4()))
    await send(api, "key", note())
    assert (await send(other, "key", note("bob"))).json()["sequence"] == 1
    assert (await send(api, "key", {"event_type": "loose", "identifier": {}})).status_code == 200
    assert (await send(api, "KEY", note())).json()["sequence"] == 2
    assert (await send(api, "key 2", note())).json()["sequence"] == 3


@pytest.mark.parametrize("key", ["", "x" * 256])
@pytest.mark.parametrize("path", [NOTIFICATION, NOTIFICATIONS])
async def test_a_key_has_1_to_255_characters(api: Api, path: str, key: str) -> None:
    body: object = note() if path == NOTIFICATION else [note()]
    response = await send(api, key, body, path)
    found = assert_error(response, 400, "INVALID_NOTIFICATION_REQUEST")
    assert found["message"].startswith("Idempotency-Key must have 1 to 255 characters, got: '")
    assert (await send(api, "x" * 255, body, path)).status_code == 200


async def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    assert_error(await send(api, "key", note("")), 400, "INVALID_NOTIFICATION_REQUEST")
    assert (await send(api, "key", note())).json()["sequence"] == 1


async def test_many_again_are_stored_once(api: Api) -> None:
    items = [note(payload=place) for place in range(5)]
    first = (await send(api, "bulk", items, NOTIFICATIONS)).json()
    second = (await send(api, "bulk", items, NOTIFICATIONS)).json()
    assert first["results"] == second["results"]
    assert (second["status"], second["accepted"]) == ("success", 5)
    assert await api.found() == [1, 2, 3, 4, 5]


async def test_equal_items_of_one_request_are_events_of_their_own(api: Api) -> None:
    answer = (await send(api, "bulk", [note(), note(), note()], NOTIFICATIONS)).json()
    assert [result["sequence"] for result in answer["results"]] == [1, 2, 3]


async def test_after_a_part_was_stored_the_same_request_stores_the_rest(api: Api) -> None:
    """The refused item is put right; its neighbours are not stored again."""
    items = [note(payload=1), note(""), note(payload=3)]
    first = (await send(api, "bulk", items, NOTIFICATIONS)).json()
    assert [result["status"] for result in first["results"]] == ["success", "error", "success"]
    items[1] = note(payload=2)
    second = (await send(api, "bulk", items, NOTIFICATIONS)).json()
    assert second["results"] == [
        {"status": "success", "id": "note@1", "sequence": 1},
        {"status": "success", "id": "note@3", "sequence": 3},
        {"status": "success", "id": "note@2", "sequence": 2},
    ]


async def test_an_item_that_changed_under_its_key_is_refused_alone(api: Api) -> None:
    await send(api, "bulk", [note(payload=1), note(payload=2)], NOTIFICATIONS)
    changed = [note(payload=1), note(payload=9), note(payload=3)]
    answer = (await send(api, "bulk", changed, NOTIFICATIONS)).json()
    assert [result.get("code") for result in answer["results"]] == [
        *(None, "IDEMPOTENCY_KEY_REUSED", None)
    ]
    assert await api.found() == [1, 2, 3]


async def test_one_and_many_do_not_share_their_keys(api: Api) -> None:
    await send(api, "key", [note(payload=1)], NOTIFICATIONS)
    for key in ("key", "key 0", "key0", "key-0"):
        assert (await send(api, key, note(payload=2))).status_code == 200
    assert len(await api.found()) == 5


async def test_a_recording_can_be_loaded_again_after_later_events(api: Api) -> None:
    """Stored before counts before the rule that no time lies before the last event's."""
    items = [note(payload=1, time="2018-02-06T12:00:00Z")]
    await send(api, "week", items, NOTIFICATIONS)
    await api.publish()
    answer = (await send(api, "week", items, NOTIFICATIONS)).json()
    assert answer["results"] == [{"status": "success", "id": "note@1", "sequence": 1}]


async def test_a_key_is_forgotten_after_its_window(start_gateway: Start) -> None:
    async with start_gateway(
        notification_schema=SCHEMAS, publish={"idempotency_window_sec": 1}
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await send(api, "key", note())
        async with asyncio.timeout(60):
            while (await send(api, "key", note())).json()["sequence"] == 1:
                await asyncio.sleep(0.05)
        assert await api.found() == [1, 2]


async def test_a_request_that_met_a_lost_backend_is_finished_by_the_same_request(
    start_gateway: Start, tmp_path: Path
) -> None:
    server = Valkey(tmp_path / "valkey")
    server.start()
    items = [note(payload=place) for place in range(20)]
    async with start_gateway(url=server.url, notification_schema=SCHEMAS) as gateway:
        api = Api(gateway, gateway.tenant)
        await send(api, "bulk", items[:10], NOTIFICATIONS)
        server.kill()
        lost = await send(api, "bulk", items, NOTIFICATIONS)
        assert_error(lost, 503, "BACKEND_UNAVAILABLE")
        assert {result["code"] for result in lost.json()["results"]} == {"BACKEND_UNAVAILABLE"}
        server.start()
        answer = (await send(api, "bulk", items, NOTIFICATIONS)).json()
        assert [result["sequence"] for result in answer["results"]] == list(range(1, 21))
    server.stop()
