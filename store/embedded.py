"""A private Valkey beside the gateway: one data directory, one server, one owner.

Owns the server process and its restarts. Promises: two gateways never open one directory and two
servers never write it; what the server acknowledged is on disk; a server that dies is started
again; one that a killed gateway left running is taken over with all its data.
"""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from types import TracebackType
from typing import Protocol
from urllib.parse import quote

import structlog

from store.data_directory import (
    choose_socket_path,
    open_log,
    own_directory,
    read_log_end,
    read_record,
    remove_socket_folder,
    take_lock,
    write_record,
)
from store.errors import StoreConfigurationError, StoreError, StoreUnavailable
from store.server_binary import bundled_binary, find_binary

log = structlog.get_logger(__name__)

# A server that is alive says at least LOADING within this; loading itself may take longer.
ANSWER_TIMEOUT_SEC = 30.0
STOP_TIMEOUT_SEC = 8.0
# One that lived this long is in no crash loop: the pauses start over.
STABLE_SEC = 5.0
RESTART_PAUSES_SEC = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 2.0)
_POLL_SEC = 0.02
_LOCK_POLL_SEC = 0.1
_ASK_TIMEOUT_SEC = 5.0
_PROGRESS_SEC = 2.0
_LOG_LINES = 6

_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-use-rdb-preamble": "yes",
    # kill -9 can tear the last, unacknowledged command: cut it off instead of refusing to start.
    "aof-load-truncated": "yes",
    # A rewrite at every 64 MB, the default, takes 1 to 2 us of a processor an event from those who
    # publish. 512 MB of changes are a million events: read in 2 s at a start.
    "auto-aof-rewrite-min-size": "512mb",
    "save": "",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    # 300,000 events of 386 bytes: a page of 500 is read in 106 µs, 241 µs with the default 4096.
    "stream-node-max-bytes": "16384",
    "stream-node-max-entries": "100",
    "daemonize": "no",
    "logfile": "",
    "loglevel": "notice",
    "always-show-logo": "no",
}


class _Server(Protocol):
    """A running server: one this process started, or one it found."""

    pid: int

    async def wait(self) -> str:
        """How it ended, once it has."""

    def send_signal(self, number: signal.Signals) -> None: ...


class _Started:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def wait(self) -> str:
        code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"status {code}"

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


class _Found:
    """A server that an earlier gateway started: the lock it inherited tells how long it lives."""

    def __init__(self, pid: int, lock_file: Path) -> None:
        self.pid = pid
        self._lock_file = lock_file

    def _ended(self) -> bool:
        lock = take_lock(self._lock_file)
        if lock is None:
            return False
        os.close(lock)
        return True

    async def wait(self) -> str:
        # The lock of somebody else's child gives no event when it is let go.
        while not self._ended():  # noqa: ASYNC110
            await asyncio.sleep(_LOCK_POLL_SEC)
        return "unknown status"

    def send_signal(self, number: signal.Signals) -> None:
        # Asked first, for a process number is given to somebody else once its owner is gone.
        if not self._ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class _EndedEarlyError(Exception):
    """The server ended before it answered."""


