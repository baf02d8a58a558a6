"""`python -m bench [question…]`: how fast Playhead is, beside what is possible and what others do.

Each question is asked of a fresh gateway, and in the same run of a physical limit, of the naive way to
build the same in Python and of a peer. All questions without names. Each clock stops only when the last
answer or frame has arrived; a frame lost or repeated ends the run with status 1.
"""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench import (
    capture,
    ceiling,
    fanout,
    idle,
    lookup,
    mixed,
    playback,
    plot,
    publish,
    replay,
    report,
    selective,
    startup,
    state,
    table,
    writer,
)
from bench.figure import Figure, Finding, Point, Row, Skipped, Wrong, best, lines, show
from bench.load import raise_descriptor_limit
from bench.question import QUICK, Question, Sizes, Subject
from bench.site import ROOT
from bench.worktree import open_worktree

QUESTIONS: dict[str, Question] = {
    "ceiling": ceiling.QUESTION,
    "replay": replay.QUESTION,
    "mixed": mixed.QUESTION,
    "selective": selective.QUESTION,
    "lookup": lookup.QUESTION,
    "fanout": fanout.QUESTION,
    "idle": idle.QUESTION,
    "publish": publish.QUESTION,
    "startup": startup.QUESTION,
    "playback": playback.QUESTION,
    "capture": capture.QUESTION,
    "state": state.QUESTION,
    "writer": writer.QUESTION,
}
PLOTS = ROOT / "bench" / "plots"
_JSON = "figures.json"
_TABLE = "table.md"
_DESCRIPTORS = 12_000


@dataclass(frozen=True, slots=True)
class Run:
    """What is asked, of which Playhead, and of which one before it."""

    names: Sequence[str]
    sizes: Sizes
    subject: Subject
    before: Subject | None
    alone: bool
    rounds: int

    async def findings(self) -> AsyncIterator[Finding]:
        for name in self.names:
            question = QUESTIONS[name]
            if self.subject.target is not None and question.only_here is not None:
                yield Skipped(name, question.only_here)
                continue
            for number in range(self.rounds):
                async for finding in self._ask(question, number):
                    yield finding
                gc.collect()

    async def _ask(self, question: Question, number: int) -> AsyncIterator[Finding]:
        subjects = [self.subject] if self.before is None else [self.before, self.subject]
        # In turns, so that neither always has the machine as the other left it.
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            async for finding in question.measure(subject, self.sizes):
                if subject is self.subject:
                    yield finding
                elif isinstance(finding, Figure | Point) and finding.role == "playhead":
                    yield msgspec.structs.replace(finding, role="before")
        if not self.alone and question.compare is not None:
            async for finding in question.compare(self.sizes):
                yield finding


async def ask(run: Run) -> tuple[list[Finding], Wrong | None]:
    """What was found, as far as it came, and what ended it."""
    found: list[Finding] = []
    task = asyncio.current_task()
    assert task is not None
    # The servers that were started end with it, whoever ends it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    # Looking through thousands of watchers takes as long as a frame may be late.
    gc.disable()
    try:
        async for finding in run.findings():
            found.append(finding)
            print(_told(finding), file=sys.stderr, flush=True)
    except Wrong as wrong:
        return found, wrong
    return found, None


def _told(finding: Finding) -> str:
    if isinstance(finding, Skipped):
        return f"skipped: {finding.what}: {finding.why}"
    if isinstance(finding, Point):
        return f"{finding.curve}, {finding.size:,.0f}: {finding.role} {show(finding.value)}"
    row = next(row for row in rows() if row.key == finding.key)
    details = ", ".join(f"{name} {show(value)}" for name, value in finding.details.items())
    shares = ", ".join(f"p{name} {show(value)}" for name, value in finding.percentiles.items())
    more = "; ".join(filter(None, (details, shares)))
    return f"{row.name}: {finding.role} {show(finding.value)} {row.unit}" + (
        more and f"   ({more})"
    )


def rows() -> list[Row]:
    return [row for question in QUESTIONS.values() for row in question.rows]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="question", help=", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="small sizes: a look in two minutes")
    parser.add_argument("--alone", action="store_true", help="without limit, naive way and peer")
    parser.add_argument("--events", type=int, help="to replay (1,000,000)")
    parser.add_argument("--seconds", type=float, help="to play at each speed (30)")
    parser.add_argument("--watchers", type=int, help="of the session that is played (50)")
    parser.add_argument(
        "--drift",
        type=float,
        nargs="?",
        const=600.0,
        metavar="SECONDS",
        help="play at speed 1 for ten minutes, or so long, and compare its end with its start",
    )
    parser.add_argument("--rounds", type=int, default=1, help="ask so often; the best counts (1)")
    parser.add_argument("--against", metavar="COMMIT", help="ask that commit too; shows the gain")
    parser.add_argument(
        "--target",
        metavar="URL",
        help="ask the server at this address, which speaks the Aviso API, has the event type `bench` "
        "with the identifiers region (string) and track (integer), both not required, and sends as "
        "much history as is asked for; what it keeps of that type is wiped",
    )
    parser.add_argument("--out", type=Path, help="folder for figures.json, the table and the plots")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--show", type=Path, metavar="JSON", help="of an earlier run; asks nothing")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in QUESTIONS]
    if unknown:
        parser.error(f"no such question: {', '.join(unknown)}; there are {', '.join(QUESTIONS)}")
    if given.target is not None and urlsplit(given.target).scheme != "http":
        parser.error(f"--target must start with http://, got {given.target!r}")
    return given


def _sizes(given: argparse.Namespace) -> Sizes:
    sizes = QUICK if given.quick else Sizes()
    changes = {
        "events": given.events,
        "play_sec": given.seconds,
        "play_watchers": given.watchers,
        "drift_sec": given.drift,
    }
    return replace(sizes, **{name: value for name, value in changes.items() if value is not None})


def _run(given: argparse.Namespace) -> tuple[report.Report, Wrong | None]:
    target = None
    if given.target is not None:
        parts = urlsplit(given.target)
        assert parts.hostname is not None
        target = (parts.hostname, parts.port or 80)
    if raise_descriptor_limit() < _DESCRIPTORS:
        print(f"this system allows fewer than {_DESCRIPTORS:,} open files", file=sys.stderr)
    sizes, machine = _sizes(given), report.describe_machine()
    names = given.names or list(QUESTIONS)
    with open_worktree(given.against) as before:
        run = Run(
            names,
            sizes,
            Subject(target=target),
            None if before is None else Subject(tree=before),
            alone=given.alone,
            rounds=given.rounds,
        )
        try:
            found, wrong = uvloop.run(ask(run))
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
    done = report.make(
        best(rows(), found),
        machine=machine,
        tree=ROOT,
        sizes=sizes,
        against=given.against,
        target=given.target,
    )
    return done, wrong


def main() -> None:
    given = _parse()
    done, wrong = (report.read(given.show), None) if given.show else _run(given)
    shown = lines(rows(), done.figures)
    print(table.markdown(shown) if given.markdown else table.plain(shown))
    if done.sizes != Sizes():
        print("Not all was as large as the names say: only a run with the defaults tells.")
    for each in done.skipped:
        print(f"skipped: {each.what}: {each.why}")
    if wrong is not None:
        sys.exit(f"wrong: {wrong}")
    complete = not (given.names or given.quick or given.target or given.show)
    folder = given.out or (PLOTS if complete else None)
    if folder is not None:
        report.write(done, folder / _JSON)
        (folder / _TABLE).write_text(table.page(done, shown))
        plot.draw(done, shown, folder)


if __name__ == "__main__":
    main()
