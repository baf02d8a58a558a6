"""Which transactions a snapshot of PostgreSQL sees. Pure.

A snapshot is written `xmin:xmax:xip,…` (PostgreSQL, pg_snapshot) with transaction ids of 64 bits; a
change carries the 32 bits that the replication protocol has.
"""

from dataclasses import dataclass

_EPOCH = 1 << 32


@dataclass(frozen=True, slots=True)
class Visibility:
    """Sees every transaction before `xmax` that was not `running`."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Visibility":
        """The text of pg_current_snapshot(). Raises ValueError."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(",") if running else ())))

    def sees(self, xid: int) -> bool:
        """Whether a transaction that has committed, given by its 32-bit id, is in the snapshot."""
        # The nearest to xmax: ids that could be met at one time lie within half of the circle.
        full = self.xmax - self.xmax % _EPOCH + xid
        if full > self.xmax + _EPOCH // 2:
            full -= _EPOCH
        elif full < self.xmax - _EPOCH // 2:
            full += _EPOCH
        return full < self.xmin or (full < self.xmax and full not in self.running)


def parse_lsn(text: str) -> int:
    """A position in the write-ahead log, as PostgreSQL writes it (16/B374D848)."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
