"""A stream's life on its connection: it keeps up, falls behind, is brought up to date, and ends."""

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway import census, protocol, sse
from gateway.log_stream import LogStream
from store import connection as store_connection
from store.connection import Connection, log_key
from store.event import StreamKey
from tests.conftest import RunningGateway, Start
from tests.event_stream import OpenStream, get, open_stream, post
from tests.servers import Valkey, running

WATCH, REPLAY = "/api/v1/watch", "/api/v1/replay"
SCHEMA = {
    "reading": {
        "topic": {"base": "reading", "key_order": ["station"]},
        "identifier": {"station": {"type": "StringHandler", "required": False}},
    },
    "extreme_event": None,
    "earthquake": None,
}
# More than the kernel takes for a client that does not read, and more than the server's own buffer.
LOAD_EVENTS, LOAD_BYTES = 40, 16 << 10
SMALL = {"receive_buffer": 2048}

Opened = Callable[..., Awaitable[RunningGateway]]


@pytest.fixture
async def opened(start_gateway: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    """Starts a gateway whose clock ticks fast and whose buffers are small."""
    monkeypatch.setattr(census, "TICK_SEC", 0.01)
    async with AsyncExitStack() as stack:

        async def start(url: str | None = None, **watch_endpoint: Any) -> RunningGateway:
            starting = start_gateway(
                url=url,
                send_buffer=16 << 10,
                notification_schema=SCHEMA,
                watch_endpoint={"sse_heartbeat_interval_sec": 0.05, **watch_endpoint},
                drain={"window_sec": 0, "timeout_sec": 0.5},
                cors=None,
            )
            return await stack.enter_async_context(starting)

        yield start


async def publish(
    gateway: RunningGateway, count: int = 1, *, size: int = 0, station: str = "a"
) -> int:
    """Publish so many events; the sequence of the last."""
    item = {
        "event_type": "reading",
        "identifier": {"station": station},
        "payload": "x" * size,
    }
    answer = await gateway.client.post("/api/v1/notifications", json=[item] * count)
    assert answer.json()["rejected"] == 0, answer.text
    return int(answer.json()["results"][-1]["sequence"])


def watching(gateway: RunningGateway, **params: str) -> bytes:
    return get(WATCH, {"event_type": "reading", **params}, gateway.tenant)


async def until(condition: Callable[[], object], description: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0)
    except TimeoutError:
        raise AssertionError(f"not within 60 s: {description}") from None


def kept_streams() -> list[LogStream]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, LogStream)]


def catch_ups(gateway: RunningGateway) -> float:
    [metric] = gateway.gateway.metrics.catch_ups.collect()
    return float(metric.samples[0].value)


async def stall(gateway: RunningGateway) -> int:
    """Publish until the gateway has to wait for a client that does not read; the last sequence."""
    before = catch_ups(gateway)
    last = 0
    async with asyncio.timeout(60):
        while catch_ups(gateway) == before:
            last = await publish(gateway, LOAD_EVENTS, size=LOAD_BYTES)
    return last


async def read_all(stream: OpenStream, last: int) -> list[int]:
    """The sequences of all events up to this one, gathered from the stream's beginning."""
    await stream.until(lambda frame: frame.kind == "event" and frame.sequence == last)
    return [frame.sequence for frame in stream.frames if frame.kind == "event"]


# -- slow clients


@pytest.mark.parametrize("ring", ["large", "small"])
async def test_a_client_that_stops_reading_gets_every_event_once_when_it_reads_again(
    opened: Opened, ring: str
) -> None:
    """From the newest frames when they reach back to its place, else from the log."""
    limits = {"large": (10_000, 64 << 20), "small": (8, 64 << 10)}
    events, size = limits[ring]
    gateway = await opened(ring_events=events, ring_bytes=size, replay_batch_size=7)
    await publish(gateway)
    async with open_stream(gateway.port, watching(gateway, from_id="1"), **SMALL) as stream:
        await stream.until("event")
        await stall(gateway)
        for _ in range(20):
            last = await publish(gateway, 5, size=100)
        assert await read_all(stream, last) == list(range(1, last + 1))
        last = await publish(gateway, 3)
        assert await read_all(stream, last) == list(range(1, last + 1))
        kinds = {frame.kind for frame in stream.frames}
        assert kinds == {"replay_started", "event", "replay_completed", "heartbeat"}


