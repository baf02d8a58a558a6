"""Lines on their way into an object: packed in a thread, uploaded while more come."""

import asyncio
from collections.abc import Generator
from typing import Any

from store.objects import Objects
from store.row_file import FRAME_BYTES, RowPacker

# Parts that wait for the object store; then the source is not read on.
_WAITING = 4


class _Parts:
    """What is uploaded, as the object store asks for it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)
        self._idle = asyncio.Event()
        self._idle.set()

    def __aiter__(self) -> "_Parts":
        return self

    def __anext__(self) -> "_Next":
        return _Next(self)

    async def take(self) -> bytes:
        self._idle.clear()
        try:
            part = await self._queue.get()
        finally:
            self._idle.set()
        if part is None:
            raise StopAsyncIteration
        return part

    async def put(self, part: bytes | None) -> None:
        await self._queue.put(part)

    async def end(self) -> None:
        """Let go of an object store that has given up while it waited for a part."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)
        await self._idle.wait()


class _Next:
    """The next part. No coroutine yet: an upload that is cancelled may ask and never wait."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._parts.take().__await__()


class RowUpload:
    """One file. `write` waits when the object store is slower; every failure is raised there.

    One that has not been finished must be aborted.
    """

    def __init__(self, objects: Objects, path: str) -> None:
        self._packer = RowPacker()
        self._parts = _Parts()
        self._texts: list[bytes] = []
        self._waiting = 0
        self._task = asyncio.create_task(objects.put(path, self._parts))

    async def write(self, text: bytes) -> None:
        self._texts.append(text)
        self._waiting += len(text)
        if self._waiting >= FRAME_BYTES:
            await self._pack()

    async def _pack(self) -> None:
        text = b"".join(self._texts)
        self._texts, self._waiting = [], 0
        frames = await asyncio.to_thread(self._packer.pack, text)
        if frames:
            await self._hand_over(frames)

    async def _hand_over(self, part: bytes | None) -> None:
        handing = asyncio.create_task(self._parts.put(part))
        await asyncio.wait((handing, self._task), return_when=asyncio.FIRST_COMPLETED)
        if not handing.done():
            handing.cancel()
            await self._task  # raises why it takes no more

    async def finish(self) -> RowPacker:
        """Everything is stored; the figures of the file."""
        await self._pack()
        last = await asyncio.to_thread(self._packer.finish)
        if last:
            await self._hand_over(last)
        await self._hand_over(None)
        await self._task
        return self._packer

    async def abort(self) -> None:
        """Nothing of it shall be there."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._parts.end()
        if not self._task.cancelled():
            self._task.exception()  # read: it has been raised by `write`, or nobody wants to know
