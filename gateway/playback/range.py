"""Which stretch of the past a session may play: what was asked for, checked against what is kept."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.schema.catalog import Catalog
from gateway.schema.errors import Fault
from gateway.schema.times import parse_event_time
from store.captured import CHANGE
from store.errors import OutOfRange
from store.event import StreamKey, rfc3339
from store.log import EventLog
from store.state import States

# An end a little ahead is a clock that runs fast, and is cut to now (playback contract, init).
_FUTURE_MS = 60_000
# Capture that is so close behind, about its rounds, is waited for.
_LAG_MS = 5000
_LAG_PATIENCE_SEC = 1.0
_LAG_POLL_SEC = 0.05


class RangeError(ValueError):
    """The range cannot be played; a sentence with the offending value."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A range as it was asked for: RFC 3339 texts, and event types or None for all there are."""

    start: str
    end: str | None
    event_types: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Range:
    """A range that can be played, sorted event types; `failure` says why its start cannot be restored."""

    start_ms: int
    end_ms: int
    event_types: list[str]
    failure: str


class Ranges:
    """Resolves ranges. `default_ms` is the length of one without an end, `longest_ms` the limit."""

    def __init__(
        self,
        log: EventLog,
        states: States,
        catalog: Catalog,
        *,
        default_ms: int,
        longest_ms: int,
    ) -> None:
        self._log = log
        self._states = states
        self._catalog = catalog
        self._default_ms = default_ms
        self._longest_ms = longest_ms

    def read_time(self, name: str, text: str) -> int:
        try:
            return parse_event_time(text)
        except Fault as fault:
            raise RangeError(
                f"{name} must be an RFC 3339 time. Got: '{text[:100]}'. Error: {fault.predicate}"
            ) from None

    async def resolve(
        self,
        tenant: str,
        wanted: Wanted,
        now_ms: int,
        require_read: Callable[[Sequence[str]], None],
    ) -> Range:
        """Raises RangeError and StoreUnavailable, and what `require_read` raises for the event types."""
        start = self.read_time("replay_requested_timestamp", wanted.start)
        if wanted.end is None:
            end = start + self._default_ms
        else:
            end = self.read_time("replay_end_timestamp", wanted.end)
            if end > now_ms + _FUTURE_MS:
                raise RangeError(
                    f"replay_end_timestamp {rfc3339(end)} is in the future; "
                    f"it is {rfc3339(now_ms)} now"
                )
        end = min(end, now_ms)
        if start >= end:
            raise RangeError(
                f"replay_requested_timestamp {rfc3339(start)} must be before the end, {rfc3339(end)}"
            )
        if end - start > self._longest_ms:
            raise RangeError(
                f"a session may span {self._longest_ms // 1000} seconds, "
                f"got: {(end - start) // 1000}"
            )
        event_types = await self._event_types(tenant, wanted.event_types)
        require_read(event_types)  # before anything is told of what is kept of them
        failure = await self._check_kept(tenant, event_types, start)
        if CHANGE in event_types:
            await self._await_capture(tenant, end)
        return Range(start, end, event_types, failure)

    async def _event_types(self, tenant: str, wanted: Sequence[str] | None) -> list[str]:
        kept = await self._log.streams(tenant)
        if wanted is None:
            # A database whose rows are known and did not change yet has no log.
            captured = {CHANGE} if await self._states.has_rows(tenant) else set()
            return sorted(captured.union(kept))
        if not wanted:
            raise RangeError("event_types must name at least one event type, got: []")
        for event_type in wanted:
            if event_type not in kept and self._catalog.get(event_type) is None:
                raise RangeError(f"event_types: unknown event type '{event_type[:100]}'")
        return sorted(set(wanted))

    async def _check_kept(self, tenant: str, event_types: Sequence[str], start_ms: int) -> str:
        """'' when the log reaches back to the start, or why a state of then cannot be had."""
        earliest, failure = 0, ""
        for event_type in event_types:
            if event_type == CHANGE:
                failure = await self._check_state(tenant, start_ms)
                continue
            stream = StreamKey(tenant, event_type)
            head = await self._log.head(stream)
            if head.floor == 0:
                continue  # nothing was ever removed: it reaches back for ever
            first = await self._log.before_time(stream, 0)
            # Of the first one's own time others may have been removed.
            kept_from = (head.last if first is None else first).ms + 1
            if start_ms < kept_from:
                earliest = max(earliest, kept_from)
        if earliest:
            raise RangeError(
                f"replay_requested_timestamp {rfc3339(start_ms)} is before what is kept; "
                f"the earliest valid time is {rfc3339(earliest)}"
            )
        return failure

    async def _await_capture(self, tenant: str, end_ms: int) -> None:
        """The changes of a range that ends now are in the log a moment later: else it lacked them."""
        deadline = time.monotonic() + _LAG_PATIENCE_SEC
        while (behind := await self._states.behind(tenant, end_ms)) is not None:
            if end_ms - behind.through_ms > _LAG_MS or time.monotonic() > deadline:
                return
            await asyncio.sleep(_LAG_POLL_SEC)

    async def _check_state(self, tenant: str, start_ms: int) -> str:
        """'' when the rows of just before the start can be had, or why not."""
        try:
            await self._states.check(tenant, start_ms - 1)
        except OutOfRange as error:
            told = (
                f"the state at {rfc3339(start_ms)} cannot be restored: there is no snapshot of it"
            )
            if error.earliest_ms is None:
                return told
            return f"{told}; the earliest valid time is {rfc3339(error.earliest_ms + 1)}"
        return ""
