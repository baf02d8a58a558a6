"""The demonstration's application: a fleet of vehicles that report where they are to a PostgreSQL.

It knows nothing of Playhead. About 50 rows a second are changed, and the tables stay small.
"""

import asyncio
import random

import asyncpg

VEHICLES = 20
_REPORTS = 5
_PAUSE_SEC = 0.2
_TRIPS_EVERY = 10

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vehicles (
  id int PRIMARY KEY,
  plate text NOT NULL,
  driver text NOT NULL,
  longitude double precision NOT NULL,
  latitude double precision NOT NULL,
  speed_kmh numeric(5,1) NOT NULL,
  seen_at timestamptz NOT NULL
);
ALTER TABLE vehicles REPLICA IDENTITY FULL;
CREATE TABLE IF NOT EXISTS positions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  vehicle int NOT NULL REFERENCES vehicles,
  longitude double precision NOT NULL,
  latitude double precision NOT NULL,
  at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS positions_at ON positions (at);
CREATE TABLE IF NOT EXISTS trips (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  vehicle int NOT NULL REFERENCES vehicles,
  started_at timestamptz NOT NULL,
  ended_at timestamptz,
  load jsonb NOT NULL
);
ALTER TABLE trips REPLICA IDENTITY FULL;
"""
_VEHICLES = """
INSERT INTO vehicles
SELECT id, format('B-PH %s', 1000 + id), (ARRAY['Ada','Alan','Edsger','Grace'])[1 + id % 4],
  13.4 + (random() - 0.5) / 5, 52.5 + (random() - 0.5) / 10, 0, now()
FROM generate_series(1, $1) AS id ON CONFLICT DO NOTHING
"""
_REPORT = """
WITH moved AS (
  UPDATE vehicles SET
    longitude = longitude + (random() - 0.5) / 500,
    latitude = latitude + (random() - 0.5) / 800,
    speed_kmh = (random() * 90)::numeric,
    seen_at = now()
  WHERE id = ANY($1::int[]) RETURNING *
)
INSERT INTO positions (vehicle, longitude, latitude, at)
SELECT id, longitude, latitude, seen_at FROM moved
"""
_FORGET = "DELETE FROM positions WHERE at < now() - interval '2 minutes'"
_END_TRIP = "UPDATE trips SET ended_at = now() WHERE vehicle = $1 AND ended_at IS NULL"
_BEGIN_TRIP = """
INSERT INTO trips (vehicle, started_at, load)
VALUES ($1, now(), jsonb_build_object('parcels', $2::int, 'cooled', $2 % 3 = 0))
"""


async def prepare(dsn: str) -> None:
    """The tables, and the vehicles in them; what is there stays."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_SCHEMA)
        await connection.execute(_VEHICLES, VEHICLES)
    finally:
        await connection.close()


async def drive(dsn: str) -> None:
    """Change the tables until cancelled."""
    connection = await asyncpg.connect(dsn)
    try:
        turn = 0
        while True:
            await connection.execute(_REPORT, random.sample(range(1, VEHICLES + 1), _REPORTS))
            await connection.execute(_FORGET)
            if turn % _TRIPS_EVERY == 0:
                await _turn_over(connection, random.randint(1, VEHICLES))  # noqa: S311
            turn += 1
            await asyncio.sleep(_PAUSE_SEC)
    finally:
        connection.terminate()


async def _turn_over(connection: asyncpg.Connection, vehicle: int) -> None:
    """One trip of a vehicle ends and the next begins, in one transaction."""
    async with connection.transaction():
        await connection.execute(_END_TRIP, vehicle)
        await connection.execute(_BEGIN_TRIP, vehicle, random.randint(1, 40))  # noqa: S311
