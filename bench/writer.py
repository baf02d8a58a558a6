"""A recording of steady changes, played into a database at speed 4.

The clock stops when the database has everything; its rows must then be those of the recording.
"""

import asyncio
import json
import random
import re
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx

from bench.figure import Figure, Finding, Row, Wrong
from bench.question import Question, Sizes, Subject
from bench.site import Site
from store.connection import Connection
from store.embedded import EmbeddedServer
from store.embedded_postgres import EmbeddedPostgres
from store.event import Appended, Draft, Envelope, StreamKey, rfc3339
from store.log import EventLog

_BATCH = 500
_RATE = 500
_SPEED = 4
_VEHICLES = 10_000
_ROW = Row(
    "writer/late",
    "500 changes/s played at speed 4 into a database: late, p99 within",
    "ms",
    more=False,
)
_ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
_TABLE = (
    "CREATE TABLE vehicle (id integer PRIMARY KEY, name text, latitude float8, longitude float8, "
    "speed_kmh numeric, seen_at timestamptz, tags integer[])"
)


@dataclass(frozen=True)
class Recording:
    """What is to be played; `rows` is the last state of each vehicle."""

    tenant: str
    begin_ms: int
    end_ms: int
    rows: dict[int, str]


async def record(log: EventLog, *, changes: int, rate: int, vehicles: int) -> Recording:
    """Changes at a steady rate (changes/s), one or two to a transaction, nine of ten are updates."""
    tenant = str(uuid4())
    pick = random.Random(7)
    begin = int(time.time() * 1000) - changes * 1000 // rate - 60_000
    rows: dict[int, str] = {}
    drafts: list[Draft] = []
    xid, left = 1, 0
    for number in range(changes):
        ms = begin + number * 1000 // rate
        if not left:
            xid, left = xid + 1, pick.choice([1, 1, 2])
        left -= 1
        vehicle = pick.randrange(vehicles)
        op = "u" if vehicle in rows else "c"
        if op == "u" and pick.random() < 0.1:
            op = "d"
            del rows[vehicle]
        row = (
            f'{{"id":{vehicle},"name":"truck {vehicle}","latitude":{pick.uniform(-90, 90)},'
            f'"longitude":{pick.uniform(-180, 180)},"speed_kmh":{pick.randrange(120)}.5,'
            f'"seen_at":"{rfc3339(ms)}","tags":[1,2,3]}}'
        )
        if op != "d":
            rows[vehicle] = row
        body = (
            f'{{"data":{{"identifier":{{"table":"public.vehicle","op":"{op}","key":"{vehicle}"}},'
            f'"payload":{{"before":null,"after":{"null" if op == "d" else row},'
            f'"key":{{"id":{vehicle}}},"xid":{xid},"lsn":"0/{xid:X}","index":0,'
            f'"last":{"false" if left and number + 1 < changes else "true"},"source":"bench",'
            '"committed":""}},"id":"change@'
        )
        drafts.append(Draft(b"change", body.encode(), ms))
        if len(drafts) == _BATCH or number + 1 == changes:
            outcomes = await log.append(StreamKey(tenant, "change"), _ENVELOPE, drafts)
            assert all(isinstance(each, Appended) for each in outcomes)
            drafts.clear()
    return Recording(tenant, begin, begin + changes * 1000 // rate, rows)


def quantile_ms(metrics: str, share: float) -> float:
    """Of the lateness: the upper limit of the bucket in which this share lies."""
    name = "playhead_playback_apply_lateness_seconds_bucket"
    found = re.findall(rf'{name}{{le="([^"]+)"}} (\S+)', metrics)
    total = float(found[-1][1])
    limit = float(next(limit for limit, count in found if float(count) >= share * total))
    if limit == float("inf"):
        raise Wrong(f"a transaction in {1 / (1 - share):.0f} was later than the metric counts")
    return limit * 1000


async def play(site: Site, recording: Recording, dsn: str, changes: int) -> Figure:
    tenant = {"X-Tenant-ID": recording.tenant}
    url = f"http://127.0.0.1:{site.port}"
    async with httpx.AsyncClient(base_url=url, headers=tenant, timeout=60) as client:
        body = {
            "replay_requested_timestamp": rfc3339(recording.begin_ms),
            "replay_end_timestamp": rfc3339(recording.end_ms),
        }
        session = (await client.post("/v1/replay/init", json=body)).json()["data"]
        if session["status"] != "MSG_INIT_OK":
            raise Wrong(f"the session did not begin: {session}")
        started, busy = time.perf_counter(), site.busy_sec()
        path = f"/v1/replay/{session['id']}/start"
        answer = await client.put(path, json={"replay_speed": _SPEED})
        if answer.status_code != 200:
            raise Wrong(f"the session did not start: {answer.text}")
        while session["status"] != "MSG_STOP_OK":
            await asyncio.sleep(0.5)
            session = (await client.get("/v1/replay/current-session")).json()["data"]
            if session["error"] is not None:
                raise Wrong(f"the session failed: {session}")
        took, busy = time.perf_counter() - started, site.busy_sec() - busy
        metrics = (await client.get("/metrics")).text
        await check(dsn, recording)
        await client.post("/v1/replay/reset")
    details = {
        "changes/s": changes / took,
        "% of a processor, gateway": busy / took * 100,
        "gateway MiB": site.memory_kb() / 1024,
        "half within ms": quantile_ms(metrics, 0.5),
    }
    return Figure(_ROW.key, "playhead", quantile_ms(metrics, 0.99), details)


async def check(dsn: str, recording: Recording) -> None:
    """Raises Wrong when the database holds anything but the recording's last state."""
    connection = await asyncpg.connect(dsn, server_settings={"TimeZone": "UTC"})
    rows = await connection.fetch("SELECT id, to_json(v)::text AS row FROM vehicle v")
    await connection.close()
    found = {row["id"]: json.loads(row["row"]) for row in rows}
    wanted = {number: json.loads(row) for number, row in recording.rows.items()}
    for each in wanted.values():
        each["seen_at"] = each["seen_at"].rstrip("Z").rstrip("0").rstrip(".") + "+00:00"
    if found != wanted:
        raise Wrong("the database holds other rows than the recording")


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    """Record, start a gateway with a playback database and play."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        async with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            database = await asyncpg.connect(postgres.dsn)
            await database.execute(_TABLE)
            await database.close()
            async with EmbeddedServer(data) as server:
                connection = Connection(server.url)
                await connection.open()
                log = EventLog(connection, idempotency_window_ms=1000)
                recording = await record(log, changes=sizes.written, rate=_RATE, vehicles=_VEHICLES)
                await connection.close()
            config = {
                "metrics": {"enabled": True},
                "playback": {"database": postgres.dsn, "highest_speed": 1000},
            }
            async with subject.open(config, data) as site:
                yield await play(site, recording, postgres.dsn, sizes.written)


QUESTION = Question((_ROW,), measure, only_here="playback databases are Playhead's own")
