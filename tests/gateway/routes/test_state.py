"""`/v1/state` and `/v1/changes` over HTTP: both forms, what is refused, and cuts that show."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from store.captured import changes
from store.connection import Connection
from store.event import Retention, rfc3339
from store.log import EventLog
from store.objects import Objects
from store.snapshot_index import Snapshot, SnapshotIndex
from tests.conftest import RunningGateway, Start
from tests.contract.api import assert_error
from tests.contract.reader import open_stream
from tests.servers import Valkey
from tests.store import shelf
from tests.store.recording import Recording, deleted, inserted, key_of, row_of, updated

pytestmark = pytest.mark.asyncio(loop_scope="session")

T0 = 1_700_000_000_000
CAR = "public.car"
TRIP = "public.trip"
EVENTS = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Place:
    """A gateway and where its snapshots are."""

    gateway: RunningGateway
    connection: Connection
    log: EventLog
    folder: Path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(
    start_gateway: Start, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("snapshots")
    connection = Connection(valkey.url)
    await connection.open()
    log = EventLog(connection, idempotency_window_ms=60_000)
    async with start_gateway(snapshots={"url": f"file://{folder}"}) as gateway:
        yield Place(gateway, connection, log, folder)
    await connection.close()


class Asker:
    """A tenant's recording, its snapshots, and requests in its name."""

    def __init__(self, place: Place, tenant: str) -> None:
        self.tenant = tenant
        self.folder = place.folder
        self.gateway = place.gateway
        self.http = place.gateway.client
        self.headers = {"X-Tenant-ID": tenant}
        self.recording = Recording(place.connection, place.log, tenant)
        self.log = place.log
        self._index = SnapshotIndex(place.connection)
        self._objects = Objects(f"file://{place.folder}")

    async def keep(self, at_ms: int, cars: dict[int, str], table: str = CAR) -> Snapshot:
        head = await self.log.head(changes(self.tenant))
        rows = {table: [(key_of(key), row_of(key, text)) for key, text in cars.items()]}
        return await shelf.keep(
            self._objects,
            self._index,
            self.tenant,
            at_ms,
            rows,
            position=head.last,
            epoch=head.epoch,
        )

    async def get(self, path: str, **params: str) -> httpx.Response:
        return await self.http.get(path, params=params, headers=self.headers)

    async def lines(self, path: str, **params: str) -> list[Any]:
        response = await self.get(path, **params)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.text.endswith("\n")
        return [json.loads(line) for line in response.text.splitlines()]

    async def state(self, ms: int, **params: str) -> list[Any]:
        return await self.lines("/v1/state", at=rfc3339(ms), **params)


@pytest.fixture
def asker(place: Place, tenant: str) -> Asker:
    return Asker(place, tenant)


def line(table: str, key: int, text: str) -> dict[str, Any]:
    return {"table": table, "key": {"id": key}, "row": {"id": key, "text": text}}


async def record_some(asker: Asker) -> None:
    """A snapshot of two cars at T0, a third and a change of the first 10 ms later."""
    await asker.keep(T0, {1: "a", 2: "b"})
    await asker.recording.commit(T0 + 10, updated(CAR, 1, "A"), inserted(CAR, 3, "c"))
    await asker.recording.commit(T0 + 20, deleted(CAR, 2), inserted(TRIP, 1, "trip"))
    await asker.recording.reach(T0 + 1000)


async def test_a_state_is_json_lines_with_an_end_that_counts_them(asker: Asker) -> None:
    await record_some(asker)
    assert await asker.state(T0) == [
        line(CAR, 1, "a"),
        line(CAR, 2, "b"),
        {"complete": True, "at": "2023-11-14T22:13:20.000Z", "rows": 2},
    ]
    assert await asker.state(T0 + 20) == [
        line(CAR, 1, "A"),
        line(CAR, 3, "c"),
        line(TRIP, 1, "trip"),
        {"complete": True, "at": "2023-11-14T22:13:20.020Z", "rows": 3},
    ]


async def test_a_state_of_some_tables(asker: Asker) -> None:
    await record_some(asker)
    found = await asker.state(T0 + 20, tables=f"{TRIP}, PUBLIC.car")
    assert [each.get("table") for each in found] == [CAR, CAR, TRIP, None]
    found = await asker.state(T0 + 20, tables=TRIP)
    assert [each.get("table") for each in found] == [TRIP, None]


