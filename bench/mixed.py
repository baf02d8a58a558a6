"""How late live events are while somebody replays a long past beside."""

import asyncio
from collections.abc import AsyncIterator

from bench import percentiles, replay
from bench.fanout import at_rate
from bench.figure import Bound, Figure, Finding, Row, Wrong
from bench.load import Watcher
from bench.question import Question, Sizes, Subject
from bench.site import Site

_LIVE = Row(
    "mixed/live-p99",
    "live p99 beside a running replay (limit: without)",
    "ms",
    (Bound(at_most=2, of="limit"),),
    {"limit": "the same without a replay"},
    more=False,
)
_REPLAY = Row(
    "mixed/replay",
    "replay beside 1,000 watchers × 10/s (limit: without)",
    "events/s",
    (),
    {"limit": "the same without watchers"},
)
_RATE = 10


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    async with subject.open() as site:
        await replay.fill(site, 0, sizes.events)
        sequence = site.dialect.sequence
        first = Watcher(site.dialect.replay(), sizes.events, sequence=sequence, waits=False)
        took = await replay.run(site, [first])
        yield Figure(_REPLAY.key, "limit", sizes.events / took)
        if first.last is None:
            raise Wrong("a replay was sent without the numbers of its events")
        past = site.dialect.replay(from_id="0", to_id=str(first.last))
        _, found = await at_rate(site, sizes.watchers, _RATE, sizes.paced_sec)
        yield Figure(_LIVE.key, "limit", percentiles.p99(found), {}, found)
        rates: list[float] = []
        replaying = asyncio.create_task(_replay_on(site, past, sizes.events, rates))
        try:
            _, found = await at_rate(site, sizes.watchers, _RATE, sizes.paced_sec)
        finally:
            replaying.cancel()
            await asyncio.wait([replaying])
        if not replaying.cancelled():
            replaying.result()
        yield Figure(_LIVE.key, "playhead", percentiles.p99(found), {}, found)
        if rates:
            yield Figure(_REPLAY.key, "playhead", sum(rates) / len(rates))


async def _replay_on(site: Site, past: bytes, events: int, rates: list[float]) -> None:
    """Replay the events that were there at first, again and again."""
    while True:
        rate, _ = await replay.once(site, past, events)
        rates.append(rate)


QUESTION = Question((_LIVE, _REPLAY), measure)
