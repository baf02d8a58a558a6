"""Aviso wire contract §13: resuming by cursor, and the `gap` that says when it cannot be honoured."""

import asyncio
import re

import pytest

from store.connection import Connection, log_key, meta_key
from store.event import StreamKey
from tests.conftest import Start
from tests.contract.api import LABELS, REPLAY, WATCH, Api, ask, assert_error, kinds
from tests.contract.reader import Frame, Stream
from tests.contract.schemas import SCHEMAS

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOTE = {"event_type": "note"}


async def newest(api: Api) -> str:
    """The `id:` of the newest event."""
    frames = await api.replay()
    ids = [frame.id for frame in frames if frame.is_notification]
    assert ids[-1] is not None
    return ids[-1]


def sequences(frames: list[Frame]) -> list[int]:
    return [each.sequence for each in frames if each.is_notification]


async def resumed(api: Api, cursor: str, *, header: bool = True) -> Stream:
    """A watch by GET, read to the end of its history."""
    params = NOTE if header else {**NOTE, "last_event_id": cursor}
    headers = {"Last-Event-ID": cursor} if header else {}
    async with api.stream(WATCH, params=params, headers=headers) as stream:
        await stream.until("replay_completed")
    return stream


def gap_of(stream: Stream) -> Frame:
    [gap] = [frame for frame in stream.seen if frame.event == "gap"]
    assert list(gap.data) == ["expected", "first_available", "reason", "timestamp", "topic"]
    assert gap.id is None, "a gap is no place to resume from"
    return gap


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("path", [WATCH, REPLAY])
async def test_a_cursor_goes_on_after_the_event_it_names(api: Api, path: str, header: bool) -> None:
    await api.publish_many(5)
    epoch = (await newest(api)).partition("-")[2]
    for cursor in (f"2-{epoch}", "2", f" 2-{epoch} "):
        params = NOTE if header else {**NOTE, "last_event_id": cursor}
        headers = {"Last-Event-ID": cursor.strip()} if header else {}
        async with api.stream(path, params=params, headers=headers) as stream:
            await stream.until("replay_completed")
        assert sequences(stream.seen) == [3, 4, 5]
        assert "gap" not in kinds(stream.seen)
        assert stream.seen[0].data["from_sequence"] == 3


async def test_a_cursor_at_the_end_is_an_empty_history_and_then_live(api: Api) -> None:
    await api.publish_many(2)
    cursor = await newest(api)
    async with api.stream(WATCH, params=NOTE, headers={"Last-Event-ID": cursor}) as stream:
        assert (await stream.next()).kind == "replay_started"
        assert (await stream.next()).kind == "replay_completed"
        await api.publish()
        live = await stream.notification()
        assert (live.event, live.sequence) == ("live-notification", 3)


async def test_the_cursor_outweighs_the_start_and_the_header_the_parameter(api: Api) -> None:
    await api.publish_many(5)
    params = {**NOTE, "from_id": "1", "last_event_id": "2"}
    async with api.stream(WATCH, params=params) as stream:
        await stream.until("replay_completed")
    assert sequences(stream.seen) == [3, 4, 5]
    async with api.stream(WATCH, params=params, headers={"Last-Event-ID": "4"}) as stream:
        await stream.until("replay_completed")
    assert sequences(stream.seen) == [5]
    by_date = {**NOTE, "from_date": "0"}
    async with api.stream(WATCH, params=by_date, headers={"Last-Event-ID": "4"}) as stream:
        await stream.until("replay_completed")
    assert sequences(stream.seen) == [5]


async def test_an_empty_cursor_is_none(api: Api) -> None:
    await api.publish()
    async with api.stream(WATCH, params=NOTE, headers={"Last-Event-ID": ""}) as stream:
        assert (await stream.next()).kind == "connection_established"
    async with api.stream(WATCH, params={**NOTE, "last_event_id": ""}) as stream:
        assert (await stream.next()).kind == "connection_established"


@pytest.mark.parametrize(("path", "operation"), [(WATCH, "watch"), (REPLAY, "replay")])
@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "-1",
        "1.5",
        "1-",
        "-abc",
        "1-xyz",
        "1-ABC",
        "1-2-3",
        "9" * 20,
        "1-" + "a" * 33,
        "note@1",
    ],
)
async def test_a_bad_cursor_is_refused_with_its_value(
    api: Api, path: str, operation: str, cursor: str
) -> None:
    for params, headers in (
        ({**NOTE, "from_id": "1"}, {"Last-Event-ID": cursor}),
        ({**NOTE, "from_id": "1", "last_event_id": cursor}, {}),
    ):
        response = await api.send("GET", path, params=params, headers=headers)
        found = assert_error(
            response, 400, f"INVALID_{operation.upper()}_REQUEST", LABELS[operation]
        )
        assert f"'{cursor[:20]}" in found["message"]


@pytest.mark.parametrize("header", [True, False])
async def test_a_cursor_of_removed_events_is_expired(api: Api, header: bool) -> None:
    await api.publish_many(4)
    epoch = (await newest(api)).partition("-")[2]
    await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "note"})
    await api.publish_many(2)
    stream = await resumed(api, f"2-{epoch}", header=header)
    gap = gap_of(stream)
    assert gap.data["reason"] == "expired"
    assert (gap.data["expected"], gap.data["first_available"]) == (3, 5)
    assert sequences(stream.seen) == [5, 6]
    # The gap is told before what comes after it.
    assert kinds(stream.seen)[:2] == ["replay_started", "gap"]
    # Who has seen all that was removed has lost nothing.
    stream = await resumed(api, f"4-{epoch}")
    assert "gap" not in kinds(stream.seen)
    assert sequences(stream.seen) == [5, 6]


