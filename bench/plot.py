"""The plots of a run: throughput against the limit, latencies, and growth with log and audience."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import svg
from bench.figure import Line, Point, Role
from bench.report import Report

_NAMES: dict[Role, str] = {
    "limit": "limit",
    "playhead": "Playhead",
    "naive": "naive Python",
    "peer": "nchan",
    "before": "Playhead before",
}
_COLOURS = {
    "limit": "#888888",
    "Playhead": "#1769aa",
    "naive Python": "#d9822b",
    "nchan": "#4f9d4f",
    "Playhead before": "#9cc3e0",
}
# Those of which more is better and whose limit is known.
_THROUGHPUT = (
    "replay/one",
    "replay/many",
    "replay/filtered",
    "fanout/one",
    "fanout/flood",
    "publish/64",
    "publish/bulk",
)
_LATENCIES = ("fanout/paced-p99", "fanout/one-p99", "publish/64-p99")
# The place of a percentage: each as far from the last as it is rarer.
_SHARES = {"50": 2.0, "90": 10.0, "99": 100.0, "99.9": 1000.0}
# nchan keeps no event safe, and so publishes at many times the limit of those that do.
_LONGEST = 150
_BY_LOG = ("replay", "look-up", "selective")


def draw(report: Report, lines: Sequence[Line], folder: Path) -> None:
    """Write a file for each plot of which there is something to show."""
    plots = {
        "throughput": _throughput(lines),
        "latency": _latency(report, lines),
        "log-size": _growth(report, "events in the log", watchers=False),
        "watchers": _growth(report, "watchers", watchers=True),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in plots.items():
        if text:
            (folder / f"{name}.svg").write_text(text)


def _throughput(lines: Sequence[Line]) -> str:
    rows: dict[str, dict[str, float]] = {}
    for line in lines:
        limit = line.values.get("limit")
        if line.row.key in _THROUGHPUT and limit:
            rows[line.row.name] = {
                name: line.values[role] / limit * 100
                for role, name in _NAMES.items()
                if role in line.values
            }
    title = "Throughput, in per cent of the limit measured in the same run"
    return svg.bars(title, rows, _present(rows.values()), _LONGEST) if rows else ""


def _latency(report: Report, lines: Sequence[Line]) -> str:
    titles = {line.row.key: line.row.name.removesuffix(": p99") for line in lines}
    panels = []
    for key in _LATENCIES:
        curves: dict[str, svg.Points] = {
            _NAMES[figure.role]: [
                (place, figure.percentiles[share]) for share, place in _SHARES.items()
            ]
            for figure in report.figures
            if figure.key == key and figure.percentiles
        }
        if curves:
            ticks = {place: f"p{share}" for share, place in _SHARES.items()}
            panels.append(svg.Panel(titles[key], "ms", curves, ticks))
    return _side_by_side(panels)


def _growth(report: Report, below: str, *, watchers: bool) -> str:
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in report.points:
        if watchers != _is_by_log(point):
            curve = found.setdefault(point.curve, {}).setdefault(_NAMES[point.role], [])
            curve.append((point.size, point.value))
    return _side_by_side([svg.Panel(title, below, curves) for title, curves in found.items()])


def _is_by_log(point: Point) -> bool:
    return point.curve.startswith(_BY_LOG)


def _side_by_side(panels: Sequence[svg.Panel]) -> str:
    if not panels:
        return ""
    return svg.curves(panels, _present([panel.curves for panel in panels]))


def _present(groups: Iterable[Iterable[str]]) -> dict[str, str]:
    """The colours of the roles that are shown."""
    shown = {name for group in groups for name in group}
    return {name: colour for name, colour in _COLOURS.items() if name in shown}
