"""What every question shares: its options, and the way it tells that an answer is wrong."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeAlias

from bench.site import Site


@dataclass(frozen=True, slots=True)
class Options:
    """`events` to publish or read; `seconds` to play at each speed; `drift_seconds` to play for drift."""

    events: int
    seconds: float
    drift_seconds: float | None
    watchers: int


class Wrong(Exception):
    """What came is not what had to come: no figure makes up for it."""


# Lines to print, as they are known.
Question: TypeAlias = Callable[[Site, Options], AsyncIterator[str]]
