"""Objects by path in a folder (file://) or an S3 bucket (s3://).

An object is there whole or not at all; nothing is held in memory but the parts in flight. Every
failure of the library or the service leaves here as a StoreError.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from store.errors import ObjectMissing, ObjectsUnavailable, StoreConfigurationError

# S3 takes no part but the last below 5 MiB.
_PART_BYTES = 5 << 20
_PARTS_IN_FLIGHT = 2
# Read by ranges, not as one long answer: a reader may take minutes, and a service ends what stalls.
READ_BYTES = 256 << 10
_REQUEST_TIMEOUT = timedelta(seconds=30)
_CONNECT_TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach a bucket; what is None comes from the environment (AWS_…), as everywhere."""

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a listing tells of it. `modified_ms` is the service's own time."""

    path: str
    size: int
    modified_ms: int


class Objects:
    """The objects below one address; a folder is made when something is first put into it.

    Raises StoreConfigurationError for an address it cannot use.
    """

    def __init__(
        self, url: str, access: S3Access | None = None, *, patience_sec: float = 10.0
    ) -> None:
        """`patience_sec`: so long a request to a service that is away is tried again."""
        self.url = url
        self._folder = _folder_of(url)
        self._opened: LocalStore | S3Store | None = None
        if self._folder is None:
            patience = timedelta(seconds=patience_sec)
            self._opened = _open_bucket(url, access or S3Access(), patience)

    def _open(self, *, writing: bool = False) -> LocalStore | S3Store:
        if self._opened is None:
            assert self._folder is not None  # noqa: S101 - a bucket was opened at once
            if not writing and not self._folder.is_dir():
                raise FileNotFoundError(self._folder)
            self._opened = LocalStore(self._folder, mkdir=True, automatic_cleanup=True)
        return self._opened

    async def put(self, path: str, parts: AsyncIterable[bytes]) -> None:
        """Store what comes; when it fails, also by what `parts` raises, nothing is there."""
        async with _translated(path):
            await obstore.put_async(
                self._open(writing=True),
                path,
                parts,
                use_multipart=True,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_IN_FLIGHT,
            )

    async def put_bytes(self, path: str, content: bytes) -> None:
        async with _translated(path):
            await obstore.put_async(self._open(writing=True), path, content, use_multipart=False)

    async def get(self, path: str) -> bytes:
        """A whole object, for small ones. Raises ObjectMissing."""
        async with _translated(path):
            result = await obstore.get_async(self._open(), path)
            return bytes(await result.bytes_async())

    async def size(self, path: str) -> int:
        """In bytes. Raises ObjectMissing."""
        async with _translated(path):
            return int((await obstore.head_async(self._open(), path))["size"])

    async def read(self, path: str, size: int) -> AsyncGenerator[bytes, None]:
        """An object of known size from its beginning, in pieces. Raises ObjectMissing."""
        for start in range(0, size, READ_BYTES):
            length = min(READ_BYTES, size - start)
            async with _translated(path):
                piece = await obstore.get_range_async(
                    self._open(), path, start=start, length=length
                )
            if len(piece) != length:
                raise ObjectsUnavailable(
                    f"the object store gave a part of what was asked of {path}"
                )
            yield bytes(piece)

    async def folders(self, prefix: str) -> list[str]:
        """The paths directly below a prefix that have objects below them."""
        try:
            async with _translated(prefix):
                found = await obstore.list_with_delimiter_async(self._open(), f"{prefix}/")
        except ObjectMissing:
            return []
        return sorted(found["common_prefixes"])

    async def list(self, prefix: str) -> list[Stored]:
        """Every object below a prefix."""
        try:
            async with _translated(prefix):
                found = await obstore.list(self._open(), f"{prefix}/").collect_async()
        except ObjectMissing:
            return []
        return [
            Stored(each["path"], each["size"], int(each["last_modified"].timestamp() * 1000))
            for each in found
        ]

    async def changed_ms(self, prefix: str) -> int:
        """When anything below a prefix was last written; 0 when there is nothing."""
        if self._folder is not None:
            return await asyncio.to_thread(_changed_ms, self._folder / prefix)
        return max((each.modified_ms for each in await self.list(prefix)), default=0)

    async def remove(self, prefix: str) -> None:
        """All below a prefix; in a folder also the part of an object whose writer was killed."""
        if self._folder is None:
            await self.delete([each.path for each in await self.list(prefix)])
            return
        async with _translated(prefix):
            with suppress(FileNotFoundError):
                await asyncio.to_thread(shutil.rmtree, self._folder / prefix)

    async def is_empty(self) -> bool:
        """Whether there is nothing at all: an address that lost its disk looks like that."""
        try:
            async with _translated(self.url):
                async for found in obstore.list(self._open(), chunk_size=1):
                    return not found
        except ObjectMissing:
            return True
        return True

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for path in paths:
            try:
                async with _translated(path):
                    await obstore.delete_async(self._open(), path)
            except ObjectMissing:
                continue


def _changed_ms(folder: Path) -> int:
    changed = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            changed = max(changed, path.stat().st_mtime)
    return int(changed * 1000)


def _folder_of(url: str) -> Path | None:
    """Which folder a file:// address means; None for a bucket."""
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        return None
    if parts.scheme != "file" or not (parts.netloc + parts.path).strip("/"):
        raise StoreConfigurationError(
            f"snapshots cannot be kept at '{url}': write file://folder or s3://bucket/prefix"
        )
    # The host of file://./folder is the first part of a path beside the process.
    folder = Path(parts.netloc + parts.path).expanduser().resolve()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not existing.is_dir():
        raise StoreConfigurationError(
            f"snapshots cannot be kept at '{url}': {existing} is no folder"
        )
    return folder


def _open_bucket(url: str, access: S3Access, patience: timedelta) -> S3Store:
    options: dict[str, Any] = {
        name: value
        for name, value in (
            ("endpoint", access.endpoint),
            ("region", access.region),
            ("access_key_id", access.access_key_id),
            ("secret_access_key", access.secret_access_key),
        )
        if value is not None
    }
    client: dict[str, Any] = {"timeout": _REQUEST_TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT}
    if (access.endpoint or "").startswith("http://"):
        client["allow_http"] = True
    try:
        return S3Store.from_url(
            url,
            client_options=client,  # type: ignore[arg-type]
            retry_config={"max_retries": 5, "retry_timeout": patience},
            **options,
        )
    except (BaseError, ValueError) as error:
        raise StoreConfigurationError(
            f"snapshots cannot be kept at '{url}': {_first_line(error)}"
        ) from error


@asynccontextmanager
async def _translated(path: str) -> AsyncIterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(f"there is no object {path}") from error
    except (BaseError, OSError) as error:
        raise ObjectsUnavailable(
            f"the object store failed at {path}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """What it says, without the library's own debugging text."""
    return str(error).partition("\n")[0]
