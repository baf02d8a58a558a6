"""The arithmetic of a playing session. Pure: wall times come in as numbers.

At wall time W the playhead stood at event time E and moves at speed s: at any later wall time it
stands at E + (now - W) * s, at most at the end. Source: playback contract, the clock.
"""

from store.session import Clock


def playhead_ms(clock: Clock, now_ms: float) -> float:
    """Where the session stands at this wall time (ms of the log's server)."""
    if not clock.playing:
        return clock.event_ms
    moved = clock.event_ms + max(0.0, now_ms - clock.wall_ms) * clock.speed
    return min(moved, clock.end_ms)


def played_through_ms(clock: Clock, now_ms: float) -> int:
    """Events up to and including this time are due. Paused before it ever played: none of its first."""
    if not clock.playing:
        return clock.through_ms
    return int(playhead_ms(clock, now_ms))


def due_ms(clock: Clock, event_ms: int) -> float | None:
    """The wall time at which an event is due, or None while the session does not play."""
    if not clock.playing or event_ms > clock.end_ms:
        return None
    if clock.speed == 0:
        return clock.wall_ms
    return clock.wall_ms + (event_ms - clock.event_ms) / clock.speed
