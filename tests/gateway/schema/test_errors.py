"""Sentences that reach clients: echoed values stay short, details never go missing."""

from gateway.schema.errors import Fault, Rejected, SchemaError, clip


def test_a_short_value_is_echoed_whole() -> None:
    assert clip("x" * 200) == "x" * 200


def test_a_long_value_is_cut_so_that_a_message_cannot_be_made_huge() -> None:
    assert clip("x" * 10_000) == "x" * 200 + "…"


def test_details_are_the_message_when_there_is_no_inner_cause() -> None:
    rejected = Rejected("INVALID", "it is wrong")
    assert (rejected.kind, rejected.message, rejected.details) == (
        "INVALID",
        "it is wrong",
        "it is wrong",
    )
    assert rejected.configured_event_types == ()
    assert str(rejected) == "it is wrong"


def test_details_are_the_inner_cause_when_there_is_one() -> None:
    assert Rejected("INVALID_JSON", "JSON parsing failed: x", "x").details == "x"


def test_every_refusal_is_a_value_error() -> None:
    assert all(issubclass(kind, ValueError) for kind in (Fault, Rejected, SchemaError))
