"""What a run finds: rows with their targets, figures in five roles, and whether a target is met. Pure.

Each row is asked of Playhead and, in the same run, of a physical limit, of the naive way to build the
same in Python, of a peer and of Playhead before, as far as there are such.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

Role: TypeAlias = Literal["playhead", "limit", "naive", "peer", "before"]


class Wrong(Exception):
    """What came is not what had to come: no figure makes up for it."""


class Bound(msgspec.Struct, frozen=True):
    """A target: at least, or at most, so much; of the figure itself or as a multiple of a role's.

    `slack` is the share by which a figure may miss it, where it says that nothing was left behind.
    """

    at_least: float | None = None
    at_most: float | None = None
    of: Role | None = None
    slack: float = 0

    def holds(self, figure: float, other: float | None) -> bool | None:
        """None where the figure it is a multiple of is not known."""
        if self.of is not None:
            if not other:
                return None
            figure /= other
        if self.at_least is not None:
            return figure >= self.at_least * (1 - self.slack)
        return self.at_most is None or figure <= self.at_most

    def describe(self) -> str:
        sign, value = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        assert value is not None
        if self.of is None:
            return f"{sign} {show(value)}"
        return f"{sign} {value:g} × {self.of}"


class Row(msgspec.Struct, frozen=True):
    """A line of the table. `against` tells what the roles are, where there is something in them."""

    key: str
    name: str
    unit: str
    bounds: tuple[Bound, ...] = ()
    against: Mapping[Role, str] = {}
    # What is better: more of it, or less.
    more: bool = True


class Figure(msgspec.Struct, frozen=True):
    """One answer. `details` are further numbers of the same measurement, by name and unit."""

    key: str
    role: Role
    value: float
    details: Mapping[str, float] = {}
    # Percentiles of a latency in ms, by percentage, where it has them.
    percentiles: Mapping[str, float] = {}


class Point(msgspec.Struct, frozen=True):
    """One point of a curve: the value of a row's figure at a size of the log or of the audience."""

    curve: str
    role: Role
    size: float
    value: float


class Skipped(msgspec.Struct, frozen=True):
    """What was not measured, and why, in a sentence."""

    what: str
    why: str


Finding: TypeAlias = Figure | Point | Skipped


class Line(msgspec.Struct, frozen=True):
    """A row with what was found. `met` is None for a row without a target, or one that is open."""

    row: Row
    values: Mapping[Role, float]
    met: bool | None

    def ratio(self, role: Role) -> float | None:
        mine, other = self.values.get("playhead"), self.values.get(role)
        return mine / other if mine is not None and other else None

    def gain(self) -> float | None:
        """How many times better than before; above 1 is better, whatever is counted."""
        ratio = self.ratio("before")
        if ratio is None or (ratio == 0 and not self.row.more):
            return None
        return ratio if self.row.more else 1 / ratio


def lines(rows: Iterable[Row], findings: Sequence[Finding]) -> list[Line]:
    """Each row for which something was found, in the order of the rows."""
    found: dict[str, dict[Role, float]] = {}
    for each in findings:
        if isinstance(each, Figure):
            found.setdefault(each.key, {})[each.role] = each.value
    return [
        Line(row, found[row.key], judge(row, found[row.key])) for row in rows if row.key in found
    ]


def best(rows: Iterable[Row], findings: Sequence[Finding]) -> list[Finding]:
    """Of what was measured several times the best figure, and the last point of a curve."""
    more = {row.key: row.more for row in rows}
    kept: dict[tuple[object, ...], Finding] = {}
    for each in findings:
        if isinstance(each, Figure):
            name: tuple[object, ...] = (each.key, each.role)
            other = kept.get(name)
            if isinstance(other, Figure) and (other.value > each.value) == more[each.key]:
                continue
        elif isinstance(each, Point):
            name = (each.curve, each.role, each.size)
        else:
            name = (each.what,)
        kept[name] = each
    return list(kept.values())


def judge(row: Row, values: Mapping[Role, float]) -> bool | None:
    mine = values.get("playhead")
    if mine is None or not row.bounds:
        return None
    verdicts = [
        bound.holds(mine, None if bound.of is None else values.get(bound.of))
        for bound in row.bounds
    ]
    if False in verdicts:
        return False
    return None if None in verdicts else True


def show(value: float) -> str:
    """Three digits that count, and thousands set apart."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
