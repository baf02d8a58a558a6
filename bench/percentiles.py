"""Percentiles of latencies. Pure."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

SHARES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)


def of_ms(parts: Iterable[npt.ArrayLike], unit_ms: float = 1.0) -> dict[str, float]:
    """By percentage, in ms. `unit_ms`: what one of the given numbers is, in ms."""
    together = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    found = np.percentile(together, SHARES) * unit_ms
    return {f"{share:g}": float(value) for share, value in zip(SHARES, found, strict=True)}


def p99(percentiles: Mapping[str, float]) -> float:
    return percentiles["99"]
