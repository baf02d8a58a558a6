"""Whether a database is set up to be captured; what is missing is made, or said with the SQL to run.

Everything that is wrong is told at once. Nothing of the source is changed but that its publication
is made where there is none and the role may.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from store.errors import SourceRefused
from store.pgcatalog import Table, tables
from store.pgsource import PLUGIN, PgSource, SourceSettings
from store.pgtypes import quote_identifier, table_name

_EVERYTHING = "insert, update, delete, truncate"

_SERVER = """
SELECT pg_is_in_recovery() AS standby, current_setting('wal_level') AS wal_level,
       current_setting('server_encoding') AS encoding, current_user::text AS role,
       current_database()::text AS database,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super,
       (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user)
       OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication'
                     AND pg_has_role(oid, 'member')) AS replication,
       has_database_privilege(current_database(), 'CREATE') AS may_create
"""

_PUBLICATION = """
SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AS everything
  FROM pg_publication WHERE pubname = $1
"""

# What could be published: own tables that last. A partition is published as its table.
_CANDIDATES = """
SELECT n.nspname AS schema, c.relname AS name, c.relreplident::text AS identity,
       c.relkind = 'p' AS parted,
       pg_has_role(c.relowner, 'USAGE') AS owned,
       has_table_privilege(c.oid, 'SELECT') AS readable, row_security_active(c.oid) AS secured,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                  AND i.indisprimary) AS keyed
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
   AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """The tables that are captured, and sentences about what could be better."""

    tables: list[Table]
    warnings: tuple[str, ...]


async def prepare(source: PgSource, *, create: bool) -> Setup:
    """Check everything; with `create` make the publication if it is missing.

    Raises SourceRefused with a sentence for each thing that has to be changed.
    """
    settings = source.settings
    [server] = await source.fetch(_SERVER)
    problems = list(_about_server(server))
    candidates = {
        table_name(row["schema"], row["name"]): row for row in await source.fetch(_CANDIDATES)
    }
    publication = await source.fetch(_PUBLICATION, settings.publication)
    if not publication:
        problems += _about_making(settings, server, candidates)
        if problems:
            raise SourceRefused(problems)
        if not create:
            told = f"publication '{settings.publication}' does not exist; capture makes it"
            return Setup([], (told,))
        await source.execute(_creation(settings, candidates))
    elif not publication[0]["everything"]:
        problems.append(
            f"publication '{settings.publication}' leaves out some changes: ALTER PUBLICATION "
            f"{quote_identifier(settings.publication)} SET (publish = '{_EVERYTHING}')"
        )
    found = await tables(source, settings.publication)
    problems += _about_tables(settings, found, candidates)
    problems += await _about_slot(source, server["database"])
    if settings.tenant_column is not None:
        problems += _about_tenants(settings.tenant_column, found, candidates)
    if problems:
        raise SourceRefused(problems)
    return Setup(found, tuple(_warnings(settings, found, candidates, server["role"])))


def _about_server(server: Any) -> Iterable[str]:
    if server["standby"]:
        yield "it is a standby: capture its primary"
    if server["wal_level"] != "logical":
        yield (
            f"wal_level is '{server['wal_level']}', and capture needs 'logical': ALTER SYSTEM SET "
            "wal_level = 'logical', then restart PostgreSQL"
        )
    if server["encoding"] == "SQL_ASCII":
        yield (
            f"database '{server['database']}' has the encoding SQL_ASCII, whose texts may be no "
            "texts: capture one with the encoding UTF8"
        )
    if not server["replication"]:
        role = quote_identifier(server["role"])
        yield f"role {role} may not use replication slots: ALTER ROLE {role} REPLICATION"


def _about_making(settings: SourceSettings, server: Any, candidates: dict[str, Any]) -> list[str]:
    """Why the publication cannot be made, by this role or at all."""
    problems = [
        f"there is no table {name} to publish" for name in settings.tables if name not in candidates
    ]
    problems += [
        _without_identity(name) for name in settings.tables or candidates
        if name in candidates and not _identified(candidates[name])
    ]  # fmt: skip
    owned = all(candidates[name]["owned"] for name in settings.tables if name in candidates)
    # One for all tables is for superusers alone.
    may_make = server["may_create"] and (owned if settings.tables else server["super"])
    if not problems and not may_make:
        problems.append(
            f"publication '{settings.publication}' does not exist, and role "
            f"{quote_identifier(server['role'])} may not make it: {_creation(settings, candidates)}"
        )
    return problems


def _creation(settings: SourceSettings, candidates: dict[str, Any]) -> str:
    names = ", ".join(
        f"{quote_identifier(row['schema'])}.{quote_identifier(row['name'])}"
        for row in (candidates[name] for name in settings.tables)
    )
    what = f"TABLE {names}" if names else "ALL TABLES"
    return (
        f"CREATE PUBLICATION {quote_identifier(settings.publication)} FOR {what} "
        "WITH (publish_via_partition_root = true)"
    )


