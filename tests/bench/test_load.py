"""The load client counts what comes, and a frame that is lost or comes twice is found out."""

import asyncio

import pytest

from bench.event import NEEDLES, STORED_BYTES, body, needles, rendered, stamped
from bench.figure import Wrong
from bench.load import Requester, Watcher, send
from bench.site import open_raw

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
_OPENING = b'event: live-notification\ndata: {"type":"connection_established"}\n\n'


def _frame(number: int, sequence: int | None = None) -> bytes:
    sequence = number + 1 if sequence is None else sequence
    payload = b'{"number":%d,"sent":"0000000000000001","text":"x"}' % number
    event = b'{"data":{"payload":%b},"id":"bench@%d"}' % (payload, sequence)
    return b"event: live-notification\nid: %d-e\ndata: %b\n\n" % (sequence, event)


def _watcher(wanted: int, *, close: bool = False) -> Watcher:
    return Watcher(b"", wanted, sequence=b'"id":"bench@', close=close)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 151, 400, 100_000])
async def test_frames_are_counted_however_the_reads_cut_them(size: int) -> None:
    text = _HEAD + _OPENING + b"".join(map(_frame, range(20)))
    watcher = _watcher(20, close=True)
    for start in range(0, len(text), size):
        watcher.data_received(text[start : start + size])
    assert watcher.count == 20
    assert list(watcher.numbers) == list(range(20))
    # The server's number is looked for in each read, which may be too small for it.
    assert watcher.last == 20 or size < len(_frame(0))
    watcher.verify(range(20))


async def test_chunked_frames_are_counted() -> None:
    watcher = _watcher(3, close=True)
    watcher.data_received(_HEAD)
    for number in range(3):
        frame = _frame(number)
        watcher.data_received(b"%x\r\n%b\r\n" % (len(frame), frame))
    watcher.verify(range(3))


async def test_a_stream_is_open_when_its_first_frame_is_whole() -> None:
    watcher = _watcher(1)
    watcher.data_received(_HEAD + _OPENING[:-1])
    assert not watcher.opened.done()
    watcher.data_received(_OPENING[-1:])
    assert watcher.opened.done()


async def test_a_stream_that_is_refused_is_wrong() -> None:
    watcher = _watcher(1)
    watcher.data_received(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(Wrong, match="404"):
        await watcher.opened


@pytest.mark.parametrize("close", [True, False])
async def test_a_frame_that_is_lost_and_one_that_comes_twice_are_wrong(close: bool) -> None:
    watcher = _watcher(4, close=close)
    for number in (0, 1, 1, 3):
        watcher.data_received(_frame(number))
    with pytest.raises(Wrong):
        watcher.verify(range(4))


async def test_a_frame_too_many_is_wrong() -> None:
    watcher = _watcher(2)
    for number in range(3):
        watcher.data_received(_frame(number))
    with pytest.raises(Wrong, match="3 frames came of 2"):
        watcher.verify()


async def test_who_looks_closely_misses_a_number_that_was_replaced() -> None:
    watcher = _watcher(2, close=True)
    watcher.data_received(_frame(0))
    watcher.data_received(_frame(7, sequence=2))
    with pytest.raises(Wrong, match="lost"):
        watcher.verify(range(2))


async def test_a_request_that_is_refused_is_wrong() -> None:
    client = Requester()
    client.data_received(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}")
    with pytest.raises(Wrong, match="503"):
        await client.done


async def test_a_request_for_many_that_is_answered_in_part_is_wrong() -> None:
    """Its status is 200 also when nothing was stored: refusing would be the quickest of all."""
    answer = b'{"status":"partial","accepted":0,"rejected":1}'
    client = Requester()
    client.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
    with pytest.raises(Wrong, match="partial"):
        await client.done


async def test_each_request_is_answered_once_and_timed() -> None:
    async with open_raw() as raw:
        seconds, took = await send(raw.address, 4, (raw.dialect.publish(n) for n in range(100)))
    assert len(seconds) == 100
    assert 0 < max(seconds) <= took


async def test_a_replay_of_the_raw_server_is_counted_whole() -> None:
    async with open_raw() as raw:
        watcher = Watcher(raw.dialect.replay({"events": 2000}), 2000, waits=False)
        loop = asyncio.get_running_loop()
        await loop.create_connection(watcher.itself, *raw.address)
        await watcher.done
        watcher.transport.abort()
        watcher.verify()


def test_a_stamp_changes_no_length() -> None:
    publication = body(12345)
    assert len(stamped(publication, 1_234_567)) == len(publication)
    assert b'"sent":"0000000001234567"' in stamped(publication, 1_234_567)


def test_an_event_has_the_size_of_the_targets() -> None:
    assert len(rendered(543_210)) == STORED_BYTES


def test_there_are_a_hundred_needles_in_any_log() -> None:
    assert len(needles(0, 1_000_000)) == len(needles(1_000_000, 5_000_000)) == NEEDLES
    assert len(needles(0, 50)) == 50
