"""What a playback database must be, and the sentence for each thing that it is not."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from store.capture_record import captured_places
from store.connection import Connection
from store.embedded_postgres import EmbeddedPostgres
from store.errors import StoreConfigurationError, TargetError, TargetUnavailable
from store.playback_connection import CaptureSlots
from store.playback_db import PlaybackDatabase
from tests.captures import Site
from tests.store.playback import apply, change, make_item, open_database


async def refusal(database: PlaybackDatabase) -> str:
    with pytest.raises(StoreConfigurationError) as caught:
        await database.check()
    return str(caught.value)


async def test_a_database_that_can_be_played_into_is_made_ready_by_many_at_once(
    database: str, inside: Any
) -> None:
    await asyncio.gather(*(open_database(database).check() for _ in range(8)))
    assert await inside.fetchval("SELECT count(*) FROM playhead.progress") == 0
    assert await open_database(database).leftovers() == {}


async def test_a_captured_database_is_refused(
    postgres: EmbeddedPostgres, database: str, inside: Any
) -> None:
    """Its tables would be emptied: the source itself was given as the place to play into."""
    slot = f"playhead_{uuid4().hex}"
    await inside.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    assert f"is captured (it has the replication slot {slot})" in await refusal(
        open_database(database)
    )
    await inside.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    slot = f"other_{uuid4().hex}"
    await inside.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    await open_database(database).check()
    assert slot in await refusal(open_database(database, slots=CaptureSlots({slot})))


async def test_a_database_that_was_captured_is_refused_when_its_slot_is_gone_too(
    database: str, inside: Any, connection: Connection
) -> None:
    """Its slot had been dropped: the first init of a session emptied the tables of the source."""
    site = Site(database, connection)
    await inside.execute("CREATE TABLE vehicle (id int PRIMARY KEY)")
    async with site.capturing():
        await site.run("INSERT INTO vehicle VALUES (1)")
        await site.caught_up()
    await inside.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
        "WHERE database = current_database()"
    )
    places = await captured_places(connection)
    assert "is a captured one" in await refusal(open_database(database, places=places))
    with pytest.raises(TargetError, match="is a captured one"):
        await open_database(database, places=places).hold(site.tenant, 1)


async def test_what_a_role_may_not_do_is_said_with_the_statement_that_allows_it(
    postgres: EmbeddedPostgres, database: str, inside: Any
) -> None:
    role = f"role_{uuid4().hex}"
    await inside.execute(f"CREATE ROLE {role} LOGIN")
    name = await inside.fetchval("SELECT current_database()")
    dsn = database.replace("//postgres@", f"//{role}@")
    sentence = f"GRANT SET ON PARAMETER session_replication_role TO {role}"
    assert sentence in await refusal(open_database(dsn))
    await inside.execute(sentence)
    sentence = f"GRANT CREATE ON DATABASE {name} TO {role}"
    assert sentence in await refusal(open_database(dsn))
    await inside.execute(sentence)
    await open_database(dsn).check()
    await inside.execute(f"REVOKE CREATE ON DATABASE {name} FROM {role}")
    await open_database(dsn).check()
    await inside.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
    await inside.execute(f"REVOKE SET ON PARAMETER session_replication_role FROM {role}")
    await inside.execute(f"DROP ROLE {role}")


async def test_a_wrong_address_is_refused_and_an_absent_server_waited_for(
    postgres: EmbeddedPostgres,
) -> None:
    missing = open_database(postgres.database_dsn("nowhere"))
    assert 'database "nowhere" does not exist' in await refusal(missing)
    assert "cannot be used" in await refusal(open_database("postgresql://host:port/x"))
    with pytest.raises(TargetUnavailable):
        await open_database("postgresql://127.0.0.1:1/x").check()


async def test_the_progress_of_a_tenant_is_not_lost_by_an_empty_check(
    database: str, inside: Any, tenant: str
) -> None:
    await make_item(inside)
    target = await open_database(database).hold(tenant, 1)
    await apply(target, change("c", {"id": 1}, {"id": 1}))
    with pytest.raises(asyncpg.PostgresError):
        await inside.execute("SELECT playhead.advance($1::uuid, 2, 1, 1)", tenant)
    await open_database(database).check()
    assert target.progress.sequence == 1
    await target.close()
