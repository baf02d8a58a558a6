"""What a PostgreSQL's catalog says of the published tables and of types.

Asked in the caller's own transaction and session, so that it fits what else is read there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from store.pgtypes import Column, Kind, PgType, kind_of, quote_identifier, table_name


class Querying(Protocol):
    """As much of an asyncpg connection as is needed here."""

    async def fetch(self, query: str, *args: object) -> list[Any]:
        """Run a query; its rows."""


@dataclass(frozen=True, slots=True)
class Table:
    """A published table. `columns` are those that are published, in the order of the table.

    `key` names the columns that identify a row, in the order of the table: the primary key's, or
    those of the replica identity's index; () when there are none, and equal rows may be there twice
    (`multiset`). `identity` is d, n, f or i; `identity_columns` are what an old row surely has.
    `toastable`: values may be stored apart. `row_filter` is the publication's condition in SQL.
    """

    oid: int
    schema: str
    relation: str
    identity: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    identity_columns: tuple[str, ...]
    toastable: tuple[str, ...]
    row_filter: str | None

    @property
    def name(self) -> str:
        """`schema.table`, as events and requests name it."""
        return table_name(self.schema, self.relation)

    @property
    def sql_name(self) -> str:
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.relation)}"

    @property
    def multiset(self) -> bool:
        return not self.key


# Publications tell of column lists and row filters from version 15 on: through jsonb the query is
# the same for all.
# A partition does not follow its table: of one that has not FULL itself an old row is but a key,
# though PostgreSQL calls it whole.
_WHOLE = """NOT EXISTS (SELECT FROM pg_partition_tree(c.oid) part
               JOIN pg_class leaf ON leaf.oid = part.relid
             WHERE part.isleaf AND leaf.relreplident <> 'f')"""

_TABLES = f"""
SELECT c.oid, n.nspname AS schema, c.relname AS relation,
       CASE WHEN c.relreplident = 'f' AND {_WHOLE} THEN 'f'
            WHEN c.relreplident = 'f' THEN 'd' ELSE c.relreplident::text END AS identity,
       p.about->>'rowfilter' AS row_filter,
       (SELECT array_agg(x.name) FROM jsonb_array_elements_text(
            CASE jsonb_typeof(p.about->'attnames') WHEN 'array' THEN p.about->'attnames' END
        ) x(name)) AS published,
       (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_index i
          JOIN pg_attribute a ON a.attrelid = c.oid
           AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
         WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
           AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END) AS key
  FROM (SELECT p.schemaname, p.tablename, to_jsonb(p) AS about
          FROM pg_publication_tables p WHERE p.pubname = $1) p
  JOIN pg_namespace n ON n.nspname = p.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
 ORDER BY n.nspname, c.relname
"""  # noqa: S608 - constants

_KEY = f"""
SELECT {_WHOLE} AS whole,
       (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_index i
          JOIN pg_attribute a ON a.attrelid = i.indrelid
           AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
         WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate) AS key
  FROM pg_class c WHERE c.oid = $1::oid
"""  # noqa: S608 - constants

_COLUMNS = """
SELECT a.attrelid AS table, a.attname AS name, a.atttypid AS type,
       a.attstorage::text <> 'p' AS toastable
  FROM pg_attribute a
 WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
   AND (a.attgenerated::text = '' OR current_setting('server_version_num')::int >= 180000)
 ORDER BY a.attrelid, a.attnum
"""

_TYPES = """
WITH RECURSIVE found AS (
  SELECT t.oid, t.typtype::text AS category, t.typbasetype AS base, t.typdelim::text AS delimiter,
         CASE t.typoutput WHEN 'array_out'::regproc THEN t.typelem ELSE 0::oid END AS element
    FROM pg_type t WHERE t.oid = ANY ($1::oid[])
  UNION
  SELECT t.oid, t.typtype::text, t.typbasetype, t.typdelim::text,
         CASE t.typoutput WHEN 'array_out'::regproc THEN t.typelem ELSE 0::oid END
    FROM found f JOIN pg_type t ON t.oid IN (f.base, f.element)
)
SELECT * FROM found
"""


async def kinds(connection: Querying, oids: Iterable[int]) -> dict[int, Kind]:
    """The kind of each type; of one that was dropped meanwhile, that of an unknown one."""
    asked = sorted(set(oids))
    rows = await connection.fetch(_TYPES, asked)
    types = {
        row["oid"]: PgType(
            row["oid"], row["category"], row["base"], row["element"], row["delimiter"]
        )
        for row in rows
    }
    return {oid: kind_of(oid, types) for oid in asked}


async def full_identity(connection: Querying, oid: int) -> tuple[bool, tuple[str, ...]] | None:
    """Of a table with FULL or no identity: whether old rows are whole, and its primary key.

    None where there is no table.
    """
    rows = await connection.fetch(_KEY, oid)
    return (rows[0]["whole"], tuple(rows[0]["key"] or ())) if rows else None


async def tables(connection: Querying, publication: str) -> list[Table]:
    """The tables that a publication publishes, sorted by schema and name."""
    found = await connection.fetch(_TABLES, publication)
    rows = await connection.fetch(_COLUMNS, [each["oid"] for each in found])
    known = await kinds(connection, {row["type"] for row in rows})
    by_table: dict[int, list[Any]] = {}
    for row in rows:
        by_table.setdefault(row["table"], []).append(row)
    return [_table(each, by_table.get(each["oid"], []), known) for each in found]


def _table(found: Any, rows: list[Any], known: dict[int, Kind]) -> Table:
    published = found["published"]
    rows = [row for row in rows if published is None or row["name"] in published]
    names = [row["name"] for row in rows]
    index = found["key"] or ()
    key = tuple(index) if set(index) <= set(names) else ()
    return Table(
        oid=found["oid"],
        schema=found["schema"],
        relation=found["relation"],
        identity=found["identity"],
        columns=tuple(Column(row["name"], row["type"], known[row["type"]]) for row in rows),
        key=key,
        identity_columns={"f": tuple(names), "n": ()}.get(found["identity"], key),
        toastable=tuple(row["name"] for row in rows if row["toastable"]),
        row_filter=found["row_filter"],
    )
