"""Where a reading starts and ends: from_id, from_date, to_id, to_date (Aviso wire contract §2.1–2.3).

All four are inclusive. A limit outside what is stored is no error here: it reads nothing.
"""

import re
from typing import Final

from msgspec import Struct

from gateway.schema.errors import Fault, Rejected, clip
from gateway.schema.request import Operation, Request
from gateway.schema.times import (
    ceil_ms,
    floor_ms,
    format_rfc3339,
    parse_event_time,
    parse_instant,
)

_U64_MAX: Final = 2**64 - 1
_U64: Final = re.compile(r"\+?0*([0-9]{0,20})")


class FromSequence(Struct, frozen=True, gc=False):
    """Start at this sequence, inclusive; 0 is the beginning."""

    sequence: int


class FromTime(Struct, frozen=True, gc=False):
    """Start at the first event at or after this UTC millisecond, negative before 1970."""

    ms: int


class ToSequence(Struct, frozen=True, gc=False):
    """End at this sequence, inclusive."""

    sequence: int


class ToTime(Struct, frozen=True, gc=False):
    """End at the last event at or before this UTC millisecond, negative before 1970."""

    ms: int


Start = FromSequence | FromTime
End = ToSequence | ToTime


def read_limits(request: Request, operation: Operation) -> tuple[Start | None, End | None]:
    """Start and end of a watch or a replay, checked in the order of the contract."""
    from_id = _read_sequence("from_id", request.from_id)
    from_ns = _read_instant("from_date", request.from_date)
    if operation != "replay":
        refuse_end(request, operation)
    to_id = _read_sequence("to_id", request.to_id)
    to_ns = _read_instant("to_date", request.to_date)
    if from_id is not None and from_ns is not None:
        raise _invalid("Cannot specify both from_id and from_date. Provide only one of them.")
    if to_id is not None and to_ns is not None:
        raise _invalid("Cannot specify both to_id and to_date. Provide only one of them.")
    if operation == "replay" and from_id is None and from_ns is None:
        raise _invalid(
            "Replay endpoint requires either from_id or from_date parameter. "
            'Use from_id "0" to start at the beginning.'
        )
    if from_id is not None and to_id is not None and to_id < from_id:
        raise _invalid(f"to_id ({to_id}) must not be lower than from_id ({from_id})")
    if from_ns is not None and to_ns is not None and to_ns < from_ns:
        raise _invalid(
            f"to_date ({format_rfc3339(to_ns)}) must not be earlier than "
            f"from_date ({format_rfc3339(from_ns)})"
        )
    start = _make_start(from_id, from_ns)
    end = _make_end(to_id, to_ns)
    return start, end


def refuse_end(request: Request, operation: Operation) -> None:
    """An end is for replay only: anywhere else it would be ignored in silence."""
    if request.to_id is not None or request.to_date is not None:
        raise _invalid(
            f"to_id and to_date are only supported for the replay endpoint, not /{operation}"
        )


def read_event_time(text: str) -> int:
    """UTC milliseconds of the ``time`` of a bulk item."""
    try:
        return parse_event_time(text)
    except Fault as fault:
        raise _invalid(
            f"time must be a valid datetime. Got: '{clip(text)}'. Error: {fault.predicate}",
            fault.predicate,
        ) from None


def _make_start(sequence: int | None, ns: int | None) -> Start | None:
    if sequence is not None:
        return FromSequence(sequence)
    return None if ns is None else FromTime(ceil_ms(ns))


def _make_end(sequence: int | None, ns: int | None) -> End | None:
    if sequence is not None:
        return ToSequence(sequence)
    return None if ns is None else ToTime(floor_ms(ns))


def _read_sequence(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.strip():
        raise _invalid(f"{name} cannot be empty. Provide a sequence number.")
    match = _U64.fullmatch(text)
    if match is not None and text != "+":
        number = int(match[1] or "0")
        if number <= _U64_MAX:
            return number
    cause = "expected decimal digits of an unsigned 64-bit number"
    raise _invalid(
        f"{name} must be a valid positive integer. Got: '{clip(text)}'. Error: {cause}", cause
    )


def _read_instant(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    trimmed = text.strip()
    if not trimmed:
        raise _invalid(f"{name} cannot be empty. Provide a date-time or a unix timestamp.")
    try:
        return parse_instant(trimmed)
    except Fault as fault:
        raise _invalid(
            f"{name} must be a valid datetime/timestamp. Got: '{clip(text)}'. "
            f"Error: {fault.predicate}",
            fault.predicate,
        ) from None


def _invalid(message: str, details: str | None = None) -> Rejected:
    return Rejected("INVALID", message, details)