class EmbeddedServer:
    """`async with EmbeddedServer(path) as server:` gives a server at `server.url`.

    `restarts` counts the times it died, `taken_over` says that the running one was found, `ready`
    that it answered since it was last started. Raises StoreConfigurationError when the directory
    cannot be used or the server does not start.
    """

    def __init__(self, data_dir: Path | str) -> None:
        self.data_dir = Path(data_dir).expanduser().resolve()
        self.log_file = self.data_dir / "valkey.log"
        self.socket_path = Path()
        self.restarts = 0
        self.taken_over = False
        self.ready = False
        self._server_lock_file = self.data_dir / "valkey.lock"
        self._directory_lock: int | None = None
        self._server: _Server | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._log_offset = 0

    @property
    def url(self) -> str:
        return "unix://" + quote(str(self.socket_path))

    @property
    def pid(self) -> int | None:
        return None if self._server is None else self._server.pid

    async def __aenter__(self) -> "EmbeddedServer":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return when the server answers. Loading a large log takes its time and is logged."""
        try:
            self._directory_lock = own_directory(self.data_dir)
            self.socket_path = choose_socket_path(self.data_dir)
            server = await self._bring_up()
        except OSError as error:
            await self.stop()
            raise StoreConfigurationError(
                f"data directory {self.data_dir} cannot be used: {error}"
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise(server), name="embedded server")
        self._supervisor.add_done_callback(_log_failure)

    async def failed(self) -> None:
        """Raise StoreUnavailable once the server is given up; return when it was stopped."""
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])
            if not self._supervisor.cancelled():
                self._supervisor.result()

    async def stop(self) -> None:
        """End the server, everything written, and give the directory free."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        if self._server is not None:
            await _end(self._server)
            self._server = None
        if self._directory_lock is not None:
            remove_socket_folder(self.socket_path, self.data_dir)
            os.close(self._directory_lock)
            self._directory_lock = None

    async def _supervise(self, server: _Server) -> None:
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        while True:
            since = loop.time()
            status = await server.wait()
            self.ready = False
            quick_deaths = 0 if loop.time() - since > STABLE_SEC else quick_deaths + 1
            self.restarts += 1
            log.warning(
                "embedded server ended, starting it again",
                pid=server.pid,
                status=status,
                restarts=self.restarts,
                log=read_log_end(self.log_file, self._log_offset, _LOG_LINES),
            )
            server = await self._restart(quick_deaths)

    async def _restart(self, quick_deaths: int) -> _Server:
        tries = len(RESTART_PAUSES_SEC)
        failure: Exception | None = None
        for attempt in range(tries):
            await asyncio.sleep(RESTART_PAUSES_SEC[min(quick_deaths + attempt, tries - 1)])
            try:
                server = await self._bring_up()
            except (StoreError, OSError) as error:
                failure = error
                log.warning("embedded server did not start", error=str(error))
            else:
                log.info("embedded server answers again", pid=server.pid)
                return server
        raise StoreUnavailable(
            f"the embedded server could not be started again in {tries} tries: {failure}"
        ) from failure

    async def _bring_up(self) -> _Server:
        """A server that answers: the one left running on the directory, else a new one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ANSWER_TIMEOUT_SEC
        while loop.time() < deadline:
            lock = take_lock(self._server_lock_file)
            if lock is not None:
                return await self._start_new(lock)
            self._server = await self._find_left_behind()
            if self._server is not None:
                with contextlib.suppress(_EndedEarlyError):
                    await self._await_answer(self._server)
                    self.taken_over = True
                    log.info("took over the server a gateway left behind", pid=self._server.pid)
                    return self._server
            await asyncio.sleep(_POLL_SEC)
        holder = read_record(self._server_lock_file).get("pid", "unknown")
        raise StoreConfigurationError(
            f"a server that an earlier gateway left on data directory {self.data_dir} "
            f"(process {holder}) does not answer at {self.socket_path}: end that process"
        )

    async def _find_left_behind(self) -> _Server | None:
        socket = read_record(self._server_lock_file).get("socket")
        if not isinstance(socket, str):
            return None
        self.socket_path = Path(socket)
        about = await _ask(self.socket_path, "INFO server")
        pid = re.search(rb"^process_id:(\d+)", about, re.MULTILINE)
        return None if pid is None else _Found(int(pid[1]), self._server_lock_file)

    async def _start_new(self, lock: int) -> _Server:
        try:
            self._server = await self._spawn(lock)
        finally:
            os.close(lock)
        try:
            await self._await_answer(self._server)
        except _EndedEarlyError as error:
            self._server = None
            raise StoreConfigurationError(
                f"the embedded server on {self.data_dir} ended at start with {error}; its last "
                f"words: {read_log_end(self.log_file, self._log_offset, _LOG_LINES)}"
            ) from error
        return self._server

    async def _spawn(self, lock: int) -> _Server:
        binary = find_binary(bundled_binary(), os.environ.get("PATH", ""))
        options = _OPTIONS | {"dir": str(self.data_dir), "unixsocket": str(self.socket_path)}
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        record = {"socket": str(self.socket_path)}
        # Before the start: a gateway killed right after it must leave a server that can be found.
        write_record(lock, record)
        self.taken_over = False
        with open_log(self.log_file) as output:
            self._log_offset = output.tell()
            process = await asyncio.create_subprocess_exec(
                str(binary),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                # The lock lives as long as the server does, whoever started it.
                pass_fds=(lock,),
                # A session of its own: the terminal's Ctrl-C is for the gateway, which drains first.
                start_new_session=True,
            )
        write_record(lock, record | {"pid": process.pid})
        return _Started(process)

    async def _await_answer(self, server: _Server) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ANSWER_TIMEOUT_SEC
        progress_at = loop.time() + _PROGRESS_SEC
        ended = asyncio.ensure_future(server.wait())
        try:
            while not ended.done():
                answer = await _ask(self.socket_path, "PING")
                if answer.startswith(b"+PONG"):
                    self.ready = True
                    return
                if answer.startswith(b"-LOADING"):
                    deadline = loop.time() + ANSWER_TIMEOUT_SEC
                elif loop.time() > deadline:
                    raise StoreConfigurationError(
                        f"the embedded server (process {server.pid}) does not answer at "
                        f"{self.socket_path}: {answer.decode(errors='replace').strip()!r}"
                    )
                if loop.time() > progress_at:
                    progress_at = loop.time() + _PROGRESS_SEC
                    log.info("embedded server is loading", percent=await self._loaded_percent())
                await asyncio.wait([ended], timeout=_POLL_SEC)
            raise _EndedEarlyError(ended.result())
        finally:
            ended.cancel()

    async def _loaded_percent(self) -> float | None:
        about = await _ask(self.socket_path, "INFO persistence")
        percent = re.search(rb"^loading_loaded_perc:([\d.]+)", about, re.MULTILINE)
        return None if percent is None else float(percent[1])


def _log_failure(supervisor: asyncio.Task[None]) -> None:
    if not supervisor.cancelled():
        log.error("embedded server given up", error=str(supervisor.exception()))


async def _end(server: _Server) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_SEC):
            await server.wait()
    except TimeoutError:
        # Loses nothing: what was acknowledged is on disk.
        log.warning("embedded server did not end, killing it", pid=server.pid)
        server.send_signal(signal.SIGKILL)
        await server.wait()


async def _ask(socket_path: Path, command: str) -> bytes:
    """The answer to an inline command, its bulk text if it is one; empty when nobody answers."""
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_SEC):
            reader, writer = await asyncio.open_unix_connection(str(socket_path))
            try:
                writer.write(command.encode() + b"\r\n")
                answer = await reader.readline()
                if answer.startswith(b"$"):
                    answer = await reader.readexactly(int(answer[1:]))
                return answer
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError):  # a TimeoutError is an OSError
        return b""


def find_running(data_dir: Path | str) -> str | None:
    """The address of the server that another process runs on this directory, if one does."""
    folder = Path(data_dir).expanduser().resolve()
    socket = read_record(folder / "valkey.lock").get("socket")
    if not isinstance(socket, str) or not Path(socket).is_socket():
        return None
    return f"unix://{quote(socket)}"
