"""Everything the store raises.

StoreError
├── StoreUnavailable         the server is away, full or loading: try again later
├── StoreConfigurationError  refused at start; the message says what to change
├── SourceUnavailable        a captured database is away: try again later
├── SourceRefused            it cannot be captured as it is; the message says what to change
└── SourceLost               changes of it are gone for ever
"""

from collections.abc import Iterable


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The server cannot be reached or cannot take the command now. A write may have happened."""


class StoreConfigurationError(StoreError):
    """The server, or what was asked of it, cannot work; the message says what to change."""


class SourceUnavailable(StoreError):
    """A captured database cannot be reached, or somebody else has what is needed of it."""


class SourceRefused(StoreError):
    """A captured database is not set up for it; each of the sentences says what to change."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        super().__init__("; ".join(self.sentences))


class SourceLost(StoreError):
    """Changes of a captured database were removed, or passed over, before they were in the log."""
