"""`playhead demo`: a busy database, captured, with a snapshot each minute, and what to ask of it.

Everything runs in this process or belongs to it, keeps its data in one folder, and ends with it.
"""

import asyncio
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import httpx
import msgspec

from gateway import fleet, logs
from gateway import settings as configuration
from gateway.schema.catalog import Catalog
from gateway.serve import serve
from store.embedded_postgres import EmbeddedPostgres
from store.event import rfc3339

_EACH_MINUTE = "* * * * *"
_POLL_SEC = 0.5
# How far back the printed lines go, by and by: seconds.
_REACHES = {5: "5 seconds", 60: "one minute", 180: "3 minutes", 300: "5 minutes"}


def demonstrate(data_dir: Path, port: int) -> int:
    """Run until SIGTERM, SIGINT or a failure; the exit status. Raises StoreError."""
    # Until the gateway listens to signals: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, _leave)
    database = EmbeddedPostgres(data_dir / "postgres")
    try:
        database.start()
        asyncio.run(fleet.prepare(database.dsn))
        settings = configuration.load(_configure(data_dir, port, database.dsn), {}, {}).settings
        logs.configure(settings.logging.level, settings.logging.format)
        catalog = Catalog.parse(None, None, changes=True)
        return serve(settings, catalog, beside=lambda url: _run(database.dsn, url))
    finally:
        database.stop()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _configure(data_dir: Path, port: int, dsn: str) -> Path:
    """Write the configuration, for a reader and for `playhead check` and `snapshot` as well."""
    path = data_dir / "config.yaml"
    folder = data_dir.resolve()
    content = {
        "application": {
            "host": "127.0.0.1",
            "port": port,
            "base_url": f"http://127.0.0.1:{port}",
        },
        "logging": {"format": "console", "level": "warning"},
        "metrics": {"enabled": True},
        "store": {"data_dir": str(folder / "log")},
        # Where the path is no good for PostgreSQL its data are in a folder for temporary ones: they may
        # be gone when the log is not, and it would never be captured again.
        "capture": {
            "enabled": True,
            "sources": [{"name": "fleet", "dsn": dsn, "on_lost_slot": "resume"}],
        },
        "snapshots": {"url": f"file://{folder / 'snapshots'}"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.yaml.encode(content))
    return path


async def _run(dsn: str, url: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fleet.drive(dsn))
        group.create_task(_guide(url))


async def _guide(url: str) -> None:
    """Say what to ask of the demonstration, further and further back."""
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        answer = await client.put(
            "/v1/configuration/snapshot-interval", json={"snapshot_interval": _EACH_MINUTE}
        )
        answer.raise_for_status()
        _tell("", "  # watch the changes of the fleet live", _watch(url))
        reaches = sorted(_REACHES)
        while reaches:
            # One that ran before has the past of then: what reaches furthest says it all.
            there = [each for each in reaches if await _reaches(client, each)]
            if there:
                reaches = [each for each in reaches if each > there[-1]]
                _tell(*_past(url, there[-1], int(time.time() * 1000)), *_later(reaches))
            await asyncio.sleep(_POLL_SEC)


async def _reaches(client: httpx.AsyncClient, reach_sec: int) -> bool:
    """Whether the state of then can be had."""
    at = rfc3339(int((time.time() - reach_sec) * 1000))
    answer = await client.get("/v1/state", params={"at": at, "tables": "public.trips"})
    return answer.status_code == 200


def _watch(url: str) -> str:
    return f"  curl -N {shlex.quote(f'{url}/api/v1/watch?event_type=change')}"


def _past(url: str, reach_sec: int, now_ms: int) -> list[str]:
    then, now = rfc3339(now_ms - reach_sec * 1000), rfc3339(now_ms)
    begin = {"replay_requested_timestamp": then, "replay_end_timestamp": now}
    body = msgspec.json.encode(begin).decode()
    find = r"""sed 's/.*"id":"\([^"]*\)".*/\1/'"""
    return [
        "",
        f"  # where the vehicles were {_REACHES[reach_sec]} ago",
        f"  curl {shlex.quote(f'{url}/v1/state?at={then}&tables=public.vehicles')}",
        "  # play what happened since, at speed 4 (Ctrl-C ends the watching)",
        f"  curl -s -X POST {url}/v1/replay/reset > /dev/null",
        f"  id=$(curl -s {url}/v1/replay/init -d {shlex.quote(body)} | {find})",
        f"  curl -s -X PUT {url}/v1/replay/$id/start -d '{{\"replay_speed\": 4}}'",
        f"  curl -N {url}/v1/replay/$id/stream",
    ]


def _later(reaches: list[int]) -> list[str]:
    """What there is to wait for, and for how long."""
    if not reaches:
        return []
    *most, last = [_REACHES[each] for each in reaches]
    named = f"{', '.join(most)} and {last}" if most else last
    return [f"\nThe same from {named} ago is printed here when that much has been recorded."]


def _tell(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - the lines are the program's output
