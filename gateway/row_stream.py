"""Answers that are made while they are sent, as JSON lines or as Server-Sent Events, each to its end.

One that fails in the middle says so in its last line or frame, and has not the end that a whole
one has.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.errors import ApiError
from gateway.stream import Census, EventStream
from store.errors import StoreError

logger = structlog.get_logger(__name__)

Body = AsyncGenerator[bytes, None]


class RowStream(EventStream):
    """Sends what it is given as frames, then its closing frame."""

    def __init__(
        self,
        body: Body,
        *,
        topic: str,
        request_id: str,
        census: Census,
        send_timeout_sec: float,
        lifetime: AbstractContextManager[None],
        on_error: Callable[[], None],
    ) -> None:
        super().__init__(
            topic=topic,
            request_id=request_id,
            census=census,
            send_timeout_sec=send_timeout_sec,
            lifetime=lifetime,
            on_events=lambda events: None,
            on_error=on_error,
        )
        self._body = body

    @property
    def limited(self) -> bool:
        return False  # it ends by itself

    def heartbeat(self) -> bytes:
        return b""

    async def open(self) -> bool:
        try:
            async with aclosing(self._body) as body:
                async for part in body:
                    await self._write(part)
                    if self._closing is not None:
                        await self._finish(self._closing)
                        return False
        except StoreError as error:
            logger.error("answer_broken_off", error=str(error), request_id=self.request_id)
            await self._fail("The answer cannot be completed; ask again")
            return False
        await self._finish("end_of_stream")
        return False

    async def approach(self) -> bool:
        return True  # nothing comes after the end

    def fall_back(self) -> None:
        """It is never a member of a sweep."""

    def leave(self) -> None:
        """It is fed by nobody but itself."""


class LineResponse(Response):
    """Sends what it is given as lines. One that fails is ended by an error's JSON and a cut."""

    media_type = "application/x-ndjson"

    def __init__(
        self,
        body: Body,
        *,
        request_id: str,
        send_timeout_sec: float,
        lifetime: AbstractContextManager[None],
        on_error: Callable[[], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._body = body
        self._request_id = request_id
        self._send_timeout_sec = send_timeout_sec
        self._lifetime = lifetime
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        raw_send = scope.get("state", {}).get("server_send", send)
        connection = scope.get("extensions", {}).get("playhead", {}).get("connection")
        with self._lifetime:
            sending = asyncio.create_task(self._send(raw_send))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                sending.cancel()
                await asyncio.wait((sending, leaving))
            if not sending.cancelled() and (error := sending.exception()) is not None:
                if connection is not None:
                    connection.abort()
                if not isinstance(error, TimeoutError):
                    raise error

    async def _send(self, send: Send) -> None:
        try:
            async with aclosing(self._body) as body:
                async for part in body:
                    await self._write(send, part)
        except StoreError as error:
            logger.error("answer_broken_off", error=str(error), request_id=self._request_id)
            self._on_error()
            told = ApiError(
                503, "ANSWER_BROKEN_OFF", "Answer Broken Off", "The answer cannot be completed"
            )
            # Without the end of the body the connection is closed: no client takes it for whole.
            await self._write(send, msgspec.json.encode(told.body(self._request_id)) + b"\n")
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, part: bytes) -> None:
        # Who takes nothing for so long would keep the state, and what it is made from, for ever.
        async with asyncio.timeout(self._send_timeout_sec):
            await send({"type": "http.response.body", "body": part, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
