"""How fast the past is sent: to one client, to many at once, and through a filter."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from bench import nchan, store_limit
from bench.event import body, needles
from bench.figure import Bound, Figure, Finding, Row, Skipped
from bench.load import Watcher, await_all, leave, send
from bench.question import Question, Sizes, Subject
from bench.site import Site, open_naive

_READER = "hiredis on a socket, which reads the same log"
_NAIVE = "sse-starlette, a ServerSentEvent an event"
_ONE = Row(
    "replay/one",
    "replay to one client over HTTP, unfiltered, 1 M events",
    "events/s",
    (Bound(at_least=0.75, of="limit"),),
    {"limit": _READER, "naive": _NAIVE, "peer": "nchan, from memory"},
)
_MANY = Row(
    "replay/many",
    "replay, 16 at once, in sum",
    "events/s",
    (Bound(at_least=0.6, of="limit"),),
    {"limit": _READER},
)
_TENTH = Row(
    "replay/filtered",
    "replay with a filter on every field, 1 in 10 matches",
    "events/s",
    (Bound(at_least=300_000),),
    {"limit": _READER, "naive": _NAIVE},
)
AT_ONCE = 16
# The limit and the replay take turns; the best of each counts.
_TIMES = 3
_BATCH = 100
# What 1 in 10 events is: the region tells, and the other condition holds for all.
_FILTER: dict[str, object] = {"region": "r3", "track": {"gte": 0}}


async def fill(site: Site, first: int, after: int) -> float:
    """Publish the events of these numbers, needles with the track `after`; the seconds it takes."""
    dialect = site.dialect
    found = needles(first, after)

    def many() -> Iterator[bytes]:
        for start in range(first, after, _BATCH):
            numbers = range(start, min(start + _BATCH, after))
            yield dialect.publish_many(
                body(n, track=after if n in found else None) for n in numbers
            )

    if dialect.publishing_many is None:
        _, took = await send(site.address, 32, map(dialect.publish, range(first, after)))
    else:
        _, took = await send(site.address, 8, many())
    if site.store_url:
        await store_limit.settle(site.store_url)
    return took


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    events = sizes.events
    async with subject.open() as site:
        await fill(site, 0, events)
        fastest = {row.key: 0.0 for row in (_ONE, _TENTH, _MANY)}
        limit = 0.0
        costs: dict[str, float] = {}
        for _ in range(_TIMES):
            if site.store_url:
                took = await asyncio.to_thread(store_limit.read_all, site.store_url, events)
                limit = max(limit, events / took)
            rate, costs = await once(site, site.dialect.replay(), events)
            fastest[_ONE.key] = max(rate, fastest[_ONE.key])
            rate, _ = await once(site, site.dialect.replay(_FILTER), events, events // 10)
            fastest[_TENTH.key] = max(rate, fastest[_TENTH.key])
        fastest[_MANY.key] = await _together(site, events)
        for key, value in fastest.items():
            yield Figure(key, "playhead", value, costs if key == _ONE.key else {})
            if limit:
                yield Figure(key, "limit", limit)


async def compare(sizes: Sizes) -> AsyncIterator[Finding]:
    events = sizes.modest
    async with open_naive() as naive:
        await fill(naive, 0, events)
        rate, _ = await once(naive, naive.dialect.replay(), events)
        yield Figure(_ONE.key, "naive", rate)
        narrowed = naive.dialect.replay({"region": "r3"})
        rate, _ = await once(naive, narrowed, events, events // 10)
        yield Figure(_TENTH.key, "naive", rate)
    if why := nchan.missing():
        yield Skipped("the peer of replay", why)
        return
    events = min(events, nchan.MOST_A_SECOND)
    async with nchan.open_nchan() as peer:
        await fill(peer, 0, events)
        rate, _ = await once(peer, peer.dialect.replay(), events)
        yield Figure(_ONE.key, "peer", rate)


async def once(
    site: Site, opening: bytes, events: int, wanted: int | None = None
) -> tuple[float, dict[str, float]]:
    """Events looked through a second by a replay that sends so many of them, and its costs."""
    whole = wanted is None
    watcher = Watcher(
        opening,
        events if wanted is None else wanted,
        sequence=site.dialect.sequence if whole else None,
        waits=False,
    )
    server, client = site.busy_sec(), time.process_time()
    took = await run(site, [watcher])
    return events / took, {
        "MB/s": watcher.bytes / took / 1e6,
        "server us/event": (site.busy_sec() - server) / events * 1e6,
        "client us/event": (time.process_time() - client) / events * 1e6,
    }


async def run(site: Site, watchers: list[Watcher]) -> float:
    """The seconds from the connection of all to the last frame of the last."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for watcher in watchers:
        await loop.create_connection(watcher.itself, *site.address)
    ended = await await_all(watchers)
    leave(watchers)
    for watcher in watchers:
        watcher.verify()
    return ended - started


async def _together(site: Site, events: int) -> float:
    opening, sequence = site.dialect.replay(), site.dialect.sequence
    watchers = [Watcher(opening, events, sequence=sequence, waits=False) for _ in range(AT_ONCE)]
    took = await run(site, watchers)
    return AT_ONCE * events / took


QUESTION = Question((_ONE, _MANY, _TENTH), measure, compare)
