"""Aviso wire contract §5.2-5.5: the life of each kind of stream, its boundary, sequences and quota."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Start
from tests.contract.api import REPLAY, Api, ask, assert_error, kinds, notifications
from tests.contract.reader import Stream
from tests.contract.schemas import SCHEMAS, SQUARE
from tests.servers import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONTRACT: dict[str, Any] = {
    "notification_schema": SCHEMAS,
    "notification_schema_strict": False,
}


def sequences(stream: Stream, event: str) -> list[int]:
    return [each.sequence for each in stream.seen if each.is_notification and each.event == event]


# -- watch


async def test_a_live_watch_is_established_beats_and_then_sends_what_comes(api: Api) -> None:
    await api.publish()
    async with api.watch() as stream:
        assert (await stream.next()).kind == "connection_established"
        assert (await stream.next()).kind == "heartbeat"
        await api.publish(payload="live")
        frame = await stream.next()
        assert (frame.event, frame.sequence) == ("live-notification", 2)
        assert frame.data["data"]["payload"] == "live"


async def test_a_watch_with_history_replays_completes_and_goes_live(api: Api) -> None:
    await api.publish_many(12)
    async with api.watch(from_id="4") as stream:
        await stream.until("replay_completed")
        await api.publish_many(3)
        await stream.notifications(3)
    assert stream.seen[0].kind == "replay_started"
    assert sequences(stream, "replay") == list(range(4, 13))
    assert sequences(stream, "live-notification") == [13, 14, 15]
    assert [kind for kind in kinds(stream.seen) if kind == "replay_completed"] == [
        "replay_completed"
    ]


async def test_a_live_watch_ends_with_a_frame_when_the_server_shuts_down(
    start_gateway: Start,
) -> None:
    async with httpx.AsyncClient() as outliving, start_gateway(**CONTRACT) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish()
        async with api.watch() as live, api.watch(from_id="1") as resumed:
            await live.next()
            await resumed.until("replay_completed")
            draining = asyncio.create_task(gateway.gateway.drain())
            for stream in (live, resumed):
                *_, closing = await stream.rest()
                assert closing.event == "connection-closing"
                assert closing.data["reason"] == "server_shutdown"
                assert closing.data["message"] == "Server is shutting down gracefully"
            await draining
        refused = await outliving.post(gateway.url + REPLAY, json=ask("note", from_id="1"))
        found = assert_error(refused, 503, "SHUTTING_DOWN")
        assert int(refused.headers["retry-after"]) >= 1
        assert "connect again" in found["message"]
        ready = await outliving.get(gateway.url + "/ready")
        assert ready.status_code == 503
        assert ready.json()["draining"] is True
        assert (await outliving.get(gateway.url + "/health")).status_code == 200


async def test_shutdown_ends_a_replay_and_a_history_with_its_reason(start_gateway: Start) -> None:
    async with start_gateway(
        **CONTRACT, watch_endpoint={"replay_batch_size": 1, "replay_batch_delay_ms": 300}
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(40)
        body = ask("note", from_id="1")
        async with api.stream(REPLAY, body) as replay, api.watch(from_id="1") as watch:
            await replay.notification()
            await watch.notification()
            draining = asyncio.create_task(gateway.gateway.drain())
            for stream in (replay, watch):
                frames = await stream.rest()
                assert "replay_completed" not in kinds(frames)
                assert frames[-1].data["reason"] == "server_shutdown"
            await draining


async def test_the_maximum_duration_holds_for_a_watch_in_its_history_and_not_for_a_replay(
    start_gateway: Start,
) -> None:
    async with start_gateway(
        **CONTRACT,
        watch_endpoint={
            **{"replay_batch_size": 1, "replay_batch_delay_ms": 250},
            **{"connection_max_duration_sec": 0.3, "sse_heartbeat_interval_sec": 1},
        },
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(12)
        async with api.watch(from_id="1") as watch:
            frames, replayed = await asyncio.gather(watch.rest(), api.replay())
        assert frames[-1].data["reason"] == "max_duration_reached"
        assert "replay_completed" not in kinds(frames)
        assert len(notifications(replayed)) == 12
        assert replayed[-1].data["reason"] == "end_of_stream"
        # A replay has no heartbeat, however long it takes.
        assert kinds(replayed) == [
            *("replay_started", *["replay"] * 12),
            *("replay_completed", "connection-closing"),
        ]


async def test_heartbeats_come_at_their_interval_during_history_and_live(
    start_gateway: Start,
) -> None:
    async with start_gateway(
        **CONTRACT,
        watch_endpoint={
            **{"replay_batch_size": 1, "replay_batch_delay_ms": 200},
            "sse_heartbeat_interval_sec": 1,
        },
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(12)
        async with api.watch(from_id="1") as stream:
            await stream.until("replay_completed")
            assert stream.seen[0].kind == "replay_started"
            beats = [each for each in stream.seen if each.kind == "heartbeat"]
            assert beats
            before = [each.data["sequence"] for each in beats]
            assert all(1 <= sequence <= 12 for sequence in before)
            assert before == sorted(before)
            assert (await stream.until("heartbeat")).data["sequence"] == 12


async def test_a_heartbeat_tells_how_far_the_log_was_looked_through(start_gateway: Start) -> None:
    """The position moves on past events that the filter leaves out."""
    async with start_gateway(
        **CONTRACT, watch_endpoint={"sse_heartbeat_interval_sec": 1}
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        async with (
            api.watch("note", {"author": "nobody"}) as stream,
            api.stream(
                "/api/v1/watch", params={"event_type": "note", "identifier.author": "x"}
            ) as browser,
        ):
            await stream.next()
            assert (await stream.next()).data["sequence"] == 0
            await api.publish_many(7)
            await stream.until(lambda frame: frame.data.get("sequence") == 7)
            beat = await browser.until(lambda frame: frame.data.get("sequence") == 7)
            assert beat.id is not None
            assert beat.id.startswith("7-")
        assert not any(each.is_notification for each in stream.seen)
        async with api.watch("note", {"author": "nobody"}, from_id="3") as stream:
            await stream.until("replay_completed")
            assert (await stream.until("heartbeat")).data["sequence"] == 7


# -- replay


async def test_a_replay_starts_sends_completes_and_closes(api: Api) -> None:
    await api.publish_many(12)
    frames = await api.replay(from_id="2")
    assert kinds(frames) == [
        *("replay_started", *["replay"] * 11),
        *("replay_completed", "connection-closing"),
    ]
    assert [each.sequence for each in notifications(frames)] == list(range(2, 13))


async def test_an_empty_replay_completes(api: Api) -> None:
    for event_type in ("note", "no_schema"):
        frames = await api.replay(event_type)
        assert kinds(frames) == ["replay_started", "replay_completed", "connection-closing"]


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("path", ["/api/v1/watch", REPLAY])
async def test_a_backend_lost_in_mid_history_is_an_error_frame_and_the_end(
    start_gateway: Start, own_valkey: Valkey, path: str
) -> None:
    async with start_gateway(
        url=own_valkey.url,
        **CONTRACT,
        watch_endpoint={
            **{"replay_batch_size": 1, "replay_batch_delay_ms": 50},
            "backend_patience_sec": 0,
        },
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(40)
        async with api.stream(path, ask("note", from_id="1")) as stream:
            await stream.notification()
            own_valkey.kill()
            *before, error, closing = await stream.rest()
        assert all(frame.event == "replay" for frame in before)
        assert error.event == "error"
        assert list(error.data) == ["error", "message", "request_id", "topic"]
        assert error.data["error"] == "stream_processing_failed"
        assert error.data["topic"] == "note.*"
        assert error.data["request_id"] == stream.headers["x-request-id"]
        assert closing.data["reason"] == "end_of_stream"


# -- sequences


async def test_sequences_are_dense_per_event_type_and_never_used_again(api: Api) -> None:
    assert [await api.publish() for _ in range(3)] == [1, 2, 3]
    assert await api.publish("order", {"shop": "a", "version": "1"}, 1) == 1
    await api.send("DELETE", "/api/v1/admin/notification/note@3")
    assert await api.publish() == 4
    await api.send("DELETE", "/api/v1/admin/wipe/stream", {"stream_name": "note"})
    assert await api.publish() == 5
    await api.send("DELETE", "/api/v1/admin/wipe/all")
    assert await api.publish() == 6
    assert await api.publish("order", {"shop": "a", "version": "1"}, 1) == 2
    assert await api.found() == [6]


async def test_concurrent_publishers_share_one_dense_row_of_sequences(api: Api) -> None:
    given = await asyncio.gather(*(api.publish(payload=place) for place in range(50)))
    assert sorted(given) == list(range(1, 51))
    frames = notifications(await api.replay())
    assert [each.sequence for each in frames] == list(range(1, 51))
    for each in frames:
        assert given[each.data["data"]["payload"]] == each.sequence
    times = [each.data["time"] for each in frames]
    assert times == sorted(times)


# -- boundary


async def test_history_and_live_meet_without_gap_or_repeat(api: Api) -> None:
    """Watches that are opened while events are published: each event once, replay <= H < live."""

    async def publish() -> None:
        for _ in range(10):
            await api.publish()

    async def read() -> Stream:
        async with api.watch(from_id="1") as stream:
            await stream.until(lambda frame: frame.is_notification and frame.sequence == 50)
        return stream

    readers = [asyncio.create_task(read())]
    publishing = [asyncio.create_task(publish()) for _ in range(5)]
    while not all(task.done() for task in publishing):
        readers.append(asyncio.create_task(read()))
        await asyncio.wait(publishing, timeout=0.02)
    crossed = 0
    for stream in await asyncio.gather(*readers):
        replayed = sequences(stream, "replay")
        live = sequences(stream, "live-notification")
        assert [*replayed, *live] == list(range(1, 51))
        names = [each.event for each in stream.seen if each.is_notification]
        assert names == ["replay"] * len(replayed) + ["live-notification"] * len(live)
        crossed += bool(replayed and live)
    assert crossed


async def test_a_replay_ends_where_the_log_stood_when_it_was_opened(start_gateway: Start) -> None:
    async with start_gateway(
        **CONTRACT, watch_endpoint={"replay_batch_size": 2, "replay_batch_delay_ms": 20}
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(6)
        async with api.stream(REPLAY, ask("note", from_id="1")) as stream:
            await stream.next()
            await api.publish_many(6)
            frames = await stream.rest()
        assert [each.sequence for each in notifications(frames)] == [1, 2, 3, 4, 5, 6]


async def test_a_deleted_event_at_the_boundary_does_not_hold_the_history_up(
    start_gateway: Start,
) -> None:
    async with start_gateway(
        **CONTRACT, watch_endpoint={"replay_batch_size": 1, "replay_batch_delay_ms": 20}
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        await api.publish_many(5)
        async with api.watch(from_id="1") as stream:
            await stream.next()
            await api.send("DELETE", "/api/v1/admin/notification/note@5")
            await stream.until("replay_completed")
            assert await api.publish() == 6
            assert (await stream.notification()).sequence == 6
        # Deleted before the watch is opened, too.
        await api.send("DELETE", "/api/v1/admin/notification/note@6")
        async with api.watch(from_id="4") as stream:
            await stream.until("replay_completed")
            assert sequences(stream, "replay") == [4]


# -- quota


async def test_exactly_the_cap_completes_and_one_more_is_the_limit(api: Api) -> None:
    await api.publish_many(50)
    frames = await api.replay()
    assert kinds(frames)[-3:] == ["replay", "replay_completed", "connection-closing"]
    assert len(notifications(frames)) == 50
    await api.publish()
    frames = await api.replay()
    assert kinds(frames)[-2:] == ["notification_replay_limit_reached", "connection-closing"]
    assert "replay_completed" not in kinds(frames)
    assert len(notifications(frames)) == 50
    assert frames[-2].data["max_allowed"] == 50


async def test_a_schema_has_a_cap_of_its_own(api: Api) -> None:
    await api.publish_many(4, "capped")
    assert await api.found("capped", from_id="2") == [2, 3, 4]
    frames = await api.replay("capped", from_id="1")
    assert len(notifications(frames)) == 3
    assert frames[-2].data["max_allowed"] == 3


async def test_what_the_filter_leaves_out_does_not_count(api: Api) -> None:
    for _ in range(3):
        await api.publish_many(20, "capped", "ada")
        await api.publish_many(1, "capped", "bob")
    frames = await api.replay("capped", {"author": "bob"})
    assert [each.sequence for each in notifications(frames)] == [21, 42, 63]
    assert "replay_completed" in kinds(frames)
    # One more match is looked for as far as the boundary, past what does not match.
    await api.publish_many(20, "capped", "ada")
    assert "replay_completed" in kinds(await api.replay("capped", {"author": "bob"}))
    await api.publish_many(1, "capped", "bob")
    frames = await api.replay("capped", {"author": "bob"})
    assert kinds(frames)[-2:] == ["notification_replay_limit_reached", "connection-closing"]


async def test_spatial_filters_do_not_count_what_they_leave_out(start_gateway: Start) -> None:
    async with start_gateway(
        **CONTRACT, watch_endpoint={"max_historical_notifications": 2, "replay_batch_size": 3}
    ) as gateway:
        api = Api(gateway, gateway.tenant)
        far = [[lat + 50, lon + 50] for lat, lon in SQUARE]
        for place in range(12):
            polygon = SQUARE if place % 6 == 5 else far
            await api.publish("area", {"name": "a", "polygon": polygon})
        frames = await api.replay("area", {"point": "5,5"})
        assert [each.sequence for each in notifications(frames)] == [6, 12]
        assert "replay_completed" in kinds(frames)


async def test_a_watch_that_hits_the_limit_ends_without_a_live_phase(api: Api) -> None:
    await api.publish_many(4, "capped")
    async with api.watch("capped", from_id="1") as stream:
        frames = await stream.rest()
    assert kinds(frames) == [
        *("replay_started", "replay", "replay", "replay"),
        *("notification_replay_limit_reached", "connection-closing"),
    ]


async def test_a_live_watch_has_no_limit(api: Api) -> None:
    async with api.watch("capped") as stream:
        await stream.next()
        await api.publish_many(20, "capped")
        assert len(await stream.notifications(20)) == 20
