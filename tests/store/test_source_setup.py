"""A source that is not set up for capture is refused with sentences that say what to run."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from store import pgsource
from store.capture import check
from store.connection import Connection
from store.embedded_postgres import EmbeddedPostgres
from store.errors import SourceRefused, SourceUnavailable
from store.pgsource import PgSource
from tests.captures import Site
from tests.servers import drop_database, start_postgres, stop_postgres


@pytest.fixture
async def site(database: str, connection: Connection) -> AsyncIterator[Site]:
    made = Site(database, connection)
    yield made
    assert not made.failures, "a defect"


async def refusal(site: Site, **options: object) -> tuple[str, ...]:
    with pytest.raises(SourceRefused) as refused:
        await check(replace(site.settings, **options))  # type: ignore[arg-type]
    return refused.value.sentences


@pytest.fixture(scope="module")
def replica_postgres() -> Iterator[EmbeddedPostgres]:
    """As PostgreSQL is when nobody has changed its settings."""
    server = start_postgres(wal_level="replica", max_replication_slots="1")
    yield server
    stop_postgres(server)


async def test_a_wal_level_that_is_too_low_is_told_with_the_statement(
    replica_postgres: EmbeddedPostgres, connection: Connection
) -> None:
    [sentence] = await refusal(Site(replica_postgres.dsn, connection))
    assert sentence == (
        "wal_level is 'replica', and capture needs 'logical': ALTER SYSTEM SET wal_level = "
        "'logical', then restart PostgreSQL"
    )


async def test_capture_waits_for_what_has_to_be_changed_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.capture._BACKOFF_SEC", (0.05, 0.2))
    await site.run("CREATE TABLE t (id int)")
    async with site.running() as capture:
        await site.reach(capture, "refused")
        assert "ALTER TABLE public.t REPLICA IDENTITY FULL" in str(capture.status.error)
        told = await site.record.status()
        assert told is not None
        assert told.state == "refused"
        await site.run("ALTER TABLE t REPLICA IDENTITY FULL")
        await site.reach(capture, "capturing")


async def test_partitions_that_do_not_tell_the_tenant_are_told(site: Site) -> None:
    """They do not take over the identity of their table, which alone was looked at."""
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY, tenant_id uuid) PARTITION BY RANGE (id); "
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); "
        "ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION playhead FOR TABLE t "
        "WITH (publish_via_partition_root = true)"
    )
    [sentence] = await refusal(site, tenant_column="tenant_id")
    assert sentence == (
        "a delete in public.t does not tell its tenant_id, and so not its tenant: ALTER TABLE "
        "public.t REPLICA IDENTITY FULL, and the same for each of its partitions"
    )
    await site.run("ALTER TABLE t1 REPLICA IDENTITY FULL")
    assert await check(replace(site.settings, tenant_column="tenant_id")) == ()


async def test_who_may_make_a_publication_is_told(site: Site, role: str) -> None:
    """The right to create was there, and PostgreSQL's own sentence said nothing of what to run."""
    name = role.partition("@")[0].rpartition("/")[2]
    await site.run(
        f"CREATE TABLE t (id int PRIMARY KEY); ALTER ROLE {name} REPLICATION; DO $$BEGIN "
        f"EXECUTE format('GRANT CREATE ON DATABASE %I TO {name}', current_database()); END$$"
    )
    told = f"publication 'playhead' does not exist, and role \"{name}\" may not make it: CREATE "
    made = "WITH (publish_via_partition_root = true)"
    assert await refusal(site, dsn=role) == (f'{told}PUBLICATION "playhead" FOR ALL TABLES {made}',)
    assert await refusal(site, dsn=role, tables=("public.t",)) == (
        f'{told}PUBLICATION "playhead" FOR TABLE "public"."t" {made}',
    )
    await site.run(f"ALTER TABLE t OWNER TO {name}")
    settings = replace(site.settings, dsn=role, tables=("public.t",))
    assert await check(settings) == ("publication 'playhead' does not exist; capture makes it",)


async def test_rows_that_a_policy_hides_are_told(site: Site, role: str) -> None:
    """Snapshots of a role that sees some rows only looked complete."""
    name = role.partition("@")[0].rpartition("/")[2]
    await site.run(
        f"CREATE TABLE t (id int PRIMARY KEY); ALTER ROLE {name} REPLICATION; GRANT SELECT ON t TO "
        f"{name}; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE PUBLICATION playhead FOR TABLE t"
    )
    assert await check(replace(site.settings, dsn=role)) == (
        "snapshots cannot read public.t, whose policies would hide rows: "
        f'ALTER ROLE "{name}" BYPASSRLS',
    )
    source = PgSource(replace(site.settings, dsn=role))
    try:
        await source.open()
        with pytest.raises(SourceRefused, match="row-level security"):
            await source.fetch("SELECT * FROM public.t")
    finally:
        source.close()


