"""`playhead demo` as it is started: what it prints works in a shell, and all of it ends with it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from gateway.fleet import VEHICLES
from store.data_directory import take_lock
from tests.journeys.playhead import ENVIRONMENT, Playhead
from tests.servers import wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every account can reach, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="playhead-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@contextmanager
def typed(script: str) -> Iterator[IO[str]]:
    """What a shell prints that runs this; ended with all that runs in it."""
    shell = subprocess.Popen(
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    assert shell.stdout is not None
    try:
        with shell.stdout:
            yield shell.stdout
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def read_until(output: IO[str], words: str) -> list[str]:
    lines: list[str] = []
    for line in output:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"it ended before it said {words!r}: {''.join(lines)}")


def test_what_the_demonstration_prints_works_and_nothing_is_left_of_it(folder: Path) -> None:
    data = folder / "data"
    with Playhead("", "demo", "--port", "0", "--data-dir", str(data)) as demo:
        wait_until(lambda: any("/stream" in line for line in demo.lines), "it has a past to show")
        commands = [line for line in demo.lines if line.startswith(("  curl", "  id="))]
        watch, state, *play = commands

        with typed(watch) as output:
            read_until(output, "event: live-notification")

        with typed(state) as output:
            *rows, end = [json.loads(line) for line in output]
        ids = sorted(row["key"]["id"] for row in rows)
        assert ids == list(range(1, VEHICLES + 1))
        assert end["complete"]
        assert end["rows"] == VEHICLES

        with typed("\n".join(play)) as output:
            read_until(output, "event: state-complete")
            read_until(output, "event: change")
            read_until(output, "REPLAY_STOP_OK")

        demo.process.send_signal(signal.SIGTERM)
        assert demo.wait() == 0, demo.notes
        assert not [note for note in demo.notes if "[error" in note or "[critical" in note]
        assert not [note for note in demo.notes if "snapshot_needed" in note], "no fault at first"
    assert_nothing_runs(data)


def test_the_demonstration_goes_on_when_its_database_was_made_anew(folder: Path) -> None:
    """Its data were in a folder for temporary files: after a restart nothing was captured any more."""
    data = folder / "data"
    for _ in range(2):
        with Playhead("", "demo", "--port", "0", "--data-dir", str(data)) as demo:
            wait_until(lambda: any("/watch" in line for line in demo.lines), "it is there")
            with typed(next(line for line in demo.lines if "/watch" in line)) as output:
                read_until(output, '"op":"u"')
            demo.process.send_signal(signal.SIGTERM)
            assert demo.wait() == 0, demo.notes
        shutil.rmtree(data / "postgres")


def assert_nothing_runs(data: Path) -> None:
    for lock in data.rglob("*.lock"):
        held = take_lock(lock)
        assert held is not None, f"{lock} is held: a process is left"
        os.close(held)
