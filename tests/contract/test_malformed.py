"""Ten thousand malformed requests: only 4xx, each in its JSON shape, no growth, no traceback."""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.conftest import example_configuration, merge
from tests.contract.garbage import KINDS, Case, make_cases
from tests.contract.garbage_parts import BULK, PUBLISH, REPLAY, WATCH, WIPE, request
from tests.contract.schemas import SCHEMAS
from tests.servers import GatewayProcess, Valkey, running, wait_until

CONNECTIONS = 8
WARM_UP, REST, LEAVERS = 2_000, 8_000, 400
# What RSS moves by between two equal runs of this size on an idle machine; a leak of 1 KB a
# request would be 8 MB.
NOISE_BYTES = 6 << 20


@pytest.fixture
def process(valkey: Valkey, tmp_path: Path) -> Iterator[GatewayProcess]:
    content = example_configuration()
    nothing = {"extreme_event": None, "earthquake": None}
    merge(
        content,
        {
            "store": {"url": valkey.url},
            "tenants": {"default": str(uuid4())},
            "notification_schema": {**SCHEMAS, **nothing},
            "limits": {"body_bytes": 65_536},
            "cors": {"allow_origins": ["https://pages.example"]},
            "logging": {"format": "json", "level": "info"},
        },
    )
    gateway = GatewayProcess(tmp_path / "gateway", content)
    with running(gateway):
        yield gateway


@dataclass
class Client:
    """Sends cases on a connection that it keeps as long as the gateway does."""

    port: int
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, cases: Iterator[Case]) -> None:
        try:
            await self.send(cases)
        finally:
            await self.leave()

    async def send(self, cases: Iterator[Case]) -> None:
        for case in cases:
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            writer.write(case.raw)
            try:
                async with asyncio.timeout(60):
                    await self.check(case, reader)
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
                raise AssertionError(f"no answer to {case.kind}: {case.raw[:300]!r}") from error

    async def check(self, case: Case, reader: asyncio.StreamReader) -> None:
        about = (case.kind, case.raw[:300])
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        assert 400 <= status < 500, (status, *about)
        lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
        headers = {name: value for name, _, value in lines}
        assert headers["content-type"] == "application/json", about
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        assert set(body) >= case.keys, (body, *about)
        assert body["request_id"] == headers["x-request-id"], about
        self.answers[case.kind, status] += 1
        if headers.get("connection") == "close":
            await self.leave()

    async def leave(self) -> None:
        if self.streams is not None:
            writer = self.streams[1]
            self.streams = None
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                return


async def send_all(port: int, cases: list[Case]) -> Counter[tuple[str, int]]:
    shared = iter(cases)
    clients = [Client(port) for _ in range(CONNECTIONS)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(shared))
    return sum((client.answers for client in clients), Counter())


def open_files(process: GatewayProcess) -> int:
    assert process.process is not None
    return len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))


def labels(process: GatewayProcess, name: str) -> set[str]:
    text = httpx.get(f"{process.url}/metrics").text
    return set(re.findall(rf'[{{,]{name}="([^"]*)"', text))


async def leave_in_the_middle(port: int) -> None:
    """Clients that go away in a head, in a body, or when they have sent what they wanted."""
    whole = [
        request("POST", PUBLISH, b'{"event_type":"note","identifier":{"author":""}}'),
        request("POST", BULK, b'[{"event_type":"note","identifier":{}}]'),
        request("GET", f"{WATCH}?event_type=note"),
        request("GET", f"{REPLAY}?event_type=note&from_id=1"),
    ]
    rng = random.Random(3)
    for _ in range(LEAVERS):
        raw = rng.choice(whole)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw[: rng.randrange(1, len(raw) + 1)])
        if rng.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()


def test_ten_thousand_malformed_requests(process: GatewayProcess) -> None:
    asyncio.run(send_all(process.port, make_cases(1, WARM_UP)))
    wait_until(lambda: open_files(process) < 64, "connections of the warm-up are closed")
    memory, files = process.memory_bytes(), open_files(process)

    answers = asyncio.run(send_all(process.port, make_cases(2, REST)))
    asyncio.run(leave_in_the_middle(process.port))

    assert answers.total() == REST
    assert {kind for kind, _ in answers} == {maker.__name__ for maker in KINDS}
    wait_until(lambda: open_files(process) <= files + 1, "every connection is closed again")
    grown = process.memory_bytes() - memory
    assert grown < NOISE_BYTES, f"grew by {grown / 1e6:.1f} MB"
    assert labels(process, "event_type") <= {*SCHEMAS, "generic", "unknown"}
    assert len(labels(process, "method")) <= 10, "made-up methods became labels"
    routes = {
        *(PUBLISH, BULK, WATCH, REPLAY, WIPE, "/api/v1/schema", "/api/v1/schema/{event_type}"),
        *("/api/v1/admin/notification/{notification_id}", "/", "/health", "/ready", "/metrics"),
    }
    assert labels(process, "route") <= {*routes, "unmatched"}
    text = process.log_file.read_text()
    assert "Traceback" not in text
    loud = [line for line in process.log_lines() if line["level"] in ("error", "critical")]
    assert loud == []
    serves_as_before(process)


def serves_as_before(process: GatewayProcess) -> None:
    """Nothing was stored meanwhile, and a good request is answered as ever."""
    with httpx.Client(base_url=process.url) as client:
        note = {"event_type": "note", "identifier": {"author": "ada"}}
        assert client.post("/api/v1/notification", json=note).json()["sequence"] == 1
        for event_type in SCHEMAS:
            if event_type in ("order", "zone", "swarm"):
                continue  # these want a filter
            replay = {"event_type": event_type, "identifier": {}, "from_id": "0"}
            answer = client.post("/api/v1/replay", json=replay).text
            assert answer.count('"specversion"') == (event_type == "note"), event_type
            assert "event: replay-control" in answer
        assert client.get("/ready").json()["status"] == "ready"