async def test_a_cursor_past_the_end_is_ahead(api: Api) -> None:
    await api.publish_many(2)
    epoch = (await newest(api)).partition("-")[2]
    for cursor in (f"7-{epoch}", "7", "9" * 19):
        stream = await resumed(api, cursor)
        gap = gap_of(stream)
        assert gap.data["reason"] == "ahead"
        assert gap.data["expected"] == int(cursor.partition("-")[0]) + 1
        assert gap.data["first_available"] == 1
        # "the stream then goes on from the first event there is"
        assert sequences(stream.seen) == [1, 2]


@pytest.mark.parametrize("cursor", ["1-abc", "2-abc", "9-abc", "0-abc"])
async def test_a_cursor_of_another_log_is_reset(api: Api, cursor: str) -> None:
    await api.publish_many(2)
    stream = await resumed(api, cursor)
    gap = gap_of(stream)
    assert gap.data["reason"] == "reset"
    assert gap.data["expected"] == int(cursor[0]) + 1
    assert gap.data["first_available"] == 1
    assert sequences(stream.seen) == [1, 2]


async def test_a_cursor_of_a_log_that_is_not_there_any_more(api: Api, backend: Connection) -> None:
    await api.publish_many(2)
    cursor = await newest(api)
    stream = StreamKey(api.tenant, "note")
    await backend.execute("DEL", log_key(stream), meta_key(stream))
    gone = await resumed(api, cursor)
    assert gap_of(gone).data["reason"] == "reset"
    assert sequences(gone.seen) == []
    await api.publish_many(3)
    again = await resumed(api, cursor)
    assert gap_of(again).data["reason"] == "reset"
    assert sequences(again.seen) == [1, 2, 3]


async def test_a_live_watch_is_told_when_its_log_is_replaced(api: Api, backend: Connection) -> None:
    await api.publish_many(3)
    key = StreamKey(api.tenant, "note")
    async with api.watch() as stream:
        await stream.next()
        await backend.execute("DEL", log_key(key), meta_key(key))
        await api.publish_many(1)
        gap = await stream.until("gap")
        assert gap.data["reason"] == "reset"
        assert gap.data["first_available"] == 1
        assert (await stream.notification()).sequence == 1


async def test_a_start_by_sequence_that_expired_is_told_too(api: Api) -> None:
    await api.publish_many(3)
    await api.send("DELETE", "/api/v1/admin/wipe/all")
    await api.publish()
    for from_id, expected in (("1", 1), ("3", 3)):
        frames = await api.replay(from_id=from_id)
        [gap] = [frame for frame in frames if frame.event == "gap"]
        assert (gap.data["reason"], gap.data["expected"]) == ("expired", expected)
        assert gap.data["first_available"] == 4
        assert sequences(frames) == [4]
    # Asking for everything there is, or for what is there, or by time, misses nothing.
    for limits in ({"from_id": "0"}, {"from_id": "4"}, {"from_date": "0"}):
        assert "gap" not in kinds(await api.replay(**limits))


async def test_an_event_that_was_deleted_is_no_gap(api: Api) -> None:
    await api.publish_many(3)
    await api.send("DELETE", "/api/v1/admin/notification/note@1")
    await api.send("DELETE", "/api/v1/admin/notification/note@2")
    frames = await api.replay(from_id="1")
    assert "gap" not in kinds(frames)
    assert sequences(frames) == [3]


async def test_retention_by_count_expires_what_it_removes(start_gateway: Start) -> None:
    kept = {**SCHEMAS["note"], "storage_policy": {"max_messages": 3}}
    async with start_gateway(notification_schema={"note": kept}) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(10)
        async with asyncio.timeout(60):
            while len(await api.found()) > 3:
                await asyncio.sleep(0.05)
        assert await api.found() == [8, 9, 10]
        stream = await resumed(api, "2")
        gap = gap_of(stream)
        assert gap.data["reason"] == "expired"
        assert (gap.data["expected"], gap.data["first_available"]) == (3, 8)


async def test_the_position_of_a_heartbeat_is_a_cursor(start_gateway: Start) -> None:
    """A filter that nothing matches moves on: resuming does not read the log again."""
    async with start_gateway(
        notification_schema=SCHEMAS, watch_endpoint={"sse_heartbeat_interval_sec": 1}
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        params = {**NOTE, "identifier.author": "nobody"}
        async with api.stream(WATCH, params=params) as stream:
            await stream.next()
            await api.publish_many(6)
            beat = await stream.until(lambda frame: frame.data.get("sequence") == 6)
        assert re.fullmatch(r"6-[0-9a-f]+", beat.id or "")
        await api.publish("note", {"author": "nobody"})
        async with api.stream(
            WATCH, params=params, headers={"Last-Event-ID": beat.id or ""}
        ) as stream:
            first = await stream.next()
            assert first.data["from_sequence"] == 7
            assert (await stream.notification()).sequence == 7


async def test_last_event_id_is_heard_on_a_post_too(api: Api) -> None:
    await api.publish_many(4)
    async with api.stream(REPLAY, ask("note"), headers={"Last-Event-ID": "3"}) as stream:
        assert sequences(await stream.rest()) == [4]
