"""`python -m bench.writer`: a recording of steady changes, played into a database at speed 4.

The clock stops when the database has everything; its rows must then be those of the recording.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import uvloop

from store.connection import Connection
from store.embedded import EmbeddedServer
from store.embedded_postgres import EmbeddedPostgres
from store.event import Appended, Draft, Envelope, StreamKey, rfc3339
from store.log import EventLog

_BATCH = 500
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


def cpu_sec(pid: int) -> float:
    """User and system time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, field: str) -> float:
    """VmRSS: now; VmHWM: the most there ever was."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def quantile_ms(metrics: str, share: float) -> float:
    """Of the lateness: the upper limit of the bucket in which this share lies."""
    name = "playhead_playback_apply_lateness_seconds_bucket"
    found = re.findall(rf'{name}{{le="([^"]+)"}} (\S+)', metrics)
    total = float(found[-1][1])
    limit = next(limit for limit, count in found if float(count) >= share * total)
    return float(limit) * 1000


async def play(
    port: int, pid: int, recording: Recording, dsn: str, speed: float
) -> dict[str, float]:
    tenant = {"X-Tenant-ID": recording.tenant}
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, headers=tenant, timeout=60) as client:
        body = {
            "replay_requested_timestamp": rfc3339(recording.begin_ms),
            "replay_end_timestamp": rfc3339(recording.end_ms),
        }
        session = (await client.post("/v1/replay/init", json=body)).json()["data"]
        assert session["status"] == "MSG_INIT_OK", session
        started, cpu = time.perf_counter(), cpu_sec(pid)
        path = f"/v1/replay/{session['id']}/start"
        answer = await client.put(path, json={"replay_speed": speed})
        assert answer.status_code == 200, answer.text
        while session["status"] != "MSG_STOP_OK":
            await asyncio.sleep(0.5)
            session = (await client.get("/v1/replay/current-session")).json()["data"]
            assert session["error"] is None, session
        took, used = time.perf_counter() - started, cpu_sec(pid) - cpu
        metrics = (await client.get("/metrics")).text
        await check(dsn, recording)
        await client.post("/v1/replay/reset")
    return {
        "seconds": took,
        "cores": used / took,
        "peak_mb": memory_mb(pid, "VmHWM"),
        "p50_ms": quantile_ms(metrics, 0.5),
        "p99_ms": quantile_ms(metrics, 0.99),
    }


async def check(dsn: str, recording: Recording) -> None:
    """Raises AssertionError when the database holds anything but the recording's last state."""
    connection = await asyncpg.connect(dsn, server_settings={"TimeZone": "UTC"})
    rows = await connection.fetch("SELECT id, to_json(v)::text AS row FROM vehicle v")
    await connection.close()
    found = {row["id"]: json.loads(row["row"]) for row in rows}
    wanted = {number: json.loads(row) for number, row in recording.rows.items()}
    for each in wanted.values():
        each["seen_at"] = each["seen_at"].rstrip("Z").rstrip("0").rstrip(".") + "+00:00"
    assert found == wanted, "the database holds other rows than the recording"


async def run(*, changes: int, rate: int, speed: float, vehicles: int) -> dict[str, float]:
    """Record, start a gateway with a playback database and play; the figures by name."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            EmbeddedServer(Path(folder) / "data") as server,
            EmbeddedPostgres(Path(folder) / "postgres") as postgres,
        ):
            database = await asyncpg.connect(postgres.dsn)
            await database.execute(_TABLE)
            await database.close()
            connection = Connection(server.url)
            await connection.open()
            log = EventLog(connection, idempotency_window_ms=1000)
            recording = await record(log, changes=changes, rate=rate, vehicles=vehicles)
            await connection.close()
            config = {
                "store": {"url": server.url},
                "metrics": {"enabled": True},
                "playback": {"database": postgres.dsn, "highest_speed": 1000},
            }
            path = Path(folder) / "config.yaml"
            path.write_text(json.dumps(config))
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
            gateway = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
            try:
                assert gateway.stdout is not None
                line = await asyncio.to_thread(gateway.stdout.readline)
                port = int(line.rpartition(":")[2])
                found = await play(port, gateway.pid, recording, postgres.dsn, speed)
            finally:
                gateway.terminate()
                gateway.wait()
    print(
        f"{rate} changes/s played at speed {speed:g} into a database: {found['cores']:.2f} cores and "
        f"{found['peak_mb']:.0f} MiB of the gateway, {changes / found['seconds']:,.0f} changes/s, "
        f"half of the transactions within {found['p50_ms']:g} ms of due, 99 % within "
        f"{found['p99_ms']:g} ms",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.writer", description=__doc__)
    parser.add_argument("--changes", type=int, default=60_000)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--speed", type=float, default=4)
    parser.add_argument("--vehicles", type=int, default=10_000)
    options = parser.parse_args()
    uvloop.run(
        run(
            changes=options.changes,
            rate=options.rate,
            speed=options.speed,
            vehicles=options.vehicles,
        )
    )


if __name__ == "__main__":
    main()
