"""Random transactions on tables of all kinds: of many types, keys and identities, by many at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

from tests.faults.ledger import SCHEMA, noting

_IDS = 30
_KINDS = {
    "flag": ("boolean", ["true", "false"]),
    "small": ("smallint", ["-32768", "0", "7"]),
    "large": ("bigint", ["9223372036854775807", "-1", "9007199254740993"]),
    "single": ("real", ["0.1", "NaN", "-Infinity", "3.4e38", "1e-45"]),
    "double_": ("double precision", ["0.1", "1e308", "-0", "Infinity", "12345.678901234567"]),
    "amount": ("numeric", ["1.10", "NaN", "-0.000", "1e40", "99999999999999999999.5"]),
    "name": ("text", ["", "é \U0001f4a5", 'a "quoted" \\ one', "tab\tline\nend", "NULL", "{}"]),
    "code": ("varchar(8)", ["x", "12345678"]),
    "fixed": ("char(5)", ["ab", "abcde"]),
    "data": ("bytea", ["\\x", "\\x00ff10", "\\x5c5c"]),
    "day": ("date", ["2026-02-28", "0044-03-15 BC", "infinity"]),
    "clock": ("time", ["00:00", "23:59:59.999999", "24:00"]),
    "zoned": ("timetz", ["12:30:00+05:45", "01:02:03.5-11"]),
    "local": ("timestamp", ["2026-02-28 12:00:00.5", "-infinity", "0044-03-15 12:00 BC"]),
    "instant": ("timestamptz", ["2026-02-28 12:00:00.123456+02", "infinity", "epoch"]),
    "span": ("interval", ["1 year 2 mons -3 days", "-00:00:01.5", "0"]),
    "ident": ("uuid", ["00000000-0000-0000-0000-000000000001"]),
    "text_json": ("json", ['{"b" : [1, 2.50, null], "a":"\\u00e9"}', "null", '"x"', "1E3"]),
    "document": ("jsonb", ['{"b": [1, 2.50, null], "a": "é"}', "null", "[]", "1E3"]),
    "numbers": ("integer[]", ["{}", "{1,NULL,3}", "[0:1]={4,5}", "{{1,2},{3,4}}"]),
    "words": ("text[]", ['{"a b",NULL,"NULL","q\\"x\\\\y",""}', "{}"]),
    "moments": ("timestamptz[]", ["{2026-02-28 12:00:00+02,infinity}"]),
    "address": ("inet", ["10.0.0.1/8", "::1"]),
    "ages": ("int4range", ["[1,5)", "empty", "(,3]"]),
    "bits": ("bit varying", ["", "1010"]),
    "feeling": ("mood", ["sad", 'it\'s "ok"']),
    "even": ("even_number", ["2", "-4"]),
    "cost": ("money", ["12.34", "-0.5"]),
    "spot": ("point", ["(1.5,-2)"]),
}
TABLES = ("public.account", "public.kinds", "public.visit", "public.note", '"Odd name"."T"')
SETUP = (
    SCHEMA
    + """
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE DOMAIN even_number AS int CHECK (VALUE % 2 = 0);
CREATE SCHEMA "Odd name";
CREATE TABLE account (id int PRIMARY KEY, balance numeric NOT NULL, body text);
ALTER TABLE account ALTER body SET STORAGE EXTERNAL;
CREATE TABLE visit (place text, turn int, seen timestamptz DEFAULT clock_timestamp(), body text,
                    PRIMARY KEY (turn, place));
