"""Lines in frames: packed whatever the pieces, read back the same, and damage always found."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import CorruptFile, ObjectsUnavailable
from store.objects import Objects
from store.row_file import FRAME_BYTES, RowPacker, unpack
from store.row_upload import RowUpload
from store.tenant_rows import TenantRows

LINES = b"".join(b'{"id":%d}\t{"id":%d,"t":"%b"}\n' % (n, n, b"x" * (n % 300)) for n in range(9000))


def cut(text: bytes, size: int) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def pack(pieces: Sequence[bytes]) -> tuple[bytes, RowPacker]:
    packer = RowPacker()
    return b"".join([*(packer.pack(piece) for piece in pieces), packer.finish()]), packer


async def in_pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for piece in cut(content, size):
        yield piece


async def unpacked(content: bytes, size: int = 100_000) -> list[bytes]:
    return [block async for block in unpack(in_pieces(content, size), "a file")]


@pytest.mark.parametrize("size", [999, 65_536, 10_000_000])
async def test_lines_cut_anywhere_come_back_in_blocks_of_whole_lines(size: int) -> None:
    packed, packer = pack(cut(LINES, size))
    assert (packer.rows, packer.size) == (9000, len(packed))
    assert packer.sha256 == hashlib.sha256(packed).hexdigest()
    blocks = await unpacked(packed, 7777)
    assert b"".join(blocks) == LINES
    assert len(blocks) > 3
    assert all(block.endswith(b"\n") and len(block) <= FRAME_BYTES for block in blocks)


async def test_a_line_longer_than_a_frame_is_a_frame_of_its_own() -> None:
    long = b"{}\t" + b"y" * (3 * FRAME_BYTES) + b"\n"
    packed, packer = pack(cut(LINES[:1000] + b"\n" + long + LINES, 50_000))
    assert b"".join(await unpacked(packed)) == LINES[:1000] + b"\n" + long + LINES
    assert packer.rows == (LINES[:1000] + b"\n" + long + LINES).count(b"\n")


async def test_nothing_is_packed_into_nothing() -> None:
    packed, packer = pack([])
    assert (packed, packer.rows, packer.size) == (b"", 0, 0)
    assert await unpacked(b"") == []


async def test_any_zstandard_program_reads_the_file() -> None:
    packed, _ = pack([LINES])
    whole = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    assert whole.read() == LINES


@settings(max_examples=60)
@given(st.data())
def test_a_byte_that_changed_is_found(data: st.DataObject) -> None:
    packed, _ = pack([LINES])
    place = data.draw(st.integers(0, len(packed) - 1))
    flipped = bytearray(packed)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = b"".join(asyncio.run(unpacked(bytes(flipped))))
    except CorruptFile:
        return
    # What no checksum covers is how a frame is written, not what it holds.
    assert found == LINES


@pytest.mark.parametrize("missing", [1, 5, 1000])
async def test_an_end_that_is_missing_is_found(missing: int) -> None:
    packed, _ = pack([LINES])
    with pytest.raises(CorruptFile, match="a file is damaged: it ends inside a frame"):
        await unpacked(packed[:-missing])


async def test_an_upload_is_the_packed_lines_and_their_figures(tmp_path: Path) -> None:
    objects = Objects(f"file://{tmp_path}")
    upload = RowUpload(objects, "a/rows.zst")
    for piece in cut(LINES, 30_000):
        await upload.write(piece)
    packed = await upload.finish()
    content = (tmp_path / "a" / "rows.zst").read_bytes()
    assert packed.sha256 == hashlib.sha256(content).hexdigest()
    assert b"".join(await unpacked(content)) == LINES


async def test_an_upload_that_fails_is_told_to_who_writes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way of a folder")
    upload = RowUpload(Objects(f"file://{tmp_path}"), "a/rows.zst")

    async def write_on() -> None:
        for _ in range(1000):
            await upload.write(os.urandom(FRAME_BYTES) + b"\n")
        await upload.finish()

    with pytest.raises(ObjectsUnavailable, match=r"the object store failed at a/rows\.zst"):
        await write_on()
    await upload.abort()


async def test_an_upload_that_is_aborted_leaves_nothing(tmp_path: Path) -> None:
    upload = RowUpload(Objects(f"file://{tmp_path}"), "a/rows.zst")
    await upload.write(LINES)
    await upload.abort()
    assert not (tmp_path / "a" / "rows.zst").exists()


TENANTS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(4)]


@given(
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
    st.integers(1, 90),
)
def test_lines_of_several_tenants_are_divided_wherever_they_are_cut(
    counts: list[int], size: int
) -> None:
    text = b""
    expected: dict[str, bytes] = {}
    for tenant, count in zip(TENANTS, counts, strict=True):
        for number in range(count):
            line = b'{"id":%d}\t{"id":%d,"other":"%b"}\n' % (number, number, TENANTS[0].encode())
            text += tenant.encode() + b"\t" + line
            expected[tenant] = expected.get(tenant, b"") + line
    divided = TenantRows()
    found: dict[str, bytes] = {}
    for piece in cut(text, size):
        for tenant, lines in divided.divide(piece):
            assert lines.endswith(b"\n")
            found[tenant] = found.get(tenant, b"") + lines
    assert found == expected
