"""The plots as SVG."""

from collections.abc import Sequence
from pathlib import Path

from bench.figure import Line
from bench.report import Report


def draw(report: Report, lines: Sequence[Line], folder: Path) -> None:
    pass
