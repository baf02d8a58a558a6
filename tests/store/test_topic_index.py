"""A reading of a few topics has what a scan has, whatever became of the log; and is quick about it."""

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from store.connection import Connection, index_keys, log_key, meta_key
from store.errors import StoreError
from store.event import (
    ORIGIN,
    Appended,
    ChangeDraft,
    Changes,
    Draft,
    Envelope,
    Gap,
    Idempotency,
    Mark,
    Position,
    Retention,
    StreamKey,
)
from store.log import EventLog
from store.topic_index import labels_of
from tests.servers import Valkey

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
BLOCK = 1024


def twins() -> tuple[bytes, bytes]:
    """Two topics of one label."""
    seen: dict[bytes, bytes] = {}
    for number in count():
        topic = b"twin.%d" % number
        other = seen.setdefault(labels_of([topic]), topic)
        if other != topic:
            return other, topic
    raise AssertionError


# From one in two to one in many hundreds, and one that never comes.
WEIGHTS = {b"hot": 500, b"warm": 60, b"mild": 20, twins()[0]: 5, twins()[1]: 5, b"rare": 1}
TOPICS = [*WEIGHTS, b"never"]


@pytest.fixture
def stream() -> StreamKey:
    return StreamKey(str(uuid4()), "kind")


async def append_as_an_older_version(
    connection: Connection, log: EventLog, stream: StreamKey, topics: list[bytes]
) -> None:
    ms, last = (await log.head(stream)).last
    ids = [Position(ms, sequence).entry_id for sequence in range(last + 1, last + 1 + len(topics))]
    key = log_key(stream)
    await connection.pipeline(
        *(("XADD", key, each, topic, b"{}") for each, topic in zip(ids, topics, strict=True))
    )


class Span(NamedTuple):
    stream: StreamKey
    after: Position
    until: Position
    epoch: bytes
    size: int


