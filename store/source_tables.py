"""The captured tables of a source as a snapshot reads them: the same JSON that capture writes."""

from collections.abc import Sequence

import asyncpg

from store import pgcatalog
from store.pgcatalog import Table
from store.pgtypes import Column, quote_literal, select_list, tenant_expression
from store.snapshot_source import ReadTables, SourceTable

_SIZES = """
SELECT oid, relkind::text AS kind, reltuples::int8 AS rows
  FROM pg_class WHERE oid = ANY ($1::oid[])
"""


def table_reader(
    publication: str, *, tenant_column: str | None, fallback: str | None
) -> ReadTables:
    """What a publication publishes. `fallback`: whose the rows are that name no tenant, with a column."""

    async def read(connection: asyncpg.Connection) -> Sequence[SourceTable]:
        tables = await pgcatalog.tables(connection, publication)
        rows = await connection.fetch(_SIZES, [table.oid for table in tables])
        sizes = {row["oid"]: row for row in rows}
        return [
            _table(table, tenant_column, fallback, sizes[table.oid])
            for table in tables
            if table.oid in sizes and table.columns
        ]

    return read


def _table(
    table: Table, tenant_column: str | None, fallback: str | None, size: asyncpg.Record
) -> SourceTable:
    key = [column for column in table.columns if column.name in table.key]
    row_sql = _json_of(table.columns)
    tenant_sql = None
    if fallback is not None and tenant_column is not None:
        named = any(column.name == tenant_column for column in table.columns)
        tenant_sql = (
            tenant_expression(tenant_column, "t", fallback) if named else quote_literal(fallback)
        )
    return SourceTable(
        name=table.name,
        columns=tuple(column.name for column in table.columns),
        key=table.key,
        multiset=table.multiset,
        # Inheriting tables are published under their own names; partitions are a table's own rows.
        relation_sql=table.sql_name if size["kind"] == "p" else f"ONLY {table.sql_name}",
        key_sql=_json_of(key) if key else row_sql,
        row_sql=row_sql,
        condition_sql=table.row_filter,
        tenant_sql=tenant_sql,
        # Unknown is -1, before the first VACUUM or ANALYZE.
        expected_rows=max(0, size["rows"]),
    )


def _json_of(columns: Sequence[Column]) -> str:
    return f"(SELECT to_json(r) FROM (SELECT {select_list(columns, 't')}) r)"  # noqa: S608 - quoted
