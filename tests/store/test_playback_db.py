"""The tables of a playback database: restored, played on, cleaned, and closed to who was overtaken."""

import asyncio
import random
from typing import Any
from uuid import uuid4

import pytest

from store.embedded_postgres import EmbeddedPostgres
from store.errors import TargetError
from store.event import Position
from store.fold import Change
from store.log import EventLog
from store.playback_script import PART_BYTES
from store.playback_target import Progress
from store.state import States
from tests.playback.recording import SHIP, Recording, create_tables, read_rows
from tests.store.playback import (
    BEGIN_MS,
    Player,
    apply,
    as_json,
    change,
    items,
    make_item,
    open_database,
    recorded,
)


@pytest.mark.parametrize("seed", range(4))
async def test_played_from_any_time_to_any_other_the_tables_hold_what_the_source_held(
    database: str, inside: Any, states: States, log: EventLog, seed: int
) -> None:
    await create_tables(database)
    tenant = str(uuid4())
    recording, events = await recorded(log, tenant, seed, 200)
    pick = random.Random(seed)
    target = await open_database(database).hold(tenant, 1)
    player = Player(states, log, tenant, target)
    for run in range(1, 4):
        start, end = sorted(pick.randint(BEGIN_MS - 1, recording.now_ms) for _ in range(2))
        await player.restore(start, run)
        assert await read_rows(inside) == recording.at(start)
        due = [(change, place) for change, place in events if start < place.ms <= end]
        await player.play(due, pick.choice([1, 3, 50]))
        assert await read_rows(inside) == recording.at(end)
    last = target.progress.sequence
    await target.settle(7, recording.now_ms)
    assert target.progress == Progress("session", 7, recording.now_ms, last)
    await target.close()
    again = await open_database(database).hold(tenant, 2)
    assert again.progress == target.progress
    await again.clean(player.state_of)
    assert await read_rows(inside) == recording.at(0)
    assert again.progress.session == ""
    await again.close()


# -- who may write


async def test_who_holds_an_older_token_is_refused_by_the_database_itself(
    database: str, inside: Any, tenant: str
) -> None:
    await make_item(inside)
    opened = open_database(database)
    old = await opened.hold(tenant, 4)
    await apply(old, change("c", {"id": 1}, {"id": 1}))
    same = await opened.hold(tenant, 4)  # its gateway has lost the connection before
    new = await opened.hold(tenant, 5)
    for overtaken in (old, same):
        with pytest.raises(TargetError):
            await apply(overtaken, change("c", {"id": 2}, {"id": 2}))
        await overtaken.close()
    with pytest.raises(TargetError, match=r"held by a newer token than 4.*DELETE FROM"):
        await opened.hold(tenant, 4)
    assert await items(inside) == [(1, None, None)]
    assert new.progress.sequence == 1
    await apply(new, change("d", {"id": 1}))
    assert await items(inside) == []
    await new.close()


@pytest.mark.parametrize("call", ["apply", "settle", "clean"])
async def test_a_token_that_was_passed_while_its_holder_slept_is_refused_in_its_next_transaction(
    database: str, inside: Any, states: States, log: EventLog, call: str
) -> None:
    """Not evicted (as by another role), it would have gone on where it was."""
    tenant = str(uuid4())
    await make_item(inside)
    old = await open_database(database).hold(tenant, 4)
    await inside.execute("UPDATE playhead.progress SET token = 5")
    calls = {
        "apply": lambda: apply(old, change("c", {"id": 1}, {"id": 1})),
        "settle": lambda: old.settle(1, 9),
        "clean": lambda: old.clean(Player(states, log, tenant, old).state_of),
    }
    with pytest.raises(TargetError, match="token 4 does not hold the tables"):
        await calls[call]()
    await old.close()
    assert await items(inside) == []
    assert await inside.fetchval("SELECT ms FROM playhead.progress") == -1


async def test_what_a_sleeping_holder_left_open_does_not_stand_in_the_way(
    database: str, inside: Any, tenant: str
) -> None:
    await make_item(inside)
    old = await open_database(database).hold(tenant, 1)
    # The first part of a transaction: its rows and the progress are locked.
    await apply(old, *large_transaction()[:-1])
    async with asyncio.timeout(20):
        new = await open_database(database).hold(tenant, 2)
    await apply(new, change("c", {"id": 1}, {"id": 1}))
    assert await items(inside) == [(1, None, None)]
    for target in (old, new):
        await target.close()


# -- transactions


