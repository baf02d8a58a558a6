"""The GET form: URL parameters become the request a JSON body would have been."""

import pytest

from gateway.schema.catalog import Catalog
from gateway.schema.errors import Kind, Rejected
from gateway.schema.request import Request, request_from_params

SCHEMA: dict[str, object] = {
    "mars": {
        "identifier": {
            "class": {"type": "EnumHandler", "values": ["od", "rd"], "required": False},
            "date": {"type": "DateHandler", "required": False},
            "step": {"type": "IntHandler", "required": False},
            "level": {"type": "FloatHandler", "required": False},
            "level.gt": {"type": "StringHandler", "required": False},
            "polygon": {"type": "PolygonHandler", "required": False},
        }
    },
    "quake": {"identifier": {"point_cloud": {"type": "PointCloudHandler", "required": False}}},
}
OPEN = Catalog.parse(SCHEMA, False)
STRICT = Catalog.parse(SCHEMA, True)


def read(*params: tuple[str, str], catalog: Catalog = OPEN) -> Request:
    return request_from_params(params, "replay", catalog)


def read_identifier(event_type: str, *params: tuple[str, str]) -> dict[str, str]:
    request = read(("event_type", event_type), *params)
    return {name: bytes(raw).decode() for name, raw in request.identifier.items()}


def test_limits_are_read_as_text() -> None:
    request = read(
        ("event_type", "mars"),
        ("from_id", "5"),
        ("from_date", "6"),
        ("to_id", "7"),
        ("to_date", ""),
    )
    assert (request.from_id, request.from_date, request.to_id, request.to_date) == (
        "5",
        "6",
        "7",
        "",
    )
    assert request.identifier == {}


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("class", "od", "class", '"od"'),
        ("step", "4", "step", '"4"'),
        ("date", "2025-01-01", "date", '"2025-01-01"'),
        ("step.eq", "4", "step", '{"eq":4}'),
        ("step.gt", "-4", "step", '{"gt":-4}'),
        ("step.gte", "0004", "step", '{"gte":4}'),
        ("step.lt", " 4", "step", '{"lt":4}'),
        ("step.lte", "4.0", "step", '{"lte":"4.0"}'),
        ("step.in", "1,2, 3", "step", '{"in":[1,2,3]}'),
        ("step.in", "", "step", '{"in":[""]}'),
        ("step.between", "1,5", "step", '{"between":[1,5]}'),
        ("step.near", "1", "step", '{"near":1}'),
        ("level.lt", "1.50", "level", '{"lt":1.5}'),
        ("level.lte", "1e3", "level", '{"lte":1000}'),
        ("level.eq", "x", "level", '{"eq":"x"}'),
        ("level.eq", "nan", "level", '{"eq":"nan"}'),
        ("level.between", "-1,1e-2", "level", '{"between":[-1,0.01]}'),
        ("level.gt", "any", "level.gt", '"any"'),
        ("class.eq", "OD", "class", '{"eq":"OD"}'),
        ("class.in", "od,rd", "class", '{"in":["od","rd"]}'),
        ("date.gt", "20250101", "date", '{"gt":"20250101"}'),
        ("polygon", "(0,0,0,1,1,1,0,0)", "polygon", '"(0,0,0,1,1,1,0,0)"'),
        ("polygon.in", "0,0", "polygon", '{"in":["0","0"]}'),
        ("point", "1,2", "point", '"1,2"'),
        ("point.gt", "1", "point.gt", '"1"'),
        ("other", "1", "other", '"1"'),
        ("other.gt", "1", "other.gt", '"1"'),
        ('a"b\\', "\n", 'a"b\\', '"\\n"'),
    ],
)
def test_an_operand_gets_the_json_type_its_field_needs(
    name: str, text: str, field: str, value: str
) -> None:
    assert read_identifier("mars", (f"identifier.{name}", text)) == {field: value}


