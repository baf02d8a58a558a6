"""What a watcher costs that waits: memory of the server's processes, once thousands are open."""

from collections.abc import AsyncIterator

from bench import nchan
from bench.figure import Bound, Figure, Finding, Role, Row, Skipped
from bench.load import Watcher, await_all, leave, send, watch
from bench.question import Question, Sizes, Subject
from bench.site import Site, open_naive, open_raw, untold

_ROW = Row(
    "idle/memory",
    "idle watchers, each of 10,000 in one process",
    "kB",
    (Bound(at_most=14),),
    {
        "limit": "a uvloop protocol that only writes",
        "naive": "sse-starlette, a queue and a task a watcher",
        "peer": "nchan",
    },
    more=False,
)


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    if why := untold():
        yield Skipped(_ROW.name, why)
        return
    async with subject.open() as site:
        yield await _each(site, "playhead", sizes.idle)


async def compare(sizes: Sizes) -> AsyncIterator[Finding]:
    if untold():
        return
    async with open_raw() as raw:
        yield await _each(raw, "limit", sizes.idle)
    async with open_naive() as naive:
        yield await _each(naive, "naive", sizes.idle)
    if why := nchan.missing():
        yield Skipped("the peer of idle", why)
        return
    async with nchan.open_nchan() as peer:
        yield await _each(peer, "peer", sizes.idle)


async def _each(site: Site, role: Role, watchers: int) -> Figure:
    """All get an event at the end, which shows that they were watchers."""
    await send(site.address, 1, iter([site.dialect.publish(0)]))
    before = site.memory_kb()
    audience = [Watcher(site.dialect.watch(), 1) for _ in range(watchers)]
    await watch(site.address, audience)
    idle = site.memory_kb()
    await send(site.address, 1, iter([site.dialect.publish(1)]))
    await await_all(audience)
    leave(audience)
    for watcher in audience:
        watcher.verify()
    details = {"after an event kB": (site.memory_kb() - before) / watchers}
    return Figure(_ROW.key, role, (idle - before) / watchers, details)


QUESTION = Question((_ROW,), measure, compare, only_here="its memory cannot be seen from here")