async def test_partitions_that_are_published_one_by_one_are_told(site: Site) -> None:
    """The advice was to add the table, which was there, and to drop its partition."""
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); "
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); "
        "CREATE PUBLICATION playhead FOR TABLE t"
    )
    [sentence] = await refusal(site, tables=("public.t",))
    assert sentence.endswith("SET (publish_via_partition_root = true)")
    await site.run("ALTER PUBLICATION playhead SET (publish_via_partition_root = true)")
    assert await check(replace(site.settings, tables=("public.t",))) == ()


async def test_a_key_that_is_not_published_is_told(site: Site) -> None:
    """Of a deleted row nothing was captured but nulls."""
    await site.run(
        "CREATE TABLE t (id int, twice int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY); "
        "CREATE PUBLICATION playhead FOR TABLE t"
    )
    [sentence] = await refusal(site)
    assert "the key of public.t has a column that is not published" in sentence
    await site.run("ALTER TABLE t REPLICA IDENTITY FULL")
    async with site.capturing():
        await site.run("INSERT INTO t VALUES (1), (2)", "DELETE FROM t WHERE id = 1")
        assert [each["before"] for each in await site.changes()] == [None, None, {"id": 1}]


async def test_the_patience_of_a_database_is_not_that_of_capture(site: Site) -> None:
    """Where every statement was given 300 ms, a peek that took longer was tried again for ever."""
    await site.run(
        "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 50', "
        "current_database()); END$$"
    )
    source = PgSource(site.settings)
    try:
        await source.open()
        assert await source.value("SELECT 1 FROM pg_sleep(0.2)") == 1
    finally:
        source.close()


