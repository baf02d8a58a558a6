"""The real Aviso client against the gateway: what its users do, one story a test.

`pyaviso` wraps the client that Aviso's own users run, in a synchronous and an asynchronous class.
Source: Aviso wire contract §12.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pyaviso
import pytest

from tests.conftest import RunningGateway, Start
from tests.journeys.aviso import (
    BERLIN,
    HUALIEN,
    JARM,
    LAE,
    LONDON,
    TAIWAN,
    opened,
    quake,
    read,
    storm,
    take,
)

# -- publish and listen


async def test_a_listener_gets_what_is_published_as_it_was_published(
    gateway: RunningGateway, client: pyaviso.AsyncAvisoClient
) -> None:
    async with client.listen("earthquake") as stream:
        await opened(gateway)
        response = await client.notify(**quake(6.4))
        assert response.status == "success"
        async with asyncio.timeout(60):
            heard = await anext(stream)
    assert (heard.event_type, heard.sequence) == ("earthquake", 1)
    assert heard.payload == {"magnitude": 6.4}
    assert heard.identifier == {
        "network": "us",
        "magnitude": "6.4",
        "depth_km": "10",
        "point_cloud": [HUALIEN],
    }
    assert heard.cloudevent is not None
    assert heard.cloudevent["id"] == "earthquake@1"
    assert heard.cloudevent["type"] == "int.ecmwf.aviso.earthquake"


async def test_a_synchronous_program_listens_while_another_one_publishes(
    gateway: RunningGateway,
) -> None:
    def listen() -> list[Any]:
        client = pyaviso.AvisoClient(base_url=gateway.url)
        stream = client.listen("earthquake")
        heard = [next(stream).payload["magnitude"] for _ in range(2)]
        stream.close()
        return heard

    def publish() -> None:
        with pyaviso.AvisoClient(base_url=gateway.url) as client:
            client.notify(**quake(5))
            client.notify(**quake(6))

    listening = asyncio.create_task(asyncio.to_thread(listen))
    await opened(gateway)
    await asyncio.to_thread(publish)
    assert await listening == [5, 6]


async def test_of_many_notifications_each_has_its_own_result(
    client: pyaviso.AsyncAvisoClient,
) -> None:
    results = await client.notify_many([storm(1), storm(9), storm(7)])
    assert [result.ok for result in results] == [True, False, True]
    error = results[1].error
    assert isinstance(error, pyaviso.HttpError)
    assert (error.status, json.loads(error.body)["code"]) == (400, "INVALID_NOTIFICATION_REQUEST")
    assert json.loads(error.body)["message"] == (
        "Field 'severity' value 9 is outside allowed range [1, 7]"
    )


async def test_triggers_are_called_for_each_notification(gateway: RunningGateway) -> None:
    called: list[int] = []

    def work() -> None:
        with pyaviso.AvisoClient(base_url=gateway.url) as client:
            client.notify(**quake())
            client.notify(**quake())
            trigger = pyaviso.Trigger.function(lambda heard: called.append(heard.sequence))
            client.listen("earthquake", start_from=0, until=2, triggers=[trigger]).run()

    await asyncio.to_thread(work)
    assert called == [1, 2]


async def test_one_program_listens_to_several_things_at_once(
    client: pyaviso.AsyncAvisoClient,
) -> None:
    for each in (quake(network="us"), quake(network="ci"), storm(5), quake(network="us")):
        await client.notify(**each)
    listeners = {
        "american": {"event_type": "earthquake", "filter": {"network": "us"}},
        "storms": {
            "event_type": "extreme_event",
            "filter": {"region": "north", "run_time": "1200", "severity": {"gte": 5}},
        },
    }
    heard: dict[str, list[int]] = {name: [] for name in listeners}
    async with (
        asyncio.timeout(60),
        client.listen_many(listeners, start_from=0, mode="replay_only") as streams,
    ):
        async for name, notification in streams:
            heard[name].append(notification.sequence)
    assert heard == {"american": [1, 3], "storms": [1]}


# -- replay


async def test_a_replay_has_a_start_and_an_end_by_sequence(
    client: pyaviso.AsyncAvisoClient,
) -> None:
    for _ in range(9):
        await client.notify(**quake())
    everything = await read(client, "earthquake", start_from=0, mode="replay_only")
    assert everything == [*range(1, 10)]
    # To this client a start is what it has already; an end is inclusive.
    assert await read(client, "earthquake", start_from=3, until=6) == [4, 5, 6]
    assert await read(client, "earthquake", start_from=7, until=99) == [8, 9]
    assert await read(client, "earthquake", start_from=9, mode="replay_only") == []
    assert await read(client, "earthquake", start_from=90, mode="replay_only") == []


async def test_a_replay_has_a_start_and_an_end_by_date(
    gateway: RunningGateway, client: pyaviso.AsyncAvisoClient
) -> None:
    recorded = [{**quake(), "time": f"2018-02-06T15:50:0{second}Z"} for second in range(1, 7)]
    stored = await gateway.client.post("/api/v1/notifications", json=recorded)
    assert stored.json()["accepted"] == 6
    for start, end, expected in (
        ("2018-02-06T15:50:02Z", "2018-02-06T15:50:04Z", [2, 3, 4]),
        ("2018-02-06T16:50:02+01:00", "2018-02-06 15:50:04", [2, 3, 4]),
        ("1517932205", "1517932205999", [5]),
        ("1500-01-01T00:00:00Z", "2300-01-01T00:00:00Z", [1, 2, 3, 4, 5, 6]),
        ("2018-02-05T00:00:00Z", "2018-02-06T00:00:00Z", []),
    ):
        assert await read(client, "earthquake", start_from=start, until=end) == expected
    assert await read(client, "earthquake", start_from=4, until="2018-02-06T15:50:05Z") == [5]
    assert await read(client, "earthquake", start_from="2018-02-06T15:50:05Z", until=5) == [5]
    assert await read(client, "earthquake", start_from="2300-01-01T00:00:00Z", until=5) == []


async def test_history_runs_into_the_present_without_gap_or_repetition(
    client: pyaviso.AsyncAvisoClient,
) -> None:
    """The client itself ends with an error when a sequence is missing."""

    async def publish() -> None:
        for _ in range(300):
            await client.notify(**quake())

    publishing = asyncio.create_task(publish())
    heard = []
    for start in (0, 0, 0):
        async with client.listen("earthquake", start_from=start) as stream:
            heard.append(await take(stream, 100))
    async with client.listen("earthquake", start_from=100) as stream:
        heard.append(await take(stream, 200))
    await publishing
    assert heard == [[*range(1, 101)]] * 3 + [[*range(101, 301)]]


async def test_a_replay_beyond_the_limit_of_history_ends_with_a_history_gap(
    start_gateway: Start,
) -> None:
    async with start_gateway(watch_endpoint={"max_historical_notifications": 3}) as gateway:
        client = pyaviso.AsyncAvisoClient(base_url=gateway.url)
        for _ in range(4):
            await client.notify(**quake())
        assert await read(client, "earthquake", start_from=1, mode="replay_only") == [2, 3, 4]
        async with client.listen("earthquake", start_from=0) as stream:
            assert await take(stream, 3) == [1, 2, 3]
            with pytest.raises(pyaviso.HistoryGapError) as failure:
                await take(stream, 1)
    assert (failure.value.reason, failure.value.max_allowed) == ("replay_limit_reached", 3)


# -- filters


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [1, 2, 3]),
        ({"network": "us"}, [1, 3]),
        ({"magnitude": 5}, [1]),
        ({"magnitude": "5.0"}, [1]),
        ({"magnitude": {"gt": 5}}, [2, 3]),
        ({"magnitude": {"between": [5, 6.1]}}, [1, 2]),
        ({"magnitude": {"in": [5, 6.4]}}, [1, 3]),
        ({"network": "us", "magnitude": {"lt": 6}}, [1]),
        ({"polygon": TAIWAN}, [1]),
        ({"polygon": "(21.5,119.5,21.5,123,25.5,123,25.5,119.5,21.5,119.5)"}, [1]),
        ({"polygon": TAIWAN, "magnitude": {"gte": 6}}, []),
    ],
)
async def test_point_clouds_are_found_by_value_constraint_and_polygon(
    wanted: Mapping[str, object], expected: list[int], client: pyaviso.AsyncAvisoClient
) -> None:
    for each in (quake(5, HUALIEN), quake(6.1, LAE, "ci"), quake(6.4, JARM)):
        await client.notify(**each)
    found = await read(client, "earthquake", filter=wanted, start_from=0, mode="replay_only")
    assert found == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"severity": 4}, [1]),
        ({"severity": {"gte": 4}}, [1, 3]),
        ({"severity": {"gte": 1}, "polygon": BERLIN}, [1, 3]),
        ({"severity": {"gte": 1}, "polygon": LONDON}, [2]),
        ({"severity": {"gte": 1}, "point": [52.5, 13.4]}, [1, 3]),
        ({"severity": {"gte": 1}, "point": "51.5,-0.1"}, [2]),
        ({"severity": {"gte": 1}, "point": "0,0"}, []),
        ({"severity": {"gte": 1}, "run_time": "12:00"}, [1, 2, 3]),
        ({"severity": {"gte": 1}, "region": {"in": ["south", "NORTH"]}}, [1, 2, 3, 4]),
    ],
)
async def test_areas_are_found_by_value_constraint_polygon_and_point(
    wanted: Mapping[str, object], expected: list[int], client: pyaviso.AsyncAvisoClient
) -> None:
    for each in (storm(4), storm(3, area=LONDON), storm(6), storm(2, "south", LONDON)):
        await client.notify(**each)
    wanted = {"region": "north", "run_time": "1200", **wanted}
    found = await read(client, "extreme_event", filter=wanted, start_from=0, mode="replay_only")
    assert found == expected


async def test_a_filter_holds_live_too(
    gateway: RunningGateway, client: pyaviso.AsyncAvisoClient
) -> None:
    strong = {"magnitude": {"gte": 6}, "polygon": TAIWAN}
    async with client.listen("earthquake", filter=strong) as stream:
        await opened(gateway)
        for each in (quake(5), quake(6, LAE), quake(6), quake(7, JARM), quake(6.4)):
            await client.notify(**each)
        assert await take(stream, 2) == [3, 5]


@pytest.mark.parametrize(
    ("event_type", "wanted", "code", "message"),
    [
        ("earthquake", {"colour": "red"}, "INVALID_WATCH_REQUEST", "Unknown field 'colour'"),
        ("earthquake", {"magnitude": {"over": 5}}, "INVALID_WATCH_REQUEST", "invalid operator"),
        ("earthquake", {"point": "1,1"}, "INVALID_WATCH_REQUEST", "not supported for point-cloud"),
        ("extreme_event", {}, "INVALID_WATCH_REQUEST", "Required field 'region' missing"),
        ("eclipse", {}, "UNKNOWN_EVENT_TYPE", "unknown event type 'eclipse'"),
    ],
)
async def test_what_cannot_be_listened_to_is_refused_for_good(
    event_type: str,
    wanted: dict[str, object],
    code: str,
    message: str,
    client: pyaviso.AsyncAvisoClient,
) -> None:
    async with client.listen(event_type, filter=wanted) as stream:
        with pytest.raises(pyaviso.HttpError) as failure:
            await take(stream, 1)
    body = json.loads(failure.value.body)
    assert (failure.value.status, body["code"]) == (400, code)
    assert message in body["message"]
    assert failure.value.request_id == body["request_id"]


# -- schemas, deleting, wiping


async def test_schemas_are_read(client: pyaviso.AsyncAvisoClient) -> None:
    catalog = await client.schema()
    assert sorted(catalog.event_types) == ["earthquake", "extreme_event"]
    assert catalog.total_schemas == 2
    response = await client.schema_for("extreme_event")
    assert response.schema == catalog.schema["extreme_event"]
    assert response.schema["identifier"]["region"]["values"] == ["north", "south", "east", "west"]
    with pytest.raises(pyaviso.HttpError) as failure:
        await client.schema_for("eclipse")
    assert failure.value.status == 404
    assert json.loads(failure.value.body)["available_types"] == ["earthquake", "extreme_event"]


async def test_a_deleted_notification_is_a_gap_to_who_asks_for_everything(
    client: pyaviso.AsyncAvisoClient,
) -> None:
    for _ in range(3):
        await client.notify(**quake())
    await client.delete_notification("earthquake@2")
    with pytest.raises(pyaviso.HttpError, match="Notification not found"):
        await client.delete_notification("earthquake@2")

    filtered = {"network": "us"}
    assert await read(client, "earthquake", filter=filtered, start_from=0, until=3) == [1, 3]
    async with client.listen("earthquake", start_from=0, mode="replay_only") as stream:
        assert await take(stream, 1) == [1]
        with pytest.raises(pyaviso.HistoryGapError) as failure:
            await take(stream, 1)
    assert failure.value.reason == "sequence_jump"
    assert (failure.value.expected, failure.value.observed) == (2, 3)


async def test_sequences_go_on_after_a_wipe_and_an_open_listener_with_them(
    gateway: RunningGateway, client: pyaviso.AsyncAvisoClient
) -> None:
    await client.notify(**storm())
    async with client.listen("earthquake", start_from=0) as stream:
        for _ in range(2):
            await client.notify(**quake())
        assert await take(stream, 2) == [1, 2]
        await client.wipe_stream("earthquake")
        await client.notify(**quake())
        assert await take(stream, 1) == [3]
    assert await read(client, "earthquake", start_from=2, until=9) == [3]
    north = {"region": "north", "run_time": "1200", "severity": 4}
    assert await read(client, "extreme_event", filter=north, start_from=0, until=9) == [1]

    await client.wipe_all()
    assert await read(client, "earthquake", start_from=3, until=9) == []
    assert await read(client, "extreme_event", filter=north, start_from=0, until=9) == []
    with pytest.raises(pyaviso.HttpError, match="Stream not found: eclipse"):
        await client.wipe_stream("eclipse")
