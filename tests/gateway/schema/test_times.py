"""Every form of §2.2, years far from ours, fractions of any length, and the way back to text."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.errors import Fault
from gateway.schema.times import (
    ceil_ms,
    floor_ms,
    format_rfc3339,
    format_seconds,
    parse_event_time,
    parse_instant,
)

S = 1_000_000_000
MS = 1_000_000
NOON = 1_772_020_800 * S  # 2026-02-25T12:00:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("+0", 0),
        ("1772020800", NOON),
        ("+1772020800", NOON),
        ("0000001772020800", NOON),
        ("00000000000000000000000000000005", 5 * S),
        ("99999999999", 99_999_999_999 * S),
        ("100000000000", 100_000_000_000 * MS),
        ("1772020800123", NOON + 123 * MS),
        ("2026-02-25T12:00:00Z", NOON),
        ("2026-02-25t12:00:00z", NOON),
        ("2026-02-25 12:00:00Z", NOON),
        ("2026-02-25T14:30:00+02:30", NOON),
        ("2026-02-25T09:30:00-02:30", NOON),
        ("2026-02-25T12:00:00-00:00", NOON),
        ("2026-02-25 14:00:00+02:00", NOON),
        ("2026-02-25 14:00:00.25+02:00", NOON + 250 * MS),
        ("2026-02-25T12:00:00", NOON),
        ("2026-02-25 12:00:00", NOON),
        ("2026-02-25T12:00:00.5", NOON + 500 * MS),
        ("2026-02-25T12:00:00.1Z", NOON + 100 * MS),
        ("2026-02-25T12:00:00.123456789Z", NOON + 123_456_789),
        ("2026-02-25T12:00:00.1234567899999999999999Z", NOON + 123_456_789),
        ("2026-02-25T12:00:00." + "0" * 5000 + "Z", NOON),
        ("2016-12-31T23:59:60Z", 1_483_228_800 * S),
        ("1500-01-01T00:00:00Z", -14_831_769_600 * S),
        ("2300-01-01T00:00:00Z", 10_413_792_000 * S),
        ("0001-01-01T00:00:00Z", -62_135_596_800 * S),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799 * S + 999 * MS),
        ("1969-12-31T23:59:59.5Z", -500 * MS),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * S),
    ],
)
def test_every_accepted_form_is_read(text: str, ns: int) -> None:
    assert parse_instant(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-25",
        "yesterday",
        "now",
        "",
        "+",
        "1.5",
        "1e9",
        "2026-02-25T12:00",
        "2026-02-25T12:00:00.",
        "2026-02-25T12:00:00,5Z",
        "2026-02-25T12:00:00+0200",
        "2026-02-25T12:00:00 02:00",
        "2026-02-25T12:00:00 Z",
        "2026-2-25T12:00:00Z",
        "2026-02-25_12:00:00Z",
        "12026-02-25T12:00:00Z",
        "٢٠٢٦-02-25T12:00:00Z",
        "2026-02-25T12:00:00Z\n",
        "-1.5",
    ],
)
def test_other_forms_are_refused_with_the_forms_that_work(text: str) -> None:
    with pytest.raises(Fault, match="expected RFC 3339"):
        parse_instant(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-5", "negative unix timestamps are not supported"),
        ("-0", "negative unix timestamps are not supported"),
        ("9" * 18, "the unix timestamp is after the year 9999"),
        ("9" * 19, "the unix timestamp is after the year 9999"),
        ("9" * 5000, "the unix timestamp is after the year 9999"),
        ("253402300800000", "the unix timestamp is after the year 9999"),
        ("2025-02-29T00:00:00Z", "no such date or time"),
        ("2025-13-01T00:00:00Z", "no such date or time"),
        ("0000-01-01T00:00:00Z", "no such date or time"),
        ("2025-01-01T24:00:00Z", "no such date or time"),
        ("2025-01-01T00:60:00Z", "no such date or time"),
        ("2025-01-01T00:00:61Z", "no such date or time"),
        ("2025-01-01T00:00:00+24:00", "no such offset: \\+24:00"),
        ("2025-01-01T00:00:00-00:60", "no such offset: -00:60"),
        ("0001-01-01T00:00:00+00:01", "not in the years 1 to 9999"),
        ("9999-12-31T23:59:59-00:01", "not in the years 1 to 9999"),
    ],
)
def test_what_is_no_instant_is_refused_with_its_cause(text: str, sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        parse_instant(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2018-01-31T01:49:59.650Z", 1_517_363_399_650),
        ("2018-01-31T01:49:59.6509999Z", 1_517_363_399_650),
        ("2018-01-31T02:49:59+01:00", 1_517_363_399_000),
        ("1970-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_the_time_of_an_event_is_cut_to_the_millisecond(text: str, ms: int) -> None:
    assert parse_event_time(text) == ms


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2018-01-31T01:49:59", "with an offset"),
        ("1517363399650", "with an offset"),
        ("soon", "with an offset"),
        ("1969-12-31T23:59:59.999Z", "before 1970"),
        ("1970-01-01T00:00:00+00:01", "before 1970"),
        ("9999-12-31T23:59:59-01:00", "not in the years 1 to 9999"),
        ("10000-01-01T00:00:00Z", "with an offset"),
        ("2018-02-30T00:00:00Z", "no such date"),
    ],
)
def test_the_time_of_an_event_needs_an_offset_and_a_year_from_1970_to_9999(
    text: str, sentence: str
) -> None:
    with pytest.raises(Fault, match=sentence):
        parse_event_time(text)


@pytest.mark.parametrize(
    ("ns", "first", "last"),
    [
        (0, 0, 0),
        (1, 1, 0),
        (MS, 1, 1),
        (MS + 1, 2, 1),
        (-1, 0, -1),
        (-MS, -1, -1),
        (253_402_300_799 * S + 999_999_999, 253_402_300_799_999, 253_402_300_799_999),
    ],
)
def test_a_start_rounds_up_and_an_end_down_so_that_both_stay_inclusive(
    ns: int, first: int, last: int
) -> None:
    assert (ceil_ms(ns), floor_ms(ns)) == (first, last)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (NOON, "2026-02-25T12:00:00+00:00"),
        (NOON + 500 * MS, "2026-02-25T12:00:00.500+00:00"),
        (NOON + 1000, "2026-02-25T12:00:00.000001+00:00"),
        (NOON + 1, "2026-02-25T12:00:00.000000001+00:00"),
        (-14_831_769_600 * S, "1500-01-01T00:00:00+00:00"),
        (-62_135_596_800 * S, "0001-01-01T00:00:00+00:00"),
    ],
)
def test_an_instant_in_a_message_has_0_3_6_or_9_digits_of_fraction(ns: int, text: str) -> None:
    assert format_rfc3339(ns) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_517_363_399_650, "2018-01-31T01:49:59Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59Z"),
    ],
)
def test_an_instant_in_a_frame_is_cut_to_seconds(ms: int, text: str) -> None:
    assert format_seconds(ms) == text


MOMENTS = st.datetimes(
    min_value=datetime(2, 1, 1),
    max_value=datetime(9998, 12, 31),
    timezones=st.builds(
        lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-1439, 1439)
    ),
)


@given(MOMENTS, st.sampled_from("Tt "))
def test_any_moment_in_any_offset_reads_as_the_same_instant(moment: datetime, between: str) -> None:
    expected = (moment - EPOCH) // timedelta(microseconds=1) * 1000
    assert parse_instant(moment.isoformat(sep=between)) == expected
    assert parse_instant(moment.astimezone(UTC).replace(tzinfo=None).isoformat()) == expected
    assert parse_instant(format_rfc3339(expected)) == expected


@given(st.text(max_size=40))
def test_no_text_makes_the_parser_fail_in_another_way(text: str) -> None:
    for read in (parse_instant, parse_event_time):
        with suppress(Fault):
            assert isinstance(read(text), int)
