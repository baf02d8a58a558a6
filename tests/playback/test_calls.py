"""The playback contract's table of calls, row by row: answers, errors, codes."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Start
from tests.playback.conftest import House
from tests.playback.controls import END, NOBODY, START, Controls, done, moment, refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

INVALID = "INVALID_SESSION_REQUEST"
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z")
VERBS = [("start", {}), ("stop", {}), ("end", {}), ("seek", {"timestamp": START})]
BODIES = [
    ("POST", "/v1/replay/init", {"replay_requested_timestamp": START}),
    *(("PUT", f"/v1/replay/{NOBODY}/{verb}", body) for verb, body in VERBS),
    ("POST", "/v1/replay/reset", {}),
    ("PUT", "/v1/configuration/snapshot-interval", {"snapshot_interval": ""}),
    ("PUT", "/v1/configuration/snapshot-list-tables", {"list_tables": ""}),
]


# -- what a session is


async def test_init_creates_a_session_and_says_where_it_is(controls: Controls) -> None:
    response = await controls.init()
    session = done(response, 201)
    assert response.headers["location"] == f"/v1/replay/{session['id']}"
    assert str(UUID(session.pop("id"))) == response.json()["data"]["id"]
    assert session == {
        "tenant_id": controls.tenant,
        "status": "MSG_INIT_OK",
        "display_status": "REPLAY_INIT_OK",
        "replay_start_timestamp": START,
        "replay_end_timestamp": END,
        "replay_last_timestamp": START,
        "replay_speed": 1,
        "event_types": [],
        "error": None,
    }


async def test_answers_say_when_they_were_sent(controls: Controls) -> None:
    for response in (await controls.init(), await controls.reset(), await controls.reset()):
        sent = response.json()["sent_at"]
        assert _TIME.fullmatch(sent)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(sent)).total_seconds()) < 10


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2018-02-06T01:00:00+01:00", "2018-02-06T03:00:00.0004+02:00"),
        ("2018-02-06t00:00:00z", "2018-02-05T19:00:00.000000001-06:00"),
        ("2018-02-06T00:00:00.0009999Z", "2018-02-06T01:00:00.0009Z"),
    ],
)
async def test_times_are_answered_in_utc_with_milliseconds(
    controls: Controls, start: str, end: str
) -> None:
    session = await controls.begin(start, end)
    assert session["replay_start_timestamp"] == START
    assert session["replay_last_timestamp"] == START
    assert session["replay_end_timestamp"] == END


async def test_without_an_end_a_session_takes_two_hours(controls: Controls) -> None:
    session = await controls.begin(end=None)
    assert session["replay_end_timestamp"] == moment(7200)


async def test_event_types_are_all_that_the_tenant_has_or_those_asked_for(
    controls: Controls,
) -> None:
    for event_type in ("zebra", "reading", "ant"):
        await controls.record([1], event_type)
    assert (await controls.begin())["event_types"] == ["ant", "reading", "zebra"]
    await controls.reset()
    session = await controls.begin(event_types=["zebra", "ant", "zebra"])
    assert session["event_types"] == ["ant", "zebra"]
    await controls.reset()
    # Known by its schema, though nothing was ever published: a quiet one.
    assert (await controls.begin(event_types=["reading"]))["event_types"] == ["reading"]


@pytest.mark.parametrize("wanted", [[], ["ant", "unknown"], [""]])
async def test_event_types_that_nobody_knows_are_refused(
    controls: Controls, wanted: list[str]
) -> None:
    await controls.record([1], "ant")
    found = refused(await controls.init(event_types=wanted), 400, INVALID)
    assert "event_types" in found["message"]
    assert await controls.current() is None


# -- verbs


async def test_a_session_walks_from_init_to_end(controls: Controls, others: Controls) -> None:
    session = await controls.begin()
    assert await others.current() == session

    started = done(await others.start(session["id"], 2))
    assert started["status"] == "MSG_START_OK"
    assert started["display_status"] == "REPLAY_START_OK"
    assert started["replay_speed"] == 2

    stopped = done(await controls.stop(session["id"]))
    assert stopped["status"] == "MSG_STOP_OK"
    assert stopped["display_status"] == "REPLAY_STOP_OK"
    assert START <= stopped["replay_last_timestamp"] < moment(60)
    assert await others.current() == stopped

    moved = done(await others.seek(session["id"], moment(1800)))
    assert moved == {**stopped, "replay_last_timestamp": moment(1800)}

    ended = done(await controls.end(session["id"]))
    assert ended == {**moved, "status": "DB_END_OK", "display_status": "REPLAY_END_OK"}
    assert await controls.current() is None
    assert await others.current() is None


async def test_the_playhead_moves_while_playing_and_stays_while_stopped(
    controls: Controls,
) -> None:
    session = await controls.begin()
    await controls.start(session["id"], 4)
    seen = [START]
    while seen[-1] < moment(0.5):
        seen.append((await controls.current())["replay_last_timestamp"])
    assert seen == sorted(seen)
    stopped = done(await controls.stop(session["id"]))["replay_last_timestamp"]
    assert stopped >= seen[-1]
    for _ in range(20):
        assert (await controls.current())["replay_last_timestamp"] == stopped
    again = done(await controls.start(session["id"], 0.5))
    assert stopped <= again["replay_last_timestamp"] < moment(60)


async def test_speed_is_1_again_when_a_start_names_none(controls: Controls) -> None:
    session = await controls.begin()
    assert done(await controls.start(session["id"], 3.5))["replay_speed"] == 3.5
    assert done(await controls.start(session["id"]))["replay_speed"] == 1


@pytest.mark.parametrize("speed", [0.5, 1, 4, 4.0, 0.5000001, 1.2345678901234567, 3.9999999])
async def test_a_speed_within_the_limits_is_taken_as_it_is(
    controls: Controls, speed: float
) -> None:
    session = await controls.begin()
    assert done(await controls.start(session["id"], speed))["replay_speed"] == speed


@pytest.mark.parametrize("speed", ["0", "-1", "0.4999", "4.0001", "1e300", "-0.0", "1e-400"])
async def test_a_speed_outside_the_limits_is_refused(controls: Controls, speed: str) -> None:
    session = await controls.begin()
    content = f'{{"replay_speed":{speed}}}'.encode()
    path = f"/v1/replay/{session['id']}/start"
    found = refused(await controls.send("PUT", path, content=content), 400, INVALID)
    assert "from 0.5 to 4" in found["message"]
    assert await controls.current() == session


async def test_limits_of_speed_and_range_are_settings(start_gateway: Start) -> None:
    playback = {
        **{"lowest_speed": 0.25, "highest_speed": 100, "allow_fastest": True},
        **{"default_range_sec": 60, "longest_range_sec": 120},
    }
    async with start_gateway(playback=playback, notification_schema_strict=False) as running:
        controls = Controls(running.client, str(uuid4()))
        session = await controls.begin(end=None)
        assert session["replay_end_timestamp"] == moment(60)
        for speed in (0.25, 100):
            assert done(await controls.start(session["id"], speed))["replay_speed"] == speed
        for speed in (0.2, 101, -1):
            found = refused(await controls.start(session["id"], speed), 400, INVALID)
            assert "from 0.25 to 100, or 0" in found["message"]
        fastest = done(await controls.start(session["id"], 0))
        assert fastest["replay_speed"] == 0
        assert fastest["status"] == "MSG_STOP_OK", "as fast as can be is at the end at once"
        assert fastest["replay_last_timestamp"] == moment(60)
        await controls.reset()
        await controls.begin(end=moment(120))
        await controls.reset()
        found = refused(await controls.init(end=moment(120.001)), 400, INVALID)
        assert "120 seconds" in found["message"]


async def test_a_session_that_reaches_its_end_is_stopped_there(controls: Controls) -> None:
    session = await controls.begin(end=moment(0.2))
    await controls.start(session["id"], 4)
    while (found := await controls.current())["status"] == "MSG_START_OK":
        pass
    assert found["status"] == "MSG_STOP_OK"
    assert found["replay_last_timestamp"] == found["replay_end_timestamp"]
    # Nothing is left to play; it may be moved back.
    assert done(await controls.start(session["id"]))["status"] == "MSG_STOP_OK"
    moved = done(await controls.seek(session["id"], START))
    assert (moved["status"], moved["replay_last_timestamp"]) == ("MSG_STOP_OK", START)


@pytest.mark.parametrize("seconds", [0, 0.001, 3599.999, 3600])
async def test_seek_reaches_every_time_of_the_range(controls: Controls, seconds: float) -> None:
    session = await controls.begin()
    moved = done(await controls.seek(session["id"], moment(seconds)))
    assert moved == {**session, "replay_last_timestamp": moment(seconds)}


@pytest.mark.parametrize("timestamp", [moment(-0.001), moment(3600.001), "2999-01-01T00:00:00Z"])
async def test_seek_outside_of_the_range_is_refused(controls: Controls, timestamp: str) -> None:
    session = await controls.begin()
    found = refused(await controls.seek(session["id"], timestamp), 400, INVALID)
    assert START in found["message"]
    assert END in found["message"]
    assert timestamp in found["message"]
    assert await controls.current() == session


async def test_seek_while_playing_plays_on_from_there(controls: Controls) -> None:
    session = await controls.begin()
    await controls.start(session["id"], 2)
    moved = done(await controls.seek(session["id"], moment(1800)))
    assert (moved["status"], moved["replay_speed"]) == ("MSG_START_OK", 2)
    assert moment(1800) <= moved["replay_last_timestamp"] < moment(1860)


async def test_reset_is_idempotent_and_says_what_it_ended(controls: Controls) -> None:
    assert done(await controls.reset(), null=True) is None
    session = await controls.begin()
    ended = done(await controls.reset())
    assert ended == {**session, "status": "DB_END_OK", "display_status": "REPLAY_END_OK"}
    for _ in range(2):
        assert done(await controls.reset(), null=True) is None
    assert (await controls.begin())["id"] != session["id"]


# -- nobody's session


@pytest.mark.parametrize(("verb", "body"), VERBS)
@pytest.mark.parametrize("session", [NOBODY, "x", "%20", "a%00b", "é" * 300])
async def test_a_verb_for_no_session_is_not_found(
    controls: Controls, verb: str, body: dict[str, str], session: str
) -> None:
    refused(await controls.put(session, verb, **body), 404, "SESSION_NOT_FOUND")
    await controls.begin()
    refused(await controls.put(session, verb, **body), 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize(("verb", "body"), VERBS)
async def test_a_session_that_has_ended_is_not_found(
    controls: Controls, verb: str, body: dict[str, str]
) -> None:
    session = await controls.begin()
    done(await controls.end(session["id"]))
    refused(await controls.put(session["id"], verb, **body), 404, "SESSION_NOT_FOUND")
    await controls.begin()
    refused(await controls.put(session["id"], verb, **body), 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize(("verb", "body"), VERBS)
async def test_another_tenants_session_is_out_of_reach(
    house: House, controls: Controls, verb: str, body: dict[str, str]
) -> None:
    session = await controls.begin()
    stranger = Controls(house.second.client, str(uuid4()))
    answer = await stranger.put(session["id"], verb, **body)
    if verb == "end":
        refused(answer, 403, "FORBIDDEN")
    else:
        refused(answer, 404, "SESSION_NOT_FOUND")
    await stranger.begin()
    assert (await stranger.put(session["id"], verb, **body)).status_code == answer.status_code
    assert await controls.current() == session


async def test_the_stream_of_no_session_is_not_found(house: House, controls: Controls) -> None:
    path = f"/v1/replay/{NOBODY}/stream"
    refused(await controls.send("GET", path), 404, "SESSION_NOT_FOUND")
    session = await controls.begin()
    refused(await controls.send("GET", path), 404, "SESSION_NOT_FOUND")
    stranger = Controls(house.second.client, str(uuid4()))
    theirs = f"/v1/replay/{session['id']}/stream"
    refused(await stranger.send("GET", theirs), 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("cursor", ["x", "1", "7-3f2a", "1-2-3", "1-2-3-4-5", "1--2-3-4", "é"])
async def test_the_stream_refuses_what_is_no_place_in_it(controls: Controls, cursor: str) -> None:
    session = await controls.begin()
    path = f"/v1/replay/{session['id']}/stream"
    found = refused(
        await controls.send("GET", path, params={"last_event_id": cursor}), 400, INVALID
    )
    assert "last_event_id" in found["message"]


# -- bodies


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
async def test_unknown_fields_are_refused_by_name(
    controls: Controls, method: str, path: str, body: dict[str, Any]
) -> None:
    for name in ("speed", "Tenant_ID", "replay_requested_timestamp "):
        found = refused(
            await controls.send(method, path, {**body, name: None}), 400, "UNKNOWN_FIELD"
        )
        assert f"'{name}'" in found["message"]
    assert await controls.current() is None


@pytest.mark.parametrize("call", BODIES)
@pytest.mark.parametrize(
    ("content", "code"),
    [
        *((content, "INVALID_JSON") for content in (b"{", b"nul", b"\xff", b"{'a':1}")),
        *((content, "INVALID_REQUEST_SHAPE") for content in (b"[]", b"null", b"1", b'"x"')),
        (b'{"tenant_id":1}', "INVALID_REQUEST_SHAPE"),
        (b'{"tenant_id":""}', "INVALID_TENANT"),
        (b'{"tenant_id":"not-a-uuid"}', "INVALID_TENANT"),
    ],
)
async def test_bodies_that_are_no_such_object_are_refused(
    controls: Controls, call: tuple[str, str, dict[str, Any]], content: bytes, code: str
) -> None:
    method, path, body = call
    if code == "INVALID_TENANT" and body:
        rest = b"," + content[1:]
        [(name, value)] = body.items()
        content = f'{{"{name}":"{value}"'.encode() + rest
    refused(await controls.send(method, path, content=content), 400, code)
    assert await controls.current() is None


@pytest.mark.parametrize("content", [None, b"", b" \r\n\t", b"{}"])
async def test_a_body_may_be_missing_where_every_field_is_optional(
    controls: Controls, content: bytes | None
) -> None:
    session = await controls.begin()
    for verb in ("start", "stop", "end"):
        path = f"/v1/replay/{session['id']}/{verb}"
        done(await controls.send("PUT", path, content=content))
    done(await controls.send("POST", "/v1/replay/reset", content=content), null=True)
    for path, name in (
        ("/v1/replay/init", "replay_requested_timestamp"),
        (f"/v1/replay/{NOBODY}/seek", "timestamp"),
        ("/v1/configuration/snapshot-interval", "snapshot_interval"),
        ("/v1/configuration/snapshot-list-tables", "list_tables"),
    ):
        method = "POST" if path.endswith("init") else "PUT"
        answer = await controls.send(method, path, content=content)
        assert answer.status_code == 400
        assert name in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("init", {"replay_requested_timestamp": 1517875200}),
        ("init", {"replay_requested_timestamp": START, "replay_end_timestamp": []}),
        ("init", {"replay_requested_timestamp": START, "event_types": "reading"}),
        ("init", {"replay_requested_timestamp": START, "event_types": [1]}),
        ("init", {"replay_requested_timestamp": START, "session_id": 7}),
        (f"{NOBODY}/start", {"replay_speed": "1"}),
        (f"{NOBODY}/start", {"replay_speed": True}),
        (f"{NOBODY}/seek", {"timestamp": 0}),
    ],
)
async def test_fields_of_another_type_are_refused(
    controls: Controls, path: str, body: dict[str, Any]
) -> None:
    method = "POST" if path == "init" else "PUT"
    answer = await controls.send(method, f"/v1/replay/{path}", body)
    refused(answer, 400, "INVALID_REQUEST_SHAPE")


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
async def test_other_methods_are_not_allowed(
    controls: Controls, method: str, path: str, body: dict[str, Any]
) -> None:
    for other in {"GET", "POST", "PUT", "DELETE", "PATCH"} - {method}:
        refused(await controls.send(other, path), 405, "METHOD_NOT_ALLOWED")


async def test_a_body_that_is_too_large_is_refused(start_gateway: Start) -> None:
    async with start_gateway(limits={"body_bytes": 100}) as running:
        controls = Controls(running.client, str(uuid4()))
        for method, path, body in BODIES:
            content = str(body).encode().ljust(101)
            refused(await controls.send(method, path, content=content), 413, "BODY_TOO_LARGE")
