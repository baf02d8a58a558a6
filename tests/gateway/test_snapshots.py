"""A gateway that captures: its first snapshot, the state it serves, and one taken by command."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import yaml

from tests.servers import GatewayProcess, running
from tests.store.studio import PATIENCE_SEC


@pytest.fixture
def capturing(database: str, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway with an embedded server and one source, which is not there yet."""
    source = {"name": f"s{uuid4().hex[:10]}", "dsn": database}
    configuration: dict[str, Any] = {
        "store": {"data_dir": str(tmp_path / "data")},
        "snapshots": {"url": f"file://{tmp_path}/snapshots"},
        "metrics": {"enabled": True},
        "capture": {"enabled": True, "sources": [source]},
    }
    gateway = GatewayProcess(tmp_path / "gateway", configuration)
    with running(gateway):
        yield gateway


async def run_snapshot(gateway: GatewayProcess, *more: str) -> "subprocess.CompletedProcess[str]":
    path = gateway.directory / "config.yaml"
    path.write_text(yaml.safe_dump(gateway.configuration))
    command = [sys.executable, "-m", "gateway", "snapshot", "--config", str(path), *more]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE_SEC
    )


async def test_a_source_is_recorded_from_its_first_moment_and_by_command(
    capturing: GatewayProcess, database: str
) -> None:
    source = await asyncpg.connect(database)
    try:
        await source.execute("CREATE TABLE public.car (id int PRIMARY KEY, t text)")
        await source.execute("INSERT INTO public.car SELECT n, 'x' FROM generate_series(1, 100) n")
        async with httpx.AsyncClient(base_url=capturing.url, trust_env=False) as client:
            taken = 'playhead_snapshots_total{outcome="ok"'
            async with asyncio.timeout(PATIENCE_SEC):
                while taken not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.1)
            now = await source.fetchval("SELECT to_json(clock_timestamp())#>>'{}'")
            await source.execute("DELETE FROM public.car WHERE id > 40")
            before = await client.get("/v1/state", params={"at": now})
            assert len(before.text.splitlines()) == 101
            shown = await client.get("/v1/configuration")
            assert shown.json()["data"]["next_snapshot"] is not None
            finished = await run_snapshot(capturing)
            assert finished.returncode == 0, finished.stderr
            name = capturing.configuration["capture"]["sources"][0]["name"]
            assert finished.stdout.startswith(f"{name}: 40 rows of 00000000-")
            later = await source.fetchval("SELECT to_json(clock_timestamp())#>>'{}'")
            after = await client.get("/v1/state", params={"at": later})
            assert len(after.text.splitlines()) == 41
    finally:
        await source.close()


async def test_the_command_says_what_it_cannot_do(
    capturing: GatewayProcess, tmp_path: Path
) -> None:
    finished = await run_snapshot(capturing, "nobody")
    assert finished.returncode == 2
    assert "there is no source 'nobody'; known: s" in finished.stderr
    finished = await run_snapshot(capturing, "--data-dir", str(tmp_path / "elsewhere"))
    assert finished.returncode == 1
    assert "nothing serves the log in" in finished.stderr
