"""When a cron expression is due next. Pure; all times are ms since 1970, UTC."""

import re
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGE = re.compile(r"\d{3}")


def check_cron(expression: str) -> None:
    """Raises ValueError with what is wrong with a 5-field expression."""
    if len(expression.split()) != 5:
        raise ValueError("it must have 5 cron fields")
    if _LARGE.search(expression):
        raise ValueError("no number of it has more than 2 digits")
    try:
        due = next(CronSim(expression, _EPOCH), None)
    except CronSimError as error:
        raise ValueError(str(error)) from error
    if due is None:
        raise ValueError("it is never due")


def next_due(expression: str, after_ms: int) -> int | None:
    """The first time after this one; None for '', which is never."""
    if not expression:
        return None
    after = datetime.fromtimestamp(after_ms // 1000, UTC)
    return round(next(CronSim(expression, after)).timestamp() * 1000)
