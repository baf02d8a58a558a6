"""Charts as SVG: curves over a scale of decades, and bars. Pure; knows nothing of what it shows."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from bench.figure import show

WIDTH, HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 32, 34, 42
_LEGEND = 24
_BAR, _GAP = 12, 10
_LABELS = 380

Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One chart. `ticks`: what stands below which x, where that is not the number itself."""

    title: str
    below: str
    curves: Mapping[str, Points]
    ticks: Mapping[float, str] = {}


def curves(panels: Sequence[Panel], colours: Mapping[str, str]) -> str:
    """Panels side by side, each with scales of decades of its own."""
    drawn = [
        f'<g transform="translate({number * WIDTH},0)">{_panel(panel, colours)}</g>'
        for number, panel in enumerate(panels)
    ]
    return _picture(WIDTH * len(panels), HEIGHT, drawn, colours)


def bars(
    title: str, rows: Mapping[str, Mapping[str, float]], colours: Mapping[str, str], longest: float
) -> str:
    """A group of bars for each row, on one scale from 0; longer ones than the longest are cut."""
    scale = (2 * WIDTH - 60 - _LABELS) / longest
    drawn = [_text(WIDTH, 18, title, "middle")]
    y = float(_TOP)
    for name, row in rows.items():
        drawn.append(_text(_LABELS - 8, y + _BAR * len(row) / 2 + 4, name, "end"))
        for role, value in row.items():
            length = max(1.0, min(value, longest) * scale)
            drawn.append(
                f'<rect x="{_LABELS}" y="{y:.1f}" width="{length:.1f}" '
                f'height="{_BAR - 2}" fill="{colours[role]}"/>'
            )
            more = " →" if value > longest else ""
            drawn.append(_text(_LABELS + length + 5, y + 9, show(value) + more))
            y += _BAR
        y += _GAP
    return _picture(2 * WIDTH, int(y), drawn, colours)


def _picture(width: int, height: int, parts: Sequence[str], colours: Mapping[str, str]) -> str:
    legend: list[str] = []
    x = 14.0
    for name, colour in colours.items():
        legend.append(f'<rect x="{x}" y="{height + 6}" width="12" height="12" fill="{colour}"/>')
        legend.append(_text(x + 17, height + 16, name))
        x += 34 + 7 * len(name)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + _LEGEND}" '
        f'viewBox="0 0 {width} {height + _LEGEND}" font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join([*parts, *legend])
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


class _Scale:
    """From numbers to places, by their logarithm; whole decades of y, x from end to end."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, decades: bool) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        if decades:
            low, high = math.floor(low), math.ceil(high)
        self.low, self.high = low, max(high, low + (1 if decades else 0.01))
        self._start, self._step = start, (end - start) / (self.high - self.low)

    def place(self, value: float) -> float:
        return self._start + (math.log10(value) - self.low) * self._step


def _panel(panel: Panel, colours: Mapping[str, str]) -> str:
    points = [point for curve in panel.curves.values() for point in curve]
    xs = sorted({x for x, _ in points})
    across = _Scale(xs, _LEFT, WIDTH - _RIGHT, decades=False)
    up = _Scale([y for _, y in points], HEIGHT - _BOTTOM, _TOP, decades=True)
    parts = [
        _text(WIDTH / 2, 18, panel.title, "middle"),
        _text(WIDTH / 2, HEIGHT - 6, panel.below, "middle"),
    ]
    for exponent in range(int(up.low), int(up.high) + 1):
        y = up.place(10.0**exponent)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 6, y + 4, show(10.0**exponent), "end"))
    for x in xs:
        label = panel.ticks.get(x, show(x))
        parts.append(_text(across.place(x), HEIGHT - _BOTTOM + 16, label, "middle"))
    for name, curve in panel.curves.items():
        places = [(across.place(x), up.place(y)) for x, y in curve]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in places
        ]
    return "\n".join(parts)
