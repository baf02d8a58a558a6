"""How long a look-up takes, and how replay, look-up and start grow with the log.

The times of look-ups are the store's own. The same log is asked at each of its sizes.
"""

import math
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

from bench import replay, selective, store_limit
from bench.figure import Bound, Figure, Finding, Point, Row
from bench.question import Question, Sizes, Subject
from bench.site import Site
from bench.startup import LOADED, start_loaded

_BY_ID = "XRANGE of an id that is known"
_SEQUENCE = Row(
    "lookup/sequence",
    "look-up by sequence in 5 M, server time",
    "ms",
    (Bound(at_most=0.3),),
    {"limit": _BY_ID},
    more=False,
)
_TIME = Row(
    "lookup/time",
    "look-up by time in 5 M, server time",
    "ms",
    (Bound(at_most=0.3),),
    {"limit": _BY_ID},
    more=False,
)
# Steps of a bisection in 5 million beside those in 10 thousand are 1.67; a quarter is for noise.
_NOISE = 1.25
_GROWTH = Row(
    "lookup/growth",
    "look-up by sequence in 5 M, beside in 10 k",
    "times",
    (Bound(at_most=math.log(5_000_000) / math.log(10_000) * _NOISE),),
    more=False,
)
_REPLAY_CURVE = "replay (events/s)"
_LOOKUP_CURVE = "look-up by sequence (ms)"
_SELECTIVE_CURVE = "selective replay of 100 (ms)"
_PICKS = random.Random(1)


async def measure(subject: Subject, sizes: Sizes) -> AsyncIterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        sequence_ms: list[float] = []
        async with subject.open(data=data) as site:
            filled = 0
            for size in sizes.log_sizes:
                await replay.fill(site, filled, size)
                sequence_ms.append(_by_sequence(site, size, sizes.lookups))
                yield Point(_LOOKUP_CURVE, "playhead", size, sequence_ms[-1])
                found = await selective.last_byte_ms(site, filled, size, 5)
                yield Point(_SELECTIVE_CURVE, "playhead", size, median(found))
                rate, _ = await replay.once(site, site.dialect.replay(), size)
                yield Point(_REPLAY_CURVE, "playhead", size, rate)
                filled = size
            yield Figure(_SEQUENCE.key, "playhead", sequence_ms[-1])
            yield Figure(_GROWTH.key, "playhead", sequence_ms[-1] / sequence_ms[0])
            by_time, by_id = _by_time(site, filled, sizes.lookups)
            yield Figure(_TIME.key, "playhead", by_time)
            yield Figure(_TIME.key, "limit", by_id)
            yield Figure(_SEQUENCE.key, "limit", by_id)
        async for figure in start_loaded(subject, data):
            yield figure


def _by_sequence(site: Site, size: int, times: int) -> float:
    """ms of the function by which the gateway finds a sequence."""
    name = store_limit.function_name(site.store_url, b"at_sequence")
    numbers = (b"%d" % _PICKS.randint(1, size) for _ in range(times))
    commands = ((b"FCALL", name, b"5", *store_limit.LOG_KEYS, number) for number in numbers)
    return store_limit.usec_a_call(site.store_url, commands) / 1000


def _by_time(site: Site, size: int, times: int) -> tuple[float, float]:
    """ms of the command by which the gateway finds a time, and of reading a known id."""
    url, log = site.store_url, store_limit.LOG
    ids = store_limit.ids_of(url, max(1, size // times))
    moments = [each.partition(b"-")[0] for each in ids]
    by_time = ((b"XREVRANGE", log, each, b"-", b"COUNT", b"1") for each in moments)
    by_id = ((b"XRANGE", log, each, each) for each in ids)
    return store_limit.usec_a_call(url, by_time) / 1000, store_limit.usec_a_call(url, by_id) / 1000


QUESTION = Question(
    (_SEQUENCE, _TIME, _GROWTH, LOADED), measure, only_here="it asks the gateway's own store"
)
