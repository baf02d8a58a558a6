"""How fast a hundred events of one topic are found among a million."""

import asyncio
import statistics
from collections.abc import AsyncIterator

from bench import replay, store_limit
from bench.event import NEEDLES, REGIONS, needles, rendered
from bench.figure import Bound, Figure, Finding, Row
from bench.load import Watcher
from bench.question import Question, Sizes, Subject
from bench.site import Site, open_naive

_ROW = Row(
    "selective/last",
    "selective replay, 100 of 1 M, to the last byte",
    "ms",
    (Bound(at_most=10),),
    {
        "limit": "hiredis on a socket, which is told the ids",
        "naive": "sse-starlette, which looks at each event",
    },
    more=False,
)
_PUBLISH = Row(
    "selective/publish",
    "publish with the index of topics (before: without)",
    "events/s",
    (Bound(at_least=0.85, of="before"),),
)
_TIMES = 20


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    async with subject.open() as site:
        took = await replay.fill(site, 0, sizes.events)
        yield Figure(_PUBLISH.key, "playhead", sizes.events / took)
        found = await last_byte_ms(site, 0, sizes.events, _TIMES)
        details = {"worst ms": max(found), "first ms": found[0]}
        yield Figure(_ROW.key, "playhead", statistics.median(found), details)
        if site.store_url:
            every = sizes.events // NEEDLES
            ids = await asyncio.to_thread(store_limit.ids_of, site.store_url, every)
            limits = [
                await asyncio.to_thread(store_limit.read_entries, site.store_url, ids) * 1000
                for _ in range(_TIMES)
            ]
            yield Figure(_ROW.key, "limit", statistics.median(limits))


async def compare(sizes: Sizes) -> AsyncIterator[Finding]:
    async with open_naive() as naive:
        # Written past the server, which would take long; events of a topic are one in 10,000.
        events = ((b"event", rendered(number)) for number in range(sizes.events))
        await asyncio.to_thread(store_limit.write_all, naive.store_url, b"naive", events, 500)
        opening = naive.dialect.replay({"region": "r7", "track": 7})
        took = await replay.run(naive, [Watcher(opening, sizes.events // 10_000, waits=False)])
        yield Figure(_ROW.key, "naive", took * 1000)


async def last_byte_ms(site: Site, first: int, after: int, times: int) -> list[float]:
    """What it takes each time to be sent the needles that lie between, out of the whole log."""
    opening = site.dialect.replay({"region": f"r{first % REGIONS}", "track": after})
    wanted = len(needles(first, after))
    return [
        await replay.run(site, [Watcher(opening, wanted, waits=False)]) * 1000 for _ in range(times)
    ]


QUESTION = Question(
    (_ROW, _PUBLISH),
    measure,
    compare,
    only_here="another server's log cannot be filled for it in time",
)
