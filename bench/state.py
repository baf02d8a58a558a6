"""The state of a time out of a long history, as lines over HTTP.

A fleet of vehicles whose changes are spread over days, with a snapshot at the quarter of
an hour before each time that is asked for, as the default schedule would have taken it.
"""

import asyncio
import random
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench.figure import Figure, Finding, Row, Wrong
from bench.history import History, write_history
from bench.load import request
from bench.question import Question, Sizes, Subject
from bench.site import Site
from store.connection import Connection
from store.embedded import EmbeddedServer
from store.event import rfc3339
from store.objects import Objects

_TIMES = 10
_MB = 1 << 20


@dataclass(frozen=True)
class Answer:
    """One answer: seconds to its first byte of rows and to its last byte, and what came."""

    first_sec: float
    last_sec: float
    rows: int
    size: int


async def ask(port: int, at_ms: int) -> Answer:
    """The state of a time. Raises AssertionError when it is not whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * _MB)
    started = time.perf_counter()
    writer.write(request("GET", f"/v1/state?at={rfc3339(at_ms)}", b"", "Connection: close"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    first_sec, rows, size, tail = 0.0, 0, 0, b""
    while part := await reader.read(_MB):
        first_sec = first_sec or time.perf_counter() - started
        rows += part.count(b'{"table":')
        size += len(part)
        tail = (tail + part)[-400:]
    last_sec = time.perf_counter() - started
    writer.close()
    found = re.search(rb'\{"complete":true,.*"rows":(\d+)\}', tail)
    assert found is not None, tail
    return Answer(first_sec, last_sec, int(found[1]), size)


_LAST = Row("state/last", "state of a time, 100,000 rows: to the last byte", "ms", more=False)
_FIRST = Row("state/first", "state of a time, 100,000 rows: to the first row", "ms", more=False)
_MANY = Row("state/many", "50 states at once: until all are answered", "s", more=False)
_ROWS = 100_000
_DAYS = 30
_AT_ONCE = 50


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    """Build the history, start a gateway on it and ask."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        objects = Objects(f"file://{folder}/snapshots")
        async with EmbeddedServer(data) as server:
            connection = Connection(server.url)
            await connection.open()
            history = await write_history(
                connection, objects, changes=sizes.history, rows=_ROWS, days=_DAYS, times=_TIMES
            )
            await connection.close()
        config = {"snapshots": {"url": objects.url}, "tenants": {"default": history.tenant}}
        async with subject.open(config, data) as site:
            for figure in await _ask_all(site, history):
                yield figure


async def _ask_all(site: Site, history: History) -> list[Figure]:
    cold = await ask(site.port, history.times[0])
    answers = [await ask(site.port, each) for each in history.times]
    before_mb = site.memory_kb() / 1024
    started = time.perf_counter()
    picks = random.Random(1)  # the same every time
    many = await asyncio.gather(
        *(ask(site.port, picks.choice(history.times)) for _ in range(_AT_ONCE))
    )
    many_sec = time.perf_counter() - started
    if {each.rows for each in (*answers, *many)} != {history.rows}:
        raise Wrong("a state has not as many rows as the table")
    firsts, lasts = (
        [each * 1000 for each in part]
        for part in zip(*((each.first_sec, each.last_sec) for each in answers), strict=True)
    )
    details = {
        "first of all ms": cold.last_sec * 1000,
        "worst ms": max(lasts),
        "MiB": answers[0].size / _MB,
        "gateway MiB": before_mb,
    }
    return [
        Figure(_LAST.key, "playhead", statistics.median(lasts), details),
        Figure(_FIRST.key, "playhead", statistics.median(firsts)),
        Figure(_MANY.key, "playhead", many_sec, {"gateway MiB after": site.memory_kb() / 1024}),
    ]


QUESTION = Question((_LAST, _FIRST, _MANY), measure, only_here="states are Playhead's own")
