"""Whatever publishers, operators and networks do, a reader gets its part of the log, or is told."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, note, settings

from tests.properties.program import Site, Step, programs, run

ordinary = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ordinary
@given(steps=programs)
async def test_a_reader_gets_the_matching_part_of_the_log_or_is_told_of_the_gap(
    make_site: Callable[[], Site], steps: list[Step]
) -> None:
    note("\n".join(map(repr, steps)))
    await run(make_site(), steps)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(ordinary, max_examples=20_000, derandomize=False)
@given(steps=programs)
async def test_a_reader_gets_it_or_is_told_in_many_more_programs(
    make_site: Callable[[], Site], steps: list[Step]
) -> None:
    note("\n".join(map(repr, steps)))
    await run(make_site(), steps)
