"""`python -m bench [question…] [--events N]`: each question against a fresh gateway; all without names.

Prints a line for each figure. Each clock stops only when the last answer or frame has arrived; an
answer that is wrong ends the run with status 1.
"""

import argparse
import sys
from collections.abc import Sequence

import uvloop

from bench import fanout, playback, publish, replay
from bench.question import Options, Question, Wrong
from bench.site import open_site

QUESTIONS: dict[str, Question] = {
    "publish": publish.measure,
    "replay": replay.measure,
    "fanout": fanout.measure,
    "playback": playback.measure,
}


async def ask(names: Sequence[str], options: Options) -> None:
    for name in names:
        async with open_site() as site:
            async for line in QUESTIONS[name](site, options):
                print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="question", help=", ".join(QUESTIONS))
    parser.add_argument("--events", type=int, default=200_000, help="to publish and to replay")
    parser.add_argument("--seconds", type=float, default=60, help="to play at each speed")
    parser.add_argument("--watchers", type=int, default=50, help="of the session that is played")
    parser.add_argument(
        "--drift",
        type=float,
        nargs="?",
        const=600.0,
        metavar="SECONDS",
        help="play at speed 1 for ten minutes, or so long, and compare its end with its start",
    )
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in QUESTIONS]
    if unknown:
        parser.error(f"no such question: {', '.join(unknown)}; there are {', '.join(QUESTIONS)}")
    options = Options(given.events, given.seconds, given.drift, given.watchers)
    try:
        uvloop.run(ask(given.names or list(QUESTIONS), options))
    except Wrong as wrong:
        sys.exit(f"wrong: {wrong}")


if __name__ == "__main__":
    main()
