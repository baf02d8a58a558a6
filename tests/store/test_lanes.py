"""Appends that are gathered: whatever the server does, each caller learns what became of its own."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from store.errors import StoreError, StoreUnavailable
from store.event import Appended, Draft, Envelope, StreamKey
from store.lanes import BATCH_BYTES, BATCH_DRAFTS, Lanes, Outcome

STREAM = StreamKey("tenant", "kind")
ENVELOPE = Envelope(b"", b"")


class Server:
    """Stores one batch after the other, as they come, and answers late; some it does not take."""

    def __init__(self, seed: int, failures: float) -> None:
        self.rng = random.Random(seed)
        self.failures = failures
        self.stored: list[bytes] = []
        self.batches: list[int] = []
        self.under_way = self.most_under_way = 0

    async def store(
        self, stream: StreamKey, envelope: Envelope, drafts: Sequence[Draft]
    ) -> list[Outcome]:
        assert 0 < len(drafts) <= BATCH_DRAFTS
        assert len(drafts) == 1 or sum(draft.size for draft in drafts) <= BATCH_BYTES
        self.batches.append(len(drafts))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        first = len(self.stored) + 1
        fails = self.rng.random() < self.failures
        if not fails:
            self.stored += [draft.topic for draft in drafts]
        for _ in range(self.rng.randint(0, 5)):
            await asyncio.sleep(0)
        self.under_way -= 1
        if fails:
            raise self.rng.choice(
                [StoreUnavailable("away"), StoreError("refused"), ValueError("a defect")]
            )
        return [Appended(1, first + at, b"e") for at in range(len(drafts))]


def drafts_of(caller: int, count: int, size: int = 1) -> list[Draft]:
    return [Draft(b"%d/%d" % (caller, number), b"x" * size) for number in range(count)]


@pytest.mark.parametrize("failures", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(20))
async def test_each_caller_is_told_of_its_own_drafts_in_their_order(
    seed: int, failures: float
) -> None:
    server = Server(seed, failures)
    lanes = Lanes(server.store)
    rng = random.Random(seed)

    async def call(caller: int) -> None:
        drafts = drafts_of(caller, rng.choice([1, 1, 1, 7, 90, 600, 1300]))
        for _ in range(rng.randint(0, 20)):
            await asyncio.sleep(0)
        outcomes = await lanes.append(STREAM, ENVELOPE, drafts)
        assert len(outcomes) == len(drafts)
        sequences = []
        for draft, outcome in zip(drafts, outcomes, strict=True):
            if isinstance(outcome, Appended):
                sequences.append(outcome.sequence)
                assert server.stored[outcome.sequence - 1] == draft.topic
            else:
                assert isinstance(outcome, StoreError)
                assert draft.topic not in server.stored
        assert sequences == sorted(sequences)

    async with asyncio.timeout(60):
        await asyncio.gather(*(call(caller) for caller in range(60)))
    assert len(server.stored) == len(set(server.stored))
    assert server.most_under_way <= 2


async def test_a_few_drafts_wait_for_the_answer_and_go_together() -> None:
    server = Server(1, 0)
    lanes = Lanes(server.store)
    calls = [lanes.append(STREAM, ENVELOPE, drafts_of(caller, 1)) for caller in range(64)]
    await asyncio.gather(*calls)
    assert server.batches == [64]
    assert server.most_under_way == 1


async def test_many_drafts_are_on_their_way_while_others_are_being_stored() -> None:
    asked: list[int] = []
    answered = asyncio.Event()

    async def store(_: StreamKey, __: Envelope, drafts: Sequence[Draft]) -> list[Outcome]:
        asked.append(len(drafts))
        await answered.wait()
        return [Appended(1, 1, b"e") for _ in drafts]

    lanes = Lanes(store)
    calls = []
    for caller, (count, under_way) in enumerate([(1, 1), (99, 1), (1, 2), (500, 2)]):
        append = lanes.append(STREAM, ENVELOPE, drafts_of(caller, count))
        calls.append(asyncio.create_task(append))
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(asked) == under_way
    answered.set()
    await asyncio.gather(*calls)
    assert asked == [1, 100, 500]


async def test_large_drafts_go_in_several_batches_in_their_order() -> None:
    server = Server(1, 0)
    lanes = Lanes(server.store)
    drafts = drafts_of(1, 5, BATCH_BYTES // 2)
    await asyncio.gather(*(lanes.append(STREAM, ENVELOPE, drafts) for _ in range(3)))
    topics = [draft.topic for draft in drafts]
    assert server.stored == topics * 3
    assert set(server.batches) == {1}


async def test_who_gives_up_leaves_the_others_and_its_drafts_to_be_stored() -> None:
    server = Server(1, 0)
    lanes = Lanes(server.store)
    first = asyncio.create_task(lanes.append(STREAM, ENVELOPE, drafts_of(1, 700)))
    second = asyncio.create_task(lanes.append(STREAM, ENVELOPE, drafts_of(2, 3)))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 3
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(server.stored) == 703


async def test_an_answer_for_too_few_keeps_nobody_waiting() -> None:
    async def store(
        stream: StreamKey, envelope: Envelope, drafts: Sequence[Draft]
    ) -> list[Outcome]:
        return [Appended(1, 1, b"e")]

    async with asyncio.timeout(30):
        outcomes = await Lanes(store).append(STREAM, ENVELOPE, drafts_of(1, 2))
    assert [str(outcome) for outcome in outcomes] == [
        "the append failed: 1 outcomes of 2 drafts"
    ] * 2
