"""A stream of a gateway over as many connections as it takes, each going on after the one before."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence

import httpx
import msgspec

from gateway.client import PASSING, Client, ClientError, describe_refusal
from gateway.eventsource import EventStreamParser, Message


class Frame(msgspec.Struct, frozen=True):
    """What is read of a frame: events have a `specversion`, the gateway's own frames have none."""

    specversion: str | None = None
    type: str = ""
    topic: str = ""
    reason: str = ""
    message: str = ""
    expected: int = 0
    first_available: int = 0
    end_sequence: int | None = None


_decode_frame = msgspec.json.Decoder(Frame).decode


class Resumption(ABC):
    """Events in order and once. A subclass knows the frames between them, and when all is there."""

    def __init__(
        self,
        client: Client,
        path: str,
        params: Sequence[tuple[str, str]],
        *,
        cursor: re.Pattern[str],
    ) -> None:
        self._client = client
        self._path = path
        self._params = list(params)
        # As the gateway makes them; nothing else could be sent back in a header and be understood.
        self._is_cursor = cursor.fullmatch
        self._pauses = client.pauses()
        self._cursor = ""
        self._opened = False
        self._interrupted = False
        self._fault = ""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether nothing more is wanted."""

    @abstractmethod
    def on_control(self, message: Message, frame: Frame, retry_ms: int | None) -> None:
        """Take note of a frame of the gateway's own."""

    @abstractmethod
    def on_closing(self, frame: Frame) -> tuple[float, str]:
        """The gateway closes: the pause that is due in s, and why, if that is worth a word."""

    def on_refusal(self, answer: httpx.Response) -> tuple[float, str]:
        """As `on_closing`. Raises ClientError for what does not pass."""
        status = answer.status_code
        if status not in PASSING and (status < 500 or not self._opened):
            raise ClientError(describe_refusal(answer))
        return self._pauses.next_sec(answer), describe_refusal(answer)

    def on_gap(self, frame: Frame) -> None:
        """Events are missing, and the gateway says which."""
        self._client.say(f"gap: {describe_gap(frame)}")

    def on_lost(self) -> None:
        """The connection is gone, and another one will be tried."""
        self._interrupted = self._opened

    def events(self) -> Iterator[str]:
        """The JSON of each event, until it is complete."""
        while True:
            try:
                pause_sec, why = yield from self._connect()
            except httpx.RequestError as error:
                why, pause_sec = self._client.on_failure(error), self._pauses.next_sec()
            if self.complete:
                return
            if why:
                soon = f" in {pause_sec:.1f} s" if pause_sec else ""
                self._client.say(f"{why}; connecting again{soon}")
                self.on_lost()
            time.sleep(pause_sec)

    def _connect(self) -> Generator[str, None, tuple[float, str]]:
        """Events until the connection ends; then the pause that is due, and the reason."""
        client = self._client
        self._fault = ""
        with client.open_stream(self._path, self._params, self._cursor) as answer:
            client.on_answer()
            if answer.status_code != 200:
                answer.read()
                return self.on_refusal(answer)
            media_type = answer.headers.get("content-type", "nothing").partition(";")[0]
            if media_type.strip().lower() != "text/event-stream":
                raise ClientError(f"{client.name} answered with {media_type}, not with events")
            parser = EventStreamParser(self._cursor)
            for chunk in answer.iter_bytes():
                for message in parser.feed(chunk):
                    if self._is_cursor(message.last_event_id):
                        self._cursor = message.last_event_id
                    frame = self._read(message)
                    if frame.specversion is not None:
                        yield message.data
                    elif message.event == "connection-closing":
                        return self.on_closing(frame)
                    else:
                        self._take(message, frame, parser.retry_ms)
                        if self.complete:
                            return 0, ""
        return self._pauses.next_sec(), f"{client.name} ended the connection"

    def _read(self, message: Message) -> Frame:
        try:
            return _decode_frame(message.data)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"{self._client.name} sent a {message.event} that cannot be read: {error}"
            ) from error

    def _take(self, message: Message, frame: Frame, retry_ms: int | None) -> None:
        if message.event == "gap":
            self.on_gap(frame)
        elif message.event == "error":
            self._fault = frame.message
        else:
            self.on_control(message, frame, retry_ms)

    def _on_opened(self, retry_ms: int | None, where: str) -> bool:
        """The first frame of a connection; False when one before it was opened already."""
        self._pauses.restart(retry_ms)
        if self._interrupted:
            self._client.say(f"connected again, going on{where}")
        first = not self._opened
        self._interrupted, self._opened = False, True
        return first


def describe_gap(gap: Frame) -> str:
    next_one = f"going on with {gap.first_available}"
    match gap.reason:
        case "expired":
            return f"{gap.expected} to {gap.first_available - 1} are no longer kept; {next_one}"
        case "reset":
            return f"the log is another one since {gap.expected - 1} was received; {next_one}"
        case _:
            return f"the log ends before {gap.expected - 1}, the last received; {next_one}"