async def test_a_state_as_events_has_its_rows_in_frames_and_says_when_it_is_complete(
    asker: Asker,
) -> None:
    await record_some(asker)
    params = {"at": rfc3339(T0 + 20)}
    headers = {**asker.headers, **EVENTS}
    async with open_stream(
        asker.http, "GET", "/v1/state", params=params, headers=headers
    ) as stream:
        frames = await stream.rest()
    *states, complete, closing = frames
    assert {frame.event for frame in states} == {"state"}
    rows = [(frame.data["table"], row) for frame in states for row in frame.data["rows"]]
    assert rows == [
        (CAR, {"key": {"id": 1}, "row": {"id": 1, "text": "A"}}),
        (CAR, {"key": {"id": 3}, "row": {"id": 3, "text": "c"}}),
        (TRIP, {"key": {"id": 1}, "row": {"id": 1, "text": "trip"}}),
    ]
    assert complete.event == "state-complete"
    assert complete.data == {"at": "2023-11-14T22:13:20.020Z", "rows": 3}
    assert closing.data["reason"] == "end_of_stream"


async def test_frames_of_a_large_state_have_64_kib_at_most(asker: Asker) -> None:
    await asker.keep(T0, dict.fromkeys(range(4000), ""))
    await asker.recording.reach(T0)
    headers = {**asker.headers, **EVENTS}
    async with open_stream(
        asker.http, "GET", "/v1/state", params={"at": rfc3339(T0)}, headers=headers
    ) as stream:
        frames = await stream.rest()
    states = [frame for frame in frames if frame.event == "state"]
    assert max(len(frame.text) for frame in states) <= 64 << 10
    assert sum(len(frame.data["rows"]) for frame in states) == 4000


async def test_rows_are_sent_as_the_database_wrote_them(asker: Asker, place: Place) -> None:
    key = '{"id":"a\\tb"}'
    row = '{"id":"a\\tb","n":1.50,"j":{"a": [1,  2]},"u":"\\u00e9é","s":"},{\\"key\\":"}'
    await shelf.keep(
        Objects(f"file://{asker.folder}"),
        SnapshotIndex(place.connection),
        asker.tenant,
        T0,
        {'public."Odd ""name"""': [(key, row)]},
    )
    await asker.recording.reach(T0)
    response = await asker.get("/v1/state", at=rfc3339(T0))
    table = json.dumps('public."Odd ""name"""')
    assert response.text.splitlines()[0] == f'{{"table":{table},"key":{key},"row":{row}}}'
    events = await asker.http.get(
        "/v1/state", params={"at": rfc3339(T0)}, headers={**asker.headers, **EVENTS}
    )
    data = f'{{"table":{table},"rows":[{{"key":{key},"row":{row}}}]}}'
    assert f"event: state\ndata: {data}\n\n" in events.text


async def test_a_state_before_the_first_snapshot_names_the_earliest_valid_time(
    asker: Asker,
) -> None:
    await record_some(asker)
    response = await asker.get("/v1/state", at=rfc3339(T0 - 1))
    found = assert_error(response, 400, "OUT_OF_RANGE")
    assert found["message"] == (
        "no state of 2023-11-14T22:13:19.999Z is kept; "
        "the earliest valid time is 2023-11-14T22:13:20.000Z"
    )


async def test_a_time_that_capture_has_not_come_to_is_503_with_retry_after(asker: Asker) -> None:
    await record_some(asker)
    late = rfc3339(T0 + 1001)
    response, other = await asyncio.gather(
        asker.get("/v1/state", at=late),
        asker.get("/v1/changes", **{"from": rfc3339(T0), "to": late}),
    )
    assert_error(other, 503, "CAPTURE_BEHIND")
    found = assert_error(response, 503, "CAPTURE_BEHIND")
    assert found["message"] == (
        "the changes of source 'fleet' are not all in the log yet: "
        "they are up to 2023-11-14T22:13:21.000Z"
    )
    assert response.headers["retry-after"] == "1"


async def test_a_request_waits_a_moment_for_capture_to_come_up(asker: Asker) -> None:
    await record_some(asker)
    asking = asyncio.create_task(asker.state(T0 + 5000))
    await asyncio.sleep(0)
    await asker.recording.reach(T0 + 5000)
    assert (await asking)[-1]["rows"] == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "at is required: an RFC 3339 time"),
        ({"at": "yesterday"}, "at must be an RFC 3339 time. Got: 'yesterday'"),
        ({"at": "2999-01-01T00:00:00Z"}, "at 2999-01-01T00:00:00.000Z is in the future"),
        ({"at": "2023-11-14T22:13:20Z", "tables": "car"}, "schema.table names, got: 'car'"),
        ({"at": "2023-11-14T22:13:20Z", "tables": ""}, "schema.table names, got: none"),
        ({"at": "2023-11-14T22:13:20Z", "tables": "a.b"}, "20.000Z. Known tables: public.car"),
        ({"at": "2023-11-14T22:13:20Z", "when": "x"}, "unknown parameter 'when'"),
    ],
)
async def test_a_request_that_is_none_is_refused_with_a_sentence(
    asker: Asker, params: dict[str, str], message: str
) -> None:
    await record_some(asker)
    found = assert_error(await asker.get("/v1/state", **params), 400, "INVALID_STATE_REQUEST")
    assert message in found["message"]


