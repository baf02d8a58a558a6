"""A long history of changes written straight into a log, with snapshots, for benches of states."""

import hashlib
import json
import random
import time
from dataclasses import dataclass
from uuid import uuid4

import msgspec

from store.captured import changes as changes_of
from store.connection import Connection, meta_key
from store.event import Appended, Draft, Envelope, Head, Position
from store.log import EventLog
from store.objects import Objects
from store.row_upload import RowUpload
from store.snapshot_index import Snapshot, SnapshotIndex
from store.snapshot_reader import Manifest, TableFile

TABLE = "public.vehicle"
SOURCE = "fleet"
_QUARTER_MS = 900_000
_BATCH = 500
_AT_WORK = 8
_ENVELOPE = Envelope(
    middle=b'","source":"http://localhost","specversion":"1.0","time":"',
    tail=b'","type":"int.ecmwf.aviso.change"}',
)


@dataclass(frozen=True)
class History:
    """What was written. `times` (ms) are those that states shall be asked of."""

    tenant: str
    rows: int
    times: list[int]


@dataclass(frozen=True)
class _Shelf:
    """Where the snapshots of a tenant go."""

    tenant: str
    log: EventLog
    index: SnapshotIndex
    objects: Objects


class Fleet:
    """Vehicles that move; the present row of each."""

    def __init__(self, rows: int) -> None:
        self._random = random.Random(7)
        self.rows = [self._row(number) for number in range(rows)]

    def _row(self, number: int) -> bytes:
        numbers = self._random
        return (
            b'{"id":%d,"plate":"AB-%06d","lat":%.6f,"lon":%.6f,"speed":%.1f,"heading":%d,'
            b'"status":"%b","updated_at":"2026-01-01T00:00:00.%06d+00:00"}'
        ) % (
            number,
            number,
            48 + numbers.random() * 4,
            8 + numbers.random() * 6,
            numbers.random() * 130,
            numbers.randrange(360),
            numbers.choice((b"moving", b"idle", b"off")),
            numbers.randrange(1_000_000),
        )

    def move(self, xid: int, ms: int) -> Draft:
        """One vehicle moves: the change as capture would store it."""
        number = self._random.randrange(len(self.rows))
        row = self.rows[number] = self._row(number)
        head = (
            b'{"data":{"identifier":{"table":"%b","op":"u","key":"%d"},"payload":{"before":null,'
            b'"after":%b,"key":{"id":%d},"xid":%d,"lsn":"0/%X","index":0,"last":true,'
            b'"source":"%b","committed":"2026-01-01T00:00:00.000000Z"}},"datacontenttype":'
            b'"application/json","dataschema":"http://localhost/schema/change","id":"change@'
        ) % (TABLE.encode(), number, row, number, xid, 1000 + xid, SOURCE.encode())
        return Draft(b"change.%b.u.%d" % (TABLE.encode(), number), head, ms)


async def write_history(
    connection: Connection, objects: Objects, *, changes: int, rows: int, days: float, times: int
) -> History:
    """Changes at even distances up to now, and a snapshot before each of the times."""
    tenant = str(uuid4())
    log = EventLog(connection, idempotency_window_ms=60_000)
    shelf = _Shelf(tenant, log, SnapshotIndex(connection), objects)
    fleet = Fleet(rows)
    end_ms = int(time.time() * 1000) - 1000
    start_ms = end_ms - int(days * 86_400_000)
    step_ms = (end_ms - start_ms) / changes
    asked = [
        int(start_ms + (end_ms - start_ms) * (each + 1) / (times + 1)) for each in range(times)
    ]
    snapshots = [each // _QUARTER_MS * _QUARTER_MS for each in asked]
    drafts: list[Draft] = []
    for number in range(changes):
        ms = int(start_ms + number * step_ms)
        if snapshots and ms > snapshots[0]:
            await _append(log, tenant, drafts)
            drafts = []
            await _keep(shelf, snapshots.pop(0), number, fleet)
        drafts.append(fleet.move(number, ms))
        if len(drafts) == _BATCH * _AT_WORK:
            await _append(log, tenant, drafts)
            drafts = []
    await _append(log, tenant, drafts)
    key = meta_key(changes_of(tenant))
    await connection.execute("HSET", key, f"through:{SOURCE}", int(time.time() * 1000))
    return History(tenant, rows, asked)


async def _append(log: EventLog, tenant: str, drafts: list[Draft]) -> None:
    outcomes = await log.append(changes_of(tenant), _ENVELOPE, drafts)
    assert all(isinstance(each, Appended) for each in outcomes)


async def _keep(shelf: _Shelf, at_ms: int, xid: int, fleet: Fleet) -> None:
    head = await shelf.log.head(changes_of(shelf.tenant))
    snapshot_id = str(uuid4())
    folder = f"{shelf.tenant}/{SOURCE}/{at_ms}-{snapshot_id}"
    upload = RowUpload(shelf.objects, f"{folder}/0000-{TABLE}.zst")
    for start in range(0, len(fleet.rows), 1000):
        part = enumerate(fleet.rows[start : start + 1000], start)
        await upload.write(b"".join(b'{"id":%d}\t%b\n' % each for each in part))
    packed = await upload.finish()
    keys = list(json.loads(fleet.rows[0]))
    file = TableFile(
        TABLE, keys, ["id"], False, f"0000-{TABLE}.zst", packed.rows, packed.size, packed.sha256
    )
    visible = f"{xid}:{xid}:"
    manifest = Manifest(snapshot_id, SOURCE, shelf.tenant, at_ms, visible, "0/1", [file], [])
    content = msgspec.json.encode(manifest)
    await shelf.objects.put_bytes(f"{folder}/manifest.json", content)
    await shelf.index.add(shelf.tenant, _entry(manifest, folder, head, packed.size, content))


def _entry(manifest: Manifest, folder: str, head: Head, size: int, content: bytes) -> Snapshot:
    position: Position = head.last
    return Snapshot(
        id=manifest.id,
        source=SOURCE,
        at_ms=manifest.at_ms,
        folder=folder,
        visible=manifest.visible,
        lsn=manifest.lsn,
        ms=position.ms,
        sequence=position.sequence,
        epoch=head.epoch.decode(),
        rows=manifest.tables[0].rows,
        size=size,
        manifest_sha256=hashlib.sha256(content).hexdigest(),
    )
