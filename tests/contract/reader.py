"""Reads a stream as a client does: frame by frame, every wait with a deadline.

Strict on purpose: a line that the wire contract does not know fails the test that reads it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

DEADLINE_SEC = 60.0

Params: TypeAlias = Mapping[str, str] | list[tuple[str, str]] | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream; `text` is its data line as it came."""

    event: str
    text: str
    id: str | None = None
    retry: int | None = None

    @property
    def data(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.text)
        return parsed

    @property
    def is_notification(self) -> bool:
        return "specversion" in self.data

    @property
    def kind(self) -> str:
        """The `type` of a control frame, the name of any other."""
        return self.event if self.is_notification else str(self.data.get("type", self.event))

    @property
    def sequence(self) -> int:
        return int(self.data["id"].rpartition("@")[2])


def parse_frame(block: str) -> Frame:
    """The frame of one block; each line is `name: value`, each name once, data is one line."""
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, separator, value = line.partition(": ")
        assert separator, f"not a line of the contract: {line!r}"
        assert name in ("event", "id", "retry", "data"), f"not a field of the contract: {line!r}"
        assert name not in fields, f"twice in a frame: {line!r}"
        fields[name] = value
    retry = fields.get("retry")
    return Frame(fields["event"], fields["data"], fields.get("id"), int(retry) if retry else None)


class Stream:
    """One open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.seen: list[Frame] = []
        self._frames = self._read()

    @property
    def headers(self) -> httpx.Headers:
        return self.response.headers

    async def _read(self) -> AsyncIterator[Frame]:
        rest = ""
        async for text in self.response.aiter_text():
            *blocks, rest = (rest + text).split("\n\n")
            for block in blocks:
                yield parse_frame(block)
        assert not rest, f"the stream ended inside a frame: {rest!r}"

    async def next(self, timeout: float = DEADLINE_SEC) -> Frame:
        """The next frame."""
        async with asyncio.timeout(timeout):
            frame = await anext(self._frames)
        self.seen.append(frame)
        return frame

    async def until(
        self, wanted: str | Callable[[Frame], bool], timeout: float = DEADLINE_SEC
    ) -> Frame:
        """The next frame of a kind, or that a predicate accepts; those before it are in `seen`."""
        accepts = wanted if callable(wanted) else lambda frame: frame.kind == wanted
        async with asyncio.timeout(timeout):
            while True:
                frame = await self.next(timeout)
                if accepts(frame):
                    return frame

    async def notification(self, timeout: float = DEADLINE_SEC) -> Frame:
        """The next notification; heartbeats before it are skipped."""
        return await self.until(lambda frame: frame.is_notification, timeout)

    async def notifications(self, count: int, timeout: float = DEADLINE_SEC) -> list[Frame]:
        return [await self.notification(timeout) for _ in range(count)]

    async def rest(self, timeout: float = DEADLINE_SEC) -> list[Frame]:
        """Every frame up to the end of the stream."""
        async with asyncio.timeout(timeout):
            async with aclosing(self._frames) as frames:  # type: ignore[type-var]
                found = [frame async for frame in frames]
        self.seen += found
        return found


def query(params: Params) -> httpx.QueryParams | None:
    if params is None:
        return None
    pairs = params.items() if isinstance(params, Mapping) else params
    return httpx.QueryParams(tuple(pairs))


@asynccontextmanager
async def open_stream(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    json: object = None,
    params: Params = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Stream]:
    """A stream that must open; it is closed with the block."""
    body = None if json is None else httpx.Request("POST", "http://x", json=json).content
    async with client.stream(
        method, path, content=body, params=query(params), headers=headers
    ) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, response.text
        yield Stream(response)
