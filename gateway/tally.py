"""Numbers of the hot paths, kept plainly and shown to Prometheus when it asks.

prometheus_client's own take a lock and check their arguments each time: the ten of a publish were
an eighth of its time. These belong to the event loop's thread alone.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Generic, TypeVar

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

_Labels = tuple[str, ...]


class Count:
    """A number: of a counter, which only grows, or of a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self) -> None:
        self.value -= 1


class Distribution:
    """How many observations were at most each bound, in `counts`; the last are above all bounds."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


_Kept = TypeVar("_Kept", Count, Distribution)


class _Family(dict[_Labels, _Kept], Collector, Generic[_Kept]):
    """What is kept, by label values; made when first asked for."""

    # A registry knows its collectors by themselves, not by what they hold.
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def __init__(self, name: str, text: str, labels: Iterable[str]) -> None:
        super().__init__()
        self._name = name
        self._text = text
        self._labels = tuple(labels)


class Counts(_Family[Count]):
    """A counter with labels."""

    def __missing__(self, labels: _Labels) -> Count:
        kept = self[labels] = Count()
        return kept

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, kept in self.items():
            family.add_metric(labels, kept.value)
        yield family


class Levels(Counts):
    """A gauge with labels."""

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, kept in self.items():
            family.add_metric(labels, kept.value)
        yield family


class Distributions(_Family[Distribution]):
    """A histogram with labels."""

    def __init__(
        self, name: str, text: str, labels: Iterable[str], bounds: tuple[float, ...]
    ) -> None:
        super().__init__(name, text, labels)
        self._bounds = bounds

    def __missing__(self, labels: _Labels) -> Distribution:
        kept = self[labels] = Distribution(self._bounds)
        return kept

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        for labels, kept in self.items():
            reached = 0
            buckets = []
            for name, count in zip(names, kept.counts, strict=True):
                reached += count
                buckets.append((name, float(reached)))
            family.add_metric(labels, buckets, kept.total)
        yield family
