"""Newline-delimited JSON read in batches: each line keeps the number it has in its file.

A batch is handed out when it is full, at the end, and as soon as a pipe or terminal has nothing
more for the moment, so that `tail -f … | playhead publish -` publishes as lines come.
"""

import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

# Requests stay well below the gateway's limit of 16 MiB for a body.
MOST_BYTES = 4 << 20
_READ_BYTES = 256 << 10
_IDLE_SEC = 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank, without its end; `number` counts from 1, blank lines too."""

    number: int
    text: bytes


def read_batches(file: BinaryIO, most_lines: int) -> Iterator[list[Line]]:
    """The lines of a file in order; no batch is empty."""
    descriptor = file.fileno()
    batch: list[Line] = []
    size = number = 0
    rest, ended = b"", False
    while not ended:
        if batch and not _has_more(descriptor):
            yield batch
            batch, size = [], 0
        read = os.read(descriptor, _READ_BYTES)
        ended = not read
        *texts, rest = (rest + read).split(b"\n")
        if ended:
            texts.append(rest)
        for text in map(bytes.strip, texts):
            number += 1
            if not text:
                continue
            if batch and (len(batch) == most_lines or size + len(text) > MOST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(Line(number, text))
            size += len(text) + 1
    if batch:
        yield batch


def _has_more(descriptor: int) -> bool:
    """Whether a read would return now; a regular file always has more or its end."""
    return bool(select.select([descriptor], [], [], _IDLE_SEC)[0])
