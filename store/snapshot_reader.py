"""Reads what a snapshot holds, after making sure that it is what was written.

Each file is read through once in the life of the process before its first use. A snapshot with a
file that is missing or differs is marked in the index, so that nobody uses it again.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Set
from weakref import WeakValueDictionary

import msgspec
import structlog

from store.errors import CorruptFile, ObjectMissing, ObjectsUnavailable
from store.objects import Objects
from store.row_file import unpack
from store.snapshot_index import Snapshot, SnapshotIndex

# Manifests of the snapshots used last; one of 200 tables has 50 kB.
_KEPT = 64

logger = structlog.get_logger(__name__)


class TableFile(msgspec.Struct, frozen=True):
    """One table of a snapshot. `file` is '' for a table without rows; `key` [] for a multiset."""

    name: str
    columns: list[str]
    key: list[str]
    multiset: bool
    file: str
    rows: int
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot consists of; `excluded` are tables that were captured and left out."""

    id: str
    source: str
    tenant: str
    at_ms: int
    visible: str
    lsn: str
    tables: list[TableFile]
    excluded: list[str]


_decode = msgspec.json.Decoder(Manifest).decode


class SnapshotReader:
    """`on_broken` is called for each snapshot that turns out to be damaged."""

    def __init__(
        self,
        objects: Objects,
        index: SnapshotIndex,
        *,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._objects = objects
        self._index = index
        self._on_broken = on_broken
        # By folder, which is one tenant's.
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        # Of the manifests that are kept, the files that were found whole.
        self._whole: dict[str, set[str]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(
        self, tenant: str, snapshot: Snapshot, tables: Set[str] | None
    ) -> Manifest | None:
        """The manifest, once the files of these tables are known to be whole; None: damaged, or gone.

        Raises ObjectsUnavailable.
        """
        turn = self._turns.setdefault(snapshot.folder, asyncio.Lock())
        async with turn:
            try:
                manifest = await self._manifest(snapshot)
                whole = self._whole[snapshot.folder]
                for table in manifest.tables:
                    wanted = tables is None or table.name in tables
                    if wanted and table.file and table.file not in whole:
                        await self._verify(snapshot, table)
                        whole.add(table.file)
            except (CorruptFile, ObjectMissing) as error:
                if isinstance(error, ObjectMissing) and await self._objects.is_empty():
                    # A disk that is not mounted, or another address: no reason to give them all up.
                    raise ObjectsUnavailable(f"there is nothing at {self._objects.url}") from error
                if not await self._index.has(tenant, snapshot):
                    return None  # it has been removed since it was listed: too old, not damaged
                await self.condemn(tenant, snapshot, str(error))
                return None
        return manifest

    async def condemn(self, tenant: str, snapshot: Snapshot, reason: str) -> None:
        """A snapshot is damaged: say so, and never use it again."""
        logger.error("snapshot_broken", tenant=tenant, snapshot=snapshot.id, reason=reason)
        self._on_broken()
        self._manifests.pop(snapshot.folder, None)
        await self._index.mark_broken(tenant, snapshot, reason)

    async def lines(self, snapshot: Snapshot, table: TableFile) -> AsyncIterator[bytes]:
        """`key<TAB>row` lines in blocks of whole lines. Raises CorruptFile and ObjectsUnavailable."""
        if table.file:
            path = f"{snapshot.folder}/{table.file}"
            async for block in unpack(self._objects.read(path, table.size), path):
                yield block

    async def _manifest(self, snapshot: Snapshot) -> Manifest:
        found = self._manifests.get(snapshot.folder)
        if found is None:
            path = f"{snapshot.folder}/manifest.json"
            content = await self._objects.get(path)
            if hashlib.sha256(content).hexdigest() != snapshot.manifest_sha256:
                raise CorruptFile(f"{path} is not what was written")
            found = self._manifests[snapshot.folder] = _decode(content)
            self._whole[snapshot.folder] = set()
            while len(self._manifests) > _KEPT:
                oldest, _ = self._manifests.popitem(last=False)
                del self._whole[oldest]
        self._manifests.move_to_end(snapshot.folder)
        return found

    async def _verify(self, snapshot: Snapshot, table: TableFile) -> None:
        path = f"{snapshot.folder}/{table.file}"
        size = await self._objects.size(path)
        if size != table.size:
            raise CorruptFile(f"{path} has {size} bytes, {table.size} were written")
        digest = hashlib.sha256()
        async for piece in self._objects.read(path, table.size):
            digest.update(piece)
        if digest.hexdigest() != table.sha256:
            raise CorruptFile(f"{path} is not what was written")
