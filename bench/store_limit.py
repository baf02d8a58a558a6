"""The limit of the store: what a socket and hiredis read and write when nobody does anything else."""

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeAlias, cast
from urllib.parse import unquote, urlsplit

import hiredis

from bench.event import EVENT_TYPE, TENANT
from bench.figure import Wrong
from store.connection import log_key
from store.event import StreamKey
from store.topic_index import indexed_keys

LOG = log_key(StreamKey(TENANT, EVENT_TYPE)).encode()
LOG_KEYS = tuple(key.encode() for key in indexed_keys(StreamKey(TENANT, EVENT_TYPE)))
_PAGE = b"500"
_READ = 1 << 20
_LANES = 8
_PATIENCE_SEC = 300.0
_Command: TypeAlias = tuple[bytes, ...]
# Its own types allow for commands of one word only.
_pack: Callable[[_Command], bytes] = cast(Any, hiredis.pack_command)


class Line:
    """One connection that waits: for a thread of its own."""

    def __init__(self, url: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(unquote(urlsplit(url).path))
        self._reader = hiredis.Reader()

    def send(self, *commands: _Command) -> None:
        self._socket.sendall(b"".join(_pack(each) for each in commands))

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


def ids_of(url: str, every: int) -> list[bytes]:
    """The ids of the entries whose sequence is a multiple of that."""
    line = Line(url)
    ids: list[bytes] = []
    last = b"-"
    while page := line.ask(b"XRANGE", LOG, last, b"+", b"COUNT", b"2000"):
        assert isinstance(page, list)
        ids += [each for each, _ in page if not int(each.partition(b"-")[2]) % every]
        last = b"(" + page[-1][0]
    line.close()
    return ids


def write_all(url: str, key: bytes, fields: Iterable[tuple[bytes, ...]], at_once: int) -> float:
    """The seconds it takes to store entries, so many at a time, on a few connections in turn."""
    lines = [Line(url) for _ in range(_LANES)]
    entries = iter(fields)
    took = 0.0
    while batches := list(filter(None, (list(islice(entries, at_once)) for _ in lines))):
        packed = [[(b"XADD", key, b"*", *each) for each in batch] for batch in batches]
        started = time.perf_counter()
        for line, commands in zip(lines, packed, strict=False):
            line.send(*commands)
        for line, commands in zip(lines, packed, strict=False):
            for _ in commands:
                line.receive()
        took += time.perf_counter() - started
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


def usec_a_call(url: str, commands: Iterable[tuple[bytes, ...]]) -> float:
    """The store's own time for each of these commands, which must be of one kind, in us."""
    line = Line(url)
    line.ask(b"CONFIG", b"RESETSTAT")
    name = b""
    for command in commands:
        name = command[0].lower()
        if not line.ask(*command):
            raise Wrong(f"the store found nothing for {command!r}")
    told = line.ask(b"INFO", b"commandstats")
    assert isinstance(told, bytes)
    found = re.search(rb"cmdstat_%b:.*usec_per_call=([0-9.]+)" % name, told)
    assert found is not None
    line.close()
    return float(found[1])


def function_name(url: str, start: bytes) -> bytes:
    """The whole name of a function of the gateway, which has a digest at its end."""
    line = Line(url)
    told = repr(line.ask(b"FUNCTION", b"LIST")).encode()
    line.close()
    found = re.search(rb"'(%b_[0-9a-f]+)'" % start, told)
    if found is None:
        raise Wrong(f"the store has no function {start.decode()}")
    return found[1]
