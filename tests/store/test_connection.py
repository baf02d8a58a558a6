"""The start checks, the functions' library, and what an error of the server becomes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from store.connection import Connection, _translated, log_key, shown
from store.errors import StoreConfigurationError, StoreError, StoreUnavailable
from store.event import ORIGIN, Appended, Draft, Envelope, StreamKey
from store.log import EventLog
from tests.servers import Valkey, running

ENVELOPE = Envelope(middle=b'","time":"', tail=b'"}')
DRAFT = Draft(b"topic", b'{"id":"')


@contextmanager
def started(directory: Path, *options: str) -> Iterator[Valkey]:
    server = Valkey(directory / "v", *options, fsync="no")
    with running(server):
        yield server


@asynccontextmanager
async def opened(server: Valkey) -> AsyncIterator[Connection]:
    connection = Connection(server.url)
    try:
        await connection.open()
        yield connection
    finally:
        await connection.close()


async def refusal(url: str, kind: type[StoreError]) -> str:
    """Why opening this address is refused."""
    connection = Connection(url)
    with pytest.raises(StoreError) as caught:
        await connection.open()
    await connection.close()
    assert type(caught.value) is kind, caught.value
    return str(caught.value)


# -- the start


async def test_where_nobody_answers_the_sentence_says_where_and_what_to_do(tmp_path: Path) -> None:
    sentence = await refusal(f"unix://{tmp_path}/nobody.sock", StoreUnavailable)
    assert f"no Redis or Valkey server answers at unix://{tmp_path}/nobody.sock" in sentence
    assert sentence.endswith("start one there or give another address")


def test_what_is_no_address_is_refused_without_its_password() -> None:
    with pytest.raises(StoreConfigurationError, match="is no address") as caught:
        Connection("http://user:secret@host")
    assert "secret" not in str(caught.value)


async def test_a_server_that_may_evict_logs_is_refused(tmp_path: Path) -> None:
    with started(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        sentence = await refusal(server.url, StoreConfigurationError)
    assert "maxmemory-policy allkeys-lru" in sentence
    assert "CONFIG SET maxmemory-policy noeviction" in sentence


async def test_a_server_that_wants_a_password_is_refused(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        async with opened(server) as operator:
            await operator.execute("CONFIG", "SET", "requirepass", "secret")
        missing = await refusal(server.url, StoreConfigurationError)
        wrong = await refusal(f"{server.url}?password=other", StoreConfigurationError)
        connection = Connection(f"{server.url}?password=secret")
        await connection.open()
        await connection.close()
    for sentence in (missing, wrong):
        assert sentence.endswith("put user and password into the address")


@pytest.mark.parametrize("denied", ["-info", "-function"])
async def test_a_user_that_may_not_do_what_is_needed_is_refused_with_advice(
    tmp_path: Path, denied: str
) -> None:
    """The refusal was no StoreConfigurationError: `serve` ended with a traceback."""
    rules = ("on", ">secret", "~*", "&*", "+@all", denied)
    with started(tmp_path) as server:
        async with opened(server) as operator:
            await operator.execute("ACL", "SETUSER", "limited", *rules)
            await operator.execute("FUNCTION", "FLUSH")
        sentence = await refusal(
            f"{server.url}?username=limited&password=secret", StoreConfigurationError
        )
    assert sentence.endswith("allow it with ACL SETUSER")


async def test_a_server_older_than_seven_is_refused(tmp_path: Path) -> None:
    """It answers as a Redis 6.2 does, of which there is no wheel."""
    info = b"redis_version:6.2.14\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(1 << 16):
            for command in request.split(b"*")[1:]:
                isinfo = b"INFO" in command and b"SETINFO" not in command
                writer.write(b"$%d\r\n%b\r\n" % (len(info), info) if isinfo else b"+OK\r\n")
        writer.close()

    path = tmp_path / "old.sock"
    async with await asyncio.start_unix_server(answer, path):
        sentence = await refusal(f"unix://{path}", StoreConfigurationError)
    assert "runs Redis 6.2.14; Playhead needs Redis 7.0 or newer, or Valkey" in sentence


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--appendfsync", "always"), ("yes", "always", "written to disk before the answer")),
        (("--appendfsync", "everysec"), ("yes", "everysec", "within a second")),
        (("--appendonly", "no"), ("no", "no", "a crash of the server loses them")),
        (("--rename-command", "CONFIG", ""), ("yes", "unknown", "does not tell")),
    ],
)
async def test_how_safe_an_acknowledged_event_is_is_read_at_the_start(
    tmp_path: Path, options: tuple[str, ...], expected: tuple[str, str, str]
) -> None:
    with started(tmp_path, *options) as server:
        async with opened(server) as connection:
            told = connection.durability.describe()
    append_only, fsync, meaning = expected
    assert (told["appendonly"], told["appendfsync"]) == (append_only, fsync)
    assert meaning in told["meaning"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host:1/0", "redis://host:1/0"),
        ("rediss://user:pass@host:1", "rediss://user:***@host:1"),
        ("redis://:p@ss@host", "redis://:***@host"),
        ("unix:///a.sock?db=1&password=s&x=2", "unix:///a.sock?db=1&password=***&x=2"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, expected: str) -> None:
    assert shown(url) == expected


# -- the library


@pytest.mark.parametrize("emptied", [("FUNCTION", "FLUSH"), ("FLUSHALL",)])
async def test_an_emptied_server_is_taught_the_functions_again(
    tmp_path: Path, tenant: str, emptied: tuple[str, ...]
) -> None:
    with started(tmp_path) as server:
        async with opened(server) as connection:
            log = EventLog(connection, idempotency_window_ms=1000)
            streams = [StreamKey(tenant, f"kind-{number}") for number in range(20)]
            await asyncio.gather(*(log.append(each, ENVELOPE, [DRAFT]) for each in streams))
            await connection.execute(*emptied)
            stored = await asyncio.gather(
                *(log.append(each, ENVELOPE, [DRAFT]) for each in streams)
            )
            assert all(isinstance(outcome, Appended) for [outcome] in stored)
            libraries = await connection.execute("FUNCTION", "LIST")
    assert len(libraries) == 1


async def test_two_versions_share_a_server(tmp_path: Path) -> None:
    """A library of the same name would end the older gateway's functions when a newer one starts."""
    with started(tmp_path) as server:
        async with opened(server) as connection, opened(server) as again:
            other = "#!lua name=playhead_000000000000\nredis.register_function('f', function() end)"
            await connection.execute("FUNCTION", "LOAD", other)
            stream = StreamKey("tenant", "kind")
            for each in (connection, again):
                log = EventLog(each, idempotency_window_ms=1000)
                [outcome] = await log.append(stream, ENVELOPE, [DRAFT])
                assert isinstance(outcome, Appended)


