"""Everything the store raises.

StoreError
├── StoreUnavailable         the server is away, full or loading: try again later
└── StoreConfigurationError  refused at start; the message says what to change
"""


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The server cannot be reached or cannot take the command now. A write may have happened."""


class StoreConfigurationError(StoreError):
    """The server, or what was asked of it, cannot work; the message says what to change."""
