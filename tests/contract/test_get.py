"""Aviso wire contract §13: watch and replay by GET, for `EventSource` and curl."""

import asyncio
import re
from urllib.parse import quote

import pytest

from tests.conftest import Start
from tests.contract.api import LABELS, REPLAY, WATCH, Api, assert_error, kinds, notifications
from tests.contract.schemas import SCHEMAS, SQUARE, STORM

pytestmark = pytest.mark.asyncio(loop_scope="session")

paths = pytest.mark.parametrize(("path", "operation"), [(WATCH, "watch"), (REPLAY, "replay")])


async def by_get(api: Api, *params: tuple[str, str], path: str = REPLAY) -> list[int]:
    """The sequences of a GET's history."""
    async with api.stream(path, params=[*params]) as stream:
        await stream.until("replay_completed")
    return [each.sequence for each in stream.seen if each.is_notification]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ([], [1, 2, 3]),
        ([("identifier.region", "NORTH")], [1, 3]),
        ([("identifier.severity", "+3")], [3]),
        ([("identifier.severity.eq", "3")], [3]),
        ([("identifier.severity.in", "1,3")], [1, 3]),
        ([("identifier.severity.in", "2")], [2]),
        ([("identifier.severity.gt", "1")], [2, 3]),
        ([("identifier.severity.gte", "2")], [2, 3]),
        ([("identifier.severity.lt", "2")], [1]),
        ([("identifier.severity.lte", "2")], [1, 2]),
        ([("identifier.severity.between", "2,3")], [2, 3]),
        ([("identifier.anomaly.gt", "0.1")], [2, 3]),
        ([("identifier.anomaly.between", "-1e0,0.5")], [1, 2]),
        ([("identifier.region.in", "South,west")], None),
        ([("identifier.region.in", "South,north")], [1, 2, 3]),
        ([("identifier.region.eq", "south")], [2]),
        ([("identifier.run", "9:00"), ("identifier.severity.lt", "3")], [1, 2]),
        ([("identifier.name", "a.b,c d&")], [2]),
        ([("identifier.severity.gt", "x")], None),
        ([("identifier.severity.between", "1")], None),
        ([("identifier.severity.between", "3,1")], None),
        ([("identifier.severity.ne", "1")], None),
        ([("identifier.severity.gt", "1"), ("identifier.severity.lt", "3")], None),
        ([("identifier.severity", "1"), ("identifier.severity.lt", "3")], None),
        ([("identifier.colour", "red")], None),
        ([("identifier.name.gt", "1")], None),
        ([("identifier.region", "")], None),
    ],
    ids=str,
)
@paths
async def test_every_form_of_a_filter(
    api: Api, path: str, operation: str, params: list[tuple[str, str]], expected: list[int] | None
) -> None:
    rows = [("north", 1, -0.5, "x"), ("South", 2, 0.5, "a.b,c d&"), ("north", 3, 40, "x")]
    for region, severity, anomaly, name in rows:
        own = {"region": region, "severity": severity, "anomaly": anomaly, "name": name}
        await api.publish("storm", {**STORM, "run": "0900", **own})
    query = [("event_type", "storm"), ("from_id", "1"), *params]
    if expected is not None:
        assert await by_get(api, *query, path=path) == expected
        return
    response = await api.send("GET", path, params=query)
    assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST", LABELS[operation])


