"""How many events a second can be published, one a request and many a request."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from bench import nchan, percentiles, store_limit
from bench.event import body, rendered
from bench.figure import Bound, Figure, Finding, Role, Row, Skipped, Wrong
from bench.load import send
from bench.question import Question, Sizes, Subject
from bench.site import Site, busy_sec, open_naive, open_noop
from store.embedded import EmbeddedServer

_NOOP = "a route that does nothing, in the same server and layers"
_NAIVE = "starlette and a redis-py call an event"
_NCHAN = "nchan, which keeps in memory only"
_SINGLE = Row(
    "publish/64",
    "publish, 64 connections, fsync",
    "events/s",
    (Bound(at_least=12_000), Bound(at_least=0.55, of="limit")),
    {"limit": _NOOP, "naive": _NAIVE, "peer": _NCHAN},
)
_LATENCY = Row(
    "publish/64-p99",
    "publish, 64 connections: p99",
    "ms",
    (Bound(at_most=25),),
    {"limit": _NOOP, "naive": _NAIVE, "peer": _NCHAN},
    more=False,
)
_ALONE = Row(
    "publish/1",
    "publish, 1 connection",
    "events/s",
    (),
    {"limit": _NOOP, "naive": _NAIVE, "peer": _NCHAN},
)
_BULK = Row(
    "publish/bulk",
    "publish in bulk, 100 a request",
    "events/s",
    (Bound(at_least=120_000),),
    {"limit": "hiredis on sockets, XADD by the hundred, fsync", "naive": _NAIVE},
)
_MANY = 100
_LANES = 8


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    async with subject.open() as site:
        for figure in await _singles(site, "playhead", sizes.singles):
            yield figure
        if subject.target is None:
            yield await _bulk(site, "playhead", sizes.bulk)
        else:
            yield Skipped(_BULK.name, "the Aviso API has no request for many")


async def compare(sizes: Sizes) -> AsyncIterator[Finding]:
    async with open_noop() as noop:
        for figure in await _singles(noop, "limit", sizes.singles):
            yield figure
    yield await _stored(sizes.bulk)
    async with open_naive() as naive:
        for figure in await _singles(naive, "naive", sizes.singles // 3):
            yield figure
        yield await _bulk(naive, "naive", sizes.modest)
    if why := nchan.missing():
        yield Skipped("the peer of publish", why)
        return
    async with nchan.open_nchan() as peer:
        for figure in await _singles(peer, "peer", sizes.singles):
            yield figure


async def _singles(site: Site, role: Role, events: int) -> list[Figure]:
    requests = [site.dialect.publish(number) for number in range(events)]
    gateway = site.busy_sec()
    store = busy_sec(site.store_process_id) if site.store_process_id else 0.0
    seconds, took = await send(site.address, 64, iter(requests))
    if len(seconds) != events:
        raise Wrong(f"{len(seconds)} of {events} publications were answered")
    details = {"server us/event": (site.busy_sec() - gateway) / events * 1e6}
    if site.store_process_id:
        details["store us/event"] = (busy_sec(site.store_process_id) - store) / events * 1e6
    found = percentiles.of_ms([seconds], 1000)
    alone = requests[: min(2000, events)]
    one, one_took = await send(site.address, 1, iter(alone))
    return [
        Figure(_SINGLE.key, role, events / took, details),
        Figure(_LATENCY.key, role, percentiles.p99(found), {}, found),
        Figure(_ALONE.key, role, len(alone) / one_took, {}, percentiles.of_ms([one], 1000)),
    ]


async def _bulk(site: Site, role: Role, events: int) -> Figure:
    starts = range(0, events, _MANY)
    requests = [site.dialect.publish_many(map(body, range(each, each + _MANY))) for each in starts]
    gateway = site.busy_sec()
    _, took = await send(site.address, _LANES, iter(requests))
    details = {"server us/event": (site.busy_sec() - gateway) / events * 1e6}
    return Figure(_BULK.key, role, events / took, details)


async def _stored(events: int) -> Figure:
    """Entries a second that the store takes when nobody looks at them before."""
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedServer(Path(folder) / "data") as server:
            fields = ((b"t", b"bench.r0.1", b"d", rendered(number)) for number in range(events))
            took = await asyncio.to_thread(store_limit.write_all, server.url, b"raw", fields, _MANY)
    return Figure(_BULK.key, "limit", events / took)


QUESTION = Question((_SINGLE, _LATENCY, _ALONE, _BULK), measure, compare)
