"""When a cron expression is due, in UTC."""

import pytest

from store.cron import check_cron, next_due

NOON_MS = 1_700_049_600_000  # 2023-11-15T12:00:00Z


@pytest.mark.parametrize(
    ("expression", "after_sec", "due_sec"),
    [
        ("*/15 * * * *", 0, 900),
        ("*/15 * * * *", 899.999, 900),
        ("*/15 * * * *", -0.001, 0),
        ("* * * * *", 30, 60),
        ("0 0 * * *", 0, 43_200),
        ("30 6 * * 1", 0, 4 * 86_400 + 66_600),
    ],
)
def test_the_next_time_is_the_first_after_the_one_given(
    expression: str, after_sec: float, due_sec: float
) -> None:
    assert next_due(expression, NOON_MS + round(after_sec * 1000)) == NOON_MS + due_sec * 1000


def test_without_an_expression_none_is_ever_due() -> None:
    assert next_due("", NOON_MS) is None


@pytest.mark.parametrize(
    "expression", ["* * * *", "* * * * * *", "61 * * * *", "a b c d e", "@daily", "0 0 30 2 *"]
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_cron(expression)
