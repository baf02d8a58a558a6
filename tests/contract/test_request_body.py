"""Aviso wire contract §2 and §4: the body that publish, watch and replay share, in order of checks."""

from typing import Any

import pytest

from tests.contract.api import LABELS, NOTIFICATION, PATHS, REPLAY, WATCH, Api, assert_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALLOWED = "[event_type, identifier, from_id, from_date, to_id, to_date, payload]"
NOTE: dict[str, Any] = {"event_type": "note", "identifier": {"author": "ada"}}
# What each endpoint needs besides.
START: dict[str, dict[str, object]] = {"notification": {}, "watch": {}, "replay": {"from_id": "1"}}

operations = pytest.mark.parametrize("operation", ["notification", "watch", "replay"])


@operations
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"   ", b"{", b"{]", b"nope", b"'single'", b'{"event_type":"note",}'),
        *(
            b'{"a":1} trailing',
            b"{'event_type':'note'}",
            b'{"a":NaN}',
            b'{"a":01}',
            b"\xef\xbb\xbf{}",
        ),
        *(b'{"event_type":"\xff","identifier":{}}', b'{"a":"\\ud800"}', b'{"a":"tab\there"}'),
        *(b"[" * 100_000, b'{"payload":' + b"[" * 200 + b"]" * 200 + b"}", b"\x00"),
    ],
    ids=lambda content: repr(content[:24]),
)
async def test_what_is_no_json_is_invalid_json(api: Api, operation: str, content: bytes) -> None:
    response = await api.post(PATHS[operation], content=content)
    body = assert_error(response, 400, "INVALID_JSON", LABELS[operation])
    assert body["message"].startswith("JSON parsing failed: ")
    assert body["message"].endswith(body["details"])
    assert set(body) == {"code", "error", "message", "details", "request_id"}


@operations
@pytest.mark.parametrize("name", ["x", "Event_type", "time", "from_Id", "", "sequence"])
async def test_an_unknown_top_level_key_is_named(api: Api, operation: str, name: str) -> None:
    response = await api.post(PATHS[operation], {**NOTE, **START[operation], name: None})
    body = assert_error(response, 400, "UNKNOWN_FIELD", LABELS[operation])
    assert body["details"] == f"Unknown field '{name}' in request. Allowed fields: {ALLOWED}"
    assert body["message"] == f"Request contains unknown fields: {body['details']}"


@operations
@pytest.mark.parametrize(
    "content",
    [
        *("[]", "null", "1", '"text"', "true", "{}"),
        *('{"event_type":"note"}', '{"identifier":{}}'),
        *('{"event_type":1,"identifier":{}}', '{"event_type":null,"identifier":{}}'),
        *('{"event_type":["note"],"identifier":{}}', '{"event_type":"note","identifier":null}'),
        *('{"event_type":"note","identifier":[]}', '{"event_type":"note","identifier":"x"}'),
        *(
            f'{{"event_type":"note","identifier":{{}},"{name}":{value}}}'
            for name in ("from_id", "from_date", "to_id", "to_date")
            for value in ("1", "1.5", "true", "[]", "{}")
        ),
    ],
)
async def test_a_missing_or_wrong_typed_field_is_an_invalid_shape(
    api: Api, operation: str, content: str
) -> None:
    response = await api.post(PATHS[operation], content=content)
    body = assert_error(response, 400, "INVALID_REQUEST_SHAPE", LABELS[operation])
    assert body["message"] == f"Request deserialization failed: {body['details']}"


@pytest.mark.parametrize("name", ["from_id", "from_date", "to_id", "to_date", "payload"])
async def test_a_null_is_as_if_left_out(api: Api, name: str) -> None:
    assert (await api.post(NOTIFICATION, {**NOTE, name: None})).status_code == 200
    async with api.stream(WATCH, {**NOTE, name: None}) as stream:
        assert (await stream.next()).kind == "connection_established"


async def test_publishing_ignores_the_start_of_a_reading(api: Api) -> None:
    for name in ("from_id", "from_date"):
        response = await api.post(NOTIFICATION, {**NOTE, name: "no such thing"})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("payload", [1, "text", {"a": [1]}, [None], False])
