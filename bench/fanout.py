"""How fast what is published reaches many watchers, and how late it is there.

One event a time: the next is published when the last watcher has the one before. At a rate: what is
due is published whether or not the one before has arrived; late is counted from when it was due.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from bench import nchan, percentiles
from bench.dialect import RAW_JOINED
from bench.event import now_us, stamped
from bench.figure import Bound, Figure, Finding, Point, Role, Row, Skipped, Wrong
from bench.load import (
    PATIENCE_SEC,
    Requester,
    Watcher,
    await_all,
    connect,
    leave,
    send,
    send_at_rate,
    watch,
)
from bench.question import Question, Sizes, Subject
from bench.site import Site, open_naive, open_raw

_RAW = "a uvloop protocol that only writes"
_NAIVE = "sse-starlette, a queue and a task a watcher"
_EVENLY = "at the same rate"
_SINGLY = Row(
    "fanout/one",
    "fan-out, 1,000 watchers, one event a time",
    "frames/s",
    (Bound(at_least=0.65, of="limit"),),
    {"limit": _RAW, "naive": _NAIVE, "peer": "nchan"},
)
_SINGLY_P99 = Row(
    "fanout/one-p99",
    "fan-out, 1,000 watchers, one event a time: p99",
    "ms",
    (Bound(at_most=1, of="peer"),),
    {"limit": _RAW, "naive": _NAIVE, "peer": "nchan"},
    more=False,
)
_FLOOD = Row(
    "fanout/flood",
    "fan-out, 1,000 watchers, 4 publish as fast as they can",
    "frames/s",
    (),
    {"limit": f"{_RAW}, joined", "naive": _NAIVE, "peer": "nchan"},
)
# The last event may come a little later than the first one did.
_SLACK = 0.01
_CROWD_RATE = 100
_CROWD = Row(
    "fanout/crowd",
    "fan-out, 5,000 watchers × 100 events/s",
    "frames/s",
    (Bound(at_least=5000 * _CROWD_RATE, slack=_SLACK),),
    {
        "limit": f"{_RAW}, joined",
        "naive": f"{_NAIVE}: as fast as it can",
        "peer": "nchan: as fast as it can",
    },
)
_CROWD_P99 = Row(
    "fanout/crowd-p99",
    "fan-out, 5,000 watchers × 100 events/s: p99",
    "ms",
    (Bound(at_most=120),),
    {"limit": f"{_RAW}, joined"},
    more=False,
)
_FILTERS = 100
_FILTERED = Row(
    "fanout/filters",
    "the same with 100 different filters",
    "frames/s",
    (Bound(at_least=0.7 * 5000 * _CROWD_RATE),),
)
_FILTERED_P99 = Row(
    "fanout/filters-p99", "the same with 100 different filters: p99", "ms", more=False
)
_PACED_RATE = 10
_PACED = Row(
    "fanout/paced-p99",
    "publish to received, 1,000 watchers × 10/s: p99",
    "ms",
    (Bound(at_most=20),),
    {"limit": f"{_RAW}, {_EVENLY}", "naive": f"{_NAIVE}, {_EVENLY}", "peer": f"nchan, {_EVENLY}"},
    more=False,
)
_GROWTH = "fan-out, one event a time (frames/s)"
_GROWTH_P99 = "fan-out, one event a time: p99 (ms)"
_FEWEST_ROUNDS = 20
# One watcher in so many looks at each frame's number and time.
_LOOKS = 20
_GRACE_SEC = 0.2


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    async with subject.open() as site:
        for figure in await singly(site, "playhead", sizes.watchers, sizes.rounds):
            yield figure
        yield await _flood(site, "playhead", sizes.watchers, sizes.rounds)
        yield await _paced(site, "playhead", sizes)
        rate, found = await at_rate(site, sizes.crowd, _CROWD_RATE, sizes.crowd_sec)
        yield Figure(_CROWD.key, "playhead", rate)
        yield Figure(_CROWD_P99.key, "playhead", percentiles.p99(found), {}, found)
        rate, found = await at_rate(
            site, sizes.crowd, _CROWD_RATE, sizes.crowd_sec, filters=_FILTERS
        )
        yield Figure(_FILTERED.key, "playhead", rate)
        yield Figure(_FILTERED_P99.key, "playhead", percentiles.p99(found), {}, found)
        async for point in _grow(site, "playhead", sizes.audiences, sizes.rounds):
            yield point


async def compare(sizes: Sizes) -> AsyncIterator[Finding]:
    async with open_raw() as raw:
        async for finding in _all(raw, "limit", sizes):
            yield finding
    async with open_raw(RAW_JOINED) as joined:
        yield await _flood(joined, "limit", sizes.watchers, sizes.rounds)
        rate, found = await at_rate(joined, sizes.crowd, _CROWD_RATE, sizes.crowd_sec)
        yield Figure(_CROWD.key, "limit", rate)
        yield Figure(_CROWD_P99.key, "limit", percentiles.p99(found), {}, found)
    async with open_naive() as naive:
        async for finding in _all(naive, "naive", sizes):
            yield finding
        yield await _crowd_unpaced(naive, "naive", sizes)
    if why := nchan.missing():
        yield Skipped("the peer of fan-out", why)
        return
    async with nchan.open_nchan() as peer:
        async for finding in _all(peer, "peer", sizes):
            yield finding
        yield await _crowd_unpaced(peer, "peer", sizes)


async def _all(site: Site, role: Role, sizes: Sizes) -> AsyncIterator[Finding]:
    for figure in await singly(site, role, sizes.watchers, sizes.rounds):
        yield figure
    if role != "limit":
        yield await _flood(site, role, sizes.watchers, sizes.rounds)
    yield await _paced(site, role, sizes)
    async for point in _grow(site, role, sizes.audiences, sizes.rounds):
        yield point


async def _grow(
    site: Site, role: Role, audiences: Sequence[int], rounds: int
) -> AsyncIterator[Point]:
    for watchers in audiences:
        events = max(_FEWEST_ROUNDS, rounds * 300 // max(watchers, 300))
        frames, latency = await singly(site, role, watchers, events)
        yield Point(_GROWTH, role, watchers, frames.value)
        yield Point(_GROWTH_P99, role, watchers, latency.value)


class _Round:
    """Tells when the last watcher has the event that was published last."""

    def __init__(self) -> None:
        self._missing = 0
        self._done: asyncio.Future[None] | None = None

    def begin(self, frames: int) -> asyncio.Future[None]:
        self._missing = frames
        self._done = asyncio.get_running_loop().create_future()
        return self._done

    def on_frames(self, count: int) -> None:
        self._missing -= count
        if not self._missing and self._done is not None:
            self._done.set_result(None)


def _audience(
    site: Site, watchers: int, events: int, round_: _Round | None = None, filters: int = 0
) -> list[Watcher]:
    dialect = site.dialect
    # Different filters that all want every event.
    openings = [dialect.watch({"track": {"gte": -each}}) for each in range(1, filters + 1)]
    openings = openings or [dialect.watch()]
    return [
        Watcher(
            openings[number % len(openings)],
            events,
            sequence=dialect.sequence,
            close=number % _LOOKS == 0,
            on_frames=None if round_ is None else round_.on_frames,
        )
        for number in range(watchers)
    ]


async def _dismiss(watchers: Sequence[Watcher], events: int) -> None:
    """Wait for a frame too many, and look whether each had all of them once."""
    await asyncio.sleep(_GRACE_SEC)
    leave(watchers)
    for watcher in watchers:
        watcher.verify(range(events))


async def singly(site: Site, role: Role, watchers: int, events: int) -> tuple[Figure, Figure]:
    """Frames/s and latency when each event has reached all before the next is published."""
    publications = [site.dialect.publish(number) for number in range(events)]
    round_ = _Round()
    audience = _audience(site, watchers, events, round_)
    await watch(site.address, audience)
    publisher = await connect(site.address, Requester)
    server, client = site.busy_sec(), time.process_time()
    started = time.perf_counter()
    try:
        for publication in publications:
            async with asyncio.timeout(PATIENCE_SEC):
                received = round_.begin(watchers)
                await publisher.ask(stamped(publication, now_us()))
                await received
    except TimeoutError:
        raise Wrong(f"a watcher of {watchers} lacks the event that was published last") from None
    took = time.perf_counter() - started
    frames = watchers * events
    details = {
        "server us/frame": (site.busy_sec() - server) / frames * 1e6,
        "client us/frame": (time.process_time() - client) / frames * 1e6,
    }
    publisher.close()
    await _dismiss(audience, events)
    found = percentiles.of_ms([each.latencies_us for each in audience[::_LOOKS]], 1e-3)
    return (
        Figure(_SINGLY.key, role, frames / took, details),
        Figure(_SINGLY_P99.key, role, percentiles.p99(found), {}, found),
    )


async def at_rate(
    site: Site, watchers: int, rate: float, seconds: float, *, filters: int = 0
) -> tuple[float, dict[str, float]]:
    """Frames/s between the first event's arrival at all and the last one's, and how late all were."""
    events = int(rate * seconds)
    publications = [site.dialect.publish(number) for number in range(events)]
    audience = _audience(site, watchers, events, filters=filters)
    await watch(site.address, audience)
    await send_at_rate(site.address, publications, rate)
    await await_all(audience)
    await _dismiss(audience, events)
    lookers = audience[::_LOOKS]
    first, last = (max(each.latencies_us[at] for each in lookers) for at in (0, -1))
    took = (events - 1) / rate + max(0, last - first) / 1e6
    found = percentiles.of_ms([each.latencies_us for each in lookers], 1e-3)
    return watchers * (events - 1) / took, found


async def _flood(site: Site, role: Role, watchers: int, events: int) -> Figure:
    """Frames/s when four publish as fast as they are answered; frames may be joined."""
    publications = [site.dialect.publish(number) for number in range(events)]
    audience = _audience(site, watchers, events)
    await watch(site.address, audience)
    started = time.perf_counter()
    await send(site.address, 4, iter(publications))
    took = await await_all(audience) - started
    await _dismiss(audience, events)
    return Figure(_FLOOD.key, role, watchers * events / took)


async def _paced(site: Site, role: Role, sizes: Sizes) -> Figure:
    _, found = await at_rate(site, sizes.watchers, _PACED_RATE, sizes.paced_sec)
    return Figure(_PACED.key, role, percentiles.p99(found), {}, found)


async def _crowd_unpaced(site: Site, role: Role, sizes: Sizes) -> Figure:
    """As many watchers and as many frames/s as there come: it cannot keep up with the rate."""
    frames, _ = await singly(site, role, sizes.crowd, 20)
    return Figure(_CROWD.key, role, frames.value)


QUESTION = Question(
    (_SINGLY, _SINGLY_P99, _FLOOD, _CROWD, _CROWD_P99, _FILTERED, _FILTERED_P99, _PACED),
    measure,
    compare,
)
