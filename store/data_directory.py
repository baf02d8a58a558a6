"""The files of an embedded server's data directory: its locks, its records, its log, its socket.

A lock is a `flock` on a file that is never removed, so it ends with the last process that holds the
descriptor, however that process ended. The file's text, one JSON object, is for messages and for
finding a server again; whether somebody is there is told by the lock alone.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from store.errors import StoreConfigurationError

# The shortest limit there is: sun_path of macOS without its closing NUL (Linux has 107).
SOCKET_PATH_BYTES = 103
LOG_BYTES = 4 << 20


def own_directory(data_dir: Path) -> int:
    """Make the directory and take it for this process: the descriptor that holds its lock.

    Raises StoreConfigurationError when another process has it, OSError when it cannot be used.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock_file = data_dir / "playhead.lock"
    lock = take_lock(lock_file)
    if lock is None:
        holder = read_record(lock_file).get("pid", "unknown")
        raise StoreConfigurationError(
            f"data directory {data_dir} is in use by process {holder}, another gateway: "
            "end that one, or give this one a directory of its own with --data-dir"
        )
    write_record(lock, {"pid": os.getpid()})
    return lock


def take_lock(path: Path) -> int | None:
    """A descriptor that holds the file's lock, None when somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def write_record(descriptor: int, record: Mapping[str, object]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def read_record(path: Path) -> dict[str, object]:
    """What the lock's holder wrote; empty when it has not written yet."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def open_log(path: Path) -> BinaryIO:
    """The log file, opened to append; a long one is put aside as `<name>.1` first."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


def read_log_end(path: Path, offset: int, lines: int) -> str:
    """The last lines written after `offset`, on one line."""
    try:
        with path.open("rb") as file:
            file.seek(max(offset, path.stat().st_size - (1 << 16)))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return " | ".join(text.splitlines()[-lines:])


def choose_socket_path(data_dir: Path) -> Path:
    """A path that fits into a socket address: in the directory, else in a private folder of /tmp.

    The same directory gets the same path. Raises StoreConfigurationError when that folder is not
    this user's own.
    """
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    name = f"playhead-{os.geteuid()}-{digest}"
    folder = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(folder / path.name)) > SOCKET_PATH_BYTES:
        folder = Path("/tmp", name)  # noqa: S108
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    # Anybody may have made that name: a socket in a folder of theirs would hand them the log.
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if not private or found.st_uid != os.geteuid():
        raise StoreConfigurationError(
            f"the path of data directory {data_dir} is too long for a unix socket in it, and "
            f"{folder} is not a private folder of this user: remove it or use a shorter path"
        )
    return folder / path.name


def remove_socket_folder(socket_path: Path, data_dir: Path) -> None:
    """Remove the folder made by `choose_socket_path`, if it made one and no server is in it."""
    if socket_path.parent.name.startswith("playhead-") and socket_path.parent != data_dir:
        with contextlib.suppress(OSError):
            socket_path.parent.rmdir()
