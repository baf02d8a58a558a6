"""A watch or a replay by the CLI, over as many connections as it takes.

Events come in order and once: a connection goes on after the last event of the one before it, and
where the gateway cannot do that it says so as a gap, which is told. A replay goes on past the limit
of one request until it is complete.
"""

import re
import time
from collections.abc import Generator, Iterator, Sequence

import httpx
import msgspec

from gateway.client import PASSING, Client, ClientError, Operation, describe_refusal
from gateway.eventsource import EventStreamParser, Message


class _Frame(msgspec.Struct, frozen=True):
    """What is read of a frame: events have a `specversion`, the gateway's own frames have none."""

    specversion: str | None = None
    type: str = ""
    topic: str = ""
    reason: str = ""
    message: str = ""
    expected: int = 0
    first_available: int = 0
    end_sequence: int | None = None


# As the gateway makes them; nothing else could be sent back in a header and be understood.
_CURSOR = re.compile(r"\d{1,19}(?:-[0-9a-f]{1,32})?", re.ASCII)
_decode_frame = msgspec.json.Decoder(_Frame).decode


class Following:
    """One watch or replay: where it is, and what is to come."""

    def __init__(
        self, client: Client, operation: Operation, params: Sequence[tuple[str, str]]
    ) -> None:
        self._client = client
        self._operation: Operation = operation
        self._params = list(params)
        self._pauses = client.pauses()
        self._cursor = ""
        self._end_sequence: int | None = None
        self._opened = False
        self._interrupted = False
        self._complete = False
        self._limited = False
        self._fault = ""

    def events(self) -> Iterator[str]:
        """The JSON of each event. A replay ends when it is complete, a watch never does."""
        while True:
            try:
                pause_sec, why = yield from self._connect()
            except httpx.RequestError as error:
                why, pause_sec = self._client.on_failure(error), self._pauses.next_sec()
            if self._complete or self._at_end():
                return
            if why:
                soon = f" in {pause_sec:.1f} s" if pause_sec else ""
                self._client.say(f"{why}; connecting again{soon}")
                self._interrupted = self._opened
            time.sleep(pause_sec)

    def _at_end(self) -> bool:
        """Whether all was sent when the connection broke, but for the word that it was all."""
        sequence = int(self._cursor.partition("-")[0] or 0)
        return self._end_sequence is not None and sequence >= self._end_sequence

    def _connect(self) -> Generator[str, None, tuple[float, str]]:
        """Events until the connection ends; then the pause that is due, and the reason."""
        client = self._client
        self._limited, self._fault = False, ""
        with client.open_stream(self._operation, self._params, self._cursor) as answer:
            client.on_answer()
            status = answer.status_code
            if status != 200:
                answer.read()
                if status not in PASSING and (status < 500 or not self._opened):
                    raise ClientError(describe_refusal(answer))
                return self._pauses.next_sec(answer), describe_refusal(answer)
            media_type = answer.headers.get("content-type", "nothing").partition(";")[0]
            if media_type.strip().lower() != "text/event-stream":
                raise ClientError(f"{client.name} answered with {media_type}, not with events")
            parser = EventStreamParser(self._cursor)
            for chunk in answer.iter_bytes():
                for message in parser.feed(chunk):
                    if _CURSOR.fullmatch(message.last_event_id):
                        self._cursor = message.last_event_id
                    frame = self._read(message)
                    if frame.specversion is not None:
                        yield message.data
                    elif message.event == "connection-closing":
                        return self._on_closing(frame)
                    elif self._on_control(message.event, frame, parser.retry_ms):
                        return 0, ""
        return self._pauses.next_sec(), f"{client.name} ended the connection"

    def _read(self, message: Message) -> _Frame:
        try:
            return _decode_frame(message.data)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"{self._client.name} sent a {message.event} that cannot be read: {error}"
            ) from error

    def _on_control(self, event: str, frame: _Frame, retry_ms: int | None) -> bool:
        """Take note of a frame of the gateway's own. True: nothing more is wanted."""
        match event, frame.type:
            case _, "connection_established" | "replay_started":
                self._on_opened(frame, retry_ms)
            case "replay-control", "replay_completed":
                self._complete = self._operation == "replay"
            case "replay-control", "notification_replay_limit_reached":
                self._limited = True
            case "gap", _:
                self._client.say(_describe_gap(frame))
            case "error", _:
                self._fault = frame.message
        return self._complete

    def _on_opened(self, frame: _Frame, retry_ms: int | None) -> None:
        self._pauses.restart(retry_ms)
        if self._interrupted:
            where = f" after {self._cursor.partition('-')[0]}" if self._cursor else ""
            self._client.say(f"connected again, going on{where}")
        elif self._operation == "watch" and not self._opened:
            self._client.say(f"watching {frame.topic} at {self._client.name}")
        self._interrupted = False
        self._opened = True
        if frame.end_sequence is not None:
            # A date as the end would move with what is published meanwhile.
            self._end_sequence = frame.end_sequence
            self._params = [pair for pair in self._params if pair[0] not in ("to_id", "to_date")]
            self._params.append(("to_id", str(frame.end_sequence)))

    def _on_closing(self, frame: _Frame) -> tuple[float, str]:
        if self._limited:
            # The gateway sends no more of the past at a time; the next request goes on from here.
            return 0, ""
        if frame.reason == "max_duration_reached":
            return 0, frame.message
        return self._pauses.next_sec(), self._fault or frame.message


def _describe_gap(gap: _Frame) -> str:
    next_one = f"going on with {gap.first_available}"
    match gap.reason:
        case "expired":
            return (
                f"gap: {gap.expected} to {gap.first_available - 1} are no longer kept; {next_one}"
            )
        case "reset":
            return f"gap: the log is another one since {gap.expected - 1} was received; {next_one}"
        case _:
            return f"gap: the log ends before {gap.expected - 1}, the last received; {next_one}"