# -- errors


async def kind_of_failure(work: Callable[[], object]) -> type[BaseException]:
    with pytest.raises(StoreError) as caught:
        await work()  # type: ignore[misc]
    return type(caught.value)


async def test_a_full_server_is_unavailable_not_broken(tmp_path: Path) -> None:
    with started(tmp_path, "--maxmemory", "2500000") as server:
        async with opened(server) as connection:
            big = Draft(b"topic", b'{"text":"%b","id":"' % (b"x" * 1_000_000))
            log = EventLog(connection, idempotency_window_ms=1000)
            stream = StreamKey("tenant", "kind")
            outcomes = [(await log.append(stream, ENVELOPE, [big]))[0] for _ in range(4)]
            assert isinstance(outcomes[-1], StoreUnavailable)
            assert "maxmemory" in str(outcomes[-1])
            head = await log.head(stream)
            assert head.last.sequence == sum(isinstance(each, Appended) for each in outcomes)


async def test_a_server_that_became_a_replica_is_unavailable(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        async with opened(server) as connection:
            await connection.execute("REPLICAOF", "127.0.0.1", "1")
            log = EventLog(connection, idempotency_window_ms=1000)
            [outcome] = await log.append(StreamKey("tenant", "kind"), ENVELOPE, [DRAFT])
    assert isinstance(outcome, StoreUnavailable)


async def test_a_key_of_another_kind_is_an_error_that_stays(
    connection: Connection, log: EventLog, tenant: str
) -> None:
    stream = StreamKey(tenant, "kind")
    await connection.execute("SET", log_key(stream), "text")
    assert await kind_of_failure(lambda: log.head(stream)) is StoreError
    [outcome] = await log.append(stream, ENVELOPE, [DRAFT])
    assert type(outcome) is StoreError


async def test_a_killed_server_is_unavailable_and_found_again(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        async with opened(server) as connection:
            log = EventLog(connection, idempotency_window_ms=1000)
            stream = StreamKey("tenant", "kind")
            await log.append(stream, ENVELOPE, [DRAFT])
            server.kill()
            assert await kind_of_failure(lambda: log.head(stream)) is StoreUnavailable
            [outcome] = await log.append(stream, ENVELOPE, [DRAFT])
            assert isinstance(outcome, StoreUnavailable)
            server.start()
            assert (await log.head(stream)).last.sequence <= 1
            [outcome] = await log.append(stream, ENVELOPE, [DRAFT])
            assert isinstance(outcome, Appended)


async def test_connections_that_an_operator_closed_are_opened_again_unnoticed(
    tmp_path: Path,
) -> None:
    with started(tmp_path) as server:
        async with opened(server) as connection:
            log = EventLog(connection, idempotency_window_ms=1000)
            stream = StreamKey("tenant", "kind")
            await asyncio.gather(*(log.head(stream) for _ in range(10)))
            async with opened(server) as operator:
                await operator.execute("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.gather(*(log.head(stream) for _ in range(20)))


async def test_a_ping_of_a_server_that_hangs_ends_in_time(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        async with opened(server) as connection:
            await connection.ping(1)
            server.pause()
            assert await kind_of_failure(lambda: connection.ping(0.05)) is StoreUnavailable
            server.resume()
            await connection.ping(1)


async def test_a_transport_that_closed_between_two_steps_is_unavailable() -> None:
    """uvloop says so by a RuntimeError: requests were answered 500, and a tail that met it ended
    its process."""
    with pytest.raises(StoreUnavailable):
        async with _translated():
            raise RuntimeError(
                "unable to perform operation on <UnixTransport closed=True>; the handler is closed"
            )
    with pytest.raises(RuntimeError, match="a defect"):
        async with _translated():
            raise RuntimeError("a defect")


# -- blocking reads


async def test_a_blocked_read_is_woken_and_its_connection_is_of_use_after(
    connection: Connection, tenant: str
) -> None:
    stream = StreamKey(tenant, "kind")
    async with connection.dedicated(stream, 10_000) as dedicated:
        command = ("XREAD", "BLOCK", 10_000, "STREAMS", log_key(stream), ORIGIN.entry_id)
        assert not await connection.unblock(stream, dedicated.client_id)
        for _ in range(3):
            reading = asyncio.create_task(dedicated.execute(*command))
            async with asyncio.timeout(5):
                while not await connection.unblock(stream, dedicated.client_id):
                    pass
                assert not await reading
        assert await dedicated.execute("PING") == b"PONG"


async def test_a_blocking_read_is_not_given_up_before_it_may_answer(
    connection: Connection, log: EventLog, tenant: str
) -> None:
    stream = StreamKey(tenant, "kind")
    async with connection.dedicated(stream, 10_000) as dedicated:
        command = ("XREAD", "BLOCK", 10_000, "STREAMS", log_key(stream), ORIGIN.entry_id)
        reading = asyncio.create_task(dedicated.execute(*command))
        await log.append(stream, ENVELOPE, [DRAFT])
        [[key, [[entry_id, _]]]] = await reading
    assert key == log_key(stream).encode()
    assert entry_id.endswith(b"-1")


def test_the_keys_of_a_stream_share_a_slot_and_streams_spread_over_the_readers() -> None:
    connection = Connection("redis://localhost")
    groups = {
        connection.reader_group(StreamKey("tenant", f"kind-{number}"), 8) for number in range(100)
    }
    assert groups == set(range(8))


async def test_a_cancellation_that_comes_in_the_middle_of_a_command_is_not_forgotten(
    connection: Connection, tenant: str
) -> None:
    """redis-py's sending forgot it on Python 3.11: a task that was told to end went on for ever."""

    async def work() -> None:
        while True:
            await connection.execute("GET", f"ph:{{{tenant}}}:nothing")

    for steps in range(100):
        task = asyncio.create_task(work())
        for _ in range(steps % 25 + 1):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([task])
        assert task.cancelled()


async def test_a_command_runs_in_the_clean_up_after_a_cancellation(
    connection: Connection, tenant: str
) -> None:
    key = f"ph:{{{tenant}}}:left"

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await connection.execute("SET", key, "clean")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert await connection.execute("GETDEL", key) == b"clean"


async def test_a_cancellation_that_a_command_forgot_outlives_its_failure() -> None:
    """Who tries again when the server is lost would have gone on for ever."""

    async def work() -> None:
        async with _translated():
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            raise OSError("the connection was lost")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
