"""What `init` takes: the range, what is kept of it, and a session that is there already."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from store.connection import Connection, meta_key
from store.event import Draft, Retention, StreamKey
from store.log import EventLog
from tests.conftest import Start
from tests.contract.users import PROXY, bearer
from tests.playback.conftest import House
from tests.playback.controls import END, NOBODY, PAST, START, Controls, done, moment, refused
from tests.playback.recording import ENVELOPE

pytestmark = pytest.mark.asyncio(loop_scope="session")

INVALID = "INVALID_SESSION_REQUEST"


def from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def log(backend: Connection) -> EventLog:
    return EventLog(backend, idempotency_window_ms=1000)


# -- the range


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *((START, START), (moment(0.001), START), (END, START)),
        # The same millisecond, and the same instant by another clock.
        (moment(0), "2018-02-06T00:00:00.0009Z"),
        (moment(0), "2018-02-06T01:00:00+01:00"),
    ],
)
async def test_a_start_that_is_not_before_the_end_is_refused(
    controls: Controls, start: str, end: str
) -> None:
    found = refused(await controls.init(start, end), 400, INVALID)
    assert "before the end" in found["message"]
    assert await controls.current() is None


async def test_the_shortest_range_is_a_millisecond(controls: Controls) -> None:
    await controls.begin(START, moment(0.001))


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "1517875200", "2018-02-06", "2018-02-06T00:00:00", "2018-02-30T00:00:00Z"),
        *("2018-02-06T24:00:00Z", "1969-12-31T23:59:59.999Z", "2018-02-06T00:00:00+25:00"),
        "x" * 5000,
    ],
)
async def test_what_is_no_time_is_refused_with_its_field_and_text(
    controls: Controls, text: str
) -> None:
    session = await controls.begin()
    for answer, name in (
        (await controls.init(text, END), "replay_requested_timestamp"),
        (await controls.init("1971-01-01T00:00:00Z", text), "replay_end_timestamp"),
        (await controls.seek(session["id"], text), "timestamp"),
    ):
        found = refused(answer, 400, INVALID)
        assert found["message"].startswith(name)
        assert f"'{text[:100]}'" in found["message"]


@pytest.mark.parametrize("ahead_sec", [55, 1, None])
async def test_an_end_that_is_ahead_by_less_than_a_minute_is_cut_to_now(
    controls: Controls, ahead_sec: float | None
) -> None:
    slack = timedelta(seconds=5)
    end = None if ahead_sec is None else from_now(ahead_sec)
    before = datetime.now(UTC)
    session = await controls.begin(from_now(-60), end)
    given = datetime.fromisoformat(session["replay_end_timestamp"])
    assert before - slack <= given <= datetime.now(UTC) + slack


@pytest.mark.parametrize("ahead_sec", [95, 86_400, 86_400 * 365 * 1000])
async def test_an_end_that_is_further_ahead_is_refused(
    controls: Controls, ahead_sec: float
) -> None:
    end = from_now(ahead_sec)
    found = refused(await controls.init(from_now(-60), end), 400, INVALID)
    assert "in the future" in found["message"]
    assert end[:19] in found["message"]


async def test_a_start_in_the_future_is_refused(controls: Controls) -> None:
    for start, end in ((from_now(45), None), (from_now(40), from_now(50)), (from_now(9999), None)):
        refused(await controls.init(start, end), 400, INVALID)


async def test_a_range_over_the_longest_is_refused(controls: Controls) -> None:
    month = (PAST + timedelta(days=31)).isoformat()
    await controls.begin(end=month)
    await controls.reset()
    longer = (PAST + timedelta(days=31, milliseconds=1)).isoformat()
    found = refused(await controls.init(end=longer), 400, INVALID)
    assert f"{31 * 86_400} seconds" in found["message"]


async def test_a_range_without_events_is_a_quiet_session(controls: Controls) -> None:
    await controls.record([0, 1])
    for start in ("1970-01-01T00:00:00Z", "2018-02-07T00:00:00Z"):
        session = await controls.begin(start, None)
        assert session["event_types"] == ["reading"]
        assert done(await controls.start(session["id"]))["status"] == "MSG_START_OK"
        await controls.reset()


# -- what is kept


async def test_a_start_before_what_retention_left_names_the_earliest_valid_time(
    controls: Controls, log: EventLog
) -> None:
    await controls.record([0, 10, 20, 30])
    await controls.record([0, 5], "other")
    await controls.begin("1970-01-01T00:00:00Z", None)
    await controls.reset()
    assert controls.tenant is not None
    await log.trim(StreamKey(controls.tenant, "reading"), Retention(max_count=2))
    # Of the very time of the first one kept, others may be gone: of one transaction only a part.
    for start in ("1970-01-01T00:00:00Z", START, moment(20)):
        found = refused(await controls.init(start, None), 400, INVALID)
        assert f"the earliest valid time is {moment(20.001)}" in found["message"]
    await controls.begin(moment(20.001))
    await controls.reset()
    # Another stream has lost nothing: it reaches back for ever.
    await controls.begin("1970-01-01T00:00:00Z", None, event_types=["other"])
    await controls.reset()
    await log.trim(StreamKey(controls.tenant, "other"), Retention(max_count=1))
    found = refused(await controls.init(moment(4)), 400, INVALID)
    assert moment(20.001) in found["message"], "the earliest time that is valid for all of them"
    found = refused(await controls.init(moment(4), event_types=["other"]), 400, INVALID)
    assert moment(5.001) in found["message"]


async def test_what_is_kept_is_told_to_nobody_who_may_not_read_it(
    start_gateway: Start, tenant: str, log: EventLog
) -> None:
    """Who had no right to an event type was told the earliest time of its events, with a 400."""
    auth = {"required": True, "read_roles": {"lab": ["spy"]}}
    stream = StreamKey(tenant, "secret")
    drafts = [Draft(b"secret", b'{"data":1,"id":"secret@', ms) for ms in (1000, 2000, 3000)]
    await log.append(stream, ENVELOPE, drafts)
    await log.trim(stream, Retention(max_count=1))
    schema = {"secret": {"identifier": {}, "auth": auth}}
    async with start_gateway(auth=PROXY, notification_schema=schema) as running:
        controls = Controls(running.client, tenant)
        for role, status, code in (("reader", 403, "FORBIDDEN"), ("spy", 400, INVALID)):
            controls.headers |= bearer(role)
            refused(await controls.init("1970-01-01T00:00:00Z", None), status, code)


async def test_a_log_of_which_nothing_is_left_is_valid_behind_its_last_event(
    controls: Controls, log: EventLog
) -> None:
    await controls.record([0, 10])
    assert controls.tenant is not None
    await log.trim(StreamKey(controls.tenant, "reading"), Retention(max_count=0))
    found = refused(await controls.init(moment(10)), 400, INVALID)
    assert moment(10.001) in found["message"]
    await controls.begin(moment(10.001))


async def test_an_event_that_was_deleted_by_hand_moves_no_boundary(
    controls: Controls, log: EventLog
) -> None:
    await controls.record([0, 10])
    assert controls.tenant is not None
    assert await log.delete(StreamKey(controls.tenant, "reading"), 1)
    await controls.begin("1970-01-01T00:00:00Z", None)


async def test_changes_without_a_snapshot_are_initialised_only_as_far_as_they_reach(
    controls: Controls, others: Controls, log: EventLog
) -> None:
    await controls.record([0, 10, 20], "change")
    assert (await controls.begin())["status"] == "MSG_INIT_OK"
    await controls.reset()
    assert controls.tenant is not None
    await log.trim(StreamKey(controls.tenant, "change"), Retention(max_count=1))
    assert (await controls.begin(moment(20.001)))["status"] == "MSG_INIT_OK"
    await controls.reset()
    session = await controls.begin(moment(20))
    assert session["status"] == "DB_INIT_KO"
    assert session["display_status"] == "REPLAY_INIT_KO"
    assert moment(20.001) in session["error"]
    assert "snapshot" in session["error"]
    assert await others.current() == session
    # Tried again further on, it is the same session, and well.
    again = await controls.begin(moment(20.001), session_id=session["id"])
    assert (again["id"], again["status"], again["error"]) == (session["id"], "MSG_INIT_OK", None)


# -- a session that is there already


async def test_a_database_of_which_nothing_was_told_yet_is_played_too(
    controls: Controls, backend: Connection, tenant: str
) -> None:
    """Its log began a moment after `init`: the session had no event types, and played nothing."""
    key = meta_key(StreamKey(tenant, "change"))
    await backend.execute("HSET", key, "through:somewhere", 1)
    assert (await controls.begin())["event_types"] == ["change"]


async def test_a_second_init_is_refused_with_the_holders_session(
    controls: Controls, others: Controls
) -> None:
    session = await controls.begin()
    for each in (controls, others):
        answer = await each.init(moment(60))
        found = refused(answer, 409, "REPLAY_SESSION_ACTIVE")
        assert found["details"] == session
        assert session["id"] in found["message"]
    await controls.start(session["id"])
    details = (await others.init()).json()["details"]
    assert details["status"] == "MSG_START_OK"
    assert details["id"] == session["id"]
    await controls.stop(session["id"])
    assert (await others.init()).status_code == 409
    await controls.end(session["id"])
    assert (await others.begin())["id"] != session["id"]


async def test_an_invalid_init_is_told_its_fault_before_the_lock(controls: Controls) -> None:
    await controls.begin()
    refused(await controls.init(END, START), 400, INVALID)


async def test_init_with_the_own_session_moves_it(controls: Controls, others: Controls) -> None:
    await controls.record([1], "ant")
    session = await controls.begin()
    await controls.start(session["id"], 4)
    await controls.record([1], "bee")
    response = await others.init(moment(600), moment(900), session_id=session["id"])
    again = done(response, 201)
    assert response.headers["location"] == f"/v1/replay/{session['id']}"
    assert again == {
        **session,
        "replay_start_timestamp": moment(600),
        "replay_end_timestamp": moment(900),
        "replay_last_timestamp": moment(600),
        "event_types": ["ant", "bee"],
    }
    assert await controls.current() == again
    assert done(await controls.start(session["id"]))["status"] == "MSG_START_OK"


async def test_init_with_another_session_is_refused_by_the_lock(controls: Controls) -> None:
    session = await controls.begin()
    found = refused(await controls.init(session_id=NOBODY), 409, "REPLAY_SESSION_ACTIVE")
    assert found["details"] == session


@pytest.mark.parametrize("session", [NOBODY, "", "x" * 1000, "\x00"])
async def test_init_again_of_no_session_is_not_found(controls: Controls, session: str) -> None:
    refused(await controls.init(session_id=session), 404, "SESSION_NOT_FOUND")
    assert await controls.current() is None


async def test_init_again_of_another_tenants_session_takes_nothing_from_it(
    house: House, controls: Controls, backend: Connection
) -> None:
    """It took the session's name: its tenant was then no longer found, nor told by a 403."""
    session = await controls.begin()
    stranger = Controls(house.second.client, str(uuid4()))
    refused(await stranger.init(session_id=session["id"]), 404, "SESSION_NOT_FOUND")
    refused(await stranger.end(session["id"]), 403, "FORBIDDEN")
    theirs = await stranger.begin()
    found = refused(await stranger.init(session_id=session["id"]), 409, "REPLAY_SESSION_ACTIVE")
    assert found["details"] == theirs
    assert await controls.current() == session
    assert controls.tenant is not None
    name = await backend.execute("HGET", "ph:sessions", session["id"])
    assert name == controls.tenant.encode()


async def test_refused_inits_leave_nothing_behind(controls: Controls, backend: Connection) -> None:
    """Names that were never given stayed in the server's list of sessions, one a request."""
    await controls.begin()
    before = await backend.execute("HLEN", "ph:sessions")
    made_up = [str(uuid4()) for _ in range(5)]
    for each in made_up:
        await controls.init()
        await controls.init(session_id=each)
    await controls.reset()
    for each in made_up:
        await controls.init(session_id=each)
        assert await backend.execute("HEXISTS", "ph:sessions", each) == 0
    assert await backend.execute("HLEN", "ph:sessions") < before


async def test_the_longest_range_is_a_setting_of_its_own_gateway(start_gateway: Start) -> None:
    async with start_gateway(playback={"longest_range_sec": 100 * 366 * 86_400}) as running:
        controls = Controls(running.client, str(uuid4()))
        session = await controls.begin("1970-01-01T00:00:00Z", "2018-02-06T00:00:00Z")
        assert session["replay_start_timestamp"] == "1970-01-01T00:00:00.000Z"
