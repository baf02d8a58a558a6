"""The bytes of every frame. Pure, and the only place that knows the syntax of Server-Sent Events.

Source: WHATWG HTML, server-sent events, §9.2.5; names and fields: Aviso wire contract §5.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import msgspec
from sse_starlette import ServerSentEvent

from store.event import Entry, Gap, Position

REPLAY = b"replay"
LIVE = b"live-notification"

_encoder = msgspec.json.Encoder(order="deterministic")


class Match(Protocol):
    """What decides whether a stored event belongs to a stream."""

    @property
    def everything(self) -> bool: ...

    def matches(self, topic: bytes, event: bytes) -> bool: ...


def _event_template(name: bytes, epoch: bytes) -> bytes:
    return b"event: %b\nid: %%b-%b\ndata: %%b\n\n" % (name, epoch)


def event_frame(name: bytes, entry_id: bytes, epoch: bytes, event: bytes) -> bytes:
    """One stored event. The JSON has no line break: the log takes none that has."""
    return _event_template(name, epoch) % (entry_id.partition(b"-")[2], event)


def event_frames(
    name: bytes, entries: Sequence[Entry], epoch: bytes, match: Match | None = None
) -> list[bytes]:
    """Frames of the entries that match, in order; without a match, of all."""
    if match is not None and not match.everything:
        matches = match.matches
        entries = [entry for entry in entries if matches(*entry[1])]
    if not entries:
        return []
    template = _event_template(name, epoch)
    # Times only grow: where the first and the last have as many digits, all have. To look for the
    # dash of each would take as long as all else that is done for a frame.
    start = entries[0][0].index(b"-") + 1
    if entries[-1][0].index(b"-") + 1 == start:
        return [template % (entry_id[start:], event) for entry_id, (_, event) in entries]
    return [event_frame(name, entry_id, epoch, event) for entry_id, (_, event) in entries]


def cursor(position: Position, epoch: bytes) -> str:
    """The `id:` of a position, ``<sequence>-<epoch>``; ``0`` for a log that does not exist yet.

    Without one, who waits for the first event of all would miss it if the connection broke.
    """
    return f"{position.sequence}-{epoch.decode()}" if epoch else str(position.sequence)


def timestamp(moment: datetime | None = None) -> str:
    """RFC 3339 in UTC with seconds, as all frames but events have it; of now, without a moment."""
    if moment is None:
        return _second(int(time.time()))
    # Not strftime, which leaves out the leading zeros of years before 1000.
    return f"{moment.replace(microsecond=0, tzinfo=None).isoformat()}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return timestamp(datetime.fromtimestamp(seconds, UTC))


def control(
    event: str,
    fields: dict[str, object],
    *,
    frame_id: str | None = None,
    retry_ms: int | None = None,
) -> bytes:
    """A frame of the gateway's own: compact JSON with sorted keys."""
    data = _encoder.encode(fields).decode()
    return ServerSentEvent(data, event=event, id=frame_id, retry=retry_ms, sep="\n").encode()


def connection_established(
    topic: str, closes_in_sec: int, request_id: str, *, frame_id: str | None, retry_ms: int | None
) -> bytes:
    return control(
        "live-notification",
        {
            "type": "connection_established",
            "topic": topic,
            "timestamp": timestamp(),
            "connection_will_close_in_seconds": closes_in_sec,
            "request_id": request_id,
        },
        frame_id=frame_id,
        retry_ms=retry_ms,
    )


def replay_started(
    topic: str,
    request_id: str,
    *,
    from_sequence: int | None,
    from_date: datetime | None,
    end_sequence: int | None,
    batch_size: int,
    retry_ms: int | None,
) -> bytes:
    return control(
        "replay-control",
        {
            "type": "replay_started",
            "topic": topic,
            "from_sequence": from_sequence,
            "from_date": None if from_date is None else timestamp(from_date),
            "end_sequence": end_sequence,
            "batch_size": batch_size,
            "timestamp": timestamp(),
            "request_id": request_id,
        },
        retry_ms=retry_ms,
    )


def replay_completed(topic: str) -> bytes:
    return control(
        "replay-control", {"type": "replay_completed", "topic": topic, "timestamp": timestamp()}
    )


def replay_limit_reached(topic: str, max_allowed: int) -> bytes:
    return control(
        "replay-control",
        {
            "type": "notification_replay_limit_reached",
            "topic": topic,
            "max_allowed": max_allowed,
            "message": f"Historical replay limit of {max_allowed} notifications reached",
            "timestamp": timestamp(),
        },
    )


def heartbeat(topic: str, sequence: int, *, frame_id: str | None) -> bytes:
    return control(
        "heartbeat",
        {"timestamp": timestamp(), "topic": topic, "sequence": sequence},
        frame_id=frame_id,
    )


def gap(topic: str, found: Gap) -> bytes:
    return control(
        "gap",
        {
            "topic": topic,
            "reason": str(found.reason),
            "expected": found.expected,
            "first_available": found.first_available,
            "timestamp": timestamp(),
        },
    )


def failed(topic: str, message: str, request_id: str) -> bytes:
    return control(
        "error",
        {
            "error": "stream_processing_failed",
            "message": message,
            "topic": topic,
            "request_id": request_id,
        },
    )


CLOSING_MESSAGES = {
    "server_shutdown": "Server is shutting down gracefully",
    "max_duration_reached": "Connection reached maximum duration",
    "end_of_stream": "Stream completed",
    "forbidden": "User may not read all event types of the session any more",
}


def connection_closing(topic: str, reason: str, request_id: str) -> bytes:
    return control(
        "connection-closing",
        {
            "reason": reason,
            "timestamp": timestamp(),
            "message": CLOSING_MESSAGES[reason],
            "topic": topic,
            "request_id": request_id,
        },
    )


def session(description: bytes, *, frame_id: str, retry_ms: int | None = None) -> bytes:
    """The session as it stands (playback contract, the session stream)."""
    return ServerSentEvent(
        description.decode(), event="session", id=frame_id, retry=retry_ms, sep="\n"
    ).encode()


def system_time(playhead: str, speed: float, *, frame_id: str) -> bytes:
    return control("system-time", {"timestamp": playhead, "speed": speed}, frame_id=frame_id)


def played_frame(name: bytes, frame_id: bytes, event: bytes) -> bytes:
    """One stored event in a session, at its place in the total order."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name, frame_id, event)


def state_frame(data: bytes, *, frame_id: bytes | None = None) -> bytes:
    """Some rows of a state; the id, where there is one, says that it has not been sent whole."""
    if frame_id is None:
        return b"event: state\ndata: %b\n\n" % data
    return b"event: state\nid: %b\ndata: %b\n\n" % (frame_id, data)


def state_complete(at: str, rows: int, *, frame_id: str | None = None) -> bytes:
    return control("state-complete", {"at": at, "rows": rows}, frame_id=frame_id)
