"""The `playhead` command as a process that a test types to and reads from."""

import codecs
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self
from uuid import uuid4

import httpx

from tests.conftest import example_configuration, merge
from tests.playback.controls import moment
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


# Makes its standard input the terminal that controls it, as a shell in a window does.
_LAUNCH = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'gateway', *sys.argv[1:]])"
)


class PlayheadAtTerminal:
    """A command in a terminal of its own; `screen` is what it wrote there, `lines` what to stdout."""

    def __init__(self, url: str, *arguments: str, all_of_it: bool = False) -> None:
        self._terminal, self._inside = pty.openpty()
        fcntl.ioctl(self._inside, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
        self.modes_before = self.modes
        self.screen = ""
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *arguments],
            stdin=self._inside,
            stdout=self._inside if all_of_it else subprocess.PIPE,
            stderr=self._inside,
            text=True,
            env={**ENVIRONMENT, "PLAYHEAD_URL": url, "TERM": "xterm"},
        )
        threading.Thread(target=self._watch, daemon=True).start()
        if not all_of_it:
            pair = (self.process.stdout, self.lines.append)
            threading.Thread(target=_read, args=pair, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._inside)  # ends the reader, which closes the other side

    def _watch(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with os.fdopen(self._terminal, "rb", buffering=0) as terminal, suppress(OSError):
            while data := terminal.read(4096):
                self.screen += decode(data)

    @property
    def modes(self) -> object:
        return termios.tcgetattr(self._inside)

    def press(self, *keys: str) -> None:
        for key in keys:
            os.write(self._terminal, key.encode())

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(timeout=60)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.lines) >= count, f"{count} lines are printed")

    def wait_to_see(self, words: str, *, keep: bool = False) -> None:
        """On the screen, since it was asked last; `keep` does not count as asking."""
        wait_until(lambda: words in self.screen, f"it shows: {words}")
        if not keep:
            self.screen = self.screen.partition(words)[2]


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

    def start_at_terminal(self, *arguments: str, all_of_it: bool = False) -> PlayheadAtTerminal:
        """A command in a terminal, with what it prints in a pipe, or with all of it there."""
        whole = (*arguments, "--tenant", self.tenant)
        return PlayheadAtTerminal(self.gateway.url, *whole, all_of_it=all_of_it)

    def run(self, *arguments: str, typed: str = "", **env: str) -> tuple[int, Playhead]:
        """A command from its start to its end."""
        with self.start(*arguments, **env) as command:
            command.type(typed)
            return command.wait(), command

    def publish(self, *notes: str) -> None:
        """Events without a schema's trouble, one after another."""
        status, command = self.run("publish", "-", typed="".join(note_line(each) for each in notes))
        assert status == 0, command.notes

    def record(self, seconds: Sequence[float], event_type: str = "note") -> None:
        """Events of the past, numbered, so long after the start of the recording."""
        lines = (
            note_line(str(number), event_type=event_type, time=moment(each))
            for number, each in enumerate(seconds, 1)
        )
        answer = self._request("POST", "/api/v1/notifications", content="".join(lines))
        assert answer.json()["accepted"] == len(seconds), answer.text

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The `data` of an answer about sessions."""
        answer = self._request(method, f"/v1/replay/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"X-Tenant-ID": self.tenant}
        return httpx.request(
            method, self.gateway.url + path, headers=headers, timeout=30, trust_env=False, **more
        )

    @property
    def session(self) -> Any:
        """The tenant's session, or None."""
        return self.ask("GET", "current-session")


def note_line(text: str, *, event_type: str = "note", **more: str) -> str:
    return json.dumps({"event_type": event_type, "identifier": {"text": text}, **more}) + "\n"


def texts(command: Playhead | PlayheadAtTerminal) -> list[str]:
    """What the notes that a command printed say, in order."""
    return [line.split("text=")[1] for line in command.lines]


def build_gateway(directory: Path, valkey: Valkey, **sections: Any) -> GatewayProcess:
    content = example_configuration()
    merge(content, {"store": {"url": valkey.url}, "notification_schema_strict": False, **sections})
    return GatewayProcess(directory, content)
