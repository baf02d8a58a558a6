"""What people see of an event."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.terminal import describe_event, escape

TIME = "2026-02-25T12:00:00.123Z"


def event(identifier: dict[str, object], payload: object = None) -> str:
    content = {"id": "e@7", "time": TIME, "data": {"identifier": identifier, "payload": payload}}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def test_a_line_is_time_id_identifier_and_payload() -> None:
    line = describe_event(event({"region": "north", "severity": "4"}, {"note": "é"}))
    assert line == f'{TIME} e@7 region=north severity=4 {{"note":"é"}}'


def test_no_payload_is_left_out() -> None:
    assert describe_event(event({})) == f"{TIME} e@7"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a b", '"a b"'),
        ("", '""'),
        ('"', '"\\""'),
        ([[1.5, 2]], "[[1.5,2]]"),
        ("\x1b[31m", '"\\u001b[31m"'),
    ],
)
def test_a_value_that_is_no_plain_word_is_shown_as_json(value: object, shown: str) -> None:
    assert describe_event(event({"a": value})) == f"{TIME} e@7 a={shown}"


def test_nothing_an_event_holds_commands_the_terminal() -> None:
    """U+009B starts a control sequence, and JSON lets it through as it is."""
    line = describe_event(event({"a": "\x9b31m"}, {"\x9b2J": "\u202egnp.exe"}))
    assert line == f'{TIME} e@7 a="\\u009b31m" {{"\\u009b2J":"\\u202egnp.exe"}}'


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaping_leaves_json_the_same_json(text: str) -> None:
    written = json.dumps({text: text}, ensure_ascii=False)
    assert escape(written).isprintable()
    assert json.loads(escape(written)) == {text: text}
