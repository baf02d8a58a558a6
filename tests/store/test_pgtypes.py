"""The JSON of a row is the same, byte for byte, whether it comes through pgoutput or from `to_json`."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import pgcatalog, pgoutput, pgtypes
from store.pgtypes import (
    Form,
    Kind,
    quote_identifier,
    quote_literal,
    table_name,
    tenant_of,
)

INF = st.sampled_from(["infinity", "-infinity"])
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20) | (
    st.sampled_from(
        ['"', "\\", "\t\n\r\b\f\x01\x1f\x7f", "\u2028é\U0001f4a5", "NULL", "{}", "a,b", ""]
    )
)
dates = (
    st.dates().map(str) | INF | st.sampled_from(["0044-03-15 BC", "294276-12-31", "4713-01-01 BC"])
)
times = st.times().map(str)
zones = st.sampled_from(["", "+00", "-11:30", "+05:45:10"])
stamps = (
    st.datetimes().map(str)
    | INF
    | st.sampled_from(["0044-03-15 12:30:01.5 BC", "294276-01-01 00:00"])
)
numerics = st.decimals(allow_nan=False, allow_infinity=False).map(lambda n: f"{n:f}"[:300]) | (
    st.sampled_from(["NaN", "Infinity", "-Infinity", "1e200", "-0.000", "1.10"])
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
).map(lambda value: json.dumps(value, ensure_ascii=False, indent=1))
blank_documents = documents.map(lambda text: f" \t\r\n{text}\n") | st.just('{"a"\t:\r\n[1 , 2]}')
int4s = st.integers(-(2**31), 2**31 - 1).map(str)
binaries = st.binary(max_size=20).map(lambda data: "\\x" + data.hex())
booleans = st.sampled_from(["t", "f"])
doubles = st.floats().map(repr)
uuids = st.uuids().map(str)
boxes = st.tuples(int4s, int4s, int4s, int4s).map(lambda each: "({},{}),({},{})".format(*each))


def arrays(elements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Literals of one and two dimensions, with nulls and bounds."""

    def literal(values: list[str | None], mark: str = ",") -> str:
        quoted = (
            "NULL" if v is None else '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"'
            for v in values
        )
        return "{" + mark.join(quoted) + "}"

    flat = st.lists(st.none() | elements, max_size=4)
    square = st.tuples(flat.filter(bool), st.integers(1, 3)).map(
        lambda each: "{" + ",".join([literal(each[0])] * each[1]) + "}"
    )
    bounded = flat.filter(bool).map(lambda each: f"[-1:{len(each) - 2}]={literal(each)}")
    return flat.map(literal) | square | bounded


@dataclass(frozen=True)
class Case:
    type: str
    literals: st.SearchStrategy[str]


CASES = [
    Case("bool", booleans),
    Case("int2", st.integers(-32768, 32767).map(str)),
    Case("int4", int4s),
    Case("int8", st.integers(-(2**63), 2**63 - 1).map(str)),
    Case("oid", st.integers(0, 2**32 - 1).map(str)),
    Case("float4", st.floats(width=32).map(repr)),
    Case("float8", doubles),
    Case("numeric", numerics),
    Case("numeric(12,3)", st.decimals(-1000, 1000, places=3).map(str)),
    Case("money", st.integers(-(10**6), 10**6).map(str)),
    Case("text", texts),
    Case("varchar(30)", texts),
    Case("char(30)", texts),
    Case('"char"', st.sampled_from(["a", '"', ""])),
    Case("name", texts.map(lambda text: text[:10])),
    Case("bytea", binaries),
    Case("date", dates),
    Case("time", times),
    Case("timetz", st.tuples(times, zones).map("".join)),
    Case("timestamp", stamps),
    Case("timestamptz", st.tuples(st.datetimes().map(str), zones).map("".join) | stamps),
    Case(
        "interval",
        st.tuples(st.integers(-500, 500), st.integers(-9, 9), st.integers(-(10**9), 10**9)).map(
            lambda each: "{} months {} days {} milliseconds".format(*each)
        ),
    ),
    Case("uuid", uuids),
    Case("json", blank_documents),
    Case("jsonb", documents.filter(lambda text: "\\u0000" not in text)),
    Case("inet", st.ip_addresses().map(str) | st.just("10.0.0.1/8")),
    Case("cidr", st.ip_addresses().map(str)),
    Case("macaddr", st.just("08:00:2b:01:02:03")),
    Case("bit(3)", st.sampled_from(["101", "000"])),
    Case("varbit", st.text("01", max_size=9)),
    Case("int4range", st.sampled_from(["empty", "[1,5)", "(,)", "[3,]"])),
    Case("tstzrange", st.just('["2024-01-01 00:00+01","2024-02-01 00:00+00")')),
    Case("int4multirange", st.sampled_from(["{}", "{[1,3),[7,9)}"])),
    Case("point", st.just("(1.5,-2)")),
    Case("box", boxes),
    Case("tsvector", st.just("'a':1 'it''s':2")),
    Case("pg_lsn", st.just("16/B374D848")),
    Case("regclass", st.sampled_from(["pg_class", "kinds.all"])),
    Case("int2vector", st.sampled_from(["1 2 3", ""])),
    Case("kinds.mood", st.sampled_from(["sad", 'very "happy"'])),
    Case("kinds.small", st.integers(0, 9).map(str)),
    Case("kinds.smalls", arrays(st.integers(0, 9).map(str))),
    Case("kinds.pair", st.sampled_from(['(1,"a ""b"" c")', "(,)"])),
    Case("hstore", st.just('"a"=>"1", "b"=>NULL')),
    Case("citext", texts),
    Case("bool[]", arrays(booleans)),
    Case("int4[]", arrays(int4s)),
    Case("float8[]", arrays(doubles)),
    Case("numeric[]", arrays(numerics)),
    Case("text[]", arrays(texts)),
    Case("bytea[]", arrays(binaries)),
    Case("date[]", arrays(dates)),
    Case("timestamp[]", arrays(stamps)),
    Case("timestamptz[]", arrays(stamps)),
    Case("json[]", arrays(blank_documents)),
    Case("jsonb[]", arrays(documents.filter(lambda text: "\\u0000" not in text))),
    Case("uuid[]", arrays(uuids)),
    Case("box[]", boxes.map(lambda box: "{" + box + ";" + box + "}")),
    Case("kinds.mood[]", arrays(st.sampled_from(["sad", 'very "happy"']))),
    Case("kinds.small[]", arrays(st.integers(0, 9).map(str))),
    Case("kinds.pair[]", st.just('{"(1,a)",NULL}')),
    Case("citext[]", arrays(texts)),
]
NAMES = [f'c{number} "%s %' for number in range(len(CASES))]
# Which column, and its literal; the others of its row are null.
values_of_any_type = st.one_of(
    *(st.tuples(st.just(number), case.literals) for number, case in enumerate(CASES))
)


