"""The playback contract's states: every pair of a status and a verb, and the order they are walked in."""

from typing import Any

import pytest

from store.connection import Connection
from tests.conftest import RunningGateway
from tests.event_stream import Frame, OpenStream, get, open_stream
from tests.playback.conftest import House
from tests.playback.controls import END, START, Controls, done, moment, refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

STEPS = ("REQUESTED", "IN_PROGRESS", "OK", "KO")
PARTS = ("DB_INIT", "MSG_INIT", "MSG_START", "MSG_STOP", "MSG_END", "DB_END")
STATUSES = [f"{part}_{step}" for part in PARTS for step in STEPS]
DISPLAYED = {
    **{"DB_INIT": "REPLAY_INIT", "MSG_INIT": "REPLAY_INIT", "MSG_START": "REPLAY_START"},
    **{"MSG_STOP": "REPLAY_STOP", "MSG_END": "REPLAY_END", "DB_END": "REPLAY_END"},
}
INIT_WALK = [f"{part}_{step}" for part in ("DB_INIT", "MSG_INIT") for step in STEPS[:3]]
START_WALK, STOP_WALK = ([f"MSG_{verb}_{step}" for step in STEPS[:3]] for verb in ("START", "STOP"))
END_WALK = [f"{part}_{step}" for part in ("MSG_END", "DB_END") for step in STEPS[:3]]

INIT_OK, START_OK, STOP_OK = "MSG_INIT_OK", "MSG_START_OK", "MSG_STOP_OK"
# The contract's table of what is allowed; a status that is not listed allows none of these.
ALLOWED = {
    "start": {INIT_OK: START_OK, STOP_OK: START_OK, START_OK: START_OK},
    "stop": {START_OK: STOP_OK, STOP_OK: STOP_OK},
    "seek": {INIT_OK: INIT_OK, STOP_OK: STOP_OK, START_OK: START_OK},
}
BODIES: dict[str, dict[str, Any]] = {"seek": {"timestamp": moment(60)}}


def displayed(status: str) -> str:
    part = next(part for part in PARTS if status.startswith(part))
    return DISPLAYED[part] + status.removeprefix(part)


async def put_into(backend: Connection, controls: Controls, status: str) -> dict[str, Any]:
    """A session in a status, whether or not it can be seen in it today."""
    session = await controls.begin()
    key = f"ph:{{{controls.tenant}}}:session"
    error = "it failed" if status.endswith("KO") else ""
    await backend.execute("HSET", key, "status", status, "error", error)
    return {
        **session,
        "status": status,
        "display_status": displayed(status),
        "error": error or None,
    }


def without_playhead(session: Any) -> dict[str, Any]:
    return {name: value for name, value in session.items() if name != "replay_last_timestamp"}


# -- every pair


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("verb", ["start", "stop", "seek"])
async def test_a_verb_is_allowed_where_the_contract_says_and_nowhere_else(
    backend: Connection, controls: Controls, others: Controls, verb: str, status: str
) -> None:
    session = await put_into(backend, controls, status)
    answer = await others.put(session["id"], verb, **BODIES.get(verb, {}))
    if status in ALLOWED[verb]:
        reached = ALLOWED[verb][status]
        found = done(answer)
        assert (found["status"], found["display_status"]) == (reached, displayed(reached))
    else:
        body = refused(answer, 409, "REPLAY_WRONG_STATE")
        assert status in body["message"]
        assert body["details"] == session
        found = session
    current = await controls.current()
    assert without_playhead(current) == without_playhead(found), "as the verb left it"


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("verb", ["end", "reset"])
async def test_every_status_can_be_ended(
    backend: Connection, controls: Controls, others: Controls, verb: str, status: str
) -> None:
    session = await put_into(backend, controls, status)
    answer = await (others.end(session["id"]) if verb == "end" else others.reset())
    found = done(answer)
    assert (found["status"], found["display_status"]) == ("DB_END_OK", "REPLAY_END_OK")
    assert await controls.current() is None
    assert (await controls.begin())["id"] != session["id"]