def _identified(candidate: Any) -> bool:
    identity = candidate["identity"]
    return identity in ("f", "i") or (identity == "d" and bool(candidate["keyed"]))


def _without_identity(name: str) -> str:
    return (
        f"table {name} has no replica identity, so that its updates and deletes would fail once it "
        f"is published: give it a primary key, or ALTER TABLE {name} REPLICA IDENTITY FULL"
    )


def _about_tables(
    settings: SourceSettings, found: Sequence[Table], candidates: dict[str, Any]
) -> list[str]:
    publication = quote_identifier(settings.publication)
    published = {table.name for table in found}
    problems = []
    for name in settings.tables:
        if name in published:
            continue
        if name not in candidates:
            problems.append(f"there is no table {name} to capture")
        elif candidates[name]["parted"] and any(each not in candidates for each in published):
            problems.append(
                f"publication '{settings.publication}' publishes partitions one by one, and so no "
                f"{name}: ALTER PUBLICATION {publication} SET (publish_via_partition_root = true)"
            )
        else:
            problems.append(
                f"publication '{settings.publication}' does not publish {name}: "
                f"ALTER PUBLICATION {publication} ADD TABLE {name}"
            )
    for table in found:
        candidate = candidates.get(table.name)
        keyed = table.identity == "i" or (candidate is not None and candidate["keyed"])
        if table.identity in "di" and keyed and not table.key:
            problems.append(
                f"the key of {table.name} has a column that is not published, as generated ones are "
                f"not, and so a delete does not tell its row: ALTER TABLE {table.name} REPLICA "
                "IDENTITY FULL"
            )
    # A partition that is published by itself is told with its table.
    unasked = (
        sorted((published - set(settings.tables)) & set(candidates)) if settings.tables else []
    )
    return problems + [
        f"publication '{settings.publication}' also publishes {name}: add it to the source's "
        f"tables, or ALTER PUBLICATION {publication} DROP TABLE {name}"
        for name in unasked
    ]


async def _about_slot(source: PgSource, database: str) -> list[str]:
    slot, name = await source.slot(), source.settings.slot
    if slot is None:
        [row] = await source.fetch(
            "SELECT current_setting('max_replication_slots')::int AS most, count(*) AS taken "
            "FROM pg_replication_slots"
        )
        if row["taken"] < row["most"]:
            return []
        return [
            f"all its {row['most']} replication slots are taken: drop one with "
            "SELECT pg_drop_replication_slot('...'), or raise max_replication_slots and restart "
            "PostgreSQL"
        ]
    if slot.plugin != PLUGIN:
        return [f"slot '{name}' is one of {slot.plugin}, not of {PLUGIN}: choose another name"]
    if slot.database != database:
        return [f"slot '{name}' is one of database '{slot.database}': choose another name"]
    return []


def _about_tenants(
    column: str, found: Sequence[Table], candidates: dict[str, Any]
) -> Iterable[str]:
    for table in found:
        named = any(each.name == column for each in table.columns)
        if named and column not in table.identity_columns:
            candidate = candidates.get(table.name)
            parts = candidate is not None and candidate["parted"]
            yield (
                f"a delete in {table.name} does not tell its {column}, and so not its tenant: "
                f"ALTER TABLE {table.name} REPLICA IDENTITY FULL"
                f"{', and the same for each of its partitions' if parts else ''}"
            )


def _warnings(
    settings: SourceSettings, found: Sequence[Table], candidates: dict[str, Any], role: str
) -> Iterable[str]:
    if not found:
        yield f"publication '{settings.publication}' publishes no table"
    for table in found:
        candidate = candidates.get(table.name)
        if not table.identity_columns:
            yield _without_identity(table.name).replace("would fail once it is published", "fail")
        if candidate is not None and not candidate["readable"]:
            yield (
                f"snapshots cannot read {table.name}: GRANT SELECT ON {table.name} TO "
                f"{quote_identifier(role)}"
            )
        if candidate is not None and candidate["secured"]:
            yield (
                f"snapshots cannot read {table.name}, whose policies would hide rows: "
                f"ALTER ROLE {quote_identifier(role)} BYPASSRLS"
            )
        if settings.tenant_column is not None and not any(
            each.name == settings.tenant_column for each in table.columns
        ):
            yield f"{table.name} has no column {settings.tenant_column}: it is the default tenant's"
    partly = [table.name for table in found if table.toastable and table.identity in "di"]
    if partly:
        yield (
            "large values that an update leaves unchanged are filled in from the last known row in "
            f"{', '.join(partly)}; ALTER TABLE ... REPLICA IDENTITY FULL has them sent"
        )