def large_transaction() -> list[Change]:
    text = "x" * (PART_BYTES // 5)
    rows = [{"id": number, "text": text} for number in range(8)]
    return [
        change("c", {"id": row["id"]}, row, last=number == len(rows) - 1)
        for number, row in enumerate(rows)
    ]


async def test_a_large_transaction_is_sent_in_parts_and_seen_whole_or_not_at_all(
    database: str, inside: Any, tenant: str
) -> None:
    await make_item(inside)
    target = await open_database(database).hold(tenant, 1)
    script = target.script()
    largest = 0
    for number, each in enumerate(large_transaction(), 1):
        assert await items(inside) == []
        script.add(each, Position(5, number))
        batch = script.take()
        if batch is not None:
            largest = max(largest, len(batch.text))
            await target.apply(batch)
    assert largest < 2 * PART_BYTES
    assert len(await items(inside)) == 8
    await target.close()


async def test_one_that_is_left_in_the_middle_leaves_nothing(
    database: str, inside: Any, tenant: str
) -> None:
    await make_item(inside)
    target = await open_database(database).hold(tenant, 1)
    await apply(target, *large_transaction()[:-1])
    await target.close()
    again = await open_database(database).hold(tenant, 2)
    assert again.progress == Progress("", 0, -1, 0)
    assert await items(inside) == []
    await again.close()


async def test_a_transaction_that_fails_leaves_those_before_it(
    database: str, inside: Any, tenant: str
) -> None:
    await make_item(inside)
    await inside.execute("ALTER TABLE item ADD CHECK (id < 10)")
    target = await open_database(database).hold(tenant, 1)
    with pytest.raises(TargetError, match=r"refused: .*check constraint"):
        await apply(target, *[change("c", {"id": n}, {"id": n}) for n in (8, 9, 10, 1)])
    await target.close()
    again = await open_database(database).hold(tenant, 2)
    assert again.progress.sequence == 2
    assert [row[0] for row in await items(inside)] == [8, 9]
    await again.close()


async def test_columns_whose_values_are_not_known_stay_as_they_are(
    database: str, inside: Any, tenant: str
) -> None:
    await make_item(inside)
    target = await open_database(database).hold(tenant, 1)
    await apply(target, change("t", None))
    await inside.execute(
        "INSERT INTO item VALUES (1, 'kept', 'a'), (2, 'kept', 'a'), (3, 'x', 'a')"
    )
    missing = {"unchanged": ("text",), "last": False}
    await apply(
        target,
        change("u", {"id": 1}, {"id": 1, "more": "b"}, **missing),
        change("u", {"id": 4}, {"id": 4, "more": "c"}, old_key=as_json({"id": 1}), **missing),
        change("u", {"id": 2}, {"id": 2, "more": "b"}, **missing),
        change("u", {"id": 3}, {"id": 3, "text": "new", "more": "b"}, last=False),
        change("u", {"id": 3}, {"id": 3, "more": "c"}, **missing),
        change("u", {"id": 2}, {"id": 2, "text": "full", "more": "d"}),
    )
    assert await items(inside) == [(2, "full", "d"), (3, "new", "c"), (4, "kept", "c")]
    await apply(
        target,
        change("u", {"id": 4}, {"id": 4, "more": "e"}, **missing),
        change("d", {"id": 4}),
    )
    assert [row[0] for row in await items(inside)] == [2, 3]
    await target.close()


async def test_rows_of_a_time_before_a_column_was_there_take_its_default(
    database: str, inside: Any, tenant: str
) -> None:
    await inside.execute(
        "CREATE TABLE item (id integer PRIMARY KEY, late text NOT NULL DEFAULT 'new')"
    )
    target = await open_database(database).hold(tenant, 1)
    await apply(
        target,
        change("c", {"id": 1}, {"id": 1}, last=False),
        change("c", {"id": 2}, {"id": 2, "late": "said"}),
    )
    assert await items(inside) == [(1, "new"), (2, "said")]
    await target.close()


async def test_types_of_their_own_and_odd_names_come_as_they_were(
    database: str, inside: Any, tenant: str
) -> None:
    await inside.execute(
        """
        CREATE TYPE pair AS (a integer, b text);
        CREATE DOMAIN positive AS integer NOT NULL CHECK (value > 0);
        CREATE SCHEMA "Odd ""Place";
        CREATE TABLE "Odd ""Place"."user's" (
          "Id" positive PRIMARY KEY, two pair, many pair[], span int4range, docs json[], "a'b" text);
        """
    )
    target = await open_database(database).hold(tenant, 1)
    row = {
        **{"Id": 1, "two": '(1,"x y")', "many": '{"(1,a)","(2,)"}', "span": "[1,5)"},
        **{"docs": [{"a": 1}, 2], "a'b": "it's \\ 'quoted'"},
    }
    name = '"Odd ""Place"."user\'s"'
    await apply(target, change("c", {"Id": 1}, row, table=name))
    found = await inside.fetchrow(
        f'SELECT two::text, many::text, span::text, docs::text, "a\'b" FROM {name}'
    )
    assert tuple(found) == (
        '(1,"x y")',
        '{"(1,a)","(2,)"}',
        "[1,5)",
        '{"{\\"a\\":1}",2}',
        "it's \\ 'quoted'",
    )
    await apply(target, change("d", {"Id": 1}, table=name))
    assert await inside.fetchval(f"SELECT count(*) FROM {name}") == 0
    await target.close()


async def test_of_equal_rows_without_a_key_as_many_go_as_went(
    database: str, inside: Any, tenant: str
) -> None:
    await inside.execute("CREATE TABLE item (a integer, b numeric)")
    target = await open_database(database).hold(tenant, 1)
    await apply(target, change("t", None))
    await inside.execute("INSERT INTO item SELECT 1, 1.0 FROM generate_series(1, 4)")
    await inside.execute("INSERT INTO item VALUES (1, 1.00), (2, NULL)")
    row, other, nothing = b'{"a":1,"b":1.0}', b'{"a":3,"b":1}', b'{"a":2,"b":null}'
    await apply(
        target,
        change("d", row, last=False),
        change("u", other, other, old_key=row, last=False),
        change("c", row, row, last=False),
        change("d", nothing),
    )
    found = await inside.fetch("SELECT a, b::text FROM item ORDER BY 1, 2")
    assert [tuple(each) for each in found] == [*[(1, "1.0")] * 3, (1, "1.00"), (3, "1")]
    await target.close()


async def test_a_json_null_is_no_null_where_there_can_be_none(
    database: str, inside: Any, tenant: str
) -> None:
    """As JSON both are null: a jsonb column that is NOT NULL could not take its own rows."""
    await inside.execute(
        "CREATE TABLE item (id integer PRIMARY KEY, text jsonb NOT NULL, more json)"
    )
    target = await open_database(database).hold(tenant, 1)
    empty = {"id": 1, "text": None, "more": None}
    await apply(target, change("c", {"id": 1}, empty))
    assert await items(inside) == [(1, "null", None)]
    await apply(target, change("u", {"id": 1}, {"id": 1, "text": 5}, unchanged=("more",)))
    await apply(target, change("u", {"id": 1}, {"id": 1, "text": None}, unchanged=("more",)))
    assert await items(inside) == [(1, "null", None)]
    await target.close()


# -- what cannot be


async def test_rows_that_a_policy_hides_are_not_left_behind_silently(
    postgres: EmbeddedPostgres, database: str, inside: Any, tenant: str
) -> None:
    """The role owned nothing: deletes found no rows, and tables kept what a session had written."""
    role = f"role_{uuid4().hex}"
    await make_item(inside)
    await inside.execute(
        f"""
        CREATE ROLE {role} LOGIN;
        GRANT CREATE ON DATABASE {await inside.fetchval("SELECT current_database()")} TO {role};
        GRANT SET ON PARAMETER session_replication_role TO {role};
        GRANT ALL ON item TO {role};
        ALTER TABLE item ENABLE ROW LEVEL SECURITY;
        CREATE POLICY new ON item FOR INSERT WITH CHECK (true);
        """
    )
    target = await open_database(database.replace("//postgres@", f"//{role}@")).hold(tenant, 1)
    with pytest.raises(TargetError, match="row-level security policy"):
        await apply(target, change("d", {"id": 1}))
    await target.close()
    await inside.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_a_table_a_column_or_a_key_that_is_missing_is_named(
    database: str, inside: Any, tenant: str
) -> None:
    await inside.execute("CREATE TABLE item (id integer, text text)")
    target = await open_database(database).hold(tenant, 1)
    script = target.script()
    for wrong, sentence in (
        (
            change("c", {"id": 1}, {"id": 1}, table="public.none"),
            "has no table public.none; create",
        ),
        (change("u", {"id": 1}, {"id": 1, "text": "x"}), r'no primary key .* within \("id"\)'),
        (change("c", {"a": 1}, {"a": 1}), 'lacks the column "a"; add it there'),
    ):
        with pytest.raises(TargetError, match=sentence):
            script.add(wrong, Position(5, 1))
        script = target.script()
    await target.close()


async def test_two_tenants_in_one_table_each_clean_up_their_own_rows(
    database: str, inside: Any, states: States, log: EventLog
) -> None:
    """A truncation that one of them played emptied the tables for the other as well."""
    await create_tables(database)
    tenants = [str(uuid4()), str(uuid4())]
    recordings = []
    players = []
    for number, tenant in enumerate(tenants):
        recording = Recording(random.Random(number), BEGIN_MS, next_id=number * 10_000)
        recording.run(60, 20)
        await recording.publish(log, tenant)
        target = await open_database(database).hold(tenant, 1)
        players.append(Player(states, log, tenant, target))
        recordings.append(recording)
        await players[-1].restore(recording.now_ms)
    one, other = (recording.at(recording.now_ms) for recording in recordings)
    assert await read_rows(inside) == {name: sorted(one[name] + other[name]) for name in one}
    with pytest.raises(TargetError, match="which holds rows of another tenant"):
        await apply(players[0].target, change("t", None, table=SHIP))
    await players[0].target.close()
    players[0].target = await open_database(database).hold(tenants[0], 2)
    await players[0].restore(BEGIN_MS, run=2)
    begin = recordings[0].at(BEGIN_MS)
    assert await read_rows(inside) == {name: sorted(begin[name] + other[name]) for name in one}
    await players[0].target.clean(players[0].state_of)
    assert await read_rows(inside) == other
    await players[1].target.clean(players[1].state_of)
    assert await read_rows(inside) == recordings[0].at(0)
    for player in players:
        await player.target.close()
