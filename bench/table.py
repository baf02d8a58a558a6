"""The findings as a table for people, in Markdown or for a terminal. Pure."""

from collections.abc import Sequence

from bench.figure import Line, Role, show
from bench.report import Report

_OTHERS: tuple[Role, ...] = ("limit", "naive", "peer")
_VERDICTS = {True: "met", False: "NOT met", None: ""}


def cells(lines: Sequence[Line]) -> list[list[str]]:
    """The table's head and a row a line; what was before has a column only where it is known."""
    before = any("before" in line.values for line in lines)
    head = ["question", "figure", "target", "", "limit", "naive", "peer"]
    return [head + ["before", "gain"] * before] + [_cells(line, before) for line in lines]


def _cells(line: Line, before: bool) -> list[str]:
    row = line.row
    mine = line.values.get("playhead")
    targets = "; ".join(bound.describe() for bound in row.bounds)
    verdict = _VERDICTS[line.met]
    if row.bounds and mine is not None and line.met is None:
        verdict = "open"
    found = [row.name, "–" if mine is None else f"{show(mine)} {row.unit}", targets, verdict]
    found += [_other(line, role) for role in _OTHERS]
    if before:
        gain = line.gain()
        found += [_other(line, "before"), "" if gain is None else f"× {gain:.2f}"]
    return found


def _other(line: Line, role: Role) -> str:
    """A role's figure, and Playhead's as a multiple of it."""
    value = line.values.get(role)
    if value is None:
        return ""
    ratio = line.ratio(role)
    return show(value) if ratio is None or role == "before" else f"{show(value)} ({ratio:.2f})"


def plain(lines: Sequence[Line]) -> str:
    rows = cells(lines)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(
        [*texts, "", "In brackets: the figure as a multiple of that column's.", *_told(lines)]
    )


def _told(lines: Sequence[Line]) -> list[str]:
    """What each role is, once for all the rows that have the same."""
    names: dict[tuple[Role, str], list[str]] = {}
    for line in lines:
        for role, what in line.row.against.items():
            if role in line.values:
                names.setdefault((role, what), []).append(line.row.key)
    return [f"{role}: {what} ({', '.join(keys)})" for (role, what), keys in sorted(names.items())]


def markdown(lines: Sequence[Line]) -> str:
    head, *rows = cells(lines)
    ruler = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows])


def page(report: Report, lines: Sequence[Line]) -> str:
    """The table with where, when and of what it was measured, as a file of its own."""
    machine = f"{report.machine['processors']} processors, {report.machine['processor']}"
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    command = "python -m bench" + (f" --against {report.against}" if report.against else "")
    about = [
        f"Measured on {report.made[:10]} at {report.commit} by `{command}` ({machine}; {versions}).",
        "In brackets: the figure as a multiple of that column's.",
        *(f"- {told}" for told in _told(lines)),
        *(f"- skipped: {each.what}: {each.why}" for each in report.skipped),
    ]
    return "\n".join([markdown(lines), "", *about, ""])
