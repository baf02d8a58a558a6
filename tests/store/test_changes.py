"""Captured changes are stored once, whole, and in order of time, whoever writes and however often."""

from uuid import uuid4

import pytest

from store.connection import Connection, log_key, meta_key, rows_key
from store.event import (
    ORIGIN,
    ChangeDraft,
    Changes,
    Draft,
    Envelope,
    KeptRow,
    Mark,
    Position,
    StreamKey,
)
from store.log import EventLog

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')


@pytest.fixture
def stream() -> StreamKey:
    return StreamKey(str(uuid4()), "change")


def changes(
    *times_ms: int,
    mark: Mark,
    expected: Mark | None = None,
    source: str = "fleet",
    opened: int | None = None,
    rows: tuple[KeptRow, ...] = (),
) -> Changes:
    drafts = [ChangeDraft(ms, b"t", b'{"n":%d,"id":"' % n) for n, ms in enumerate(times_ms)]
    return Changes(source, expected, mark, drafts, opened, rows)


async def stored(connection: Connection, stream: StreamKey) -> list[bytes]:
    entries = await connection.execute("XRANGE", log_key(stream), "-", "+")
    return [event for _, (_, event) in entries]


async def open_sequence(
    connection: Connection, stream: StreamKey, source: str = "fleet"
) -> int | None:
    found = await connection.execute("HGET", meta_key(stream), f"open:{source}")
    return None if found is None else int(found)


async def test_changes_are_stored_with_their_time_and_a_dense_sequence(
    log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    mark = Mark(0, 0x10, 1)
    found = await log.append_changes(stream, ENVELOPE, changes(1000, 2000, mark=mark))
    assert (found.stored, found.mark, found.position) == (True, mark, Position(2000, 2))
    assert await stored(connection, stream) == [
        b'{"n":0,"id":"1","time":"1970-01-01T00:00:01.000Z"}',
        b'{"n":1,"id":"2","time":"1970-01-01T00:00:02.000Z"}',
    ]
    assert await log.streams(stream.tenant) == ["change"]
    assert (await log.head(stream)).epoch == found.epoch


async def test_changes_sent_twice_are_stored_once(
    log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    mark = Mark(0, 0x10, 0)
    await log.append_changes(stream, ENVELOPE, changes(1000, mark=mark))
    again = await log.append_changes(stream, ENVELOPE, changes(1000, mark=mark))
    assert (again.stored, again.mark) == (False, mark)
    assert len(await stored(connection, stream)) == 1
    after = await log.append_changes(
        stream, ENVELOPE, changes(2000, mark=Mark(0, 0x20, 0), expected=mark)
    )
    assert after.stored
    assert len(await stored(connection, stream)) == 2


async def test_sources_of_one_stream_have_marks_of_their_own(
    log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    for source in ("one", "other"):
        found = await log.append_changes(
            stream, ENVELOPE, changes(1000, mark=Mark(0, 5, 0), source=source)
        )
        assert found.stored
    assert len(await stored(connection, stream)) == 2


async def test_time_never_goes_back(log: EventLog, stream: StreamKey) -> None:
    first = await log.append_changes(stream, ENVELOPE, changes(5000, 3000, mark=Mark(0, 1, 0)))
    assert first.position == Position(5000, 2)
    late = changes(1000, mark=Mark(0, 2, 0), expected=Mark(0, 1, 0))
    assert (await log.append_changes(stream, ENVELOPE, late)).position == Position(5000, 3)


async def test_a_transaction_in_several_calls_is_marked_open_until_its_end(
    log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    first = changes(1, 2, 2, mark=Mark(0, 2, 1), opened=2)
    await log.append_changes(stream, ENVELOPE, first)
    assert await open_sequence(connection, stream) == 2
    more = changes(2, 2, mark=Mark(0, 2, 3), expected=first.mark, opened=0)
    await log.append_changes(stream, ENVELOPE, more)
    assert await open_sequence(connection, stream) == 2
    last = changes(2, 3, mark=Mark(0, 3, 0), expected=more.mark)
    await log.append_changes(stream, ENVELOPE, last)
    assert await open_sequence(connection, stream) is None


async def test_a_transaction_has_one_time_in_however_many_calls(
    log: EventLog, stream: StreamKey
) -> None:
    first = changes(5, 5, mark=Mark(0, 2, 1), opened=1)
    await log.append_changes(stream, ENVELOPE, first)
    # Told again by a process that knows of a later time before which nothing may be put.
    more = changes(9, 9, 12, mark=Mark(0, 3, 0), expected=first.mark)
    found = await log.append_changes(stream, ENVELOPE, more)
    assert found.position == Position(12, 5)
    assert await log.at_time(stream, 11) == Position(5, 4)


async def test_the_newest_event_of_a_row_is_found_and_forgotten(
    log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    rows = (
        KeptRow("t", b"1", 2, True),
        KeptRow("t", b"2", 1, True),
        KeptRow("other", b"1", 1, True),
    )
    first = changes(7, 8, mark=Mark(0, 1, 1), rows=rows)
    await log.append_changes(stream, ENVELOPE, first)

    async def kept(table: str) -> dict[bytes, bytes]:
        reply = await connection.execute("HGETALL", rows_key(stream, "fleet", table))
        return dict(zip(reply[::2], reply[1::2], strict=True))

    assert await kept("t") == {b"1": b"8-2", b"2": b"7-1"}
    second = changes(
        9,
        *(),
        mark=Mark(0, 2, 0),
        expected=first.mark,
        rows=(KeptRow("t", b"1", 1, False), KeptRow("other", b"", 1, False)),
    )
    await log.append_changes(stream, ENVELOPE, second)
    assert await kept("t") == {b"2": b"7-1"}
    assert await kept("other") == {}


async def test_a_log_that_is_gone_takes_its_mark_with_it(
    log: EventLog, connection: Connection, stream: StreamKey
) -> None:
    mark = Mark(0, 9, 0)
    first = await log.append_changes(stream, ENVELOPE, changes(1000, mark=mark))
    await connection.execute("DEL", log_key(stream))
    refused = await log.append_changes(
        stream, ENVELOPE, changes(1000, mark=Mark(0, 10, 0), expected=mark)
    )
    assert (refused.stored, refused.mark) == (False, None)
    assert refused.epoch != first.epoch
    again = await log.append_changes(stream, ENVELOPE, changes(1000, mark=Mark(0, 10, 0)))
    assert again.stored
    assert again.position == Position(1000, 1)


async def test_changes_and_notifications_share_a_stream(log: EventLog, stream: StreamKey) -> None:
    await log.append(stream, ENVELOPE, [Draft(b"t", b'{"id":"')])
    head = await log.head(stream)
    found = await log.append_changes(stream, ENVELOPE, changes(1000, mark=Mark(0, 1, 0)))
    assert found.position == Position(head.last.ms, 2)
    assert found.epoch == head.epoch
    assert head.last > ORIGIN


@pytest.mark.parametrize(
    "mark", [Mark(0, 0, 0), Mark(1, 0x16B374D848, 7), Mark(2**31, 2**63, 2**31)]
)
def test_a_mark_is_read_as_it_was_written_and_texts_sort_as_marks_do(mark: Mark) -> None:
    assert Mark.parse(mark.text) == mark
    assert mark.text < Mark(mark.generation, mark.lsn, mark.number + 1).text
    assert Mark.parse(b"") is None
