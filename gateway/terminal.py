"""What the client commands write: events on stdout, a line each and at once; the rest on stderr.

Nothing that came from the network reaches a terminal as a control sequence.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from store.snapshot import OnProgress
from store.snapshot import Progress as SnapshotProgress


class _Content(msgspec.Struct, frozen=True):
    identifier: dict[str, msgspec.Raw]
    payload: msgspec.Raw


class _Event(msgspec.Struct, frozen=True):
    id: str
    time: str
    data: _Content


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_text = msgspec.json.Decoder(str).decode


def say(sentence: str) -> None:
    """A sentence for people, on stderr."""
    sys.stderr.write(f"playhead: {escape(sentence)}\n")
    sys.stderr.flush()


def write_line(text: str) -> None:
    """A line on stdout, at once and as UTF-8, whatever the locale. Raises BrokenPipeError."""
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


def drop_output() -> None:
    """Nobody reads stdout any more: without this the interpreter complains when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def describe_event(event: str) -> str:
    """The JSON of an event as a line for people: time, id, identifier, payload."""
    read = _decode_event(event)
    parts = [read.time, read.id]
    parts += [f"{name}={_value(bytes(raw))}" for name, raw in read.data.identifier.items()]
    payload = bytes(read.data.payload)
    if payload != b"null":
        parts.append(payload.decode())
    return escape(" ".join(parts))


def escape(text: str) -> str:
    """What a terminal might obey, or nobody could see, as JSON escapes; the rest as it is."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _value(raw: bytes) -> str:
    """Without quotes where it can be read without them."""
    if raw.startswith(b'"'):
        text = _decode_text(raw)
        if text and text.isprintable() and not set(text) & set(' "\\'):
            return text
    return raw.decode()


@contextmanager
def show_progress(total_bytes: int | None) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; to be told of events and bytes that are done."""
    console = Console(stderr=True)
    columns = (
        TextColumn("publishing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]} events"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("publishing", total=total_bytes, events=0)
        events = 0

        def advance(more_events: int, more_bytes: int) -> None:
            nonlocal events
            events += more_events
            progress.update(task, advance=more_bytes, events=events)

        yield advance


@contextmanager
def show_rows(source: str) -> Iterator[OnProgress]:
    """A bar on a terminal, nothing elsewhere; to be told how far a snapshot is."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(source, total=None)

        def show(told: SnapshotProgress) -> None:
            # The estimate of a table that grew, or was never counted, is too low.
            total = max(told.expected_rows, told.rows)
            description = f"{source} {escape(told.table)}"
            progress.update(task, total=total, completed=told.rows, description=description)

        yield show