async def test_a_client_that_stops_reading_does_not_slow_the_others(opened: Opened) -> None:
    gateway = await opened()
    async with (
        open_stream(gateway.port, watching(gateway), **SMALL) as stopped,
        open_stream(gateway.port, watching(gateway)) as first,
        open_stream(gateway.port, watching(gateway, **{"identifier.station": "b"})) as other,
    ):
        for stream in (stopped, first, other):
            await stream.until("heartbeat")
        last = await stall(gateway)
        assert await read_all(first, last) == list(range(1, last + 1))
        for _ in range(20):
            last = await publish(gateway, station="b")
            assert (await other.until("event")).sequence == last
        assert await read_all(stopped, last) == list(range(1, last + 1))


async def test_a_client_that_takes_no_byte_for_the_send_timeout_is_closed_and_others_live_on(
    opened: Opened,
) -> None:
    gateway = await opened(send_timeout_sec=0.3)
    async with (
        open_stream(gateway.port, watching(gateway), **SMALL) as stopped,
        open_stream(gateway.port, watching(gateway)) as other,
    ):
        for stream in (stopped, other):
            await stream.until("heartbeat")
        last = await stall(gateway)
        await read_all(other, last)
        await until(
            lambda: len(gateway.gateway.streams) == 1, "the one that does not read is closed"
        )
        last = await publish(gateway)
        assert (await other.until("event")).sequence == last
        with pytest.raises((ConnectionError, AssertionError)):
            await stopped.until("connection-closing")


async def test_a_client_that_reads_slowly_is_not_taken_for_one_that_does_not_read(
    opened: Opened,
) -> None:
    """The kernel's TCP_USER_TIMEOUT did, when its reads were small."""
    gateway = await opened(send_timeout_sec=3)
    async with open_stream(gateway.port, watching(gateway), **SMALL) as slow:
        await slow.until("heartbeat")
        last = await stall(gateway)
        streams = gateway.gateway.streams
        for _ in range(66):  # twice the time-out, by the gateway's own clock
            tick = streams._tick + 10
            await until(lambda: streams._tick >= tick, "the clock ticks")  # noqa: B023 - awaited
            await slow.receive()
        assert await read_all(slow, last) == list(range(1, last + 1))


# -- the end


async def test_a_stream_that_waits_for_its_client_is_closed_when_the_client_reads_on(
    opened: Opened,
) -> None:
    gateway = await opened()
    async with open_stream(gateway.port, watching(gateway), **SMALL) as stream:
        await stream.until("heartbeat")
        await stall(gateway)
        [open_one] = gateway.gateway.streams._open
        open_one.close("server_shutdown")
        frames = await stream.rest()
        assert frames[-1].kind == "connection-closing"
        assert frames[-1].data["reason"] == "server_shutdown"
        sequences = [frame.sequence for frame in frames if frame.kind == "event"]
        assert sequences == list(range(1, len(sequences) + 1))


async def test_the_drain_cuts_off_who_takes_nothing_and_closes_the_others(opened: Opened) -> None:
    gateway = await opened()
    async with (
        open_stream(gateway.port, watching(gateway), **SMALL) as stopped,
        open_stream(gateway.port, watching(gateway)) as other,
    ):
        for stream in (stopped, other):
            await stream.until("heartbeat")
        await read_all(other, await stall(gateway))
        await gateway.gateway.drain()
        assert (await other.rest())[-1].data["reason"] == "server_shutdown"
        await until(lambda: len(gateway.gateway.streams) == 0, "all streams are gone")


