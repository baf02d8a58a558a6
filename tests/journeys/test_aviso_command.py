"""The `aviso` command, which comes with the real Aviso client, against the gateway."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pyaviso

from tests.conftest import RunningGateway
from tests.journeys.aviso import (
    opened,
    quake,
    read,
)

AVISO = Path(sys.executable).with_name("aviso")


async def aviso(gateway: RunningGateway, *arguments: str) -> tuple[int, list[Any], str]:
    """Run the command; its status, the JSON lines it printed, and its words on stderr."""
    process = await asyncio.create_subprocess_exec(
        AVISO,
        *arguments,
        env={**os.environ, "AVISO_BASE_URL": gateway.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, words = await process.communicate()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in output.splitlines()], words.decode()


async def test_the_aviso_command_publishes_and_replays(gateway: RunningGateway) -> None:
    for magnitude in (4.5, 5.5, 6.5):
        status, [response], _ = await aviso(
            gateway,
            "notify",
            f'event=earthquake,network=us,magnitude:={magnitude},depth_km=9,data={{"n":1}}',
            *("--identifier", "point_cloud:=[[24.17,121.65]]"),
        )
        assert (status, response["status"]) == (0, "success")

    event = ["--event", "earthquake", "--identifier", 'magnitude:={"gte":5}']
    status, found, words = await aviso(gateway, "replay", *event, "--from", "0", "--json")
    assert (status, [each["sequence"] for each in found]) == (0, [2, 3])
    assert found[0]["identifier"]["magnitude"] == "5.5"
    assert found[0]["payload"] == {"n": 1}
    assert "Replay complete. 2 notifications delivered." in words

    status, found, _ = await aviso(gateway, "replay", *event, "--from", "0", "--until", "2")
    assert (status, [each["sequence"] for each in found]) == (0, [2])

    status, _, words = await aviso(gateway, "notify", "event=earthquake,network=us")
    assert status == 1
    assert "Required field 'depth_km' missing for notify operation" in words


async def test_the_aviso_command_listens(
    gateway: RunningGateway, client: pyaviso.AsyncAvisoClient
) -> None:
    process = await asyncio.create_subprocess_exec(
        AVISO,
        *("listen", "--event", "earthquake", "--identifiers", "{}", "--json"),
        env={**os.environ, "AVISO_BASE_URL": gateway.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await opened(gateway)
    for expected in (1, 2):
        await client.notify(**quake())
        async with asyncio.timeout(60):
            assert json.loads(await process.stdout.readline())["sequence"] == expected
    process.terminate()
    await process.communicate()


async def test_the_aviso_command_reads_schemas_deletes_and_wipes(
    gateway: RunningGateway, client: pyaviso.AsyncAvisoClient
) -> None:
    status, names, _ = await aviso(gateway, "schema", "list")
    assert (status, [each["event_type"] for each in names]) == (0, ["earthquake", "extreme_event"])
    status, _, words = await aviso(gateway, "schema", "get", "eclipse")
    assert status == 1
    assert "Available event_types: earthquake, extreme_event." in words

    for _ in range(3):
        await client.notify(**quake())
    remaining = {"filter": {"network": "us"}, "start_from": 0, "mode": "replay_only"}
    assert (await aviso(gateway, "admin", "delete", "earthquake@2", "--yes"))[0] == 0
    assert await read(client, "earthquake", **remaining) == [1, 3]
    assert (await aviso(gateway, "admin", "wipe-stream", "earthquake", "--yes"))[0] == 0
    assert await read(client, "earthquake", **remaining) == []
    await client.notify(**quake())
    assert (await aviso(gateway, "admin", "wipe-all", "--yes"))[0] == 0
    assert await read(client, "earthquake", **remaining) == []
