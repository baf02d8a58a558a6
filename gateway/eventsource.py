"""The reading half of Server-Sent Events, for the CLI: bytes in any pieces in, messages out.

Pure. Reads every stream as a browser's EventSource would, whatever its line ends and wherever a
read of the network happens to end. Source: WHATWG HTML, server-sent events, §9.2.6.
"""

import codecs
import re
from dataclasses import dataclass

_DIGITS = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Message:
    """One event; `last_event_id` is the stream's position after it."""

    event: str
    data: str
    last_event_id: str


class EventStreamParser:
    """Parses one connection. `last_event_id` is what the connection before it ended with.

    `retry_ms` is the server's wish for the pause before the next connection, None without one.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        # Takes one byte order mark off the start and turns what is no UTF-8 into U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._after_cr = False
        self._unfinished: list[str] = []
        self._event = ""
        self._data: list[str] = []
        self._id = last_event_id

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that these bytes complete, in order."""
        found: list[Message] = []
        for line in self._lines(self._decoder.decode(chunk)):
            if line:
                self._read_field(line)
                continue
            self.last_event_id = self._id
            if self._data:
                data = "\n".join(self._data)
                found.append(Message(self._event or "message", data, self._id))
                self._data = []
            self._event = ""
        return found

    def _lines(self, text: str) -> list[str]:
        """The lines that end in this text; what follows the last end is kept for the next one."""
        if self._after_cr and text:
            # The CR ended its line at once, lest an event waits for a byte that may never come.
            text = text.removeprefix("\n")
            self._after_cr = False
        if "\r" in text:
            self._after_cr = text.endswith("\r")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = text.split("\n")
        self._unfinished.append(rest)
        if lines:
            lines[0] = "".join(self._unfinished[:-1]) + lines[0]
            self._unfinished = [rest]
        return lines

    def _read_field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and _DIGITS.fullmatch(value):
            self.retry_ms = int(value)