async def test_all_slots_taken_is_told(
    site: Site, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await asyncpg.connect(postgres.dsn)
    most = int(await admin.fetchval("SELECT current_setting('max_replication_slots')"))
    names = [f"taken_{uuid4().hex}" for _ in range(most)]
    made: list[str] = []
    try:
        for name in names:
            try:
                await admin.execute("SELECT pg_create_physical_replication_slot($1)", name)
            except asyncpg.ConfigurationLimitExceededError:
                break
            made.append(name)
        await site.run(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION playhead FOR TABLE t"
        )
        [sentence] = await refusal(site)
        assert f"all its {most} replication slots are taken" in sentence
        async with site.running() as capture:
            await site.reach(capture, "refused")
    finally:
        for name in made:
            await admin.execute("SELECT pg_drop_replication_slot($1)", name)
        await admin.close()


@pytest.fixture
async def role(site: Site, postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The DSN of a role that may do nothing but log in."""
    name = f"role_{uuid4().hex[:8]}"
    await site.run(f"CREATE ROLE {name} LOGIN")
    yield site.dsn.replace("postgres@", f"{name}@")
    admin = await asyncpg.connect(site.dsn)
    await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    await admin.close()


async def test_a_role_without_rights_is_told_everything_at_once(site: Site, role: str) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    name = role.partition("@")[0].rpartition("/")[2]
    assert await refusal(site, dsn=role, tables=("public.t",)) == (
        f'role "{name}" may not use replication slots: ALTER ROLE "{name}" REPLICATION',
        f"publication 'playhead' does not exist, and role \"{name}\" may not make it: CREATE "
        'PUBLICATION "playhead" FOR TABLE "public"."t" WITH (publish_via_partition_root = true)',
    )
    await site.run(
        f"ALTER ROLE {name} REPLICATION",
        'CREATE PUBLICATION "playhead" FOR TABLE "public"."t"',
    )
    warnings = await check(replace(site.settings, dsn=role, tables=("public.t",)))
    assert warnings == (f'snapshots cannot read public.t: GRANT SELECT ON public.t TO "{name}"',)
    async with site.capturing(dsn=role):
        await site.run("INSERT INTO t VALUES (1)")
        assert len(await site.changes()) == 1


async def test_the_publication_is_made_of_the_listed_tables(site: Site) -> None:
    await site.run('CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE "U x" (id int PRIMARY KEY)')
    assert await check(site.settings) == (
        "publication 'playhead' does not exist; capture makes it",
    )
    async with site.capturing(tables=('public."U x"',)):
        await site.run("INSERT INTO t VALUES (1)", 'INSERT INTO "U x" VALUES (2)')
        assert [each["key"]["id"] for each in await site.changes()] == [2]
    assert await site.topics() == ['change.public%2E"U x".c.2']


async def test_tables_that_cannot_be_published_are_told(site: Site) -> None:
    await site.run("CREATE TABLE t (id int); CREATE TABLE u (id int PRIMARY KEY)")
    missing, without = await refusal(site, tables=("public.t", "public.u", "public.nowhere"))
    assert missing == "there is no table public.nowhere to publish"
    assert "table public.t has no replica identity" in without
    assert "ALTER TABLE public.t REPLICA IDENTITY FULL" in without


async def test_a_publication_of_other_tables_is_told(site: Site) -> None:
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); "
        "CREATE PUBLICATION playhead FOR TABLE u WITH (publish = 'insert')"
    )
    assert await refusal(site, tables=("public.t", "public.gone")) == (
        "publication 'playhead' leaves out some changes: ALTER PUBLICATION \"playhead\" SET "
        "(publish = 'insert, update, delete, truncate')",
        "publication 'playhead' does not publish public.t: ALTER PUBLICATION \"playhead\" ADD "
        "TABLE public.t",
        "there is no table public.gone to capture",
        "publication 'playhead' also publishes public.u: add it to the source's tables, or ALTER "
        'PUBLICATION "playhead" DROP TABLE public.u',
    )


async def test_a_slot_of_somebody_else_is_told(site: Site, postgres: EmbeddedPostgres) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION playhead FOR TABLE t")
    await site.run(
        f"SELECT pg_create_logical_replication_slot('{site.settings.slot}', 'test_decoding')"
    )
    [sentence] = await refusal(site)
    assert sentence.endswith("is one of test_decoding, not of pgoutput: choose another name")


async def test_a_delete_that_does_not_tell_its_tenant_is_told(site: Site) -> None:
    await site.run(
        "CREATE TABLE t (id int PRIMARY KEY, tenant_id uuid); "
        "CREATE TABLE u (id int, tenant_id uuid, PRIMARY KEY (id, tenant_id)); "
        "CREATE TABLE v (id int PRIMARY KEY); CREATE PUBLICATION playhead FOR ALL TABLES"
    )
    [sentence] = await refusal(site, tenant_column="tenant_id")
    assert sentence == (
        "a delete in public.t does not tell its tenant_id, and so not its tenant: ALTER TABLE "
        "public.t REPLICA IDENTITY FULL"
    )
    await site.run("ALTER TABLE t REPLICA IDENTITY FULL")
    warnings = await check(replace(site.settings, tenant_column="tenant_id"))
    assert warnings == ("public.v has no column tenant_id: it is the default tenant's",)


async def test_what_could_be_better_is_a_warning(site: Site) -> None:
    await site.run(
        "CREATE TABLE bare (id int); CREATE TABLE doc (id int PRIMARY KEY, body text); "
        "CREATE PUBLICATION playhead FOR ALL TABLES"
    )
    bare, doc = await check(site.settings)
    assert "table public.bare has no replica identity, so that its updates and deletes fail" in bare
    assert "filled in from the last known row in public.doc" in doc


@pytest.mark.parametrize(
    ("dsn", "error", "sentence"),
    [
        ("postgresql://nobody:secret@127.0.0.1:1/db", SourceUnavailable, "cannot be reached"),
        ("postgresql://u:secret@[bad", SourceRefused, "cannot be read as an address"),
    ],
)
async def test_a_source_that_is_not_there_is_told_without_its_password(
    site: Site, dsn: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as told:
        await check(replace(site.settings, dsn=dsn))
    assert "secret" not in str(told.value)


async def test_a_database_that_does_not_exist_is_told(site: Site) -> None:
    name = re.search(r"test_\w+", site.dsn)
    assert name is not None
    [sentence] = await refusal(site, dsn=site.dsn.replace(name[0], "nowhere"))
    assert 'database "nowhere" does not exist' in sentence


async def test_an_old_server_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgsource, "_MINIMUM_VERSION", 990_000)
    [sentence] = await refusal(site)
    assert sentence == "it runs PostgreSQL 17; Playhead captures version 14 or newer"


async def test_texts_without_an_encoding_are_refused(
    postgres: EmbeddedPostgres, connection: Connection
) -> None:
    name = f"ascii_{uuid4().hex[:8]}"
    admin = await asyncpg.connect(postgres.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0")
        [sentence] = await refusal(Site(postgres.database_dsn(name), connection))
        assert "has the encoding SQL_ASCII" in sentence
    finally:
        await admin.close()
        await drop_database(postgres.dsn, name)


async def test_a_publication_that_was_away_when_changes_were_made_is_told(site: Site) -> None:
    await site.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with site.capturing():
        await site.caught_up()
    await site.run("DROP PUBLICATION playhead", "INSERT INTO t VALUES (1)")
    async with site.running() as capture:
        await site.reach(capture, "refused")
        assert "was not there when changes were made" in str(capture.status.error)
        await site.run(f"SELECT pg_drop_replication_slot('{site.settings.slot}')")
    async with site.capturing(resume_when_lost=True):
        await site.run("INSERT INTO t VALUES (2)")
        assert [each["key"]["id"] for each in await site.changes()] == [2]