@paths
@pytest.mark.parametrize(
    ("params", "code"),
    [
        ([], "INVALID_REQUEST_SHAPE"),
        ([("from_id", "1")], "INVALID_REQUEST_SHAPE"),
        ([("event_type", "note"), ("event_type", "note")], "INVALID_REQUEST_SHAPE"),
        ([("event_type", "note"), ("from_id", "1"), ("from_id", "2")], "INVALID_REQUEST_SHAPE"),
        ([("event_type", "note"), ("x", "1")], "UNKNOWN_FIELD"),
        ([("event_type", "note"), ("payload", "1")], "UNKNOWN_FIELD"),
        ([("event_type", "note"), ("identifier", "{}")], "UNKNOWN_FIELD"),
        ([("event_type", "note"), ("identifier.", "1")], "UNKNOWN_FIELD"),
        ([("event_type", "note"), ("IDENTIFIER.author", "1")], "UNKNOWN_FIELD"),
        ([("event_type", "note"), ("from_id", "x")], "INVALID"),
        ([("event_type", "note"), ("from_id", "")], "INVALID"),
        ([("event_type", "note"), ("from_date", "2026-02-25")], "INVALID"),
        ([("event_type", "note"), ("from_id", "1"), ("from_date", "1")], "INVALID"),
        ([("event_type", "note"), ("from_id", "1"), ("to_id", "x")], "INVALID"),
    ],
    ids=str,
)
async def test_what_is_wrong_with_parameters_has_the_codes_of_a_body(
    api: Api, path: str, operation: str, params: list[tuple[str, str]], code: str
) -> None:
    response = await api.send("GET", path, params=params)
    expected = f"INVALID_{operation.upper()}_REQUEST" if code == "INVALID" else code
    found = assert_error(response, 400, expected, LABELS[operation])
    assert list(found) == ["code", "details", "error", "message", "request_id"]


async def test_start_and_end_by_get(api: Api) -> None:
    await api.publish_many(6)
    note = ("event_type", "note")
    assert await by_get(api, note, ("from_id", "4")) == [4, 5, 6]
    assert await by_get(api, note, ("from_id", "2"), ("to_id", "3")) == [2, 3]
    assert await by_get(api, note, ("from_date", "0"), ("to_date", "1")) == []
    assert len(await by_get(api, note, ("from_date", "2018-01-01T00:00:00+01:00"))) == 6
    assert await by_get(api, note, ("from_id", "5"), path=WATCH) == [5, 6]
    for name in ("to_id", "to_date"):
        response = await api.send("GET", WATCH, params=[note, (name, "9")])
        found = assert_error(response, 400, "INVALID_WATCH_REQUEST")
        assert found["message"].startswith("to_id and to_date are only supported for the replay")
    response = await api.send("GET", REPLAY, params=[note])
    found = assert_error(response, 400, "INVALID_REPLAY_REQUEST")
    assert found["message"].startswith("Replay endpoint requires either from_id or from_date")


async def test_shapes_by_get(api: Api) -> None:
    await api.publish("area", {"name": "a", "polygon": SQUARE})
    ring = "0,0,0,10,10,10,10,0,0,0"
    for value in (ring, f"({ring})", f" ({ring.replace(',', ', ')}) "):
        found = await by_get(
            api, ("event_type", "area"), ("from_id", "1"), ("identifier.polygon", value)
        )
        assert found == [1]


async def test_event_types_without_schema_by_get(api: Api) -> None:
    await api.publish("loose", {"room": 5, "a.b": "c"})
    loose = [("event_type", "loose"), ("from_id", "1")]
    assert await by_get(api, *loose, ("identifier.room", "5")) == [1]
    assert await by_get(api, *loose, ("identifier.room", "6")) == []
    assert await by_get(api, *loose, ("identifier.a.b", "c")) == [1]
    response = await api.send("GET", REPLAY, params=[*loose, ("identifier.room.gt", "4")])
    found = assert_error(response, 400, "INVALID_REPLAY_REQUEST")
    assert found["message"] == "Field 'room' constraint object is not supported without schema"


async def test_the_first_frame_of_a_get_alone_has_a_random_retry(api: Api) -> None:
    await api.publish_many(2)
    waits = set()
    for path in (WATCH, REPLAY):
        for _ in range(8):
            params = {"event_type": "note", "from_id": "1"}
            async with api.stream(path, params=params) as stream:
                await stream.until("replay_completed")
            first, *others = stream.seen
            assert first.kind == "replay_started"
            assert first.retry is not None
            assert 2000 <= first.retry <= 6000
            assert all(frame.retry is None for frame in others)
            waits.add(first.retry)
    assert len(waits) > 1
    async with api.stream(WATCH, params={"event_type": "note"}) as stream:
        established = await stream.next()
    assert established.kind == "connection_established"
    assert established.retry is not None
    async with api.watch() as stream:
        assert (await stream.next()).retry is None
    assert all(frame.retry is None for frame in await api.replay())


