"""A playback database as tests use it: changes of one table, and recordings played on a target."""

import json
import random
import time
from collections.abc import Collection
from typing import Any

from store.event import Position
from store.fold import Change, read_change
from store.log import EventLog
from store.playback_connection import CaptureSlots
from store.playback_db import PlaybackDatabase
from store.playback_target import Target
from store.state import State, States
from tests.playback.recording import Recording

BEGIN_MS = int(time.time() * 1000) - 3_600_000


def open_database(
    dsn: str, *, slots: CaptureSlots | None = None, places: Collection[str] = ()
) -> PlaybackDatabase:
    async def captured() -> Collection[str]:
        return places

    return PlaybackDatabase(dsn, slots=slots or CaptureSlots(), captured=captured, lease_sec=30)


class Player:
    """Plays a recording on a target, as a gateway does: restored at one time, played to another."""

    def __init__(self, states: States, log: EventLog, tenant: str, target: Target) -> None:
        self.states = states
        self.log = log
        self.tenant = tenant
        self.target = target

    async def state_of(self, ms: int, tables: Any) -> State:
        return await self.states.open(self.tenant, ms, tables)

    async def restore(self, ms: int, run: int = 1) -> None:
        state = await self.states.open(self.tenant, ms)
        await self.target.restore("session", run, state, 0, self.state_of)

    async def play(self, events: list[tuple[Change, Position]], batch: int) -> None:
        script = self.target.script()
        for number, (change, position) in enumerate(events, 1):
            script.add(change, position)
            if number % batch == 0 or number == len(events):
                ready = script.take()
                if ready is not None:
                    await self.target.apply(ready)
        assert not script.unfinished


async def recorded(
    log: EventLog, tenant: str, seed: int, transactions: int
) -> tuple[Recording, Any]:
    """A recording in the log, and its changes with their places."""
    recording = Recording(random.Random(seed), BEGIN_MS)
    recording.run(transactions, 20)
    times = [draft.time_ms for draft in recording.drafts]
    changes = [read_change(draft.head + b'1"}') for draft in recording.drafts]
    await recording.publish(log, tenant)
    places = [Position(ms or 0, number) for number, ms in enumerate(times, 1)]
    return recording, list(zip(changes, places, strict=True))


def change(op: str, key: Any, after: Any = None, **more: Any) -> Change:
    """One of public.item, a transaction of its own unless `last` says otherwise."""
    values: dict[str, Any] = {
        **{"source": "s", "table": "public.item", "op": op, "before": None, "old_key": None},
        **{"xid": 1, "lsn": "0/1", "last": True, "unchanged": ()},
        "key": None if key is None else as_json(key),
        "after": None if after is None else as_json(after),
        **more,
    }
    return Change(**values)


def as_json(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return json.dumps(value, separators=(",", ":")).encode()


async def make_item(inside: Any) -> None:
    await inside.execute("CREATE TABLE item (id integer PRIMARY KEY, text text, more text)")


async def items(inside: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await inside.fetch("SELECT * FROM public.item ORDER BY 1")]


async def apply(target: Target, *changes: Change, ms: int = 5) -> None:
    script = target.script()
    for number, each in enumerate(changes, 1):
        script.add(each, Position(ms, number))
    batch = script.take()
    assert batch is not None
    await target.apply(batch)
