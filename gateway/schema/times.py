"""Instants of requests (Aviso wire contract §2.2): text to nanoseconds since 1970 UTC and back.

Nanoseconds are integers, so 1500 and 2300 are ordinary and nothing is rounded; a fraction of any
length is cut after nine digits. Years 1 to 9999 UTC.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.schema.errors import Fault, clip

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_S: Final = -62_135_596_800  # 0001-01-01T00:00:00Z
_MAX_S: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_MAX_MS: Final = _MAX_S * 1000 + 999
_SECONDS_DIGITS: Final = 11  # a unix time of 12 or more digits is milliseconds
_LONGEST_UNIX: Final = 18

_UNIX: Final = re.compile(r"\+?([0-9]+)")
_NEGATIVE: Final = re.compile(r"-[0-9]+")
_DATE_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


def parse_instant(text: str) -> int:
    """Nanoseconds since 1970 UTC of a unix time or a date-time; without an offset it is UTC.

    Raises Fault with the innermost cause.
    """
    unix = _UNIX.fullmatch(text)
    if unix:
        return _parse_unix(unix[1])
    if _NEGATIVE.fullmatch(text):
        raise Fault("negative unix timestamps are not supported")
    return _parse_date_time(text)


def parse_event_time(text: str) -> int:
    """Milliseconds since 1970 UTC of the ``time`` of a published event, cut to the millisecond.

    Raises Fault when it has no offset or is not in the years 1970 to 9999.
    """
    match = _DATE_TIME.fullmatch(text)
    if match is None or match[8] is None:
        raise Fault("expected an RFC 3339 date-time with an offset, like 2026-02-25T12:00:00Z")
    ns = _parse_date_time(text)
    if ns < 0:
        raise Fault("it is before 1970-01-01T00:00:00Z")
    return ns // NS_PER_MS


def ceil_ms(ns: int) -> int:
    """The first whole millisecond at or after: where a reading that starts at ``ns`` begins."""
    return min(-(-ns // NS_PER_MS), _MAX_MS)


def floor_ms(ns: int) -> int:
    """The last whole millisecond at or before: where a reading that ends at ``ns`` stops."""
    return ns // NS_PER_MS


def format_rfc3339(ns: int) -> str:
    """``2026-02-25T12:00:00+00:00``, with 3, 6 or 9 digits of fraction when there is one."""
    seconds, fraction = divmod(ns, NS_PER_S)
    digits = f"{fraction:09}" if fraction else ""
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{_format_seconds(seconds)}{'.' if digits else ''}{digits}+00:00"


def format_seconds(ms: int) -> str:
    """``2026-02-25T12:00:00Z``: how frames other than notifications show an instant (§5)."""
    return f"{_format_seconds(ms // 1000)}Z"


def _format_seconds(seconds: int) -> str:
    # strftime leaves out the leading zeros of years before 1000; isoformat keeps them.
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def _parse_unix(digits: str) -> int:
    significant = digits.lstrip("0")
    if len(significant) > _LONGEST_UNIX:
        raise Fault("the unix timestamp is after the year 9999")
    value = int(significant or "0")
    ns = value * (NS_PER_S if len(significant) <= _SECONDS_DIGITS else NS_PER_MS)
    if ns // NS_PER_S > _MAX_S:
        raise Fault("the unix timestamp is after the year 9999")
    return ns


def _parse_date_time(text: str) -> int:
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise Fault(
            "expected RFC 3339 (2026-02-25T12:00:00Z), YYYY-MM-DD HH:MM:SS with or without "
            "an offset, or a unix timestamp in seconds or milliseconds"
        )
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    leap = second == 60  # chrono reads a leap second as the one after :59
    try:
        local = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    except ValueError as error:
        raise Fault(f"no such date or time: {error}") from None
    since = local - _EPOCH
    seconds = since.days * 86_400 + since.seconds + leap - _parse_offset(match[8])
    if not _MIN_S <= seconds <= _MAX_S:
        raise Fault("it is not in the years 1 to 9999 UTC")
    fraction = (match[7] or "")[:9]
    return seconds * NS_PER_S + int(fraction.ljust(9, "0"))


def _parse_offset(text: str | None) -> int:
    if text is None or text in "Zz":
        return 0
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise Fault(f"no such offset: {clip(text)}")
    seconds = hours * 3600 + minutes * 60
    return -seconds if text[0] == "-" else seconds
