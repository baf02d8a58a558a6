"""The same built the usual way: starlette, a redis-py call a request, sse-starlette, a queue a watcher.

Told the address of its Redis; prints its port. It is no toy: its frames are those of the gateway, its
log is a stream, and its replay is read in pages of 500.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import uvicorn
from redis.asyncio import Redis
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.load import raise_descriptor_limit

_PAGE = 500
_LOG = "naive"


class _Naive:
    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)
        self._queues: set[asyncio.Queue[ServerSentEvent]] = set()
        self._last = 0

    async def publish(self, request: Request) -> JSONResponse:
        await self._store(json.loads(await request.body()))
        return _answer()

    async def publish_many(self, request: Request) -> JSONResponse:
        for line in (await request.body()).split(b"\n"):
            await self._store(json.loads(line))
        return _answer()

    async def _store(self, body: dict[str, Any]) -> None:
        self._last = sequence = self._last + 1
        event = json.dumps(
            {
                "data": {"identifier": body["identifier"], "payload": body["payload"]},
                "datacontenttype": "application/json",
                "id": f"{body['event_type']}@{sequence}",
                "source": "http://127.0.0.1:8000",
                "specversion": "1.0",
                "time": datetime.now(UTC).isoformat(),
                "type": f"int.ecmwf.aviso.{body['event_type']}",
            },
            separators=(",", ":"),
        )
        await self._redis.xadd(_LOG, {"event": event})
        frame = ServerSentEvent(event, event="live-notification", id=str(sequence))
        for queue in self._queues:
            queue.put_nowait(frame)

    async def watch(self, request: Request) -> EventSourceResponse:
        async def frames() -> AsyncIterator[ServerSentEvent]:
            queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
            self._queues.add(queue)
            try:
                yield ServerSentEvent(comment="opened", sep="\n")
                while True:
                    yield await queue.get()
            finally:
                self._queues.discard(queue)

        return EventSourceResponse(frames(), sep="\n")

    async def _page(self, last: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        page: Any = await self._redis.xrange(_LOG, last, "+", _PAGE)
        return list(page)

    async def replay(self, request: Request) -> EventSourceResponse:
        wanted = dict(request.query_params)

        async def frames() -> AsyncIterator[ServerSentEvent]:
            last = "-"
            while page := await self._page(last):
                for entry_id, fields in page:
                    event = fields[b"event"].decode()
                    if wanted:
                        identifier = json.loads(event)["data"]["identifier"]
                        if any(str(identifier[name]) != value for name, value in wanted.items()):
                            continue
                    yield ServerSentEvent(event, event="replay", id=entry_id.decode())
                last = f"({page[-1][0].decode()}"

        return EventSourceResponse(frames(), sep="\n")

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await self._redis.aclose()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/publish", self.publish, methods=["POST"]),
                Route("/publish-many", self.publish_many, methods=["POST"]),
                Route("/watch", self.watch),
                Route("/replay", self.replay),
            ],
            lifespan=self.lifespan,
        )


def _answer() -> JSONResponse:
    return JSONResponse(
        {
            "status": "success",
            "request_id": str(uuid4()),
            "processed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


def main() -> None:
    raise_descriptor_limit()
    config = uvicorn.Config(
        _Naive(sys.argv[1]).app(),
        port=0,
        log_level="warning",
        access_log=False,
        backlog=4096,
        timeout_graceful_shutdown=1,
    )
    _Server(config).run()


if __name__ == "__main__":
    main()