@pytest.fixture
async def source(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A table with a column of every type, published, and a slot."""
    connection = await asyncpg.connect(database, server_settings=pgtypes.SESSION_SETTINGS)
    await connection.execute("SET search_path TO public")
    await connection.execute(
        """
        CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE SCHEMA kinds;
        CREATE TYPE kinds.mood AS ENUM ('sad', 'very "happy"');
        CREATE DOMAIN kinds.small AS int2; CREATE DOMAIN kinds.smalls AS kinds.small[];
        CREATE TYPE kinds.pair AS (number int, word text)
        """
    )
    columns = ", ".join(
        f"{quote_identifier(name)} {case.type}" for name, case in zip(NAMES, CASES, strict=True)
    )
    await connection.execute(
        f"CREATE TABLE kinds.all (id int PRIMARY KEY, {columns}, "
        "twice int GENERATED ALWAYS AS (id * 2) STORED); "
        "CREATE PUBLICATION kinds FOR TABLE kinds.all"
    )
    await connection.execute("SELECT pg_create_logical_replication_slot('kinds', 'pgoutput')")
    yield connection
    await connection.close()


async def captured(source: asyncpg.Connection) -> list[bytes]:
    """What the slot has, as the JSON of rows."""
    await source.execute("SET search_path TO pg_catalog")
    messages = await source.fetch(
        "SELECT data FROM pg_logical_slot_get_binary_changes('kinds', NULL, NULL, "
        "'proto_version', '1', 'publication_names', 'kinds')"
    )
    found: list[bytes] = []
    columns: list[pgtypes.Column] = []
    for (data,) in messages:
        match pgoutput.decode(data):
            case pgoutput.Relation() as relation:
                known = await pgcatalog.kinds(source, [each.type_oid for each in relation.columns])
                columns = [
                    pgtypes.Column(each.name, each.type_oid, known[each.type_oid])
                    for each in relation.columns
                ]
            case pgoutput.Insert(_, new):
                found.append(row_json(columns, new))
    return found


def row_json(columns: list[pgtypes.Column], values: pgoutput.Row) -> bytes:
    members = []
    for column, value in zip(columns, values, strict=True):
        text = b"null" if value is None else pgtypes.to_json(column.kind, bytes(value))  # type: ignore[arg-type]
        members.append(pgtypes.string(column.name.encode()) + b":" + text)
    return b"{" + b",".join(members) + b"}"


async def selected(source: asyncpg.Connection) -> list[bytes]:
    """The same rows as PostgreSQL writes them."""
    [table] = await pgcatalog.tables(source, "kinds")
    found = await source.fetch(
        f"SELECT to_json(r)::text FROM (SELECT {pgtypes.select_list(table.columns, 't')} "
        f"FROM {table.sql_name} t ORDER BY id) r"
    )
    return [each[0].encode() for each in found]


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(values_of_any_type, min_size=1, max_size=80))
async def test_a_row_through_pgoutput_is_byte_for_byte_what_to_json_writes(
    source: asyncpg.Connection, values: list[tuple[int, str]]
) -> None:
    await source.execute("SET search_path TO public; DELETE FROM kinds.all")
    async with source.transaction():
        for number, (case, literal) in enumerate(values):
            await source.execute(
                f"INSERT INTO kinds.all (id, {quote_identifier(NAMES[case])}) "
                f"VALUES ($1, $2::text::{CASES[case].type})",
                *(number, literal),
            )
    by_capture, by_select = await captured(source), await selected(source)
    assert len(by_capture) == len(values)
    for one, other in zip(by_capture, by_select, strict=True):
        assert one == other
        assert b"\n" not in one
        assert json.loads(one)["id"] >= 0


async def test_the_text_of_a_tenant_is_found_alike_by_both_sides(
    source: asyncpg.Connection,
) -> None:
    ours = "0B5BD4D4-1F8C-4C0C-9D58-3C2E6F1A7D11"
    values = [ours, ours.lower(), None, "", f"{{{ours}}}", ours.replace("-", ""), f"{ours} ", "x"]
    fallback = "00000000-0000-0000-0000-000000000000"
    expression = pgtypes.tenant_expression("te'n\\ant", "t", fallback)
    found = await source.fetch(
        f'SELECT {expression} FROM unnest($1::text[]) WITH ORDINALITY t("te\'n\\ant", n) ORDER BY n',
        values,
    )
    expected = [tenant_of(None if v is None else v.encode()) or fallback for v in values]
    assert [each[0] for each in found] == expected
    assert expected[0] == expected[1] == ours.lower()


@pytest.mark.parametrize("text", ["", "it's", "a\\b", "\\'; --", "é\n"])
async def test_a_literal_is_the_text_it_was_made_of(source: asyncpg.Connection, text: str) -> None:
    assert await source.fetchval(f"SELECT {quote_literal(text)}") == text


def test_a_type_that_nobody_knows_is_a_string() -> None:
    assert pgtypes.kind_of(99_999, {}) == Kind(Form.OPAQUE)
    assert pgtypes.to_json(Kind(Form.OPAQUE), b'a"b') == b'"a\\"b"'


@pytest.mark.parametrize(
    ("schema", "table", "name"),
    [
        ("public", "vehicle", "public.vehicle"),
        ("public", "Vehicle", 'public."Vehicle"'),
        ('a"b', "c.d", '"a""b"."c.d"'),
    ],
)
def test_a_table_is_named_with_quotes_only_where_they_count(
    schema: str, table: str, name: str
) -> None:
    assert table_name(schema, table) == name


async def test_the_catalog_tells_keys_lists_and_filters(source: asyncpg.Connection) -> None:
    await source.execute(
        """
        CREATE TABLE public.plain (b int, a text, c int, PRIMARY KEY (a, b) INCLUDE (c));
        CREATE TABLE public.bare (a int); ALTER TABLE public.bare REPLICA IDENTITY FULL;
        CREATE TABLE public.full (a int, id int PRIMARY KEY);
        ALTER TABLE public.full REPLICA IDENTITY FULL;
        CREATE TABLE public.by_index (a int PRIMARY KEY, u int NOT NULL UNIQUE);
        ALTER TABLE public.by_index REPLICA IDENTITY USING INDEX by_index_u_key;
        CREATE TABLE public."Dr op" (x int, gone int, y int, id int PRIMARY KEY);
        ALTER TABLE public."Dr op" DROP COLUMN gone;
        CREATE PUBLICATION several FOR TABLE public.plain, public.bare, public.by_index,
          public.full WHERE (id > 3), public."Dr op" (id, y)
        """
    )
    found = {table.name: table for table in await pgcatalog.tables(source, "several")}
    assert list(found) == [
        *('public."Dr op"', "public.bare", "public.by_index", "public.full", "public.plain")
    ]

    def shape(name: str) -> tuple[Any, ...]:
        table = found[name]
        return [column.name for column in table.columns], table.key, table.identity_columns

    assert shape("public.plain") == (["b", "a", "c"], ("b", "a"), ("b", "a"))
    assert shape("public.bare") == (["a"], (), ("a",))
    assert found["public.bare"].multiset
    assert shape("public.full") == (["a", "id"], ("id",), ("a", "id"))
    assert shape("public.by_index") == (["a", "u"], ("u",), ("u",))
    assert shape('public."Dr op"') == (["y", "id"], ("id",), ("id",))
    assert found["public.full"].row_filter == "(id > 3)"
    assert found["public.plain"].row_filter is None
    assert found["public.plain"].toastable == ("a",)
    assert await pgcatalog.tables(source, "none") == []
