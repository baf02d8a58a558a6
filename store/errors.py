"""Everything the store raises.

StoreError
├── StoreUnavailable         the server is away, full or loading: try again later
│   └── ObjectsUnavailable   it is the object store of the snapshots
├── StoreConfigurationError  refused at start; the message says what to change
├── SourceUnavailable        a captured database is away: try again later
├── SourceRefused            it cannot be captured as it is; the message says what to change
├── SourceLost               changes of it are gone for ever
├── ObjectMissing            an object that should be there is not
├── CorruptFile              a file of a snapshot is not what was written
├── SnapshotFailed           a snapshot was not taken; the message says why
├── OutOfRange               no state can be had of that time; says the next that can be had
├── Behind                   what happened until then is not in the log yet: try again later
├── WorkLost                 the work of a session is another gateway's
└── TargetError              the playback database cannot take it; the message says why
    └── TargetUnavailable    it cannot be reached now
"""

from collections.abc import Iterable


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The server cannot be reached or cannot take the command now. A write may have happened."""


class ObjectsUnavailable(StoreUnavailable):
    """The object store cannot be reached, or refused."""


class StoreConfigurationError(StoreError):
    """The server, or what was asked of it, cannot work; the message says what to change."""


class ObjectMissing(StoreError):
    """There is no such object."""


class CorruptFile(StoreError):
    """A file of a snapshot is not what was written."""


class SnapshotFailed(StoreError):
    """A snapshot was not taken; nothing of it will be used."""


class OutOfRange(StoreError):
    """No state is kept of that time; the next one after it is of `earliest_ms`, if there is any."""

    def __init__(self, message: str, earliest_ms: int | None) -> None:
        super().__init__(message)
        self.earliest_ms = earliest_ms


class Behind(StoreError):
    """The log has all of a source only up to `through_ms`, which is before the time asked for."""

    def __init__(self, source: str, through_ms: int) -> None:
        super().__init__(f"the changes of source '{source}' are not all in the log yet")
        self.source = source
        self.through_ms = through_ms


class WorkLost(StoreError):
    """The lease of a session's work is not this holder's any more."""


class TargetError(StoreError):
    """The playback database cannot do what was asked; the message says why, and what to change."""


class TargetUnavailable(TargetError):
    """The playback database cannot be reached now. What was sent may have been carried out."""


class SourceUnavailable(StoreError):
    """A captured database cannot be reached, or somebody else has what is needed of it."""


class SourceRefused(StoreError):
    """A captured database is not set up for it; each of the sentences says what to change."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        super().__init__("; ".join(self.sentences))


class SourceLost(StoreError):
    """Changes of a captured database were removed, or passed over, before they were in the log."""
