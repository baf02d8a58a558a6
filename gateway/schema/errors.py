"""What can be wrong with a schema or a request, as exceptions that hold whole sentences.

ValueError
├── SchemaError   the configuration of a schema cannot be used; the start is refused
├── Fault         one value is refused; the caller knows the field and makes the sentence
└── Rejected      a request cannot be served; one answer of the Aviso wire contract §4
"""

from typing import Literal

Kind = Literal[
    "INVALID_JSON", "UNKNOWN_FIELD", "INVALID_REQUEST_SHAPE", "UNKNOWN_EVENT_TYPE", "INVALID"
]

ECHO_CHARS = 200


class SchemaError(ValueError):
    """A schema that cannot be used; the sentence holds the path of the key to change."""


class Fault(ValueError):
    """A value that is refused: a sentence without its subject, and the innermost cause if any."""

    def __init__(self, predicate: str, cause: str | None = None) -> None:
        super().__init__(predicate)
        self.predicate = predicate
        self.cause = cause


class Rejected(ValueError):
    """A request that cannot be served.

    ``kind`` is the code of the answer; ``INVALID`` stands for ``INVALID_<OPERATION>_REQUEST``.
    ``message`` is the outermost sentence, ``details`` the innermost cause (the same when there is
    none). ``configured_event_types`` is filled, sorted, for ``UNKNOWN_EVENT_TYPE`` only.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        details: str | None = None,
        *,
        configured_event_types: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.details = message if details is None else details
        self.configured_event_types = configured_event_types


def clip(text: str) -> str:
    """The text as it may stand in a message: whole, or its first 200 characters and an ellipsis."""
    return text if len(text) <= ECHO_CHARS else f"{text[:ECHO_CHARS]}…"