async def test_a_stream_that_is_being_opened_when_the_drain_begins_is_closed_too(
    opened: Opened, tmp_path: Path
) -> None:
    """It was not among those that were told, and was cut off without a word at the end."""
    server = Valkey(tmp_path / "v", fsync="no")
    with running(server):
        gateway = await opened(url=server.url)
        async with AsyncExitStack() as stack:
            server.pause()
            requests = [
                watching(gateway),
                watching(gateway, from_id="1"),
                get(REPLAY, {"event_type": "reading", "from_id": "1"}, gateway.tenant),
            ]
            streams = [
                await stack.enter_async_context(open_stream(gateway.port, request))
                for request in requests
            ]
            waiting = b'playhead_http_requests_in_flight{method="GET"} 3.0'
            metrics = gateway.gateway.metrics
            await until(lambda: waiting in metrics.render(), "all have come")
            await gateway.gateway.drain()
            server.resume()
            for stream, expected in zip(
                streams, ["server_shutdown", "server_shutdown", "end_of_stream"], strict=True
            ):
                assert (await stream.rest())[-1].data["reason"] == expected


async def test_the_maximum_duration_closes_a_watch_and_no_replay(opened: Opened) -> None:
    gateway = await opened(connection_max_duration_sec=0.2, replay_batch_size=1)
    await publish(gateway, 3)
    async with open_stream(gateway.port, watching(gateway, from_id="1")) as stream:
        frames = await stream.rest()
    assert [frame.sequence for frame in frames if frame.kind == "event"] == [1, 2, 3]
    assert frames[-1].data["reason"] == "max_duration_reached"
    assert [frame.kind for frame in frames].count("connection-closing") == 1
    slowly = await opened(
        connection_max_duration_sec=0.1, replay_batch_size=1, replay_batch_delay_ms=60
    )
    await publish(slowly, 5)
    request = get(REPLAY, {"event_type": "reading", "from_id": "1"}, slowly.tenant)
    async with open_stream(slowly.port, request) as stream:
        frames = await stream.rest()
    assert [frame.kind for frame in frames].count("event") == 5
    assert frames[-1].data["reason"] == "end_of_stream"


async def test_clients_that_leave_at_any_moment_leave_no_task_no_stream_and_no_reader(
    opened: Opened,
) -> None:
    """In the first bytes, in history, in the hand-over to live, while it waits, while it is live."""
    gateway = await opened(replay_batch_size=2, ring_events=4)
    await publish(gateway, 20, size=4000)
    before = asyncio.all_tasks()
    for turn in range(150):
        start = {} if turn % 5 == 4 else {"from_id": "1"}
        async with open_stream(gateway.port, watching(gateway, **start), **SMALL) as stream:
            if turn % 3:
                await stream.receive()
            for _ in range(turn):
                await asyncio.sleep(0)
        if turn % 10 == 0:
            await publish(gateway)
    streams, tail = gateway.gateway.streams, gateway.gateway.tail
    await until(lambda: len(streams) == 0, "no stream is open")
    await until(lambda: not tail._readers and not tail._stopping, "nothing is read")
    # httpx, our client, and the server's own connections come and go with their requests.
    await until(lambda: len(asyncio.all_tasks()) <= len(before), "no task is left")
    await until(lambda: not kept_streams(), "no stream is kept in memory")