@pytest.mark.parametrize("status", STATUSES)
async def test_every_status_holds_the_lock(
    backend: Connection, controls: Controls, others: Controls, status: str
) -> None:
    session = await put_into(backend, controls, status)
    body = refused(await others.init(), 409, "REPLAY_SESSION_ACTIVE")
    assert without_playhead(body["details"]) == without_playhead(session)


@pytest.mark.parametrize("status", STATUSES)
async def test_every_status_can_be_initialised_again(
    backend: Connection, controls: Controls, others: Controls, status: str
) -> None:
    session = await put_into(backend, controls, status)
    found = done(await others.init(session_id=session["id"]), 201)
    assert (found["id"], found["status"], found["error"]) == (session["id"], INIT_OK, None)


@pytest.mark.parametrize("status", STATUSES)
async def test_every_status_is_shown_by_its_name(
    backend: Connection, controls: Controls, others: Controls, status: str
) -> None:
    session = await put_into(backend, controls, status)
    shown = await others.current()
    assert without_playhead(shown) == without_playhead(session)


@pytest.mark.parametrize("verb", ["start", "stop", "seek", "end"])
async def test_where_there_is_no_session_no_verb_is_allowed(controls: Controls, verb: str) -> None:
    session = await controls.begin()
    done(await controls.end(session["id"]))
    answer = await controls.put(session["id"], verb, **BODIES.get(verb, {}))
    refused(answer, 404, "SESSION_NOT_FOUND")


async def test_a_failed_init_can_only_be_tried_again_or_ended(
    backend: Connection, controls: Controls
) -> None:
    """The one KO that can be met without a playback database, by its own way."""
    await controls.record([0, 10], "change")
    await backend.execute("HSET", f"ph:{{{controls.tenant}/change}}:meta", "floor", "1")
    await backend.execute("XTRIM", f"ph:{{{controls.tenant}/change}}:log", "MAXLEN", 1)
    session = await controls.begin()
    assert session["status"] == "DB_INIT_KO"
    for verb in ("start", "stop", "seek"):
        answer = await controls.put(session["id"], verb, **BODIES.get(verb, {}))
        refused(answer, 409, "REPLAY_WRONG_STATE")
    refused(await controls.init(), 409, "REPLAY_SESSION_ACTIVE")
    again = done(await controls.init(session_id=session["id"]), 201)
    assert again["status"] == "DB_INIT_KO"
    assert done(await controls.init(moment(10.001), session_id=session["id"]), 201)["error"] is None
    done(await controls.end(session["id"]))


# -- the walk, as the session's watchers see it


def watching(gateway: RunningGateway, controls: Controls, session: Any) -> Any:
    assert controls.tenant is not None
    request = get(f"/v1/replay/{session['id']}/stream", {}, controls.tenant)
    return open_stream(gateway.port, request)


async def statuses(stream: OpenStream, last: str) -> list[str]:
    """Of the session frames that come next, up to the last one named."""
    found: list[str] = []
    while last not in found:
        frame: Frame = await stream.until("session")
        session = frame.data
        assert session["display_status"] == displayed(session["status"])
        assert frame.id, "every data frame has an id"
        found.append(session["status"])
    return found


async def test_watchers_of_both_gateways_see_every_step_of_every_verb(
    house: House, controls: Controls, others: Controls
) -> None:
    session = await controls.begin()
    async with (
        watching(house.first, controls, session) as near,
        watching(house.second, controls, session) as far,
    ):
        streams = (near, far)
        for stream in streams:
            first = await stream.until("session")
            assert first.data == session
        # Each verb by the other gateway than the one before.
        sid = session["id"]
        for answer, walk in (
            (await controls.start(sid), START_WALK),
            (await others.start(sid, 2), START_WALK),
            (await controls.seek(sid, moment(600)), [START_OK]),
            (await others.stop(sid), STOP_WALK),
            (await controls.seek(sid, moment(60)), [STOP_OK]),
            (await others.start(sid), START_WALK),
            (await controls.init(session_id=sid), INIT_WALK),
            (await others.seek(sid, moment(5)), [INIT_OK]),
            (await controls.end(sid), END_WALK),
        ):
            assert answer.status_code in {200, 201}, answer.text
            for stream in streams:
                assert await statuses(stream, walk[-1]) == walk
        for stream in streams:
            closing = await stream.until("connection-closing")
            assert closing.data["reason"] == "end_of_stream"
            await stream.rest()
            assert stream.parser.strange == []


