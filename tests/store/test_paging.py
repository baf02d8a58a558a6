"""How much is read at a time: many small events, few large ones."""

import pytest

from store.event import ORIGIN, Draft, Envelope, StreamKey
from store.log import FIRST_COUNT, READ_BYTES, EventLog, next_count

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')


async def page_sizes(log: EventLog, stream: StreamKey, size: int, count: int) -> list[int]:
    """Append so many events of this size; how many each page of them has."""
    draft = Draft(b"topic", b'{"text":"%b","id":"' % (b"x" * size))
    outcomes = await log.append(stream, ENVELOPE, [draft] * count)
    assert len(outcomes) == count
    head = await log.head(stream)
    pages = log.range(stream, ORIGIN, head.last, epoch=head.epoch, page_size=500)
    return [len(page.entries) async for page in pages]


async def test_pages_of_small_events_grow_to_the_size_asked_for(log: EventLog, tenant: str) -> None:
    sizes = await page_sizes(log, StreamKey(tenant, "small"), size=400, count=1200)
    assert sizes == [FIRST_COUNT, 128, 500, 500, 56]


async def test_pages_of_large_events_have_about_a_megabyte(log: EventLog, tenant: str) -> None:
    """A page of 500 events of 16 MB would take 8 GB, once a reader."""
    sizes = await page_sizes(log, StreamKey(tenant, "large"), size=READ_BYTES // 4, count=30)
    assert sizes == [FIRST_COUNT, 3, 3, 3, 3, 2]


@pytest.mark.parametrize(("size", "expected"), [(10, 80), (READ_BYTES, 1), (READ_BYTES * 16, 1)])
def test_what_is_read_next_follows_from_what_was_read(size: int, expected: int) -> None:
    entries = [(b"1-1", (b"topic", b"x" * size))] * 10
    assert next_count(entries, 10, 500) == expected


def test_after_an_empty_read_as_many_are_asked_for_again() -> None:
    assert next_count([], 128, 500) == 128