async def test_a_reading_ignores_a_payload(api: Api, payload: object) -> None:
    await api.publish(payload={"kept": 1})
    for path, start in ((WATCH, {"from_id": "1"}), (REPLAY, {"from_id": "1"})):
        async with api.stream(path, {**NOTE, **start, "payload": payload}) as stream:
            assert (await stream.notification()).data["data"]["payload"] == {"kept": 1}


@pytest.mark.parametrize("operation", ["notification", "watch"])
@pytest.mark.parametrize("name", ["to_id", "to_date"])
async def test_an_end_is_for_replay_only(api: Api, operation: str, name: str) -> None:
    response = await api.post(PATHS[operation], {**NOTE, name: "5"})
    body = assert_error(response, 400, f"INVALID_{operation.upper()}_REQUEST", LABELS[operation])
    assert body["message"] == (
        f"to_id and to_date are only supported for the replay endpoint, not /{operation}"
    )


async def test_of_a_key_given_twice_the_last_one_counts(api: Api) -> None:
    content = '{"event_type":1,"event_type":"note","identifier":{"author":"a","author":"b"}}'
    response = await api.post(NOTIFICATION, content=content)
    assert response.status_code == 200, response.text
    [*_, note] = [frame for frame in await api.replay() if frame.is_notification]
    assert note.data["data"]["identifier"] == {"author": "b"}


# Each body fails one check more than the next: the first one decides.
@operations
async def test_the_checks_are_made_in_order(api: Api, operation: str) -> None:
    path = PATHS[operation]
    unknown_key = '{"event_type":1,"x":1,"identifier":[],"from_id":1}'
    wrong_shape = '{"event_type":"","identifier":[]}'
    await _expect(api, path, unknown_key + "x", "INVALID_JSON")
    await _expect(api, path, unknown_key, "UNKNOWN_FIELD")
    await _expect(api, path, wrong_shape, "INVALID_REQUEST_SHAPE")
    invalid = f"INVALID_{operation.upper()}_REQUEST"
    await _expect(api, path, '{"event_type":"","identifier":{"a":null}}', invalid)


async def _expect(api: Api, path: str, content: str, code: str) -> None:
    assert_error(await api.post(path, content=content), 400, code)


@pytest.mark.parametrize("operation", ["watch", "replay"])
async def test_a_reading_is_validated_in_order(api: Api, operation: str) -> None:
    """§2: spatial rules, from_id, from_date, both given, start missing, identifier fields."""
    path, code = PATHS[operation], f"INVALID_{operation.upper()}_REQUEST"
    both = {"polygon": "x", "point": "y"}
    steps: list[tuple[dict[str, Any], str]] = [
        (
            {"identifier": both | {"no": 1}, "from_id": "x", "from_date": "x"},
            "Cannot specify both identifier",
        ),
        (
            {"identifier": {"point": "y", "no": 1}, "from_id": "x", "from_date": "x"},
            "identifier.point must be",
        ),
        ({"identifier": {"no": 1}, "from_id": "x", "from_date": "x"}, "from_id must be"),
        ({"identifier": {"no": 1}, "from_id": "1", "from_date": "x"}, "from_date must be"),
        (
            {"identifier": {"no": 1}, "from_id": "1", "from_date": "1"},
            "Cannot specify both from_id",
        ),
        ({"identifier": {"no": 1}, "from_id": "1"}, "Unknown field 'no' provided for"),
    ]
    if operation == "replay":
        steps.insert(5, ({"identifier": {"no": 1}}, "Replay endpoint requires"))
        both_starts = {"identifier": {"no": 1}, "from_id": "1", "from_date": "1"}
        steps[4:4] = [
            ({**both_starts, "to_id": "x", "to_date": "x"}, "to_id must be"),
            ({**both_starts, "to_id": "1", "to_date": "x"}, "to_date must be"),
        ]
        no_field = {"identifier": {"no": 1}}
        steps.insert(7, ({**no_field, "to_id": "1", "to_date": "1"}, "Cannot specify both to_id"))
    else:
        both_kinds = {"identifier": {"no": 1}, "from_id": "1", "from_date": "1", "to_id": "x"}
        steps.insert(4, (both_kinds, "to_id and to_date are only supported for the replay"))
    for body, beginning in steps:
        response = await api.post(path, {"event_type": "area", **body})
        found = assert_error(response, 400, code, LABELS[operation])
        assert found["message"].startswith(beginning), (body, found)
