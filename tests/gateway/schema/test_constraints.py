"""Every operator and every message of §7, and exact comparison of numbers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schema.constraints import AnyOf, Condition, Exactly, Interval, parse_constraint
from gateway.schema.errors import Fault
from gateway.schema.fields import (
    DateHandler,
    EnumHandler,
    ExpverHandler,
    FloatHandler,
    IntHandler,
    StringHandler,
    TextField,
    TimeHandler,
    format_float,
)
from gateway.schema.topic import encode_token

INT = IntHandler(required=False)
RANGED_INT = IntHandler(required=False, range=(0, 100))
FLOAT = FloatHandler(required=False)
RANGED_FLOAT = FloatHandler(required=False, range=(0.0, 1.5))
ENUM = EnumHandler(required=False, values=["od", "RD"])


@pytest.mark.parametrize(
    ("field", "constraint", "condition"),
    [
        (INT, '{"eq":4}', Exactly("4")),
        (INT, '{"eq":-4}', Exactly("-4")),
        (INT, '{"in":[4]}', Exactly("4")),
        (INT, '{"in":[4,5,4]}', AnyOf(frozenset({"4", "5"}))),
        (INT, '{"gt":4}', Interval(True, low=4, open=True)),
        (INT, '{"gte":4}', Interval(True, low=4)),
        (INT, '{"lt":4}', Interval(True, high=4, open=True)),
        (INT, '{"lte":4}', Interval(True, high=4)),
        (INT, '{"between":[1,4]}', Interval(True, 1, 4)),
        (INT, '{"between":[4,4]}', Interval(True, 4, 4)),
        (INT, f'{{"gte":{2**63 - 1}}}', Interval(True, low=2**63 - 1)),
        (RANGED_INT, '{"between":[0,100]}', Interval(True, 0, 100)),
        (FLOAT, '{"eq":4}', Exactly("4")),
        (FLOAT, '{"eq":4.50}', Exactly("4%2E5")),
        (FLOAT, '{"eq":-0.0}', Exactly("0")),
        (FLOAT, '{"in":[1e1,10]}', Exactly("10")),
        (FLOAT, '{"in":[0.5,10]}', AnyOf(frozenset({"0%2E5", "10"}))),
        (FLOAT, '{"gt":1e-3}', Interval(False, low=0.001, open=True)),
        (FLOAT, '{"between":[-1,1]}', Interval(False, -1.0, 1.0)),
        (RANGED_FLOAT, '{"lte":1.5}', Interval(False, high=1.5)),
        (ENUM, '{"eq":"OD"}', Exactly("od")),
        (ENUM, '{"in":["rd","od"]}', AnyOf(frozenset({"od", "rd"}))),
        (ENUM, '{"in":["rd","RD"]}', Exactly("rd")),
    ],
)
def test_an_operator_becomes_a_condition(
    field: TextField, constraint: str, condition: Condition
) -> None:
    assert parse_constraint(field, constraint.encode()) == condition


INTS = "expects integer value"
NUMS = "expects numeric value"


@pytest.mark.parametrize(
    ("field", "constraint", "sentence"),
    [
        (INT, "{}", "constraint must contain exactly one operator"),
        (INT, '{"gt":1,"lt":5}', "constraint must contain exactly one operator"),
        (
            INT,
            '{"ne":1}',
            "constraint has invalid operator 'ne'. Allowed: eq, in, gt, gte, lt, lte, between",
        ),
        (ENUM, '{"gt":"od"}', "constraint has invalid operator 'gt'. Allowed: eq, in"),
        (ENUM, '{"EQ":"od"}', "constraint has invalid operator 'EQ'. Allowed: eq, in"),
        (INT, '{"eq":"4"}', f"constraint operator 'eq' {INTS}"),
        (INT, '{"eq":4.0}', f"constraint operator 'eq' {INTS}"),
        (INT, '{"eq":1e2}', f"constraint operator 'eq' {INTS}"),
        (INT, '{"eq":true}', f"constraint operator 'eq' {INTS}"),
        (INT, '{"gt":null}', f"constraint operator 'gt' {INTS}"),
        (INT, '{"gt":[1]}', f"constraint operator 'gt' {INTS}"),
        (INT, f'{{"lt":{2**63}}}', f"constraint operator 'lt' {INTS}"),
        (INT, '{"in":4}', "constraint operator 'in' expects array of integers"),
        (INT, '{"in":[4,"5"]}', "constraint operator 'in' expects array of integers"),
        (INT, '{"in":[]}', "constraint operator 'in' must contain at least one value"),
        (INT, '{"between":4}', "constraint operator 'between' expects [min,max]"),
        (INT, '{"between":{}}', "constraint operator 'between' expects [min,max]"),
        (INT, '{"between":[1]}', "constraint operator 'between' expects exactly two values [mi"),
        (INT, '{"between":[1,2,3]}', "constraint operator 'between' expects exactly two values"),
        (INT, '{"between":[2,1]}', "constraint operator 'between' expects min <= max"),
        (INT, '{"between":[1,2.5]}', f"constraint operator 'between' {INTS}"),
        (FLOAT, '{"eq":"4"}', f"constraint operator 'eq' {NUMS}"),
        (FLOAT, '{"eq":false}', f"constraint operator 'eq' {NUMS}"),
        (FLOAT, '{"gte":1e400}', f"constraint operator 'gte' {NUMS}"),
        (FLOAT, '{"in":"4"}', "constraint operator 'in' expects array of numeric values"),
        (FLOAT, '{"in":[null]}', "constraint operator 'in' expects array of numeric values"),
        (FLOAT, '{"in":[]}', "constraint operator 'in' must contain at least one value"),
        (FLOAT, '{"between":[1.5,1.4]}', "constraint operator 'between' expects min <= max"),
        (FLOAT, '{"between":["1",2]}', f"constraint operator 'between' {NUMS}"),
        (ENUM, '{"eq":1}', "constraint operator 'eq' expects string value"),
        (ENUM, '{"in":"od"}', "constraint operator 'in' expects array of strings"),
        (ENUM, '{"in":["od",1]}', "constraint operator 'in' expects array of strings"),
        (ENUM, '{"in":[]}', "constraint operator 'in' must contain at least one value"),
        (ENUM, '{"eq":"ea"}', "has invalid value 'ea'. Allowed: [od, RD]"),
        (ENUM, '{"in":["od","ea"]}', "has invalid value 'ea'. Allowed: [od, RD]"),
        (RANGED_INT, '{"eq":101}', "constraint value 101 is outside allowed range [0, 100]"),
        (RANGED_INT, '{"in":[1,-1]}', "constraint value -1 is outside allowed range [0, 100]"),
        (RANGED_INT, '{"gt":-1}', "constraint value -1 is outside allowed range [0, 100]"),
        (RANGED_INT, '{"between":[0,101]}', "constraint value 101 is outside allowed range [0, 1"),
        (RANGED_FLOAT, '{"lt":2}', "constraint value 2 is outside allowed range [0, 1.5]"),
        *(
            (field, '{"eq":"1"}', "does not support constraint filters; expected scalar value")
            for field in (
                StringHandler(required=False),
                DateHandler(required=False),
                TimeHandler(required=False),
                ExpverHandler(required=False),
            )
        ),
    ],
)
def test_a_wrong_constraint_is_refused(field: TextField, constraint: str, sentence: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_constraint(field, constraint.encode())
    assert caught.value.predicate.startswith(sentence)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        (Interval(True, low=4, open=True), ["5", "10"], ["4", "3", "-5"]),
        (Interval(True, low=4), ["4", "10"], ["3"]),
        (Interval(True, high=4, open=True), ["3", "-10"], ["4", "40"]),
        (Interval(True, high=4), ["4"], ["5"]),
        (Interval(True, 1, 4), ["1", "4"], ["0", "5"]),
        (Interval(True, low=2**53, open=True), [str(2**53 + 1)], [str(2**53)]),
        (Interval(False, low=0.1, open=True), ["0%2E10000000000000002"], ["0%2E1"]),
        (Interval(False, 1.0, 4.5), ["1", "4%2E5"], ["0%2E9", "4%2E6"]),
        (Interval(False, high=1.0, open=True), ["0%2E5", "-3"], ["1"]),
        (Interval(True, low=0), [], ["od", "", "1%2E5", "٤x", "9" * 5000]),
        (Interval(False, low=0.0), [], ["od", "", "1%2E2%2E3", "%"]),
    ],
)
def test_an_interval_compares_numbers_and_never_raises_on_other_tokens(
    interval: Interval, inside: list[str], outside: list[str]
) -> None:
    assert [interval.holds(token.encode()) for token in inside] == [True] * len(inside)
    assert [interval.holds(token.encode()) for token in outside] == [False] * len(outside)


def test_equal_constraints_have_equal_keys() -> None:
    def key(field: TextField, constraint: str) -> object:
        return parse_constraint(field, constraint.encode()).key

    assert key(INT, '{"in":[5,4]}') == key(INT, '{"in" : [4, 5, 4]}')
    assert key(FLOAT, '{"gt":1e1}') == key(FLOAT, '{"gt":10.0}')
    assert key(INT, '{"gt":1}') != key(INT, '{"gte":1}') != key(INT, '{"lte":1}')
    assert key(INT, '{"eq":1}') != key(INT, '{"gte":1}')


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(FLOATS, FLOATS)
def test_float_constraints_agree_with_python(operand: float, value: float) -> None:
    token = encode_token(format_float(value)).encode()
    for operator, expected in {
        "gt": value > operand,
        "gte": value >= operand,
        "lt": value < operand,
        "lte": value <= operand,
    }.items():
        condition = parse_constraint(FLOAT, json.dumps({operator: operand}).encode())
        assert isinstance(condition, Interval)
        assert condition.holds(token) == expected
    equal = parse_constraint(FLOAT, json.dumps({"eq": operand}).encode())
    assert (equal == Exactly(token.decode())) == (value == operand)
