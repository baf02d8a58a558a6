"""Snapshots made by hand, where a test needs no source database."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from uuid import uuid4

import msgspec

from store.event import ORIGIN, Position
from store.objects import Objects
from store.row_upload import RowUpload
from store.snapshot_index import Snapshot, SnapshotIndex
from store.snapshot_reader import Manifest, TableFile
from tests.store.recording import SOURCE


async def keep(
    objects: Objects,
    index: SnapshotIndex,
    tenant: str,
    at_ms: int,
    tables: Mapping[str, Iterable[tuple[str, str]]],
    *,
    source: str = SOURCE,
    visible: str = "1:1:",
    lsn: str = "FFFFFFFF/0",
    position: Position = ORIGIN,
    epoch: bytes = b"",
    excluded: Sequence[str] = (),
    multisets: Sequence[str] = (),
    breaks: int = 0,
) -> Snapshot:
    """A snapshot of these rows, pairs of key and row as JSON texts, by any place of the WAL."""
    snapshot_id = str(uuid4())
    folder = f"{tenant}/{source}/{at_ms}-{snapshot_id}"
    files = []
    for number, (name, rows) in enumerate(tables.items()):
        file = f"{number}-{name}.zst"
        upload = RowUpload(objects, f"{folder}/{file}")
        for key, row in rows:
            await upload.write(f"{key}\t{row}\n".encode())
        packed = await upload.finish()
        files.append(
            TableFile(
                name=name,
                columns=["id", "text"],
                key=[] if name in multisets else ["id"],
                multiset=name in multisets,
                file=file,
                rows=packed.rows,
                size=packed.size,
                sha256=packed.sha256,
            )
        )
    manifest = Manifest(snapshot_id, source, tenant, at_ms, visible, lsn, files, list(excluded))
    content = msgspec.json.encode(manifest)
    await objects.put_bytes(f"{folder}/manifest.json", content)
    snapshot = Snapshot(
        id=snapshot_id,
        source=source,
        at_ms=at_ms,
        folder=folder,
        visible=visible,
        lsn=lsn,
        ms=position.ms,
        sequence=position.sequence,
        epoch=epoch.decode(),
        rows=sum(each.rows for each in files),
        size=sum(each.size for each in files),
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        breaks=breaks,
    )
    await index.add(tenant, snapshot)
    return snapshot
