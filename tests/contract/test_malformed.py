"""Ten thousand malformed requests: only 4xx, each in its JSON shape, no growth, no traceback."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.conftest import example_configuration, merge
from tests.contract.garbage import KINDS, Case, make_cases
from tests.contract.schemas import SCHEMAS
from tests.servers import GatewayProcess, Valkey, running, wait_until

CONNECTIONS = 8
WARM_UP, REST = 2_000, 8_000
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
                async with asyncio.timeout(20):
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


def series(process: GatewayProcess) -> int:
    return len(httpx.get(f"{process.url}/metrics").text.splitlines())


def test_ten_thousand_malformed_requests(process: GatewayProcess) -> None:
    asyncio.run(send_all(process.port, make_cases(1, WARM_UP)))
    wait_until(lambda: open_files(process) < 64, "connections of the warm-up are closed")
    memory, files, metrics = process.memory_bytes(), open_files(process), series(process)

    answers = asyncio.run(send_all(process.port, make_cases(2, REST)))

    assert answers.total() == REST
    assert {kind for kind, _ in answers} == {maker.__name__ for maker in KINDS}
    grown = process.memory_bytes() - memory
    assert grown < NOISE_BYTES, f"grew by {grown / 1e6:.1f} MB"
    wait_until(lambda: open_files(process) <= files, "every connection is closed again")
    assert series(process) <= metrics + 20, "made-up words became labels"
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
