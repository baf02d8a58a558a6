"""Aviso wire contract §13: `X-Tenant-ID` chooses the log, and tenants never see each other."""

from uuid import UUID, uuid4

import pytest

from tests.conftest import RunningGateway
from tests.contract.api import (
    NOTIFICATION,
    NOTIFICATIONS,
    REPLAY,
    WATCH,
    Api,
    ask,
    assert_error,
    notifications,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOTE = {"event_type": "note", "identifier": {"author": "ada"}}


@pytest.fixture
def other(house: RunningGateway) -> Api:
    return Api(house, str(uuid4()))


async def test_events_and_sequences_are_a_tenants_own(api: Api, other: Api) -> None:
    for _ in range(3):
        await api.publish(payload="ours")
    assert await other.publish(payload="theirs") == 1
    assert await other.found() == [1]
    [theirs] = notifications(await other.replay())
    assert theirs.data["data"]["payload"] == "theirs"
    assert await api.found() == [1, 2, 3]
    bulk = await other.post(NOTIFICATIONS, [NOTE])
    assert bulk.json()["results"][0]["sequence"] == 2


async def test_a_watch_gets_the_events_of_its_tenant_alone(api: Api, other: Api) -> None:
    async with api.watch() as ours, other.watch() as theirs:
        await ours.next()
        await theirs.next()
        await api.publish(payload="ours")
        await other.publish(payload="theirs")
        await api.publish(payload="ours")
        assert (await theirs.notification()).data["data"]["payload"] == "theirs"
        payloads = [each.data["data"]["payload"] for each in await ours.notifications(2)]
        assert payloads == ["ours", "ours"]
        await other.publish(payload="last")
        assert (await theirs.notification()).data["data"]["payload"] == "last"


async def test_every_route_of_streams_hears_the_header(api: Api, other: Api) -> None:
    await api.publish()
    params = {"event_type": "note", "from_id": "1"}
    for path in (WATCH, REPLAY):
        for client, expected in ((api, [1]), (other, [])):
            async with client.stream(path, params=params) as stream:
                await stream.until("replay_completed")
            assert [each.sequence for each in stream.seen if each.is_notification] == expected
            async with client.stream(path, ask("note", from_id="1")) as stream:
                await stream.until("replay_completed")
            assert [each.sequence for each in stream.seen if each.is_notification] == expected


async def test_a_cursor_of_one_tenant_is_a_reset_for_another(api: Api, other: Api) -> None:
    await api.publish()
    await other.publish()
    await other.publish()
    [ours] = notifications(await api.replay())
    headers = {"Last-Event-ID": ours.id or ""}
    async with other.stream(WATCH, params={"event_type": "note"}, headers=headers) as stream:
        gap = await stream.until("gap")
        assert gap.data["reason"] == "reset"
        await stream.until("replay_completed")
    assert [each.sequence for each in stream.seen if each.is_notification] == [1, 2]


async def test_administration_reaches_its_own_tenant_alone(api: Api, other: Api) -> None:
    for client in (api, other):
        for _ in range(2):
            await client.publish()
        await client.publish("loose", {})
    await api.send("DELETE", "/api/v1/admin/notification/note@1")
    assert await api.found() == [2]
    assert await other.found() == [1, 2]
    await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "note"})
    assert await other.found() == [1, 2]
    await api.send("DELETE", "/api/v1/admin/wipe/all")
    assert await api.found("loose") == []
    assert await other.found("loose") == [1]


async def test_messages_name_nothing_of_another_tenant(api: Api, other: Api) -> None:
    await other.publish("their_secret_type", {})
    response = await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "x"})
    assert response.status_code == 404
    assert "their_secret_type" not in response.text
    wiped = await api.send(
        "DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "their_secret_type"}
    )
    assert wiped.status_code == 404
    deleted = await api.send("DELETE", "/api/v1/admin/notification/their_secret_type@1")
    assert deleted.status_code == 404
    assert await other.found("their_secret_type") == [1]


async def test_without_the_header_the_default_tenant_is_meant(
    house: RunningGateway, tenant: str
) -> None:
    default = Api(house, house.tenant)
    event_type = f"default-{tenant}"
    published = await house.client.post(
        NOTIFICATION, json={"event_type": event_type, "identifier": {}}
    )
    assert published.json()["sequence"] == 1
    assert await default.found(event_type) == [1]
    assert await Api(house, tenant).found(event_type) == []


async def test_a_tenant_is_the_same_in_any_spelling(house: RunningGateway, tenant: str) -> None:
    await Api(house, tenant).publish()
    for spelling in (tenant.upper(), tenant.replace("-", ""), f" {tenant} ", UUID(tenant).urn):
        async with house.client.stream(
            "POST", REPLAY, json=ask("note", from_id="1"), headers={"X-Tenant-ID": spelling.strip()}
        ) as response:
            assert b'"id":"note@1"' in await response.aread()


@pytest.mark.parametrize(
    "value",
    [
        *("", "0", "default", "not-a-uuid", "00000000-0000-0000-0000-00000000000"),
        *("00000000-0000-0000-0000-0000000000000", "0000000g-0000-0000-0000-000000000000"),
        *("+0000000000000000000000000000001", "0000_0000000000000000000000000000", "x" * 2000),
        *("{", "00000000-0000-0000-0000-000000000000,00000000-0000-0000-0000-000000000001"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", NOTIFICATION),
        ("POST", NOTIFICATIONS),
        ("POST", WATCH),
        ("GET", REPLAY),
        ("GET", "/api/v1/schema"),
        ("DELETE", "/api/v1/admin/wipe/all"),
    ],
)
async def test_what_is_no_uuid_is_refused(
    house: RunningGateway, method: str, path: str, value: str
) -> None:
    body = NOTE if method == "POST" else None
    response = await house.client.request(method, path, json=body, headers={"X-Tenant-ID": value})
    found = assert_error(response, 400, "INVALID_TENANT", "Invalid Tenant")
    assert list(found) == ["code", "details", "error", "message", "request_id"]
    assert found["message"] == f"X-Tenant-ID must be a UUID, got: '{value[:100]}'"
