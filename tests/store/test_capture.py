"""Every committed change of a database is in the log once, whole and in order."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from store.captured import read_captured
from store.connection import Connection, log_key
from tests.captures import Json, Site, eventually


@pytest.fixture
async def site(database: str, connection: Connection) -> AsyncIterator[Site]:
    made = Site(database, connection)
    yield made
    assert not made.failures, "a defect"


def facts(change: Json) -> tuple[object, object, object]:
    return change["key"], change["before"], change["after"]


async def test_a_change_is_an_event_with_all_there_is_to_know_of_it(site: Site) -> None:
    await site.run("CREATE TABLE vehicle (id int PRIMARY KEY, name text)")
    async with site.capturing():
        await site.run("INSERT INTO vehicle VALUES (1, 'a \"b\"')")
        [change] = await site.changes()
        [event] = await site.events()
    assert await site.topics() == ["change.public%2Evehicle.c.1"]
    assert event["data"]["identifier"] == {"key": "1", "op": "c", "table": "public.vehicle"}
    assert event["type"] == "test.change"
    assert event["id"] == "change@1"
    assert change["before"] is None
    assert change["after"] == {"id": 1, "name": 'a "b"'}
    assert change["key"] == {"id": 1}
    assert (change["index"], change["last"]) == (0, True)
    assert change["source"] == site.settings.name
    assert isinstance(change["xid"], int)
    assert "old_key" not in change
    assert change["committed"].startswith(event["time"][:-1])
    assert list(change) == [
        *("before", "after", "key", "xid", "lsn", "index", "last", "source", "committed")
    ]


async def test_every_operation_is_captured_in_the_order_of_the_commits(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    async with site.capturing():
        await site.run(
            "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
            "UPDATE t SET v = 'c' WHERE id = 1",
            "UPDATE t SET id = 3 WHERE id = 2",
            "DELETE FROM t WHERE id = 1",
            "TRUNCATE t",
        )
        changes = await site.changes()
    operations = [topic.split(".")[2] for topic in await site.topics()]
    assert operations == ["c", "c", "u", "u", "d", "t"]
    assert [facts(change) for change in changes] == [
        ({"id": 1}, None, {"id": 1, "v": "a"}),
        ({"id": 2}, None, {"id": 2, "v": "b"}),
        ({"id": 1}, None, {"id": 1, "v": "c"}),
        ({"id": 3}, {"id": 2}, {"id": 3, "v": "b"}),
        ({"id": 1}, {"id": 1}, None),
        (None, None, None),
    ]
    assert [change.get("old_key") for change in changes] == [
        None,
        None,
        None,
        {"id": 2},
        None,
        None,
    ]
    assert [(change["index"], change["last"]) for change in changes] == [
        *((0, False), (1, True)),
        *[(0, True)] * 4,
    ]


async def test_with_full_identity_the_old_row_is_whole(site: Site) -> None:
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL"
    )
    async with site.capturing():
        await site.run(
            "INSERT INTO t VALUES (1, 'a')", "UPDATE t SET v = NULL, id = 2", "DELETE FROM t"
        )
        changes = await site.changes()
    assert [facts(change) for change in changes] == [
        ({"id": 1}, None, {"id": 1, "v": "a"}),
        ({"id": 2}, {"id": 1, "v": "a"}, {"id": 2, "v": None}),
        ({"id": 2}, {"id": 2, "v": None}, None),
    ]
    assert changes[1]["old_key"] == {"id": 1}


async def test_rows_without_a_key_are_named_by_all_they_are(site: Site) -> None:
    await site.run("CREATE TABLE t (a int, b text); ALTER TABLE t REPLICA IDENTITY FULL")
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1, 'x'), (1, 'x')", "UPDATE t SET b = 'y'")
        changes = await site.changes()
    row, later = {"a": 1, "b": "x"}, {"a": 1, "b": "y"}
    assert [facts(change) for change in changes] == [
        *[(row, None, row)] * 2,
        *[(later, row, later)] * 2,
    ]
    assert {change.get("old_key", {}).get("b") for change in changes[2:]} == {"x"}
    keys = {topic.split(".")[3] for topic in await site.topics()}
    assert len(keys) == 2
    assert all(len(key) == 32 for key in keys)


async def test_a_key_of_several_columns_is_an_object_and_an_array_in_the_topic(site: Site) -> None:
    await site.run("CREATE TABLE t (v int, b text, a int, PRIMARY KEY (a, b))")
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (0, 'x.y', 7)")
        [change] = await site.changes()
        [event] = await site.events()
    assert change["key"] == {"b": "x.y", "a": 7}
    assert event["data"]["identifier"]["key"] == '["x.y",7]'
    assert await site.topics() == ['change.public%2Et.c.["x%2Ey",7]']


async def test_what_is_rolled_back_is_not_captured(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with site.capturing():
        await site.run(
            "BEGIN; INSERT INTO t VALUES (1); ROLLBACK",
            "BEGIN; INSERT INTO t VALUES (2); SAVEPOINT s; INSERT INTO t VALUES (3); "
            "ROLLBACK TO s; INSERT INTO t VALUES (4); COMMIT",
        )
        changes = await site.changes()
    assert [(each["key"], each["index"], each["last"]) for each in changes] == [
        ({"id": 2}, 0, False),
        ({"id": 4}, 1, True),
    ]
    assert len({each["xid"] for each in changes}) == 1


async def test_transactions_come_in_the_order_of_their_commits_and_never_mixed(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    early, late = await site.connect(), await site.connect()
    try:
        async with site.capturing():
            await early.execute("BEGIN; INSERT INTO t VALUES (1)")
            await late.execute("BEGIN; INSERT INTO t VALUES (2)")
            await early.execute("INSERT INTO t VALUES (3)")
            await late.execute("INSERT INTO t VALUES (4); COMMIT")
            assert [each["key"]["id"] for each in await site.changes()] == [2, 4]
            await early.execute("COMMIT")
            changes = await site.changes()
    finally:
        await early.close()
        await late.close()
    assert [each["key"]["id"] for each in changes] == [2, 4, 1, 3]
    times = [event["time"] for event in await site.events()]
    assert times == sorted(times)
    assert len(set(times[:2])) == len(set(times[2:])) == 1


async def test_a_transaction_larger_than_a_call_is_open_until_it_is_whole(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    async with site.capturing():
        await site.run("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 2345) i")
        changes = await site.changes()
        await site.run("DELETE FROM t WHERE id <= 700")
        later = await site.changes()
    assert [each["index"] for each in changes] == list(range(2345))
    assert [each["last"] for each in changes] == [False] * 2344 + [True]
    assert [each["index"] for each in later[2345:]] == list(range(700))
    assert await site.meta(f"open:{site.settings.name}") is None


async def test_nothing_is_stored_twice_when_capture_begins_again(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with site.capturing():
        pass
    for number in range(4):
        await site.run(f"INSERT INTO t VALUES ({number})")
        async with site.capturing():
            await site.caught_up()
            await site.run(f"INSERT INTO t VALUES ({number + 100})")
            await site.caught_up()
    assert [each["key"]["id"] for each in await site.changes_now()] == [
        *(0, 100, 1, 101, 2, 102, 3, 103)
    ]


async def test_a_quiet_source_is_known_to_be_captured_up_to_now(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with site.capturing() as capture:
        first = (await site.progress()).through_ms

        async def later() -> bool:
            captured = await read_captured(site.connection, site.tenant)
            return captured.through[site.settings.name] >= first + 500

        await eventually(later, "time goes on without changes")
        assert capture.status.lag_bytes == 0
        assert capture.status.lag_sec is not None


async def test_one_process_captures_and_the_next_takes_over(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with AsyncExitStack() as first:
        await first.enter_async_context(site.capturing())
        async with site.running() as second:
            await site.reach(second, "standby")
            await site.run("INSERT INTO t VALUES (1)")
            await first.aclose()
            await site.run("INSERT INTO t VALUES (2)")
            await site.reach(second, "capturing")
            assert [each["key"]["id"] for each in await site.changes()] == [1, 2]


async def test_who_cannot_stand_by_says_nothing_of_who_captures(site: Site) -> None:
    """A second process with a wrong address told everybody that the source was down."""
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with site.capturing():

        async def told() -> bool:
            return await site.record.status() is not None

        await eventually(told, "the status is told")
        async with site.running(dsn="postgresql://127.0.0.1:1/nowhere") as other:
            for _ in range(3):
                tries = other.status.restarts

                async def tried(tries: int = tries) -> bool:
                    return other.status.restarts > tries

                await eventually(tried, "it tries again")
                status = await site.record.status()
                assert status is not None
                assert status.state == "capturing"


async def test_two_sources_of_one_tenant_share_its_changes(
    site: Site, connection: Connection
) -> None:
    """Each has its own mark, and neither splits a transaction of the other by what it does."""
    other = Site(site.dsn, connection, tenant=site.tenant, options={"publication": "other"})
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); "
        "CREATE PUBLICATION playhead FOR TABLE t; CREATE PUBLICATION other FOR TABLE u"
    )
    async with site.capturing(), other.capturing():
        for number in range(5):
            await site.run(
                f"INSERT INTO t SELECT {number}000 + i FROM generate_series(1, 300) i",
                f"INSERT INTO u SELECT {number}000 + i FROM generate_series(1, 300) i",
            )
        await site.caught_up()
        await other.caught_up()
        changes = await site.changes()
    for name in (site.settings.name, other.settings.name):
        own = [each for each in changes if each["source"] == name]
        assert len(own) == 1500
        assert [each["key"]["id"] for each in own] == sorted(each["key"]["id"] for each in own)
    times = [event["time"] for event in await site.events()]
    assert times == sorted(times)


async def test_a_source_that_went_over_to_another_timeline_has_a_break(site: Site) -> None:
    """As after a failover: what the old primary had not sent to the new one is in the log."""
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1)")
        await site.caught_up()
    await site.connection.execute("HSET", f"ph:capture:{site.settings.name}", "timeline", 0)
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (2)")
        assert [each["key"]["id"] for each in await site.changes()] == [1, 2]
    assert site.gaps == ["capture begins", "the source went over to timeline 1"]
    assert len(await site.breaks()) == 1
    async with site.capturing():
        assert len(site.gaps) == 2, "told once"


async def test_a_defect_is_counted_told_and_tried_again(site: Site) -> None:
    """A log whose key holds something else stands for whatever nobody thought of."""
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    await site.connection.execute("SET", log_key(site.stream), "no log")
    async with site.running() as capture:
        await site.reach(capture, "capturing")
        await site.run("INSERT INTO t VALUES (1)")
        await site.reach(capture, "failed")
        assert "WRONGTYPE" in str(capture.status.error)
        assert site.failures
        await site.connection.execute("DEL", log_key(site.stream))
        await site.reach(capture, "capturing")
        site.failures.clear()
        assert len(await site.changes()) == 1
