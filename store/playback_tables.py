"""The tables of a playback database, and the SQL that brings rows into them as JSON. Pure.

Every statement takes rows as one JSON array, in the form of `store.pgtypes`; a value is read by the
input function of its column's own type.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from store.errors import TargetError
from store.pgtypes import Column, Kind, quote_identifier, quote_literal, select_list

_DATABASE = "the playback database"
_JSON_OIDS = {114, 3802}  # json, jsonb


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """`type_name` is SQL; a generated column takes no value, a required one no NULL."""

    name: str
    type_oid: int
    type_name: str
    kind: Kind
    generated: bool
    required: bool

    @property
    def holds_json(self) -> bool:
        return self.type_oid in _JSON_OIDS


@dataclass(frozen=True, slots=True)
class Identity:
    """Columns of which no two rows have the same values, and the operators that compare them."""

    columns: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetTable:
    """`name` is `schema.table` as events have it, `sql_name` as SQL does.

    `truncatable`: it may be emptied at once, for no other table refers to it.
    """

    name: str
    sql_name: str
    columns: Mapping[str, TargetColumn]
    identities: tuple[Identity, ...]
    truncatable: bool

    def require(self, columns: Collection[str]) -> None:
        """Raises TargetError when it has not all of these: their values would be lost."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            names, several = ", ".join(map(quote_identifier, missing)), len(missing) > 1
            raise TargetError(
                f"table {self.name} of {_DATABASE} lacks the column{'s' if several else ''} {names}; "
                f"add {'them' if several else 'it'} there"
            )

    def identity_in(self, key: Collection[str]) -> Identity | None:
        """What finds at most one row by a key of these columns."""
        return next((each for each in self.identities if {*each.columns} <= {*key}), None)

    def require_identity(self, key: Collection[str]) -> None:
        if self.identity_in(key) is None:
            names = ", ".join(map(quote_identifier, key))
            raise TargetError(
                f"table {self.name} of {_DATABASE} has no primary key or unique index of columns "
                f"that are not null within ({names}), by which its rows are found; create it there"
            )

    # -- statements; $1 is a JSON array of objects

    @property
    def clear(self) -> str:
        return f"TRUNCATE {self.sql_name}" if self.truncatable else f"DELETE FROM {self.sql_name}"

    @property
    def close(self) -> str:
        """Until the end of the transaction nobody else writes to it."""
        return f"LOCK TABLE {self.sql_name} IN ACCESS EXCLUSIVE MODE"

    @property
    def clear_first(self) -> str:
        """What was there before any session of any other tenant (all but `$1`) used it."""
        return (
            f"DELETE FROM {self.sql_name} WHERE NOT EXISTS (SELECT FROM playhead.progress p "
            f"WHERE p.tenant <> $1 AND {quote_literal(self.name)} = ANY (p.tables))"
        )

    def insert(self, columns: Collection[str]) -> str:
        """Rows that have these columns; others of the table take their defaults."""
        self.require(columns)
        taken = [name for name in columns if not self.columns[name].generated]
        if not taken:
            count = "json_array_elements($1)"
            return f"INSERT INTO {self.sql_name} SELECT FROM {count}"
        names = ", ".join(map(quote_identifier, taken))
        return (
            f"INSERT INTO {self.sql_name} ({names}) OVERRIDING SYSTEM VALUE "
            f"SELECT {', '.join(map(self._value, taken))} "
            f"FROM json_to_recordset($1) AS r({self._typed(taken)})"
        )

    def delete(self, identity: Identity) -> str:
        """Rows by their keys, of which some columns identify them."""
        return (
            f"DELETE FROM {self.sql_name} AS t USING json_to_recordset($1) "
            f"AS k({self._typed(identity.columns)}) WHERE {self._matched(identity)}"
        )

    def update(self, identity: Identity, columns: Collection[str]) -> str:
        """One row, found by `$2`, its key; columns that are not among these stay as they are."""
        self.require(columns)
        taken = [name for name in columns if not self.columns[name].generated]
        changes = ", ".join(f"{quote_identifier(name)} = {self._value(name)}" for name in taken)
        return (
            f"UPDATE {self.sql_name} AS t SET {changes} "
            f"FROM json_to_recordset($1) AS r({self._typed(taken)}), "
            f"json_to_recordset($2) AS k({self._typed(identity.columns)}) "
            f"WHERE {self._matched(identity)}"
        )

    def delete_equal(self, columns: Collection[str]) -> str:
        """`$2` of the rows that are `$1`, a text: for tables in which equal rows may be."""
        self.require(columns)
        found = [self.columns[name] for name in columns]
        listed = select_list([Column(each.name, each.type_oid, each.kind) for each in found], "t")
        return (
            f"DELETE FROM {self.sql_name} WHERE (tableoid, ctid) IN (SELECT t.tableoid, t.ctid "
            f"FROM {self.sql_name} AS t WHERE (SELECT to_json(r)::text FROM (SELECT {listed}) r) "
            "= $1 LIMIT $2)"
        )

    def _value(self, name: str) -> str:
        column, value = self.columns[name], f"r.{quote_identifier(name)}"
        # A row as JSON does not tell a JSON null from NULL: where there can be no NULL, it was one.
        return f"coalesce({value}, 'null')" if column.required and column.holds_json else value

    def _typed(self, columns: Collection[str]) -> str:
        found = [self.columns[name] for name in columns]
        return ", ".join(f"{quote_identifier(each.name)} {each.type_name}" for each in found)

    def _matched(self, identity: Identity) -> str:
        pairs = zip(identity.columns, identity.operators, strict=True)
        return " AND ".join(
            f"t.{quote_identifier(name)} {operator} k.{quote_identifier(name)}"
            for name, operator in pairs
        )


def find_tables(
    tables: Mapping[str, TargetTable], names: Collection[str]
) -> dict[str, TargetTable]:
    """The tables of these names. Raises TargetError that names each one missing."""
    missing = sorted(name for name in names if name not in tables)
    if missing:
        several = len(missing) > 1
        raise TargetError(
            f"{_DATABASE} has no table{'s' if several else ''} {', '.join(missing)}; "
            f"create {'them' if several else 'it'} there with the columns of the source"
        )
    return {name: tables[name] for name in names}
