"""Captured rows: their tenants, values that an update left alone, tables that change."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from store.capture_rounds import find_other_rows
from store.captured import add_tenants
from store.connection import Connection, log_key
from store.json_members import members
from tests.captures import Json, Site, eventually

# More than PostgreSQL keeps in a row, and not to be made smaller.
LARGE = "(SELECT string_agg(md5(i::text || {salt}), '') FROM generate_series(1, 200) i)"


@pytest.fixture
async def site(database: str, connection: Connection) -> AsyncIterator[Site]:
    made = Site(database, connection)
    yield made
    assert not made.failures, "a defect"


def large(salt: int) -> str:
    return LARGE.format(salt=salt)


def bodies(changes: list[Json]) -> list[str | None]:
    return [change["after"].get("body") for change in changes if change["after"]]


DOCUMENTS = "CREATE TABLE doc (id int PRIMARY KEY, n int, body text, more text)"


async def test_a_large_value_left_alone_is_the_last_known_one(site: Site) -> None:
    await site.run(DOCUMENTS)
    async with site.capturing():
        await site.run(
            f"INSERT INTO doc VALUES (1, 0, {large(1)}, {large(2)})",
            "UPDATE doc SET n = 1",
            "BEGIN; UPDATE doc SET n = 2; UPDATE doc SET id = 7; UPDATE doc SET n = 3; COMMIT",
            f"UPDATE doc SET body = {large(3)}",
            "UPDATE doc SET n = 4",
        )
        changes = await site.changes()
    found = bodies(changes)
    assert len(found) == 7
    assert all(body and len(body) == 6400 for body in found)
    assert len(set(found[:5])) == 1
    assert found[5] == found[6] != found[0]
    assert {each["after"]["more"] for each in changes} == {changes[0]["after"]["more"]}
    assert not any("unchanged" in each for each in changes)


async def test_after_a_restart_it_is_found_in_the_log(site: Site) -> None:
    await site.run(DOCUMENTS)
    async with site.capturing():
        await site.run(
            f"INSERT INTO doc SELECT i, 0, {large(1)} || i, 'small' FROM generate_series(1, 9) i"
        )
        await site.caught_up()
    # Twice each, so that the source's own row is another one by the time it is asked for.
    await site.run("UPDATE doc SET n = 1", "UPDATE doc SET n = n + 1, more = 'other'")
    async with site.capturing():
        changes = await site.changes()
    assert len(changes) == 27
    assert [each["after"]["body"][6400:] for each in changes] == [*"123456789"] * 3
    assert not any("unchanged" in each for each in changes)


@pytest.mark.parametrize("odd", ['"\\ud800"', "[" * 3000 + "]" * 3000])
async def test_a_last_known_row_may_have_a_value_that_only_postgresql_reads(
    site: Site, odd: str
) -> None:
    """Capture stopped for good at half a surrogate pair in a `json` column beside a large value."""
    await site.run(DOCUMENTS, "ALTER TABLE doc ADD COLUMN odd json")
    async with site.capturing():
        await site.run(f"INSERT INTO doc VALUES (1, 0, {large(1)}, NULL, '{odd}')")
        await site.caught_up()
    await site.run("UPDATE doc SET n = 1", "UPDATE doc SET n = 2")
    async with site.capturing():
        await site.caught_up()
    entries = await site.connection.execute("XRANGE", log_key(site.stream), "-", "+")
    rows = [members(members(members(event)["data"])["payload"]) for _, (_, event) in entries]
    found = [members(row["after"]) for row in rows]
    assert [each["n"] for each in found] == [b"0", b"1", b"2"]
    assert {(len(each["body"]), each["odd"]) for each in found} == {(6402, odd.encode())}


async def test_a_row_that_was_never_captured_is_asked_for_at_the_source(site: Site) -> None:
    await site.run(DOCUMENTS, f"INSERT INTO doc VALUES (1, 0, {large(1)}, NULL)")
    async with site.capturing():
        await site.run("UPDATE doc SET n = 1")
        [change] = await site.changes()
    assert len(change["after"]["body"]) == 6400
    assert list(change["after"]) == ["id", "n", "body", "more"]
    assert "unchanged" not in change


async def test_a_value_that_nobody_knows_is_left_out_and_said_to_be_unchanged(site: Site) -> None:
    await site.run(DOCUMENTS, f"INSERT INTO doc VALUES (1, 0, {large(1)}, NULL)")
    async with site.capturing():
        pass
    await site.run("UPDATE doc SET n = 1", "UPDATE doc SET n = 2", "UPDATE doc SET n = 3")
    async with site.capturing():
        first, second, third = await site.changes()
    assert first["after"] == {"id": 1, "n": 1, "more": None}
    assert first["unchanged"] == second["unchanged"] == ["body"]
    # The last of them is what the source has.
    assert len(third["after"]["body"]) == 6400
    assert "unchanged" not in third


async def test_a_row_that_became_small_is_not_found_in_its_large_form(site: Site) -> None:
    await site.run(DOCUMENTS)
    async with site.capturing():
        await site.run(
            f"INSERT INTO doc VALUES (1, 0, {large(1)}, NULL), (2, 0, {large(2)}, NULL)",
            "UPDATE doc SET body = 'small' WHERE id = 1",
            "DELETE FROM doc WHERE id = 2",
        )
        await site.caught_up()
    keys = [
        key.decode()
        for key in await site.connection.execute("KEYS", log_key(site.stream)[:-3] + "rows:*")
    ]
    assert keys == []


async def test_a_truncate_forgets_the_large_rows(site: Site) -> None:
    await site.run(DOCUMENTS)
    async with site.capturing():
        await site.run(
            f"INSERT INTO doc VALUES (1, 0, {large(1)}, NULL)",
            "TRUNCATE doc",
            f"INSERT INTO doc VALUES (1, 5, {large(2)}, NULL)",
            "UPDATE doc SET n = 6",
        )
        changes = await site.changes()
    assert changes[3]["after"]["body"] == changes[2]["after"]["body"]


async def test_with_full_identity_the_old_row_has_the_large_value(site: Site) -> None:
    await site.run(
        DOCUMENTS,
        "ALTER TABLE doc REPLICA IDENTITY FULL",
        f"INSERT INTO doc VALUES (1, 0, {large(1)}, NULL)",
    )
    async with site.capturing():
        await site.run("UPDATE doc SET n = 1", "UPDATE doc SET n = 2")
        changes = await site.changes()
    assert all(len(each["after"]["body"]) == 6400 for each in changes)
    assert changes[0]["before"]["body"] == changes[0]["after"]["body"]


# -- tenants


TENANTS = (
    "CREATE TABLE t (id int, tenant_id uuid, v text); ALTER TABLE t REPLICA IDENTITY FULL; "
    "CREATE TABLE shared (id int PRIMARY KEY)"
)


@pytest.fixture
def by_column(site: Site) -> Site:
    site.settings = site.with_options(tenant_column="tenant_id")
    return site


async def test_rows_go_to_the_tenant_they_name(by_column: Site) -> None:
    site, ours, theirs = by_column, str(uuid4()), str(uuid4())
    await site.run(TENANTS)
    async with site.capturing():
        await site.run(
            f"INSERT INTO t VALUES (1, '{ours}', 'a'), (2, '{theirs}', 'b'), (3, '{ours}', 'c'), "
            "(4, NULL, 'd')",
            "INSERT INTO shared VALUES (5)",
            f"DELETE FROM t WHERE tenant_id = '{theirs}'",
        )
        await site.caught_up()
        found = {
            tenant: [
                (each["key"]["id"], each["after"] is None, each["index"], each["last"])
                for each in await site.changes_now(tenant)
            ]
            for tenant in (ours, theirs, site.tenant)
        }

        async def told() -> bool:
            return all([await site.meta(f"through:{site.settings.name}", each) for each in found])

        await eventually(told, "each tenant is told how far capture is")
    assert found == {
        ours: [(1, False, 0, False), (3, False, 1, True)],
        theirs: [(2, False, 0, True), (2, True, 0, True)],
        site.tenant: [(4, False, 0, True), (5, False, 0, True)],
    }


async def test_a_row_that_moves_is_deleted_here_and_made_there(by_column: Site) -> None:
    site, ours, theirs = by_column, str(uuid4()), str(uuid4())
    await site.run(TENANTS)
    async with site.capturing():
        await site.run(
            f"INSERT INTO t VALUES (1, '{ours}', 'a')",
            f"UPDATE t SET tenant_id = '{theirs}', v = 'b'",
            "UPDATE t SET tenant_id = NULL",
        )
        await site.caught_up()
        left, came, home = [
            [(each["before"], each["after"]) for each in await site.changes_now(tenant)]
            for tenant in (ours, theirs, site.tenant)
        ]
    first, second = (
        {"id": 1, "tenant_id": ours, "v": "a"},
        {"id": 1, "tenant_id": theirs, "v": "b"},
    )
    assert left == [(None, first), (first, None)]
    assert came == [(None, second), (second, None)]
    assert home == [(None, {"id": 1, "tenant_id": None, "v": "b"})]


async def test_of_many_tenants_a_round_is_as_short_as_of_one(
    by_column: Site, connection: Connection
) -> None:
    """Each was told four times a second how far capture is: of 5,000 a change came 3 s late."""
    site = by_column
    await site.run(TENANTS)
    async with site.capturing():
        await site.run("INSERT INTO t SELECT i, gen_random_uuid() FROM generate_series(1, 300) i")
        await site.caught_up()

        async def calls() -> int:
            stats: bytes = await connection.execute("INFO", "commandstats")
            return int(stats.partition(b"cmdstat_hset:calls=")[2].partition(b",")[0])

        before, through = await calls(), (await site.progress()).through_ms

        async def later() -> bool:
            return (await site.progress()).through_ms > through + 1000

        await eventually(later, "time goes on")
        assert await calls() - before < 100


async def test_a_truncate_is_told_to_every_tenant_there_was(by_column: Site) -> None:
    site, ours, theirs = by_column, str(uuid4()), str(uuid4())
    await site.run(TENANTS)
    async with site.capturing():
        await site.run(f"INSERT INTO t VALUES (1, '{ours}', 'a')")
        await site.caught_up()
    async with site.capturing():
        await site.run(f"INSERT INTO t VALUES (1, '{theirs}', 'a')", "TRUNCATE t, shared")
        await site.caught_up()
    for tenant in (ours, theirs):
        topics = await site.topics(tenant)
        assert sorted(topics[-2:]) == ["change.public%2Eshared.t.%2A", "change.public%2Et.t.%2A"]
        assert [each["last"] for each in await site.changes_now(tenant)][-2:] == [False, True]


async def test_a_truncate_is_told_to_a_tenant_that_only_a_snapshot_knows(by_column: Site) -> None:
    """Whose rows were there before capture began kept them in every state after a truncate."""
    site, theirs = by_column, str(uuid4())
    await site.run(TENANTS)
    async with site.capturing():
        await add_tenants(site.connection, site.settings.name, [theirs])
        await site.run("TRUNCATE t")
        await site.caught_up()
    assert await site.topics(theirs) == ["change.public%2Et.t.%2A"]


# -- tables that change


async def test_columns_come_go_and_change_names_in_mid_stream(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY, a int, b text)")
    statements = (
        "INSERT INTO t VALUES (1, 1, 'x')",
        "ALTER TABLE t ADD COLUMN c numeric DEFAULT 2.50",
        "INSERT INTO t VALUES (2, 2, 'y')",
        "ALTER TABLE t DROP COLUMN a",
        "INSERT INTO t VALUES (3, 'z')",
        "ALTER TABLE t RENAME COLUMN b TO words",
        "INSERT INTO t VALUES (4, 'w')",
        "ALTER TABLE t ALTER COLUMN id TYPE text",
        "INSERT INTO t VALUES ('five', 'v')",
        "ALTER TABLE t RENAME TO renamed",
        "INSERT INTO renamed VALUES ('six', 'u')",
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "ALTER TABLE renamed ADD COLUMN m mood DEFAULT 'ok'",
        "INSERT INTO renamed VALUES ('seven', 's')",
        "DROP TABLE renamed; DROP TYPE mood",
    )
    async with site.capturing():
        pass
    expected = [
        {"id": 1, "a": 1, "b": "x"},
        {"id": 2, "a": 2, "b": "y", "c": 2.5},
        {"id": 3, "b": "z", "c": 2.5},
        {"id": 4, "words": "w", "c": 2.5},
        {"id": "five", "words": "v", "c": 2.5},
        {"id": "six", "words": "u", "c": 2.5},
        {"id": "seven", "words": "s", "c": 2.5, "m": "ok"},
    ]
    # The table is gone by the time its changes are read.
    await site.run(*statements)
    async with site.capturing():
        assert [each["after"] for each in await site.changes()] == expected
        await site.run("CREATE TABLE t (id int PRIMARY KEY, a int, b text)", *statements)
        assert [each["after"] for each in await site.changes()] == expected * 2
    assert "public.t has other columns" in site.gaps
    assert "public.renamed has another name" in site.gaps
    assert len(await site.breaks()) == 2


async def test_a_large_value_of_another_type_is_not_the_last_known_one(site: Site) -> None:
    """A table written anew by ALTER TABLE has other values, and no change tells of them."""
    await site.run("CREATE TABLE t (id int PRIMARY KEY, n int, body json)")
    async with site.capturing():
        await site.run(
            f"INSERT INTO t VALUES (1, 0, json_build_object('old', {large(1)}))",
            "ALTER TABLE t ALTER body TYPE jsonb USING jsonb_build_object('new', body->'old')",
            "UPDATE t SET n = 1",
        )
        await site.caught_up()
        await site.run("UPDATE t SET n = 2")
        changes = await site.changes()
    # The first one is left out where the source had another row by the time it was asked.
    assert "old" not in changes[1]["after"].get("body", {})
    assert list(changes[2]["after"].get("body", {"new": 1})) == ["new"]


async def test_another_key_is_a_break_for_states(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE NOT NULL)")
    async with site.capturing():
        await site.run(
            "INSERT INTO t VALUES (1, 10)",
            "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (a)",
            "UPDATE t SET id = 2",
        )
        changes = await site.changes()
        assert [each["key"] for each in changes] == [{"id": 1}, {"a": 10}]
        assert site.gaps[-1] == "public.t has another key"
        [place] = await site.breaks()
    assert place.endswith("-1")


async def test_a_table_that_is_published_later_is_captured_from_then_on(site: Site) -> None:
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); "
        "CREATE PUBLICATION playhead FOR TABLE t"
    )
    async with site.capturing():
        await site.run(
            "INSERT INTO u VALUES (1)",
            "ALTER PUBLICATION playhead ADD TABLE u",
            "INSERT INTO u VALUES (2)",
        )
        assert [each["key"]["id"] for each in await site.changes()] == [2]

        async def told() -> bool:
            return "other tables are published" in site.gaps

        await eventually(told, "the rows that table has already are asked for")


async def test_a_table_that_was_published_while_nobody_captured_asks_for_a_snapshot(
    site: Site,
) -> None:
    """Its rows of before were in no state until the next snapshot on schedule."""
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); "
        "CREATE PUBLICATION playhead FOR TABLE t"
    )

    async def looked() -> bool:
        return await site.record.published() is not None

    async with site.capturing():
        await eventually(looked, "the tables are known")
    await site.run("ALTER PUBLICATION playhead ADD TABLE u")

    async def told() -> bool:
        return site.gaps == ["capture begins", "other tables are published"]

    async with site.capturing():
        await eventually(told, "the rows of the other table are asked for")


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({"t": [1, 2, 3]}, None),
        ({"t": [1, 2], "u": [4]}, "other tables are published"),
        ({}, "other tables are published"),
        ({"t": [1]}, "t was made anew, or a partition of it dropped"),
        ({"t": [7]}, "t was made anew, or a partition of it dropped"),
    ],
)
def test_rows_that_come_or_go_without_a_change_are_seen(
    now: dict[str, list[int]], reason: str | None
) -> None:
    """A dropped partition took its rows along, and states kept them."""
    assert find_other_rows({"t": [1, 2]}, now) == reason


async def test_partitions_are_captured_as_their_table(site: Site) -> None:
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); "
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); "
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)"
    )
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1), (11)", "UPDATE t SET id = 12 WHERE id = 1")
        await site.caught_up()
    assert {topic.split(".")[1] for topic in await site.topics()} == {"public%2Et"}


async def test_an_old_row_of_a_partition_is_no_more_than_the_partition_tells(site: Site) -> None:
    """Only the table had FULL: of a deleted row all but the key came as null, the tenant too."""
    site.settings = site.with_options(tenant_column="tenant_id")
    await site.run(
        "CREATE TABLE t (id int, tenant_id uuid, v text, PRIMARY KEY (id, tenant_id)) "
        "PARTITION BY RANGE (id); ALTER TABLE t REPLICA IDENTITY FULL; "
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)"
    )
    tenant = str(uuid4())
    async with site.capturing():
        await site.run(
            f"INSERT INTO t VALUES (1, '{tenant}', {large(1)})",
            "UPDATE t SET id = 2",
            "DELETE FROM t",
        )
        await site.caught_up()
        await site.run(
            "ALTER TABLE t1 REPLICA IDENTITY FULL",
            f"INSERT INTO t VALUES (3, '{tenant}', 'x')",
            "DELETE FROM t",
        )
        await site.caught_up()
    changes = await site.changes_now(tenant)
    assert changes[1]["after"]["v"] == changes[0]["after"]["v"]
    assert [each["before"] for each in changes] == [
        None,
        {"id": 1, "tenant_id": tenant},
        {"id": 2, "tenant_id": tenant},
        None,
        {"id": 3, "tenant_id": tenant, "v": "x"},
    ]
    assert await site.changes_now() == []


async def test_generated_columns_and_row_filters_are_the_publications_affair(site: Site) -> None:
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, x int); "
        "CREATE PUBLICATION playhead FOR TABLE t (id) WHERE (id > 5)"
    )
    async with site.capturing():
        await site.run("INSERT INTO t (id) VALUES (1), (6)", "UPDATE t SET id = 2 WHERE id = 6")
        changes = await site.changes()
    assert [(each["before"], each["after"]) for each in changes] == [
        (None, {"id": 6}),
        ({"id": 6}, None),
    ]
