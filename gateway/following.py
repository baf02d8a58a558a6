"""A watch or replay that goes on over as many connections as it takes.

Events come in order and once: a connection goes on after the last event of the one before it, and
where the gateway cannot do that it says so as a gap, which is told. A replay goes on past the limit
of one request until it is complete.
"""

import re
from collections.abc import Sequence
from typing import Literal

from gateway.client import Client
from gateway.eventsource import Message
from gateway.resumption import Frame, Resumption

Operation = Literal["watch", "replay"]

_CURSOR = re.compile(r"\d{1,19}(?:-[0-9a-f]{1,32})?", re.ASCII)


class Following(Resumption):
    """One watch or replay: where it is, and what is to come. A watch never is complete."""

    def __init__(
        self, client: Client, operation: Operation, params: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__(client, f"api/v1/{operation}", params, cursor=_CURSOR)
        self._operation: Operation = operation
        self._end_sequence: int | None = None
        self._completed = False
        self._limited = False

    @property
    def complete(self) -> bool:
        return self._completed or self._at_end()

    def _at_end(self) -> bool:
        """Whether all was sent when the connection broke, but for the word that it was all."""
        sequence = int(self._cursor.partition("-")[0] or 0)
        return self._end_sequence is not None and sequence >= self._end_sequence

    def on_control(self, message: Message, frame: Frame, retry_ms: int | None) -> None:
        match message.event, frame.type:
            case _, "connection_established" | "replay_started":
                self._on_start(frame, retry_ms)
            case "replay-control", "replay_completed":
                self._completed = self._operation == "replay"
            case "replay-control", "notification_replay_limit_reached":
                self._limited = True

    def _on_start(self, frame: Frame, retry_ms: int | None) -> None:
        self._limited = False
        where = f" after {self._cursor.partition('-')[0]}" if self._cursor else ""
        if self._on_opened(retry_ms, where) and self._operation == "watch":
            self._client.say(f"watching {frame.topic} at {self._client.name}")
        if frame.end_sequence is not None:
            # A date as the end would move with what is published meanwhile.
            self._end_sequence = frame.end_sequence
            self._params = [pair for pair in self._params if pair[0] not in ("to_id", "to_date")]
            self._params.append(("to_id", str(frame.end_sequence)))

    def on_closing(self, frame: Frame) -> tuple[float, str]:
        limited, self._limited = self._limited, False
        if limited:
            # The gateway sends no more of the past at a time; the next request goes on from here.
            return 0, ""
        if frame.reason == "max_duration_reached":
            return 0, frame.message
        return self._pauses.next_sec(), self._fault or frame.message