class Site:
    """One log, to which anything is done at random."""

    def __init__(self, connection: Connection, log: EventLog, seed: int) -> None:
        self.connection = connection
        self.log = log
        self.stream = StreamKey(str(uuid4()), "kind")
        self.random = random.Random(seed)
        self.mark: Mark | None = None

    def topics(self, size: int) -> list[bytes]:
        found = self.random.choices([*WEIGHTS], [*WEIGHTS.values()], k=size)
        return [
            each + b">1.0,2.0,3.0,4.0" if self.random.random() < 0.1 else each for each in found
        ]

    async def append(self) -> None:
        """Of several times; some are refused, some are stored already."""
        drafts = []
        for topic in self.topics(self.random.choice((1, 3, 400, 700))):
            time_ms = self.random.choice((None,) * 20 + (1000,))
            promise = None
            if self.random.random() < 0.05:
                promise = Idempotency(b"%d" % self.random.randrange(20), b"f")
            drafts.append(Draft(topic, b'{"id":"', time_ms, promise))
        await self.log.append(self.stream, ENVELOPE, drafts)

    async def capture(self) -> None:
        times = sorted(self.random.randrange(1000, 1100) for _ in range(300))
        topics = self.topics(len(times))
        drafts = [
            ChangeDraft(ms, topic, b'{"id":"') for ms, topic in zip(times, topics, strict=True)
        ]
        lsn = self.mark.lsn + 1 if self.mark else 1
        changes = Changes("source", self.mark, Mark(1, lsn, 0), drafts)
        self.mark = (await self.log.append_changes(self.stream, ENVELOPE, changes)).mark

    async def append_as_an_older_version(self) -> None:
        topics = self.topics(self.random.choice((1, BLOCK)))
        await append_as_an_older_version(self.connection, self.log, self.stream, topics)

    async def delete(self) -> None:
        head = await self.log.head(self.stream)
        for _ in range(20):
            sequence = self.random.randrange(head.floor, head.last.sequence + 1)
            await self.log.delete(self.stream, sequence)

    async def trim(self) -> None:
        kept = self.random.choice((10, 500, 1500, 3000))
        await self.log.trim(self.stream, Retention(max_count=kept))

    async def wipe(self) -> None:
        await self.log.wipe(self.stream)

    async def destroy(self) -> None:
        keys = [log_key(self.stream), meta_key(self.stream), *index_keys(self.stream)]
        lost = self.random.choice((keys[:1], keys[:2], keys[1:2], keys, keys[2:3], keys[3:4]))
        await self.connection.execute("DEL", *lost)

    async def step(self) -> None:
        steps: list[tuple[int, Callable[[], object]]] = [
            (12, self.append),
            (4, self.capture),
            (2, self.delete),
            (3, self.trim),
            (1, self.append_as_an_older_version),
            (1, self.wipe),
            (1, self.destroy),
        ]
        [step] = self.random.choices([each for _, each in steps], [weight for weight, _ in steps])
        await step()  # type: ignore[misc]

    async def check(self) -> None:
        """Somewhere, for some topics: the same events, gaps and end."""
        head = await self.log.head(self.stream)
        pair = sorted(self.random.randrange(head.last.sequence + 1) for _ in range(2))
        places = [await self.log.before_sequence(self.stream, each) for each in pair]
        after, until = (ORIGIN if each is None else each for each in places)
        if self.random.random() < 0.7:
            until = head.last
        if self.random.random() < 0.3:
            after = ORIGIN
        topics = self.random.sample(TOPICS, self.random.choice((1, 1, 2, 4)))
        size = self.random.choice((100, 500))
        epoch = head.epoch if self.random.random() < 0.9 else b"another"
        span = Span(self.stream, after, until, epoch, size)
        assert await read(self.log, span, topics, topics) == await read(self.log, span, topics)
        entries = await self.connection.execute("XRANGE", log_key(self.stream), "-", "+")
        kept = [Position.parse(entry_id).sequence for entry_id, _ in entries]
        for sequence in (*pair, head.floor, head.last.sequence + 1):
            before = await self.log.before_sequence(self.stream, sequence)
            first = next((each for each in kept if each >= sequence), None)
            assert (None if before is None else before.sequence + 1) == first


async def read(
    log: EventLog, span: Span, wanted: Sequence[bytes], topics: Sequence[bytes] = ()
) -> tuple[list[bytes], list[Gap], Position]:
    """The ids of the events wanted, the gaps told, and where the reading ended."""
    stream, after, until, epoch, size = span
    found, gaps, position = [], [], after
    pages = log.range(stream, after, until, epoch=epoch, page_size=size, topics=topics)
    async for page in pages:
        assert len(page.entries) <= size
        if page.gap is not None:
            gaps.append(page.gap)
        for entry_id, (topic, _) in page.entries:
            assert position < Position.parse(entry_id) <= page.position
            position = Position.parse(entry_id)
            if topic.partition(b">")[0] in wanted:
                found.append(entry_id)
        position = page.position
    return found, gaps, position


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_became_of_the_log_the_index_finds_what_a_scan_finds(
    connection: Connection, log: EventLog, seed: int
) -> None:
    site = Site(connection, log, seed)
    await site.append()
    for _ in range(20):
        await site.step()
        await site.check()
        await site.check()


async def fill(log: EventLog, stream: StreamKey, topics: list[bytes]) -> None:
    outcomes = await log.append(stream, ENVELOPE, [Draft(topic, b'{"id":"') for topic in topics])
    assert all(isinstance(outcome, Appended) for outcome in outcomes)


async def entries_read(log: EventLog, stream: StreamKey, topics: list[bytes]) -> tuple[int, int]:
    """How many events a reading was given, and in how many pages."""
    head = await log.head(stream)
    pages = log.range(stream, ORIGIN, head.last, epoch=head.epoch, page_size=500, topics=topics)
    sizes = [len(page.entries) async for page in pages]
    return sum(sizes), len(sizes)