def test_two_operators_on_a_field_make_one_object_that_the_constraint_check_refuses() -> None:
    values = read_identifier("mars", ("identifier.step.gte", "1"), ("identifier.step.lte", "5"))
    assert values == {"step": '{"gte":1,"lte":5}'}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("step", "step", '"4"'),
        ("a.b", "a.b", '"4"'),
        ("step.gt", "step", '{"gt":"4"}'),
        ("a.b.in", "a.b", '{"in":["4"]}'),
    ],
)
def test_without_schema_a_known_operator_is_a_constraint_which_is_refused_later(
    name: str, field: str, value: str
) -> None:
    assert read_identifier("other", (f"identifier.{name}", "4")) == {field: value}


def test_a_polygon_filters_a_cloud() -> None:
    assert read_identifier("quake", ("identifier.polygon", "1")) == {"polygon": '"1"'}


def test_parameters_of_others_are_skipped_however_often_they_come() -> None:
    params = [
        ("last_event_id", "5-a"),
        ("ticket", "t"),
        ("ticket", "u"),
        ("last_event_id", ""),
        ("event_type", "mars"),
    ]
    request = request_from_params(params, "watch", OPEN, ignored=frozenset({"ticket"}))
    assert request == Request(event_type="mars", identifier={})


ALLOWED = (
    "[event_type, identifier.<field>, identifier.<field>.<operator>, "
    "from_id, from_date, to_id, to_date, last_event_id]"
)


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        (
            [("event_type", "mars"), ("color", "red")],
            "UNKNOWN_FIELD",
            "Request contains unknown fields: "
            f"Unknown field 'color' in request. Allowed fields: {ALLOWED}",
        ),
        ([("payload", "1")], "UNKNOWN_FIELD", "Request contains unknown fields: Unknown field 'pa"),
        ([("identifier.", "1")], "UNKNOWN_FIELD", "Request contains unknown fields: Unknown field"),
        ([("identifier", "{}")], "UNKNOWN_FIELD", "Request contains unknown fields: Unknown field"),
        ([("class", "od")], "UNKNOWN_FIELD", "Request contains unknown fields: Unknown field 'cl"),
        (
            [("from_id", "1"), ("from_id", "1"), ("event_type", "mars")],
            "INVALID_REQUEST_SHAPE",
            "Request deserialization failed: parameter 'from_id' is given more than once",
        ),
        (
            [("event_type", "mars"), ("identifier.a", "1"), ("identifier.a", "2")],
            "INVALID_REQUEST_SHAPE",
            "Request deserialization failed: parameter 'identifier.a' is given more than once",
        ),
        ([], "INVALID_REQUEST_SHAPE", "Request deserialization failed: missing field 'event_type'"),
        (
            [("event_type", "mars"), ("identifier.a", "\udcff")],
            "INVALID_REQUEST_SHAPE",
            "Request deserialization failed: a parameter is not valid Unicode",
        ),
        (
            [("\udcff", "a")],
            "INVALID_REQUEST_SHAPE",
            "Request deserialization failed: a parameter is not valid Unicode",
        ),
        ([("event_type", "a@b")], "INVALID", "event_type must not contain '@'. Got: 'a@b'"),
        (
            [("event_type", "mars"), ("identifier.step", "4"), ("identifier.step.gt", "4")],
            "INVALID",
            "Field 'step' is given both as a value and as a constraint",
        ),
    ],
)
def test_wrong_parameters_are_refused(
    params: list[tuple[str, str]], kind: Kind, message: str
) -> None:
    with pytest.raises(Rejected) as caught:
        read(*params)
    assert caught.value.kind == kind
    assert caught.value.message.startswith(message)


def test_an_unknown_event_type_is_refused_when_strict() -> None:
    with pytest.raises(Rejected) as caught:
        read(("event_type", "x"), ("identifier.a.gt", "1"), catalog=STRICT)
    assert caught.value.kind == "UNKNOWN_EVENT_TYPE"
    assert caught.value.configured_event_types == ("mars", "quake")


def test_a_watch_is_not_advised_to_name_an_end() -> None:
    with pytest.raises(Rejected) as caught:
        request_from_params([("color", "red")], "watch", OPEN)
    assert caught.value.details.endswith("from_id, from_date, last_event_id]")
