"""Live reading: what follows a stream, and what stops following it."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from store.connection import Connection
from store.event import ORIGIN, Entry, Gap, Position, StreamKey
from store.log import EventLog
from store.tail import Tail


class Deaf:
    """A listener that nothing comes to."""

    async def on_entries(self, entries: Sequence[Entry], position: Position, epoch: bytes) -> None:
        raise AssertionError("nothing was published")

    def on_gap(self, gap: Gap, before: Position) -> None:
        raise AssertionError("nothing was trimmed")

    def on_reset(self) -> None:
        raise AssertionError("nothing was replaced")


async def test_a_reader_ends_whenever_its_last_stream_is_left(
    connection: Connection, log: EventLog
) -> None:
    """Symptom: a watch closed just after it was opened, and the process did not end at SIGTERM.

    redis-py can swallow a cancellation, and the reader then waited for streams for ever.
    """
    deaths: list[BaseException] = []
    for step in range(1000):
        tail = Tail(connection, log, on_failure=deaths.append)
        stream = StreamKey(str(uuid4()), "kind")
        await tail.follow(stream, ORIGIN, b"", Deaf())
        for _ in range(step % 50):
            await asyncio.sleep(0)
        tail.leave(stream)
        async with asyncio.timeout(10):
            await tail.close()
    assert deaths == []
