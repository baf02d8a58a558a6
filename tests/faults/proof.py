"""What must hold after every fault: the log has each acknowledged event once, and so has each watcher."""

from collections.abc import Iterable
from typing import Any

from tests.faults.publisher import STATIONS, Publisher
from tests.faults.watcher import Watcher
from tests.faults.wire import eventually

GIVEN_UP = "given-up/"


def check_log(log: list[tuple[int, Any]], publishers: Iterable[Publisher]) -> None:
    """Dense sequences; every acknowledged event once, where its answer said, in its publisher's order.

    Events of publishers that gave up may be there or not, once.
    """
    assert [sequence for sequence, _ in log] == list(range(1, len(log) + 1)), "sequences have holes"
    stored = {payload: sequence for sequence, payload in log}
    assert len(stored) == len(log), "an event is stored twice"
    acknowledged = 0
    for publisher in publishers:
        for payload, sequence in publisher.acknowledged.items():
            assert stored.get(payload) == sequence, f"{payload} was acknowledged as {sequence}"
        sequences = list(publisher.acknowledged.values())
        assert sequences == sorted(sequences), f"{publisher.name} is out of order"
        acknowledged += len(sequences)
    given_up = sum(str(payload).startswith(GIVEN_UP) for payload in stored)
    assert acknowledged + given_up == len(log), "an event is in the log that nobody published"


def expected_of(watcher: Watcher, log: list[tuple[int, Any]]) -> list[int]:
    """The matching part of the log from where the watcher began."""
    first = watcher.from_sequence or (watcher.began_behind or 0) + 1
    return [
        sequence
        for sequence, payload in log
        if sequence >= first and watcher.station in (None, station_of(payload))
    ]


async def wait_for_all(watchers: list[Watcher], log: list[tuple[int, Any]]) -> None:
    """Return when every watcher has its last event, and a heartbeat behind it: no more will come."""
    for watcher in watchers:
        last = expected_of(watcher, log)[-1:] or [0]
        await eventually(
            lambda: watcher.last >= last[0],  # noqa: B023 - awaited before the next turn
            f"a watcher has event {last[0]}; it has {watcher.last}",
        )
    before = [watcher.heartbeats for watcher in watchers]
    await eventually(
        lambda: all(
            watcher.heartbeats > count for watcher, count in zip(watchers, before, strict=True)
        ),
        "a heartbeat for every watcher",
    )


def check_watcher(watcher: Watcher, log: list[tuple[int, Any]]) -> None:
    """It received what it should, each event once, in order, and was told of no gap."""
    assert watcher.gaps == [], (watcher.gaps, watcher.openings, watcher.received[:5])
    assert watcher.failures == [], watcher.failures
    expected = expected_of(watcher, log)
    if watcher.received != expected:
        missing = sorted(set(expected) - set(watcher.received))[:10]
        repeated = len(watcher.received) - len(set(watcher.received))
        raise AssertionError(
            f"missing {missing}, repeated {repeated}, of {len(expected)} expected "
            f"{len(watcher.received)} received, in order: "
            f"{watcher.received == sorted(watcher.received)}"
        )


def station_of(payload: str) -> str:
    if payload.startswith(GIVEN_UP):
        return STATIONS[0]
    return STATIONS[int(payload.rpartition("/")[2]) % len(STATIONS)]
