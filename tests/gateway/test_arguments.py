"""What is typed becomes what the gateway is asked; what cannot be meant is said."""

import json

import pytest

from gateway.arguments import UsageError, build_notification, build_params


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("severity>=4", "severity.gte", "4"),
        ("severity <= 4", "severity.lte", "4"),
        ("severity>4", "severity.gt", "4"),
        (" depth_km < -2.5 ", "depth_km.lt", "-2.5"),
        ("region=north", "region", "north"),
        ("region==north", "region", "north"),
        ("severity.between=2,4", "severity.between", "2,4"),
        ("region.in=north,south", "region.in", "north,south"),
        ("note=a>=b", "note", "a>=b"),
    ],
)
def test_a_comparison_is_a_parameter(typed: str, name: str, value: str) -> None:
    assert build_params("e", {}, [], [typed])[1:] == [(f"identifier.{name}", value)]


@pytest.mark.parametrize("typed", ["", "severity", "severity>=", ">=4", "a!=b", "a=>b", "a==="])
def test_what_compares_nothing_is_said(typed: str) -> None:
    with pytest.raises(UsageError) as failure:
        build_params("e", {}, [], [typed])
    assert str(failure.value).startswith("--where must be ")
    assert str(failure.value).endswith(f"got '{typed}'")


def test_the_rest_is_handed_on_as_typed() -> None:
    assert build_params(
        "quake",
        {"from_id": "0", "from_date": None, "to_id": "x"},
        ["polygon=1,2,3", "empty=", "a=b=c"],
        [],
    ) == [
        ("event_type", "quake"),
        ("from_id", "0"),
        ("to_id", "x"),
        ("identifier.polygon", "1,2,3"),
        ("identifier.empty", ""),
        ("identifier.a", "b=c"),
    ]


@pytest.mark.parametrize("typed", ["", "north", "=north"])
def test_an_identifier_without_a_name_is_said(typed: str) -> None:
    with pytest.raises(UsageError, match=f"must be field=value, got '{typed}'"):
        build_params("e", {}, [typed], [])
    with pytest.raises(UsageError, match=f"must be field=text or field:=JSON, got '{typed}'"):
        build_notification("e", [typed], None)


def test_a_notification_has_text_and_json() -> None:
    typed = ["region=north", "step:=4", "cloud:=[[1.50,2]]", "n=4", "a=x:=y", "empty="]
    body = build_notification("e", typed, '{"b": 1.0}')
    assert json.loads(body) == {
        "event_type": "e",
        "identifier": {
            "region": "north",
            "step": 4,
            "cloud": [[1.5, 2]],
            "n": "4",
            "a": "x:=y",
            "empty": "",
        },
        "payload": {"b": 1.0},
    }
    assert b"[[1.50,2]]" in body, "numbers are sent as they were typed"


def test_a_notification_without_payload_names_none() -> None:
    assert json.loads(build_notification("e", [], None)) == {"event_type": "e", "identifier": {}}


@pytest.mark.parametrize("text", ["", "{", "nope", "1 2"])
def test_what_is_no_json_is_said(text: str) -> None:
    with pytest.raises(UsageError, match=r"--payload is not JSON: .*got '"):
        build_notification("e", [], text)
    with pytest.raises(UsageError, match=r"--identifier a is not JSON: .*got '"):
        build_notification("e", [f"a:={text}"], None)


def test_a_field_given_twice_is_said() -> None:
    with pytest.raises(UsageError, match="has the field 'a' twice"):
        build_notification("e", ["a=1", "a:=2"], None)