async def test_a_parameter_that_is_given_twice_is_refused(asker: Asker) -> None:
    """Symptom: the last one counted, and half of what was asked for was missing."""
    await record_some(asker)
    params = {"at": rfc3339(T0 + 20), "tables": [CAR, TRIP]}
    response = await asker.http.get("/v1/state", params=params, headers=asker.headers)
    found = assert_error(response, 400, "INVALID_STATE_REQUEST")
    assert found["message"] == "tables must be given once"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/x-ndjson"),
        ("text/html", "application/x-ndjson"),
        ("text/event-stream, application/x-ndjson", "text/event-stream"),
        ("application/x-ndjson, text/event-stream", "application/x-ndjson"),
        ("application/x-ndjson;q=0.5, Text/Event-Stream; q=0.9", "text/event-stream"),
        ("text/event-stream;q=0, */*", "application/x-ndjson"),
        ("text/event-stream;q=x;a", "text/event-stream"),
    ],
)
async def test_the_form_is_the_one_that_is_wanted_most(
    asker: Asker, accept: str, kind: str
) -> None:
    await record_some(asker)
    headers = {**asker.headers, "Accept": accept}
    response = await asker.http.get("/v1/state", params={"at": rfc3339(T0)}, headers=headers)
    assert response.headers["content-type"] == kind


async def test_the_tenant_may_be_named_in_the_query(asker: Asker) -> None:
    await record_some(asker)
    params = {"at": rfc3339(T0), "tenant_id": asker.tenant}
    response = await asker.http.get("/v1/state", params=params)
    assert len(response.text.splitlines()) == 3
    assert_error(
        await asker.http.get("/v1/state", params={**params, "tenant_id": "x"}),
        400,
        "INVALID_TENANT",
    )


async def test_a_tenant_sees_nothing_of_another(asker: Asker, place: Place) -> None:
    await record_some(asker)
    other = Asker(place, "11111111-2222-4333-8444-555555555555")
    assert await other.state(T0) == [
        {"complete": True, "at": "2023-11-14T22:13:20.000Z", "rows": 0}
    ]


