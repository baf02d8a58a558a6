"""The one connection to a server that all share: commands leave in order, answers come back in it.

Nobody waits for another's answer before asking, and who gives up leaves nothing behind. A connection
that was lost fails those whose answers were to come, and is opened anew by who asks next.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import hiredis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

Argument: TypeAlias = bytes | str | int

_UNFINISHED: Final = object()
# A page is up to 1 MB: a buffer given back after each has to grow again for the next.
_KEPT_BUFFER_BYTES = 1 << 20
# Silence is counted in so many parts: a process that itself stood still blames nobody.
_TICKS = 10


def pack(command: Sequence[Argument]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return packed


class _Answers(asyncio.Protocol):
    """The protocol of an open connection: who waits for answers, first come first."""

    def __init__(self, silence_sec: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_UNFINISHED,
        )
        self._reader.setmaxbuf(_KEPT_BUFFER_BYTES)
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._answers: list[Any] = []
        self._tick_sec = silence_sec / _TICKS
        self._silent_ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self.transport: Any = None
        self.lost = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def ask(self, command: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send so many packed commands; their answers, errors among them, come together."""
        if self.lost:
            raise RedisConnectionError("Connection closed by server before it was asked")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiting.append((future, count))
        if self._timer is None:
            self._silent_ticks = 0
            self._timer = self._loop.call_later(self._tick_sec, self._tick)
        self.transport.write(command)
        return future

    def data_received(self, data: bytes) -> None:
        self._silent_ticks = 0
        reader = self._reader
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not _UNFINISHED:
                self._answers.append(answer)
                future, count = self._waiting[0]
                if len(self._answers) == count:
                    answers, self._answers = self._answers, []
                    self._waiting.popleft()
                    if not future.done():
                        future.set_result(answers)
        except (InvalidResponse, IndexError) as error:
            self.fail(RedisConnectionError(f"the server answered what is no answer: {error}"))

    def _tick(self) -> None:
        self._timer = None
        if not self._waiting or self.lost:
            return
        self._silent_ticks += 1
        if self._silent_ticks > _TICKS:
            self.fail(RedisTimeoutError("Timeout reading from the server"))
        else:
            self._timer = self._loop.call_later(self._tick_sec, self._tick)

    def fail(self, failure: Exception) -> None:
        """Fail who waits, and close."""
        if self._timer is not None:
            self._timer.cancel()
        self.lost = True
        self.transport.abort()
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(failure)
        self._waiting.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(RedisConnectionError(f"Connection closed by server: {exc or 'end of file'}"))
        if not self.closed.done():
            self.closed.set_result(None)


class Link:
    """Sends commands to one server. Raises what redis-py raises."""

    def __init__(self, make: Callable[[], AbstractConnection], *, silence_sec: float) -> None:
        """`make` gives a connection that is not open yet; redis-py opens it: TLS, password, database.

        After `silence_sec` without a byte of an answer that is owed, the server counts as lost.
        """
        self.make = make
        self._silence_sec = silence_sec
        self._open: _Answers | None = None
        self._connection: AbstractConnection | None = None
        self._opening: asyncio.Task[_Answers] | None = None

    async def execute(self, *command: Argument) -> Any:
        """Run one command. Raises the error it is answered with."""
        return (await self.batch([command]))[0]

    async def batch(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The answers of commands sent together; the first error is raised once all have come."""
        packed = b"".join([pack(command) for command in commands])
        link = self._open
        if link is None or link.lost or link.transport.is_closing():
            link = await self._reopen()
        answers = await link.ask(packed, len(commands))
        for answer in answers:
            if isinstance(answer, ReadOnlyError):
                # It is a replica now. By the same address a new connection may find the primary.
                link.fail(RedisConnectionError("Connection closed, for the server is read only"))
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _reopen(self) -> _Answers:
        # All who ask meanwhile wait for one attempt: one after the other they would wait for ever.
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._on_opened)
        return await asyncio.shield(self._opening)

    def _on_opened(self, opening: asyncio.Task[_Answers]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # read, also when nobody waits for it any more

    async def _connect(self) -> _Answers:
        await self._close()
        connection = self.make()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            # redis-py has no public name for it.
            transport = connection._writer.transport  # type: ignore[union-attr]
            if transport.is_closing() or connection._reader.at_eof():  # type: ignore[union-attr]
                # Its end was told to redis-py: whoever waited for it here would wait for ever.
                raise RedisConnectionError("Connection closed by server as it was opened")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        answers = _Answers(self._silence_sec)
        answers.transport = transport
        transport.set_protocol(answers)  # what is written and read from now on is ours
        self._connection, self._open = connection, answers
        return answers

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        answers, self._open = self._open, None
        if answers is not None:
            answers.fail(RedisConnectionError("Connection closed"))
            await answers.closed
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await self._close()