async def test_what_does_nothing_is_not_told(house: House, controls: Controls) -> None:
    session = await controls.begin()
    async with watching(house.first, controls, session) as stream:
        await stream.until("session")
        refused(await controls.stop(session["id"]), 409, "REPLAY_WRONG_STATE")
        refused(await controls.init(), 409, "REPLAY_SESSION_ACTIVE")
        refused(await controls.seek(session["id"], moment(-1)), 400, "INVALID_SESSION_REQUEST")
        await controls.start(session["id"])
        await controls.stop(session["id"])
        done(await controls.stop(session["id"]))
        done(await controls.reset())
        assert await statuses(stream, "DB_END_OK") == START_WALK + STOP_WALK + END_WALK


async def test_the_end_of_the_range_is_a_stop_that_every_watcher_sees_step_by_step(
    house: House, controls: Controls
) -> None:
    """A gateway that had heard of the stop before its steps left them out."""
    for _ in range(5):
        session = await controls.begin(end=moment(0.1))
        async with (
            watching(house.first, controls, session) as near,
            watching(house.second, controls, session) as far,
        ):
            for stream in (near, far):
                await stream.until("session")
            await controls.start(session["id"], 4)
            for stream in (near, far):
                assert await statuses(stream, STOP_OK) == START_WALK + STOP_WALK
            current = await controls.current()
            assert current["replay_last_timestamp"] == moment(0.1)
        await controls.reset()


async def test_a_verb_right_after_the_stream_is_opened_is_seen_step_by_step(
    house: House, controls: Controls, others: Controls
) -> None:
    for _ in range(10):
        session = await controls.begin()
        async with watching(house.second, controls, session) as stream:
            opening = stream.until("session")
            await controls.start(session["id"])
            first = (await opening).data["status"]
            await controls.stop(session["id"])
            walk = [INIT_OK, *START_WALK, *STOP_WALK]
            # It may have been opened anywhere in the walk; from there on no step is missing.
            assert first in walk
            assert await statuses(stream, STOP_OK) == walk[walk.index(first) + 1 :]
        await controls.reset()


async def test_a_session_that_is_over_is_told_to_who_watches_when_another_begins(
    house: House, controls: Controls, others: Controls
) -> None:
    session = await controls.begin()
    async with watching(house.second, controls, session) as stream:
        await stream.until("session")
        await controls.reset()
        other = await controls.begin()
        assert await statuses(stream, "DB_END_OK") == END_WALK
        await stream.until("connection-closing")
        assert all(
            frame.data["id"] == session["id"] for frame in stream.frames if frame.kind == "session"
        )
    async with watching(house.second, others, other) as stream:
        assert (await stream.until("session")).data["id"] == other["id"]
    assert (other["replay_start_timestamp"], other["replay_end_timestamp"]) == (START, END)


async def test_a_session_from_the_beginning_of_time_can_be_gone_on_with(
    house: House, controls: Controls
) -> None:
    """The place before its first event had a time that no cursor could name: 400 for ever."""
    session = await controls.begin("1970-01-01T00:00:00Z", "1970-01-01T01:00:00Z")
    async with watching(house.first, controls, session) as stream:
        first = await stream.until("session")
        tick = await stream.until("system-time")
    for frame in (first, tick):
        assert frame.id
        request = get(
            f"/v1/replay/{session['id']}/stream", {"last_event_id": frame.id}, session["tenant_id"]
        )
        async with open_stream(house.second.port, request) as again:
            assert (await again.until("session")).data == session