async def test_the_events_of_a_rare_topic_are_read_without_the_others(
    log: EventLog, stream: StreamKey
) -> None:
    topics = [b"rare" if number % 500 == 7 else b"other" for number in range(5 * BLOCK + 100)]
    await fill(log, stream, topics)
    assert await entries_read(log, stream, [b"rare"]) == (11, 1)
    assert await entries_read(log, stream, [b"none"]) == (0, 1)
    assert await entries_read(log, stream, [b"other"]) == (len(topics), 13)


async def test_where_a_topic_is_frequent_its_neighbours_are_read_too_and_elsewhere_not(
    log: EventLog, stream: StreamKey
) -> None:
    quiet = [b"rare" if number == 7 else b"other" for number in range(2 * BLOCK)]
    await fill(log, stream, quiet + [b"rare"] * BLOCK + quiet + quiet)
    read, _ = await entries_read(log, stream, [b"rare"])
    assert BLOCK + 3 <= read <= 2 * BLOCK


async def test_a_topic_is_known_without_its_shape(log: EventLog, stream: StreamKey) -> None:
    await fill(log, stream, [b"area.x>1.0,2.0,3.0,4.0", *[b"other"] * BLOCK, b"area.x"])
    assert await entries_read(log, stream, [b"area.x"]) == (2, 1)


async def test_what_an_older_version_appended_is_scanned_and_the_rest_is_not(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    await fill(log, stream, [b"other"])
    await append_as_an_older_version(connection, log, stream, [b"other"] * BLOCK)
    await fill(log, stream, [b"other"] * BLOCK * 2 + [b"rare"])
    read, _ = await entries_read(log, stream, [b"rare"])
    assert BLOCK < read < BLOCK + 1000


async def test_the_index_goes_with_the_events(
    connection: Connection, log: EventLog, stream: StreamKey
) -> None:
    topics, labels, times = index_keys(stream)

    async def sizes() -> tuple[int, int, int]:
        return tuple(
            await connection.pipeline(("HLEN", topics), ("STRLEN", labels), ("STRLEN", times))
        )

    await fill(log, stream, [b"t"] * (5 * BLOCK + 3))
    assert await sizes() == (1 + 2 * 5, 2 * 3, 6 * 3)
    await log.trim(stream, Retention(max_count=BLOCK + 4))
    assert await sizes() == (1 + 2 * 2, 2 * 3, 6 * 3)
    await log.trim(stream, Retention(max_count=BLOCK + 3))
    assert await sizes() == (1 + 2, 2 * 3, 6 * 3)
    await log.wipe(stream)
    assert await sizes() == (1, 0, 0)


async def test_after_a_power_cut_the_index_has_what_the_log_has(tmp_path: Path) -> None:
    server = Valkey(tmp_path)
    server.start()
    connection = Connection(server.url)
    await connection.open()
    log = EventLog(connection, idempotency_window_ms=1000)
    stream = StreamKey(str(uuid4()), "kind")
    chosen = random.Random(1)

    async def publish() -> None:
        try:
            while True:
                topics = chosen.choices([*WEIGHTS], [*WEIGHTS.values()], k=90)
                drafts = [Draft(topic, b'{"id":"') for topic in topics]
                outcomes = await log.append(stream, ENVELOPE, drafts)
                if not all(isinstance(outcome, Appended) for outcome in outcomes):
                    return
        except StoreError:
            return

    publishers = [asyncio.create_task(publish()) for _ in range(4)]
    while (await log.head(stream)).last.sequence < 3 * BLOCK:
        await asyncio.sleep(0)
    server.kill()
    await asyncio.gather(*publishers)
    server.start()
    await fill(log, stream, [b"rare"])
    head = await log.head(stream)
    for topic in TOPICS:
        span = Span(stream, ORIGIN, head.last, head.epoch, 500)
        assert await read(log, span, [topic], [topic]) == await read(log, span, [topic])
    assert await entries_read(log, stream, [b"never"]) == (0, 1)
    await connection.close()
    server.stop()
