"""The limit of the store: what a socket and hiredis read and write when nobody does anything else."""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import unquote, urlsplit

import hiredis

from bench.event import EVENT_TYPE, TENANT, rendered
from bench.figure import Wrong
from store.connection import log_key
from store.embedded import EmbeddedServer
from store.event import StreamKey

LOG = log_key(StreamKey(TENANT, EVENT_TYPE)).encode()
_PAGE = b"500"
_READ = 1 << 20
_LANES = 8
_PATIENCE_SEC = 300.0


class Line:
    """One connection that waits: for a thread of its own."""

    def __init__(self, url: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(unquote(urlsplit(url).path))
        self._reader = hiredis.Reader()

    def send(self, *commands: tuple[bytes, ...]) -> None:
        self._socket.sendall(b"".join(hiredis.pack_command(each) for each in commands))

    def receive(self) -> object:
        answer: object = self._reader.gets()
        while answer is False:
            self._reader.feed(self._socket.recv(_READ))
            answer = self._reader.gets()
        if isinstance(answer, hiredis.ReplyError):
            raise Wrong(f"the store refused a command: {answer}")
        return answer

    def ask(self, *command: bytes) -> object:
        self.send(command)
        return self.receive()

    def close(self) -> None:
        self._socket.close()


def read_all(url: str, events: int) -> float:
    """The seconds it takes to read the log, page by page, from its start to its end."""
    line = Line(url)
    last, count = b"-", 0
    started = time.perf_counter()
    while page := line.ask(b"XRANGE", LOG, last, b"+", b"COUNT", _PAGE):
        assert isinstance(page, list)
        count += len(page)
        last = b"(" + page[-1][0]
    took = time.perf_counter() - started
    line.close()
    if count != events:
        raise Wrong(f"the log has {count} entries of {events}")
    return took


def read_entries(url: str, ids: Sequence[bytes]) -> float:
    """The seconds it takes to read entries whose ids are known, all in one go."""
    line = Line(url)
    started = time.perf_counter()
    line.send(*((b"XRANGE", LOG, each, each) for each in ids))
    found = [line.receive() for _ in ids]
    took = time.perf_counter() - started
    line.close()
    if not all(found):
        raise Wrong("an entry that was there is not")
    return took


def ids_of(url: str, sequences: Sequence[int]) -> list[bytes]:
    """The ids of the entries with those numbers, counted from 1 in a log that begins with 1."""
    line = Line(url)
    wanted, ids, last = set(sequences), [], b"-"
    while page := line.ask(b"XRANGE", LOG, last, b"+", b"COUNT", b"2000"):
        assert isinstance(page, list)
        ids += [each for each, _ in page if int(each.partition(b"-")[2]) in wanted]
        last = b"(" + page[-1][0]
    line.close()
    return ids


async def write_all(server: EmbeddedServer, events: int, size: int) -> float:
    """The seconds it takes to store events, so many at a time, on a few connections in turn."""
    lines = [Line(server.url) for _ in range(_LANES)]
    event = rendered(1)
    batch = [(b"XADD", b"raw", b"*", b"t", b"e", b"d", event)] * size
    started = time.perf_counter()
    for start in range(0, events, size * _LANES):
        at_work = lines[: -(-min(events - start, size * _LANES) // size)]
        for line in at_work:
            line.send(*batch)
        for line in at_work:
            for _ in batch:
                line.receive()
    took = time.perf_counter() - started
    for line in lines:
        line.close()
    return took


async def settle(url: str) -> None:
    """Return when the store no longer rewrites its file of changes, which takes a processor."""
    line = Line(url)
    async with asyncio.timeout(_PATIENCE_SEC):
        while b"aof_rewrite_in_progress:1" in cast(bytes, line.ask(b"INFO", b"persistence")):
            await asyncio.sleep(0.1)
    line.close()


def usec_of_calls(url: str) -> float:
    """The time in us that the store has spent on commands since it was last reset here."""
    line = Line(url)
    text = line.ask(b"INFO", b"commandstats")
    assert isinstance(text, bytes)
    names = (b"cmdstat_fcall", b"cmdstat_xr", b"cmdstat_xread", b"cmdstat_hget", b"cmdstat_xinfo")
    total = 0.0
    for row in text.splitlines():
        if row.startswith(names):
            total += float(row.partition(b"usec=")[2].partition(b",")[0])
    line.ask(b"CONFIG", b"RESETSTAT")
    line.close()
    return total
