"""Targets are judged, the best of several rounds counts, and what was found is shown."""

from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from bench import plot, report, table
from bench.figure import Bound, Figure, Point, Row, Skipped, best, judge, lines, show
from bench.percentiles import of_ms
from bench.question import QUICK
from bench.site import ROOT

_SPEED = Row(
    "replay/one", "replay", "events/s", (Bound(at_least=100), Bound(at_least=0.5, of="limit"))
)
_WAIT = Row("fanout/paced-p99", "late", "ms", (Bound(at_most=20),), more=False)


def test_a_row_is_met_when_all_its_targets_are() -> None:
    assert judge(_SPEED, {"playhead": 100, "limit": 200}) is True
    assert judge(_SPEED, {"playhead": 99, "limit": 100}) is False
    assert judge(_SPEED, {"playhead": 150, "limit": 301}) is False
    assert judge(_WAIT, {"playhead": 20}) is True
    assert judge(_WAIT, {"playhead": 20.1}) is False


def test_a_target_that_is_a_multiple_of_something_unknown_is_open() -> None:
    assert judge(_SPEED, {"playhead": 150}) is None
    assert judge(_SPEED, {"playhead": 50}) is False


def test_a_target_may_leave_some_slack() -> None:
    assert Bound(at_least=100, slack=0.01).holds(99, None) is True
    assert Bound(at_least=100, slack=0.01).holds(98.9, None) is False


def test_the_best_of_several_rounds_counts() -> None:
    found = [Figure(_SPEED.key, "playhead", value) for value in (1, 3, 2)]
    found += [Figure(_WAIT.key, "playhead", value) for value in (2, 1, 3)]
    kept = best([_SPEED, _WAIT], found)
    assert {each.key: each.value for each in kept if isinstance(each, Figure)} == {
        _SPEED.key: 3,
        _WAIT.key: 1,
    }


def test_gain_is_above_one_for_what_became_better() -> None:
    found = [
        Figure(_SPEED.key, "playhead", 300),
        Figure(_SPEED.key, "before", 100),
        Figure(_WAIT.key, "playhead", 10),
        Figure(_WAIT.key, "before", 40),
    ]
    assert [line.gain() for line in lines([_SPEED, _WAIT], found)] == [3, 4]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123, "0.0123"),
        (5, "5"),
        (12.34, "12.3"),
        (512.4, "512"),
        (1234567, "1,230,000"),
    ],
)
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    assert show(value) == text


def test_percentiles_are_in_ms_whatever_is_given() -> None:
    found = of_ms([range(0, 50), range(50, 101)], 1e-3)
    assert found["50"] == pytest.approx(0.05)
    assert found["99"] == pytest.approx(0.099)
    assert found["100"] == pytest.approx(0.1)


def _found() -> list[Figure | Point | Skipped]:
    percentiles = {"50": 1.0, "90": 2.0, "95": 2.5, "99": 4.0, "99.9": 8.0, "100": 9.0}
    return [
        Figure(_SPEED.key, "playhead", 400_000),
        Figure(_SPEED.key, "limit", 600_000),
        Figure(_SPEED.key, "peer", 60_000),
        Figure(_WAIT.key, "playhead", 4, {}, percentiles),
        Figure(_WAIT.key, "naive", 4, {}, percentiles),
        Point("replay (events/s)", "playhead", 10_000, 500_000),
        Point("replay (events/s)", "playhead", 1_000_000, 400_000),
        Point("fan-out (frames/s)", "limit", 100, 100_000),
        Skipped("the peer of idle", "nginx is not installed"),
    ]


def _report() -> report.Report:
    return report.make(
        _found(),
        machine={"processors": "2", "processor": "any"},
        tree=ROOT,
        sizes=QUICK,
        against=None,
        target=None,
    )


def test_the_table_shows_figures_targets_and_multiples() -> None:
    head, speed, wait = table.cells(lines([_SPEED, _WAIT], _report().figures))
    assert head == ["question", "figure", "target", "", "limit", "naive", "peer"]
    assert speed[1:4] == ["400,000 events/s", "≥ 100; ≥ 0.5 × limit", "met"]
    assert speed[4:] == ["600,000 (0.67)", "", "60,000 (6.67)"]
    assert wait[:4] == ["late", "4 ms", "≤ 20", "met"]


def test_the_page_tells_what_was_measured_beside_what_and_what_was_not() -> None:
    done = _report()
    page = table.page(done, lines([_SPEED, _WAIT], done.figures))
    assert "| 400,000 events/s | ≥ 100; ≥ 0.5 × limit | met | 600,000 (0.67) |" in page
    assert f"{done.commit} by `python -m bench` (2 processors" in page
    assert "- skipped: the peer of idle: nginx is not installed" in page


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    done = _report()
    report.write(done, tmp_path / "out" / "figures.json")
    assert report.read(tmp_path / "out" / "figures.json") == done


def test_plots_are_pictures_of_what_was_found(tmp_path: Path) -> None:
    done = _report()
    plot.draw(done, lines([_SPEED, _WAIT], done.figures), tmp_path)
    texts = {
        path.stem: [each.text for each in Xml.parse(path).iter("{http://www.w3.org/2000/svg}text")]
        for path in tmp_path.glob("*.svg")
    }
    assert set(texts) == {"throughput", "latency", "log-size", "watchers"}
    assert "66.7" in texts["throughput"]
    assert {"p99", "naive Python"} <= set(texts["latency"])
    assert {"10,000", "1,000,000"} <= set(texts["log-size"])
    assert "watchers" in texts["watchers"]


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    nothing = report.make([], machine={}, tree=ROOT, sizes=QUICK, against=None, target=None)
    plot.draw(nothing, [], tmp_path)
    assert not list(tmp_path.iterdir())