def damage_behind_the_first_frame(folder: Path, snapshot: Snapshot) -> None:
    file = next((folder / snapshot.folder).glob("*.zst"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest_asyncio.fixture(loop_scope="session")
async def damaged(asker: Asker) -> Asker:
    """A state whose snapshot was found whole, and is damaged since, far from its beginning."""
    snapshot = await asker.keep(T0, {number: f"{number}" * 50 for number in range(5000)})
    await asker.recording.reach(T0)
    assert (await asker.state(T0))[-1]["rows"] == 5000
    damage_behind_the_first_frame(asker.folder, snapshot)
    return asker


async def test_lines_that_break_off_end_with_the_error_and_a_cut(damaged: Asker) -> None:
    got: list[bytes] = []
    keep = got.append

    async def read() -> None:
        async with damaged.http.stream(
            "GET", "/v1/state", params={"at": rfc3339(T0)}, headers=damaged.headers
        ) as response:
            async for part in response.aiter_bytes():
                keep(part)

    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        await read()
    *rows, last = b"".join(got).splitlines()
    assert rows
    assert json.loads(last)["code"] == "ANSWER_BROKEN_OFF"


async def test_frames_that_break_off_end_with_an_error_frame(damaged: Asker) -> None:
    headers = {**damaged.headers, **EVENTS}
    async with open_stream(
        damaged.http, "GET", "/v1/state", params={"at": rfc3339(T0)}, headers=headers
    ) as stream:
        frames = await stream.rest()
    assert [frame.event for frame in frames][-2:] == ["error", "connection-closing"]
    assert "state-complete" not in [frame.event for frame in frames]


async def test_a_snapshot_store_that_cannot_be_read_is_503(asker: Asker) -> None:
    snapshot = await asker.keep(T0, {1: "a"})
    await asker.recording.reach(T0)
    file = next((asker.folder / snapshot.folder).glob("*.zst"))
    file.unlink()
    file.symlink_to(file)  # not to be read, and not missing
    response = await asker.get("/v1/state", at=rfc3339(T0))
    assert_error(response, 503, "SNAPSHOTS_UNAVAILABLE")
    assert response.headers["retry-after"] == "5"


async def test_a_client_that_leaves_ends_its_answer(asker: Asker, place: Place) -> None:
    await asker.keep(T0, dict.fromkeys(range(20_000), "x" * 500))
    await asker.recording.reach(T0)
    with socket.create_connection(("127.0.0.1", place.gateway.port)) as client:
        request = (
            f"GET /v1/state?at={rfc3339(T0)} HTTP/1.1\r\nHost: x\r\n"
            f"X-Tenant-ID: {asker.tenant}\r\n\r\n"
        )
        client.sendall(request.encode())
        await asyncio.get_running_loop().run_in_executor(None, client.recv, 1000)
    metrics = place.gateway.gateway.metrics
    async with asyncio.timeout(30):
        while b'sse_connections_active{event_type="generic",route="/v1/state"} 0.0' not in (
            metrics.render()
        ):
            await asyncio.sleep(0.02)


async def test_head_says_what_get_would_without_a_body(asker: Asker) -> None:
    await record_some(asker)
    response = await asker.http.head("/v1/state", params={"at": rfc3339(T0)}, headers=asker.headers)
    assert response.status_code == 200
    assert response.content == b""


# -- changes


async def test_the_changes_of_a_range_are_the_stored_events_and_an_end(asker: Asker) -> None:
    await record_some(asker)
    found = await asker.lines("/v1/changes", **{"from": rfc3339(T0), "to": rfc3339(T0 + 10)})
    *events, last = found
    assert last == {
        "complete": True,
        "from": "2023-11-14T22:13:20.000Z",
        "to": "2023-11-14T22:13:20.010Z",
        "changes": 2,
    }
    assert [event["id"] for event in events] == ["change@1", "change@2"]
    assert [event["data"]["identifier"]["op"] for event in events] == ["u", "c"]
    assert events[0]["data"]["payload"]["after"] == {"id": 1, "text": "A"}


async def test_the_changes_of_some_tables(asker: Asker) -> None:
    await record_some(asker)
    params = {"from": rfc3339(T0), "to": rfc3339(T0 + 20), "tables": TRIP}
    *events, last = await asker.lines("/v1/changes", **params)
    assert [event["id"] for event in events] == ["change@4"]
    assert last["changes"] == 1


async def test_the_changes_of_a_range_as_events_are_those_of_a_replay(asker: Asker) -> None:
    await record_some(asker)
    params = {"from": rfc3339(T0 + 11), "to": rfc3339(T0 + 20)}
    headers = {**asker.headers, **EVENTS}
    async with open_stream(
        asker.http, "GET", "/v1/changes", params=params, headers=headers
    ) as stream:
        frames = await stream.rest()
    assert [frame.kind for frame in frames] == [
        *("replay", "replay", "replay_completed", "connection-closing")
    ]
    assert [frame.sequence for frame in frames[:2]] == [3, 4]
    epoch = (await asker.log.head(changes(asker.tenant))).epoch.decode()
    assert [frame.id for frame in frames[:2]] == [f"3-{epoch}", f"4-{epoch}"]


async def test_changes_that_are_no_longer_kept_name_the_earliest_valid_time(asker: Asker) -> None:
    await record_some(asker)
    await asker.log.trim(changes(asker.tenant), Retention(max_count=2))
    params = {"from": rfc3339(T0), "to": rfc3339(T0 + 20)}
    found = assert_error(await asker.get("/v1/changes", **params), 400, "OUT_OF_RANGE")
    assert "the earliest valid time is 2023-11-14T22:13:20.020Z" in found["message"]
    *events, _ = await asker.lines("/v1/changes", **{**params, "from": rfc3339(T0 + 20)})
    assert len(events) == 2


async def test_an_empty_range_has_its_end_alone(asker: Asker) -> None:
    params = {"from": rfc3339(T0), "to": rfc3339(T0)}
    assert [each["changes"] for each in await asker.lines("/v1/changes", **params)] == [0]


async def test_a_range_that_ends_before_it_begins_is_refused(asker: Asker) -> None:
    params = {"from": rfc3339(T0 + 1), "to": rfc3339(T0)}
    found = assert_error(await asker.get("/v1/changes", **params), 400, "INVALID_STATE_REQUEST")
    assert "must not be after to" in found["message"]
