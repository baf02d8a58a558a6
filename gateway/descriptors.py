"""Open files, of which each connection takes one: as many as the system allows, and said if few."""

import contextlib
import resource

# Told below this. A service has 524,288 or more nearly everywhere, a login shell often 4,096.
_FEW = 10_000


def raise_limit() -> None:
    """To the hard limit: the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS calls it endless and takes no such number.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe_shortage() -> str | None:
    """A sentence with what to change, if this process may have few open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= _FEW:
        return None
    return (
        f"This process may have {hard} open files, and each stream takes one: raise the limit "
        "(ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
    )
