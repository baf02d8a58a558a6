"""One connection for all: nobody waits for another's answer, and who gives up takes none along."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.asyncio.connection import UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from store.link import Link
from tests.servers import Valkey, running


@asynccontextmanager
async def linked(path: Path, silence_sec: float = 60) -> AsyncIterator[Link]:
    link = Link(
        lambda: UnixDomainSocketConnection(
            path=str(path), protocol=2, socket_timeout=60, retry=Retry(NoBackoff(), 0)
        ),
        silence_sec=silence_sec,
    )
    try:
        yield link
    finally:
        await link.aclose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    started = Valkey(tmp_path / "v", fsync="no")
    with running(started):
        yield started


async def clients_of(link: Link) -> int:
    """How many connections the server has."""
    return len((await link.execute("CLIENT", "LIST")).splitlines())


async def test_everyone_gets_the_own_answer_over_one_connection(server: Valkey) -> None:
    async with linked(server.socket) as link:

        async def ask(number: int) -> None:
            text = b"%d" % number * (number % 7 * 50_000)  # some longer than a read
            assert await link.execute("ECHO", text) == text
            assert await link.batch([("ECHO", text), ("PING",)]) == [text, b"PONG"]

        await asyncio.gather(*map(ask, range(300)))
        assert await clients_of(link) == 1


async def test_an_error_is_told_to_who_asked_and_to_nobody_else(server: Valkey) -> None:
    async with linked(server.socket) as link:
        asked: list[Awaitable[Any]] = [
            link.execute("PING"),
            link.execute("NONSENSE"),
            link.batch([("SET", "a", 1), ("LPUSH", "a", 1), ("SET", "a", 2)]),
            link.execute("GET", "a"),
        ]
        pong, unknown, wrong_kind, last = await asyncio.gather(*asked, return_exceptions=True)
    assert [pong, last] == [b"PONG", b"2"]
    assert isinstance(unknown, ResponseError)
    assert isinstance(wrong_kind, ResponseError)
    assert "WRONGTYPE" in str(wrong_kind)


async def test_who_gives_up_takes_nobodys_answer_along(server: Valkey) -> None:
    async with linked(server.socket) as link:
        await link.execute("PING")
        server.pause()
        asked = [asyncio.create_task(link.execute("ECHO", str(number))) for number in range(20)]
        await asyncio.sleep(0)
        for task in asked[::2]:
            task.cancel()
        await asyncio.wait(asked[::2])
        server.resume()
        assert await asyncio.gather(*asked[1::2]) == [b"%d" % number for number in range(1, 20, 2)]
        assert await link.execute("ECHO", "after") == b"after"


async def test_a_server_that_is_silent_is_given_up_and_found_again(server: Valkey) -> None:
    async with linked(server.socket, silence_sec=0.2) as link:
        await link.execute("PING")
        server.pause()
        answers = await asyncio.gather(
            *(link.execute("PING") for _ in range(10)), return_exceptions=True
        )
        server.resume()
        assert all(isinstance(answer, RedisTimeoutError) for answer in answers)
        assert await link.execute("PING") == b"PONG"


async def test_a_lost_server_fails_who_waits_and_is_asked_anew(server: Valkey) -> None:
    async with linked(server.socket) as link:
        await link.execute("PING")
        server.pause()
        asked = [asyncio.create_task(link.execute("PING")) for _ in range(10)]
        await asyncio.sleep(0)
        server.kill()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, RedisConnectionError) for answer in answers)
        with pytest.raises(RedisConnectionError):
            await link.execute("PING")
        server.start()
        assert await asyncio.gather(*(link.execute("PING") for _ in range(10))) == [b"PONG"] * 10
        assert await clients_of(link) == 1


async def test_who_asks_while_it_is_opened_shares_the_attempt(tmp_path: Path) -> None:
    """A hung server answers no handshake: one attempt after the other, the last of many would
    have waited for all of them."""
    attempts = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        await reader.read(1)
        await asyncio.sleep(0)
        writer.close()

    path = tmp_path / "hung.sock"
    async with await asyncio.start_unix_server(hang, path), linked(path) as link:
        given_up = asyncio.create_task(link.execute("PING"))
        asked = [asyncio.create_task(link.execute("PING")) for _ in range(10)]
        await asyncio.sleep(0)
        given_up.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, RedisError) for answer in answers)
        assert attempts == 1


@pytest.mark.parametrize("answer", [b"?what\r\n", b"+OK\r\n" * 20])
async def test_what_is_no_answer_ends_the_connection(tmp_path: Path, answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(1 << 16):
            writer.write(answer if b"PING" in request else b"+OK\r\n" * request.count(b"*"))
        writer.close()

    path = tmp_path / "odd.sock"
    async with await asyncio.start_unix_server(talk, path), linked(path) as link:
        outcomes = await asyncio.gather(
            link.execute("PING"), link.execute("PING"), return_exceptions=True
        )
        failures = [each for each in outcomes if isinstance(each, Exception)]
        assert all(isinstance(each, RedisConnectionError) for each in failures)
        # An answer too many is taken for nobody's: the next to ask has a connection without it.
        assert await link.execute("ECHO", "text") == b"OK"


class _Lost(UnixDomainSocketConnection):
    """Its server closes it as its handshake ends: so many turns of the loop before, or just after."""

    def __init__(self, turns_before: int, **options: Any) -> None:
        super().__init__(**options)
        self._turns_before = turns_before

    async def connect(self) -> None:
        await super().connect()  # type: ignore[no-untyped-call]
        assert self._writer is not None
        transport = self._writer.transport
        if self._turns_before == 0:
            asyncio.get_running_loop().call_soon(transport.abort)
            return
        transport.abort()
        for _ in range(self._turns_before):
            await asyncio.sleep(0)


@pytest.mark.parametrize("turns", [3, 1, 0])
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_lost_as_soon_as_it_is_open_keeps_nobody_waiting(
    server: Valkey, make_loop: Callable[[], asyncio.AbstractEventLoop], turns: int
) -> None:
    """Who asked waited for ever, and whoever asked after."""
    kinds: Iterator[Callable[..., UnixDomainSocketConnection]] = iter(
        [partial(_Lost, turns), UnixDomainSocketConnection]
    )

    async def ask() -> None:
        link = Link(
            lambda: next(kinds)(path=str(server.socket), protocol=2, retry=Retry(NoBackoff(), 0)),
            silence_sec=1,
        )
        try:
            async with asyncio.timeout(30):
                answers = await asyncio.gather(
                    *(link.execute("PING") for _ in range(3)), return_exceptions=True
                )
                assert all(isinstance(answer, RedisError) for answer in answers)
                assert await link.execute("PING") == b"PONG"
        finally:
            async with asyncio.timeout(30):
                await link.aclose()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(ask())


async def test_a_server_that_became_a_replica_is_left_for_whoever_has_its_address(
    server: Valkey, tmp_path: Path
) -> None:
    """It keeps its connections, and answered every write on them that it is read only."""
    other = Valkey(tmp_path / "other")
    other.start()
    sockets = iter([server.socket, other.socket])
    link = Link(
        lambda: UnixDomainSocketConnection(
            path=str(next(sockets)), protocol=2, retry=Retry(NoBackoff(), 0)
        ),
        silence_sec=30,
    )
    try:
        await link.execute("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(ReadOnlyError):
            await link.execute("SET", "key", "value")
        assert await link.execute("SET", "key", "value") == b"OK"
    finally:
        await link.aclose()
        other.stop()
