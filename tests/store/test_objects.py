"""Objects in a folder and in a bucket: whole or not there, and every failure a StoreError."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from store.errors import ObjectMissing, ObjectsUnavailable, StoreConfigurationError
from store.objects import READ_BYTES, Objects, S3Access
from tests.store.s3 import S3Server

# More than two parts of a multipart upload, and no multiple of what is read at a time.
LARGE = os.urandom((11 << 20) + 7)


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 700_000):
        yield content[start : start + 700_000]


async def read(objects: Objects, path: str, size: int) -> bytes:
    return b"".join([piece async for piece in objects.read(path, size)])


async def test_what_is_stored_in_pieces_is_read_back_whole(objects: Objects) -> None:
    await objects.put("a/b/large", in_pieces(LARGE))
    await objects.put("a/b/empty", in_pieces(b""))
    assert await objects.size("a/b/large") == len(LARGE)
    assert await read(objects, "a/b/large", len(LARGE)) == LARGE
    assert await objects.get("a/b/empty") == b""


async def test_a_large_object_is_never_held_whole_by_its_reader(objects: Objects) -> None:
    await objects.put("large", in_pieces(LARGE))
    sizes = [len(piece) async for piece in objects.read("large", len(LARGE))]
    assert max(sizes) <= READ_BYTES


async def test_a_small_object_is_stored_and_read_at_once(objects: Objects) -> None:
    await objects.put_bytes("manifest.json", b'{"a":1}')
    assert await objects.get("manifest.json") == b'{"a":1}'
    await objects.put_bytes("manifest.json", b"{}")
    assert await objects.get("manifest.json") == b"{}"


async def test_an_upload_that_fails_leaves_nothing(objects: Objects) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield LARGE[: 6 << 20]
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="the source is gone"):
        await objects.put("a/broken", broken())
    assert await objects.list("a") == []


async def test_an_upload_that_is_cancelled_leaves_nothing(objects: Objects) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield LARGE[: 6 << 20]
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(objects.put("a/endless", endless()))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await objects.list("a") == []


async def test_what_is_not_there_is_said_to_be_missing(objects: Objects) -> None:
    for asking in (objects.get("no"), objects.size("no"), read(objects, "no", 10)):
        with pytest.raises(ObjectMissing, match="no"):
            await asking


async def test_objects_are_listed_and_removed(objects: Objects) -> None:
    for path in ("t/1/a", "t/1/b", "t/2/a", "u/1/a"):
        await objects.put_bytes(path, b"12345")
    assert await objects.folders("t") == ["t/1", "t/2"]
    listed = await objects.list("t/1")
    assert sorted((each.path, each.size) for each in listed) == [("t/1/a", 5), ("t/1/b", 5)]
    assert await objects.changed_ms("t/1") > 1_700_000_000_000
    await objects.remove("t/1")
    await objects.remove("t/1")  # again: it is gone already
    assert await objects.changed_ms("t/1") == 0
    assert await objects.folders("t") == ["t/2"]
    assert await objects.folders("nobody") == []


async def test_what_a_writer_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    """Symptom: half an object is in no listing of objects, and stayed in its folder for ever."""
    put = """
import asyncio, os
from store.objects import Objects

async def parts():
    yield bytes(12 << 20)
    await asyncio.sleep(0.2)
    print("half", flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(Objects("file://%s").put("t/1/a", parts()))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", put % tmp_path, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output == b"half\n"
    objects = Objects(f"file://{tmp_path}")
    assert (await objects.folders("t"), await objects.list("t/1")) == (["t/1"], [])
    assert list((tmp_path / "t/1").iterdir()) != []
    assert await objects.changed_ms("t/1") > 1_700_000_000_000
    await objects.remove("t/1")
    assert await objects.folders("t") == []


async def test_a_place_with_nothing_in_it_is_empty(objects: Objects) -> None:
    assert await objects.is_empty()
    await objects.put_bytes("t/1/a", b"")
    assert not await objects.is_empty()


async def test_a_folder_beside_the_process_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await Objects("file://./snapshots").put_bytes("a", b"here")
    assert (tmp_path / "snapshots" / "a").read_bytes() == b"here"


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "folder", "gs://bucket/x"])
def test_an_address_that_cannot_be_used_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(StoreConfigurationError, match="snapshots cannot be kept at"):
        Objects(url)


def test_a_folder_that_cannot_be_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreConfigurationError, match="snapshots cannot be kept at"):
        Objects(f"file://{tmp_path}/file/folder")


async def test_a_bucket_that_does_not_exist_is_a_failure_of_the_store(s3: S3Server) -> None:
    nowhere = Objects("s3://no-such-bucket", s3.access)
    with pytest.raises((ObjectsUnavailable, ObjectMissing)):
        await nowhere.put_bytes("a", b"1")


async def test_a_service_that_is_away_is_a_failure_of_the_store() -> None:
    away = Objects(
        "s3://bucket",
        S3Access("http://127.0.0.1:9", "us-east-1", "key", "secret"),
        patience_sec=0.5,
    )
    with pytest.raises(ObjectsUnavailable, match="the object store failed at a"):
        await away.get("a")
