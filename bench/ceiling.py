"""What the load client can do at most: against a server that only answers and writes from memory."""

from collections.abc import AsyncIterator

from bench import percentiles, replay
from bench.figure import Figure, Finding, Role, Row
from bench.load import Watcher, send
from bench.question import Question, Sizes, Subject
from bench.site import open_raw

_RAW: dict[Role, str] = {"limit": "a uvloop protocol that only writes"}
_FRAMES = Row(
    "ceiling/frames", "the client's ceiling: frames on one connection", "frames/s", (), _RAW
)
_REQUESTS = Row("ceiling/requests", "the client's ceiling: 64 connections", "requests/s", (), _RAW)
# In pages of the raw server.
_PAGE = 500


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    async with open_raw() as raw:
        events = sizes.events // _PAGE * _PAGE
        watcher = Watcher(raw.dialect.replay({"events": events}), events, waits=False)
        took = await replay.run(raw, [watcher])
        yield Figure(_FRAMES.key, "limit", events / took)
        requests = [raw.dialect.publish(number) for number in range(sizes.singles)]
        seconds, took = await send(raw.address, 64, iter(requests))
        found = percentiles.of_ms([seconds], 1000)
        yield Figure(_REQUESTS.key, "limit", len(requests) / took, {}, found)


QUESTION = Question((_FRAMES, _REQUESTS), measure)