@pytest.mark.parametrize("body", [b"", b"12345"])
async def test_what_a_client_sends_during_its_stream_is_answered_after_it(
    opened: Opened, body: bytes
) -> None:
    """The connection is the stream's alone until then, also when the rest of its request comes."""
    gateway = await opened()
    asked = watching(gateway).replace(b"length: 0", b"length: %d" % len(body))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(60):
        writer.write(asked)
        await reader.readuntil(b"event: heartbeat\n")
        writer.write(body + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        last = await publish(gateway)
        await reader.readuntil(b"reading@%d" % last)
        [stream] = gateway.gateway.streams._open
        stream.close("max_duration_reached")
        rest = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    ended, _, answer = rest.partition(b"\r\n0\r\n\r\n")
    assert b"event: connection-closing\n" in ended
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("between", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_no_stream_begins_where_what_followed_its_request_was_refused(
    opened: Opened, between: bytes
) -> None:
    """It failed as it wrote behind the end of the connection: a defect in the log for each."""
    gateway = await opened()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    with capture_logs() as logs:
        async with asyncio.timeout(60):
            writer.write(watching(gateway) + between + b"nonsense\r\n\r\n")
            answer = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not gateway.gateway.streams, "no stream is open")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []


async def test_half_a_request_behind_that_of_a_stream_does_not_end_the_stream(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head had to end within its time, though nobody reads on before the stream has ended; and
    what had come of it was forgotten."""
    monkeypatch.setattr(protocol, "_HEADER_TIMEOUT_SEC", 0.1)
    gateway = await opened()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(60):
        writer.write(watching(gateway) + b"GET /health HTTP/1.1\r\nHo")
        await reader.readuntil(b"event: heartbeat\n")
        monkeypatch.setattr(protocol, "_HEADER_TIMEOUT_SEC", 60)  # from its next turn on
        for _ in range(10):
            await reader.readuntil(b"event: heartbeat\n")
        [stream] = gateway.gateway.streams._open
        stream.close("max_duration_reached")
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(b"st: x\r\n\r\n")
        assert (await reader.readuntil(b'"ok"}')).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await writer.wait_closed()


# -- heartbeats


async def test_a_quiet_stream_has_heartbeats_that_move_on_with_the_log(opened: Opened) -> None:
    """With a filter that nothing passes, too: who resumes need not look through it all again."""
    gateway = await opened()
    request = watching(gateway, **{"identifier.station": "nobody"})
    async with open_stream(gateway.port, request) as stream:
        first = await stream.until("heartbeat")
        assert (first.data["sequence"], first.id) == (0, "0")
        last = await publish(gateway, 5)
        moved = await stream.until(
            lambda frame: frame.kind == "heartbeat" and frame.data["sequence"] == last
        )
        assert (moved.id or "").startswith(f"{last}-")
        assert all(frame.kind != "event" for frame in stream.frames)
    body = {"event_type": "reading", "identifier": {}}
    async with open_stream(gateway.port, post(WATCH, body, gateway.tenant)) as stream:
        heartbeats = [await stream.until("heartbeat") for _ in range(3)]
    assert {(frame.id, frame.data["sequence"]) for frame in heartbeats} == {(None, last)}


async def test_a_heartbeat_among_history_stands_where_the_stream_stands(opened: Opened) -> None:
    """It told the place before the page that it came behind: an EventSource that lost its
    connection then was sent that page again."""
    gateway = await opened(
        replay_batch_size=2, replay_batch_delay_ms=20, sse_heartbeat_interval_sec=0.01
    )
    await publish(gateway, 30)
    async with open_stream(gateway.port, watching(gateway, from_id="1")) as stream:
        await stream.until("replay_completed")
    ids = [int((frame.id or "").partition("-")[0]) for frame in stream.frames if frame.id]
    assert [frame.kind for frame in stream.frames].count("heartbeat") > 5
    assert ids == sorted(ids)


# -- when the log fails


async def test_history_that_cannot_be_read_on_ends_with_an_error_after_the_patience(
    opened: Opened, tmp_path: Path
) -> None:
    server = Valkey(tmp_path / "v", fsync="no")
    with running(server):
        gateway = await opened(
            url=server.url,
            replay_batch_size=1,
            replay_batch_delay_ms=1,
            backend_patience_sec=0.3,
        )
        await publish(gateway, 1000)
        async with open_stream(gateway.port, watching(gateway, from_id="1")) as stream:
            await stream.until("event")
            server.kill()
            frames = await stream.rest()
        kinds = [frame.kind for frame in frames]
        assert kinds[-2:] == ["error", "connection-closing"]
        assert "replay_completed" not in kinds
        assert frames[-2].data["error"] == "stream_processing_failed"
        assert frames[-1].data["reason"] == "end_of_stream"
        sequences = [frame.sequence for frame in frames if frame.kind == "event"]
        assert sequences == list(range(1, len(sequences) + 1))
        server.start()


async def test_the_patience_is_measured_by_the_clock(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the pauses between the attempts were counted: of a server that hangs, each attempt of
    which takes a time-out, it took minutes."""
    monkeypatch.setattr(store_connection, "COMMAND_TIMEOUT_SEC", 1.0)
    server = Valkey(tmp_path / "v", fsync="no")
    with running(server):
        gateway = await opened(
            url=server.url, replay_batch_size=1, replay_batch_delay_ms=1, backend_patience_sec=0.5
        )
        await publish(gateway, 1000)
        async with open_stream(gateway.port, watching(gateway, from_id="1")) as stream:
            await stream.until("event")
            server.pause()
            begun = asyncio.get_running_loop().time()
            await stream.until("error")
            assert asyncio.get_running_loop().time() - begun < 2.5
            server.resume()


async def test_a_log_that_turns_out_to_be_none_ends_the_stream_audibly(
    opened: Opened, connection: Connection
) -> None:
    gateway = await opened(replay_batch_size=1, replay_batch_delay_ms=1)
    await publish(gateway, 500)
    key = log_key(StreamKey(gateway.tenant, "reading"))
    async with open_stream(gateway.port, watching(gateway, from_id="1")) as stream:
        await stream.until("event")
        await connection.execute("SET", key, "no log")
        frames = await stream.rest()
    assert [frame.kind for frame in frames[-2:]] == ["error", "connection-closing"]
    [errors] = gateway.gateway.metrics.stream_errors(WATCH, "reading").collect()
    assert errors.samples[0].value == 1


@pytest.mark.parametrize("farewell", ["failed", "connection_closing"])
async def test_a_stream_whose_farewell_fails_too_is_cut_off(
    opened: Opened, connection: Connection, monkeypatch: pytest.MonkeyPatch, farewell: str
) -> None:
    """It stayed open, without a heartbeat, for as long as its client had patience."""

    def fail(*_: object) -> bytes:
        raise ValueError("a defect in the farewell")

    gateway = await opened(replay_batch_size=1, replay_batch_delay_ms=1)
    await publish(gateway, 500)
    async with open_stream(gateway.port, watching(gateway, from_id="1")) as stream:
        await stream.until("event")
        monkeypatch.setattr(sse, farewell, fail)
        if farewell == "failed":
            await connection.execute("SET", log_key(StreamKey(gateway.tenant, "reading")), "no log")
        else:
            gateway.gateway.streams._end_overdue(math.inf)
        with suppress(ConnectionResetError):
            await stream.rest()
    await until(lambda: not gateway.gateway.streams, "no stream is open")
    [errors] = gateway.gateway.metrics.stream_errors(WATCH, "reading").collect()
    assert errors.samples[0].value == 1


async def test_a_log_that_is_replaced_is_told_once_to_each_and_read_from_its_start(
    opened: Opened, connection: Connection
) -> None:
    """One that had just been told joined the channel of the old log again, and was told once more,
    with what was left of the old events."""
    gateway = await opened(ring_events=4, replay_batch_size=2)
    await publish(gateway, 3)
    async with (
        open_stream(gateway.port, watching(gateway), **SMALL) as stopped,
        open_stream(gateway.port, watching(gateway, from_id="1")) as history,
        open_stream(gateway.port, watching(gateway)) as live,
    ):
        for stream in (stopped, history, live):
            await stream.until("heartbeat")
        old = await stall(gateway)
        await read_all(live, old)
        await connection.execute("DEL", log_key(StreamKey(gateway.tenant, "reading")))
        await publish(gateway, 5)
        for stream in (live, history, stopped):
            gap = await stream.until("gap")
            assert (gap.data["reason"], gap.data["first_available"]) == ("reset", 1)
            assert [frame.sequence for frame in await stream.events(5)] == [1, 2, 3, 4, 5]
        last = await publish(gateway)
        for stream in (live, history, stopped):
            assert (await stream.until("event")).sequence == last
            assert [frame.kind for frame in stream.frames].count("gap") == 1


# -- HEAD


async def test_a_head_request_is_answered_like_a_get_without_a_stream(opened: Opened) -> None:
    gateway = await opened()
    answer: httpx.Response = await gateway.client.head(WATCH, params={"event_type": "reading"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == b""
    await until(lambda: len(gateway.gateway.streams) == 0, "no stream was opened")
