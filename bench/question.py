"""How a question is asked: of which Playhead, of what size, and what it finds."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.dialect import AVISO
from bench.event import EVENT_TYPE
from bench.figure import Finding, Row, Wrong
from bench.load import Address, Requester, connect, request
from bench.site import CONFIG, ROOT, Site, open_site


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked. The defaults are those of the targets; `QUICK` is for a look."""

    events: int = 1_000_000
    log_sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 5_000_000)
    singles: int = 60_000
    bulk: int = 500_000
    lookups: int = 2000
    watchers: int = 1000
    rounds: int = 300
    crowd: int = 5000
    crowd_sec: float = 10
    paced_sec: float = 20
    idle: int = 10_000
    audiences: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    # What the naive server and the peer are asked, which would take too long for the same.
    modest: int = 100_000
    play_sec: float = 30
    play_watchers: int = 50
    drift_sec: float | None = None
    captured: int = 300_000
    follow_sec: float = 15
    history: int = 1_200_000
    written: int = 30_000


QUICK = Sizes(
    events=50_000,
    log_sizes=(10_000, 50_000),
    singles=5000,
    bulk=50_000,
    lookups=200,
    watchers=200,
    rounds=40,
    crowd=500,
    crowd_sec=2,
    paced_sec=3,
    idle=500,
    audiences=(100, 300),
    modest=5000,
    play_sec=3,
    captured=20_000,
    follow_sec=3,
    history=100_000,
    written=5000,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """The Playhead that is asked: the code of a tree, or whatever runs at an address."""

    tree: Path = ROOT
    target: Address | None = None

    def open(
        self, settings: Mapping[str, object] = CONFIG, data: Path | None = None
    ) -> AbstractAsyncContextManager[Site]:
        if self.target is not None:
            return _there(self.target)
        return open_site(settings, tree=self.tree, data=data)


@asynccontextmanager
async def _there(address: Address) -> AsyncIterator[Site]:
    # What an earlier question left there would be replayed to the next one.
    wipe = request(
        "DELETE",
        "/api/v1/admin/wipe/stream",
        b'{"stream_name":"%b"}' % EVENT_TYPE.encode(),
        "Content-Type: application/json",
    )
    client = await connect(address, Requester)
    # A server that has no such stream yet says so in one way or another.
    with suppress(Wrong):
        await client.ask(wipe)
    client.close()
    yield Site(address, AVISO)


@dataclass(frozen=True, slots=True)
class Question:
    """`measure` asks Playhead, `compare` the limit, the naive way and the peer.

    `only_here` tells why it cannot be asked of another server.
    """

    rows: tuple[Row, ...]
    measure: Callable[[Subject, Sizes], AsyncIterator[Finding]]
    compare: Callable[[Sizes], AsyncIterator[Finding]] | None = None
    only_here: str | None = None
