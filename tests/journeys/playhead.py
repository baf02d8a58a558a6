"""The `playhead` command as a process that a test types to and reads from."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self
from uuid import uuid4

from tests.conftest import example_configuration, merge
from tests.servers import GatewayProcess, Valkey, wait_until

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("PLAYHEAD_")
} | {"NO_PROXY": "*"}


class Playhead:
    """One command, running; what it printed so far in `lines` and `notes` (stderr)."""

    def __init__(self, url: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, "PLAYHEAD_URL": url, **(env or {})},
        )
        self.lines: list[str] = []
        self.notes: list[str] = []
        self._threads = [
            threading.Thread(target=_read, args=pair, daemon=True)
            for pair in (
                (self.process.stdout, self.lines.append),
                (self.process.stderr, self.notes.append),
            )
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.wait()

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """No more input; the exit status, once all it printed is here."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(timeout=60)
        for thread in self._threads:
            thread.join(timeout=10)
        return status

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.lines) >= count, f"{count} lines are printed")

    def wait_for_note(self, words: str) -> None:
        wait_until(lambda: any(words in note for note in self.notes), f"it says: {words}")

    @property
    def ids(self) -> list[str]:
        """Of the events in readable lines."""
        return [line.split(" ")[1] for line in self.lines]


def _read(stream: IO[str], take: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            take(line.rstrip("\n"))


class Site:
    """A gateway process, and a tenant of its own for every story."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.tenant = str(uuid4())

    def start(self, *arguments: str, **env: str) -> Playhead:
        """A command that is left running for a `with` block."""
        return Playhead(self.gateway.url, *arguments, "--tenant", self.tenant, env=env)

    def run(self, *arguments: str, typed: str = "", **env: str) -> tuple[int, Playhead]:
        """A command from its start to its end."""
        with self.start(*arguments, **env) as command:
            command.type(typed)
            return command.wait(), command

    def publish(self, *notes: str) -> None:
        """Events without a schema's trouble, one after another."""
        status, command = self.run("publish", "-", typed="".join(note_line(each) for each in notes))
        assert status == 0, command.notes


def note_line(text: str) -> str:
    return json.dumps({"event_type": "note", "identifier": {"text": text}}) + "\n"


def texts(command: Playhead) -> list[str]:
    """What the notes that a command printed say, in order."""
    return [line.split("text=")[1] for line in command.lines]


def build_gateway(directory: Path, valkey: Valkey, **sections: Any) -> GatewayProcess:
    content = example_configuration()
    merge(content, {"store": {"url": valkey.url}, "notification_schema_strict": False, **sections})
    return GatewayProcess(directory, content)