CREATE TABLE note (line text, n int);
ALTER TABLE note REPLICA IDENTITY FULL;
CREATE TABLE "Odd name"."T" ("A b" int NOT NULL, "c""d" text);
CREATE UNIQUE INDEX one ON "Odd name"."T" ("A b");
ALTER TABLE "Odd name"."T" REPLICA IDENTITY USING INDEX one;
"""
    + f"CREATE TABLE kinds (id int PRIMARY KEY, {', '.join(f'{n} {t}' for n, (t, _) in _KINDS.items())});"
    + "".join(noting(table) for table in TABLES)
    + f"CREATE PUBLICATION playhead FOR TABLE {', '.join(TABLES)}"
)
_HINDERED = (
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.UniqueViolationError,
)
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_Step = Callable[[asyncpg.Connection], Awaitable[object]]


class Worker:
    """Transactions until cancelled, through deaths of the server. A `slow` one commits late."""

    def __init__(self, dsn: str, seed: int, *, slow: bool) -> None:
        self._dsn = dsn
        self._rng = random.Random(seed)
        self._slow = slow
        self._steps: list[_Step] = [
            *[self._account] * 6,
            *[self._kinds] * 4,
            *[self._visit] * 3,
            *[self._note] * 2,
            *[self._odd] * 2,
            self._move_key,
        ]
        self.committed = 0

    async def run(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(self._dsn)
                try:
                    await connection.execute("SET lock_timeout = '300ms'")
                    while True:
                        with suppress(*_HINDERED):
                            await self._transact(connection)
                finally:
                    connection.terminate()
            except _LOST:
                await asyncio.sleep(0.05)

    async def _transact(self, connection: asyncpg.Connection) -> None:
        rng = self._rng
        transaction = connection.transaction()
        await transaction.start()
        try:
            for _ in range(rng.choice([1, 1, 2, 5, 20])):
                if rng.random() < 0.15:
                    await self._savepoint(connection)
                await rng.choice(self._steps)(connection)
                if self._slow:
                    await asyncio.sleep(rng.random() * 0.2)
            if rng.random() < 0.02:
                await connection.execute(f"TRUNCATE {rng.choice(TABLES)}")
        except BaseException:
            with suppress(*_LOST):
                await transaction.rollback()
            raise
        if rng.random() < 0.1:
            await transaction.rollback()
            return
        await transaction.commit()
        self.committed += 1

    async def _savepoint(self, connection: asyncpg.Connection) -> None:
        """Kept or undone, and what hinders it undoes only itself."""
        with suppress(*_HINDERED):
            async with connection.transaction():
                await self._rng.choice(self._steps)(connection)
                if self._rng.random() < 0.5:
                    raise asyncpg.LockNotAvailableError

    def _id(self) -> int:
        return self._rng.randrange(_IDS)

    def _body(self) -> str | None:
        return self._rng.choice([None, "", "short", "long" * 1000 + str(self._id())])

    async def _account(self, connection: asyncpg.Connection) -> None:
        row, rng = self._id(), self._rng
        if rng.random() < 0.2:
            await connection.execute("DELETE FROM account WHERE id = $1", row)
        elif rng.random() < 0.3:
            await connection.execute(
                "INSERT INTO account VALUES ($1, 0, $2) ON CONFLICT (id) DO UPDATE SET body = $2",
                *(row, self._body()),
            )
        else:
            await connection.execute(
                "UPDATE account SET balance = balance + $2::int WHERE id = $1",
                *(row, rng.randint(-99, 99)),
            )

    async def _kinds(self, connection: asyncpg.Connection) -> None:
        row, rng = self._id(), self._rng
        if rng.random() < 0.2:
            await connection.execute("DELETE FROM kinds WHERE id = $1", row)
            return
        await connection.execute("INSERT INTO kinds VALUES ($1) ON CONFLICT DO NOTHING", row)
        values = []
        for name in rng.sample(sorted(_KINDS), rng.randint(1, len(_KINDS))):
            kind, texts = _KINDS[name]
            text = rng.choice([*texts, None])
            literal = "NULL" if text is None else "'" + text.replace("'", "''") + "'"
            values.append(f"{name} = {literal}::{kind}")
        await connection.execute(f"UPDATE kinds SET {', '.join(values)} WHERE id = {row}")

    async def _visit(self, connection: asyncpg.Connection) -> None:
        place, turn = self._rng.choice(["a", 'b "x"', "é\t"]), self._id()
        if self._rng.random() < 0.3:
            await connection.execute("DELETE FROM visit WHERE turn % 7 = $1 % 7", turn)
            return
        await connection.execute(
            "INSERT INTO visit (place, turn, body) VALUES ($1, $2, $3) "
            "ON CONFLICT (turn, place) DO UPDATE SET seen = clock_timestamp()",
            *(place, turn, self._body()),
        )

    async def _note(self, connection: asyncpg.Connection) -> None:
        line, n = self._rng.choice("xyz"), self._rng.randrange(3)
        if self._rng.random() < 0.2:
            await connection.execute("DELETE FROM note WHERE line = $1 AND n = $2", line, n)
        elif self._rng.random() < 0.3:
            await connection.execute("UPDATE note SET n = $2 WHERE line = $1", line, n)
        else:
            await connection.execute("INSERT INTO note VALUES ($1, $2), ($1, $2)", line, n)

    async def _odd(self, connection: asyncpg.Connection) -> None:
        await connection.execute(
            'INSERT INTO "Odd name"."T" VALUES ($1, $2) '
            'ON CONFLICT ("A b") DO UPDATE SET "A b" = $3, "c""d" = $2',
            *(self._id(), self._body(), 1000 + self._id()),
        )

    async def _move_key(self, connection: asyncpg.Connection) -> None:
        """Also to where another row was a moment ago."""
        free = self._id()
        if self._rng.random() < 0.5:
            await connection.execute("DELETE FROM account WHERE id = $1", free)
        await connection.execute("UPDATE account SET id = $1 WHERE id = $2", free, self._id())