async def test_id_lines_are_sequence_and_epoch_and_the_same_for_all(api: Api) -> None:
    await api.publish_many(3)
    params = {"event_type": "note", "from_id": "1"}
    async with api.stream(REPLAY, params=params) as stream:
        frames = await stream.rest()
    ids = [frame.id for frame in notifications(frames)]
    [epoch] = {str(each).partition("-")[2] for each in ids}
    assert re.fullmatch(r"[0-9a-f]{1,32}", epoch)
    assert ids == [f"{sequence}-{epoch}" for sequence in (1, 2, 3)]
    assert [frame.id for frame in notifications(await api.replay())] == ids
    async with api.watch() as stream:
        await stream.next()
        await api.publish()
        assert (await stream.notification()).id == f"4-{epoch}"


async def test_a_live_get_starts_with_the_position_it_starts_from(api: Api) -> None:
    """Else a browser that is cut off before the first event would lose what came meanwhile."""
    await api.publish_many(3)
    async with api.stream(WATCH, params={"event_type": "note"}) as stream:
        first = await stream.next()
        beat = await stream.next()
    assert first.id is not None
    assert first.id.startswith("3-")
    assert beat.id == first.id
    await api.publish()
    headers = {"Last-Event-ID": first.id}
    async with api.stream(WATCH, params={"event_type": "note"}, headers=headers) as stream:
        assert (await stream.notification()).sequence == 4
        assert kinds(stream.seen)[0] == "replay_started"


async def test_encoded_parameters_are_decoded_once(api: Api) -> None:
    for author in ("a+b", "a b", "a%20b", "ä&=?#"):
        await api.publish("note", {"author": author})
        path = f"{REPLAY}?event_type=note&from_id=1&identifier.author={quote(author)}"
        async with api.stream(path) as stream:
            [note] = notifications(await stream.rest())
        assert note.data["data"]["identifier"] == {"author": author}
    async with api.stream(f"{REPLAY}?event_type=note&from_id=1&identifier.author=a+b") as stream:
        [note] = notifications(await stream.rest())
    assert note.data["data"]["identifier"] == {"author": "a b"}


@pytest.mark.parametrize(
    "query",
    ["event_type=%ff", "event_type=note&identifier.author=%ff%fe", "%ff=1", "event_type=%ED%A0%80"],
)
async def test_parameters_that_are_no_utf8_break_nothing(api: Api, query: str) -> None:
    response = await api.send("GET", f"{REPLAY}?{query}&from_id=1")
    assert response.status_code in (200, 400)


@paths
async def test_head_answers_as_get_would_without_a_body(
    api: Api, path: str, operation: str
) -> None:
    await api.publish()
    query = f"{path}?event_type=note&from_id=1"
    response = await api.send("HEAD", query)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.content == b""
    refused = await api.send("HEAD", f"{path}?event_type=note&from_id=x")
    assert refused.status_code == 400
    assert refused.content == b""
    assert "x-request-id" in refused.headers
    # The connection is still good for the next request.
    assert (await api.send("GET", "/health")).status_code == 200
    assert operation


async def test_a_gateway_ends_though_watches_left_as_they_went_live(start_gateway: Start) -> None:
    """A reader of the log that was told to end while it connected forgot it, and waited for ever."""
    async with asyncio.timeout(30):
        async with start_gateway(notification_schema=SCHEMAS) as gateway:
            api = Api(gateway, gateway.tenant)
            await api.publish()
            for _ in range(10):
                params = {"event_type": "note", "from_id": "1"}
                async with api.stream(WATCH, params=params) as stream:
                    await stream.until("replay_completed")
