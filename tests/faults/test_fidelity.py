"""The state of any time is, row for row, what the database held then, whatever dies in between."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from store.connection import Connection, log_key
from store.embedded_postgres import EmbeddedPostgres
from store.event import rfc3339
from store.snapshot_index import SnapshotIndex
from tests.captures import CaptureProcess, Site, eventually
from tests.faults.ledger import SLOT, Rows, Transaction, read_ledger, rows_at
from tests.faults.workload import SETUP, Worker
from tests.servers import GatewayProcess, Valkey, start_postgres, stop_postgres

WORKERS = 4
# An event may be told later than its commit, when that would have been before what was told.
LATEST_MS = 60_000


class House:
    """A database, its capture, the log and a gateway: processes that can be killed."""

    def __init__(self, directory: Path) -> None:
        self.valkey = Valkey(directory / "valkey")
        self.postgres = start_postgres(deadlock_timeout="50ms")
        self.valkey.start()
        self.connection = Connection(self.valkey.url)
        self.site = Site(self.postgres.dsn, self.connection)
        settings = self.site.settings
        source = {"name": settings.name, "dsn": settings.dsn, "tenant": self.site.tenant}
        self.capture = CaptureProcess(directory / "capture", self.valkey.url, [source])
        self.capture.configuration["snapshots"] = {"url": f"file://{directory / 'snapshots'}"}
        self.gateway = GatewayProcess(
            directory / "gateway",
            {**self.capture.configuration, "tenants": {"default": self.site.tenant}},
        )
        self.taken = 0

    def start(self) -> None:
        self.capture.start()
        self.gateway.start()

    def kill(self, victim: str) -> None:
        servers: dict[str, Valkey | EmbeddedPostgres | CaptureProcess | GatewayProcess] = {
            "valkey": self.valkey,
            "postgres": self.postgres,
            "capture": self.capture,
            "gateway": self.gateway,
        }
        victims = list(servers) if victim == "all" else [victim]
        for name in victims:
            servers[name].kill()
        for name in victims:
            servers[name].start()

    async def snapshot(self) -> bool:
        """Take one, as `playhead snapshot`; whether it came to its end."""
        path = self.gateway.directory / "config.yaml"
        with self.gateway.log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "snapshot", "--config", str(path)),
                *(self.site.settings.name,),
                stdout=output,
                stderr=output,
            )
            try:
                done = await process.wait() == 0
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
        self.taken += done
        return done

    async def close(self) -> None:
        if self.capture.process is not None:
            print(f"capture has ended with {self.capture.process.poll()} (None: not); it logged")
            self.capture.kill()
            print(self.capture.log_file.read_text()[-6000:])
        await asyncio.to_thread(self.gateway.stop)
        await self.connection.close()
        await asyncio.to_thread(self.valkey.stop)
        await asyncio.to_thread(stop_postgres, self.postgres)


class Observer:
    """Asks for states of times, and keeps what it was told."""

    def __init__(self, house: House, first_ms: int, seed: int) -> None:
        self._house = house
        self._first_ms = first_ms
        self._rng = random.Random(seed)
        self.seen: dict[int, Rows] = {}

    async def run(self, pause_sec: float) -> None:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            while True:
                await self.look(client, self._rng.randint(self._first_ms, _now_ms()))
                await asyncio.sleep(pause_sec)

    async def look(self, client: httpx.AsyncClient, at_ms: int) -> None:
        while True:
            try:
                answer = await client.get(
                    f"{self._house.gateway.url}/v1/state", params={"at": rfc3339(at_ms)}
                )
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 503:
                await asyncio.sleep(0.05)
                continue
            assert answer.status_code == 200, answer.text
            rows = _read(answer.text)
            if rows is not None:
                assert self.seen.get(at_ms, rows) == rows, f"the state of {at_ms} has changed"
                self.seen[at_ms] = rows
                return


def _read(text: str) -> Rows | None:
    """None when it was cut off, which the last line tells."""
    *lines, end = text.splitlines()
    last = json.loads(end)
    if "complete" not in last:
        return None
    assert last["rows"] == len(lines)
    rows: Rows = Counter()
    for line in lines:
        content = json.loads(line)
        row = content["row"]
        table = content["table"].replace('"', "")
        assert content["key"] == {name: row[name] for name in content["key"]}
        rows[table, line[line.index(',"row":') + 7 : -1]] += 1
    return rows


def _now_ms() -> int:
    return int(time.time() * 1000)


async def event_times(site: Site, ledger: list[Transaction]) -> dict[int, int]:
    """By xid when each transaction happened, as the log has it; it is the time of its commit.

    What was committed before capture began is not in the log.
    """
    times: dict[int, int] = {}
    entries = await site.connection.execute("XRANGE", log_key(site.stream), "-", "+")
    for entry_id, (_, event) in entries:
        xid = json.loads(event)["data"]["payload"]["xid"]
        ms = int(entry_id.partition(b"-")[0])
        assert times.setdefault(xid, ms) == ms, "a transaction has one time"
    order = [each.xid for each in ledger]
    assert list(times) == order[-len(times) :], "other transactions, or in another order"
    late = 0
    for each in ledger:
        ms = times.setdefault(each.xid, each.committed_ms)
        assert each.committed_ms <= ms <= each.committed_ms + LATEST_MS
        late += ms > each.committed_ms
    print(f"{len(ledger)} transactions, {late} of them later in the log than committed")
    return times


@asynccontextmanager
async def working(workers: list[Worker]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
        ended = [task for task in tasks if task.done()]
        assert not ended, [task.exception() for task in ended]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def observed(house: House, seed: int) -> AsyncIterator[list[Observer]]:
    """Observers of the times from the first snapshot on, at work."""
    first_ms = await first_snapshot(house)
    observers = [Observer(house, first_ms, seed + number) for number in range(2)]
    tasks = [asyncio.create_task(observer.run(0.02)) for observer in observers]
    try:
        yield observers
        ended = [task for task in tasks if task.done()]
        assert not ended, [task.exception() for task in ended]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first_snapshot(house: House) -> int:
    index = SnapshotIndex(house.connection)

    async def there() -> bool:
        return bool(await index.all(house.site.tenant))

    await eventually(there, "the first snapshot is taken")
    return (await index.all(house.site.tenant))[0].at_ms


async def prove(house: House, ledger: list[Transaction], observers: list[Observer]) -> int:
    """The number of states that were compared, none of them different."""
    times = await event_times(house.site, ledger)
    seen: dict[int, Rows] = {}
    for observer in observers:
        for ms, rows in observer.seen.items():
            assert seen.setdefault(ms, rows) == rows
    different = []
    for ms, rows in rows_at(ledger, times, seen):
        if rows != seen[ms]:
            different.append((ms, seen[ms] - rows, rows - seen[ms]))
    assert not different, f"{len(different)} of {len(seen)}: {different[:3]}"[:20_000]
    return len(seen)


async def finish(house: House, observers: list[Observer], count: int) -> list[Transaction]:
    """Look at more times when all is done, just at and just before commits among them."""
    await house.site.caught_up()
    connection = await house.site.connect()
    try:
        ledger = await read_ledger(connection)
    finally:
        await connection.close()
    times = await event_times(house.site, ledger)
    first_ms = await first_snapshot(house)
    rng = random.Random(count)
    commits = [ms for ms in times.values() if ms > first_ms]
    asked = [rng.choice(commits) - rng.randint(0, 1) for _ in range(count)]
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        for ms in asked:
            await observers[0].look(client, ms)
    return ledger


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = await asyncio.to_thread(House, tmp_path)
    try:
        await made.connection.open()
        await made.site.run(SETUP, SLOT)
        yield made
    finally:
        await made.close()


async def test_states_are_what_the_database_held_with_snapshots_and_deaths_between(
    house: House,
) -> None:
    workers = [Worker(house.site.dsn, number, slow=number == 0) for number in range(WORKERS)]
    async with working(workers):
        await asyncio.to_thread(house.start)
        async with observed(house, 1) as observers:
            assert await house.snapshot()
            await asyncio.to_thread(house.kill, "capture")
            await asyncio.to_thread(house.kill, "postgres")
            enough = sum(worker.committed for worker in workers) + 200

            async def worked() -> bool:
                return sum(worker.committed for worker in workers) > enough

            await eventually(worked, "the work went on")
    ledger = await finish(house, observers, 50)
    assert await prove(house, ledger, observers) > 50


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_thousand_states_are_right_while_everything_is_killed(house: House) -> None:
    rng = random.Random(20)
    workers = [Worker(house.site.dsn, 100 + number, slow=number == 0) for number in range(WORKERS)]
    victims = ["capture", "gateway", "valkey", "postgres", "all"]
    kills = 0
    async with working(workers):
        await asyncio.to_thread(house.start)
        async with observed(house, 2) as observers:
            while kills < 40 or sum(len(each.seen) for each in observers) < 1000:
                snapshot = asyncio.create_task(house.snapshot())
                await asyncio.sleep(rng.random() * 4)
                await asyncio.to_thread(house.kill, rng.choice(victims))
                kills += 1
                await snapshot
    ledger = await finish(house, observers, 200)
    compared = await prove(house, ledger, observers)
    print(f"{compared} states, {kills} kills, {house.taken} snapshots by command")
    assert compared >= 1000
