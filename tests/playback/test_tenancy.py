"""Which tenant a call means: body, token, header, query, or the default."""

from collections.abc import AsyncIterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.conftest import RunningGateway, Start
from tests.contract.users import ADMIN, PROXY, bearer
from tests.faults.wire import Frame, abort, eventually, head, open_frames
from tests.playback.controls import END, START, Controls, done, done_many, refused
from tests.servers import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")

SOURCES = ("body", "token", "header", "query")
SESSIONS = "/v1/replay/sessions"
INIT = {"replay_requested_timestamp": START, "replay_end_timestamp": END}
# Everything that takes a body, then everything that takes none.
CALLS: list[tuple[str, str, dict[str, str] | None]] = [
    ("POST", "/v1/replay/init", INIT),
    ("PUT", "/v1/replay/{id}/start", {}),
    ("PUT", "/v1/replay/{id}/stop", {}),
    ("PUT", "/v1/replay/{id}/seek", {"timestamp": START}),
    ("PUT", "/v1/replay/{id}/end", {}),
    ("POST", "/v1/replay/reset", {}),
    ("PUT", "/v1/configuration/snapshot-interval", {"snapshot_interval": ""}),
    ("PUT", "/v1/configuration/snapshot-list-tables", {"list_tables": ""}),
    ("GET", "/v1/replay/current-session", None),
    ("GET", "/v1/replay/sessions", None),
    ("GET", "/v1/replay/{id}/stream", None),
    ("GET", "/v1/configuration", None),
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guarded(start_gateway: Start) -> AsyncIterator[RunningGateway]:
    """A gateway whose tokens may be bound to a tenant."""
    async with start_gateway(auth=PROXY, notification_schema_strict=False) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alone(
    start_gateway: Start, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningGateway]:
    """A gateway on a server where nobody else has a session."""
    valkey = Valkey(Path(tmp_path_factory.mktemp("valkey")), fsync="no")
    valkey.start()
    try:
        async with start_gateway(url=valkey.url, notification_schema_strict=False) as running:
            yield running
    finally:
        valkey.stop()


async def call(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    named: Mapping[str, str],
) -> httpx.Response:
    """A call that names tenants by its sources; the head alone of a stream."""
    headers = bearer("admin", "ops", **({"tenant_id": named["token"]} if "token" in named else {}))
    if "header" in named:
        headers["X-Tenant-ID"] = named["header"]
    if body is not None and "body" in named:
        body = {**body, "tenant_id": named["body"]}
    params = {"tenant_id": named["query"]} if "query" in named else {}
    request = http.build_request(method, path, json=body, headers=headers, params=params)
    response = await http.send(request, stream=True)
    if response.headers["content-type"] != "text/event-stream":
        await response.aread()
    await response.aclose()
    return response


# -- one source


@pytest.mark.parametrize("source", SOURCES)
async def test_every_source_says_whose_session_is_made(
    guarded: RunningGateway, source: str, tenant: str
) -> None:
    session = done(
        await call(guarded.client, "POST", "/v1/replay/init", INIT, {source: tenant}), 201
    )
    assert session["tenant_id"] == tenant
    named = {"header" if source == "body" else source: tenant}
    current = await call(guarded.client, "GET", "/v1/replay/current-session", None, named)
    assert done(current) == session


async def test_without_any_the_default_tenant_is_meant(guarded: RunningGateway) -> None:
    answer = await call(guarded.client, "POST", "/v1/replay/init", INIT, {})
    session = done(answer, 201)
    assert session["tenant_id"] == guarded.tenant
    done(await call(guarded.client, "PUT", f"/v1/replay/{session['id']}/end", {}, {}))


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize("source", SOURCES)
async def test_every_call_hears_every_source(
    guarded: RunningGateway,
    method: str,
    path: str,
    body: dict[str, str] | None,
    source: str,
) -> None:
    if body is None and source == "body":
        return
    tenant = str(uuid4())
    mine = Controls(guarded.client, tenant)
    mine.headers |= bearer("admin", "ops")
    session = await mine.begin()
    path = path.format(id=session["id"])
    response = await call(guarded.client, method, path, body, {source: tenant})
    expected = {"stop": 409, "init": 409}.get(path.rpartition("/")[2], 200)
    assert response.status_code == expected, "the other tenants have no such session"


# -- two sources


@pytest.mark.parametrize("pair", list(combinations(SOURCES, 2)))
@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_two_that_disagree_are_refused_and_two_that_agree_are_not(
    guarded: RunningGateway,
    method: str,
    path: str,
    body: dict[str, str] | None,
    pair: tuple[str, str],
) -> None:
    one, other = pair
    if body is None and one == "body":
        return
    tenant, stranger = str(uuid4()), str(uuid4())
    mine = Controls(guarded.client, tenant)
    mine.headers |= bearer("admin", "ops")
    session = await mine.begin()
    path = path.format(id=session["id"])
    for named in ({one: tenant, other: stranger}, {one: stranger, other: tenant}):
        response = await call(guarded.client, method, path, body, named)
        if "token" in named:
            found = refused(response, 403, "FORBIDDEN")
        else:
            found = refused(response, 400, "INVALID_TENANT")
        assert tenant in found["message"]
        assert stranger in found["message"]
        assert await mine.current() == session, "a refused call has done nothing"
    agreed = {one: tenant, other: tenant.upper()}
    response = await call(guarded.client, method, path, body, agreed)
    expected = {"stop": 409, "init": 409}.get(path.rpartition("/")[2], 200)
    assert response.status_code == expected


async def test_one_source_that_names_two_is_refused(guarded: RunningGateway) -> None:
    """Symptom: the last one in the query was meant, the first one of the headers."""
    one, other = str(uuid4()), str(uuid4())
    path = "/v1/replay/current-session"
    for named, status in (((one, other), 400), ((one, one.upper()), 200)):
        headers = [*bearer("reader").items(), *(("X-Tenant-ID", each) for each in named)]
        in_headers = await guarded.client.get(path, headers=headers)
        params = {"tenant_id": list(named)}
        in_query = await guarded.client.get(path, params=params, headers=bearer("reader"))
        assert [in_headers.status_code, in_query.status_code] == [status] * 2


async def test_a_third_that_disagrees_with_two_is_refused(guarded: RunningGateway) -> None:
    tenant, stranger = str(uuid4()), str(uuid4())
    for odd in SOURCES:
        named = {source: stranger if source == odd else tenant for source in SOURCES}
        answer = await call(guarded.client, "POST", "/v1/replay/init", INIT, named)
        refused(answer, 403, "FORBIDDEN")
        del named["token"]
        if odd != "token":
            answer = await call(guarded.client, "POST", "/v1/replay/init", INIT, named)
            refused(answer, 400, "INVALID_TENANT")


@pytest.mark.parametrize("source", ["body", "header", "query"])
@pytest.mark.parametrize("text", ["", "x", "+" + "0" * 31, "{" + "0" * 32 + "}", "0" * 33])
async def test_what_is_no_uuid_is_refused_by_its_source(
    guarded: RunningGateway, source: str, text: str
) -> None:
    answer = await call(guarded.client, "POST", "/v1/replay/init", INIT, {source: text})
    found = refused(answer, 400, "INVALID_TENANT")
    name = {"body": "tenant_id", "header": "X-Tenant-ID", "query": "?tenant_id"}[source]
    assert found["message"] == f"{name} must be a UUID, got: '{text}'"


# -- who may


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_nobody_may_call_without_credentials(
    guarded: RunningGateway, method: str, path: str, body: dict[str, str] | None, tenant: str
) -> None:
    path = path.format(id=uuid4())
    answer = await guarded.client.request(method, path, json=body)
    refused(answer, 401, "UNAUTHORIZED")
    headers = bearer("reader") | {"X-Tenant-ID": tenant}
    answer = await guarded.client.request(method, path, json=body, headers=headers)
    if path.startswith(("/v1/configuration", "/v1/replay/sessions")):
        refused(answer, 403, "FORBIDDEN")
    else:
        assert answer.status_code in {200, 201, 404}


async def test_a_session_holds_only_what_its_maker_and_its_watchers_may_read(
    start_gateway: Start, tenant: str
) -> None:
    schema = {
        "secret": {"identifier": {}, "auth": {"required": True, "read_roles": {"lab": ["spy"]}}},
        "open": {"identifier": {}},
    }
    async with start_gateway(auth=PROXY, notification_schema=schema) as running:
        spy, reader = Controls(running.client, tenant), Controls(running.client, tenant)
        spy.headers |= bearer("spy")
        reader.headers |= bearer("reader")
        await reader.begin(event_types=["open"])
        await reader.reset()
        refused(await reader.init(event_types=["open", "secret"]), 403, "FORBIDDEN")
        assert await reader.current() is None
        session = await spy.begin(event_types=["secret"])
        path = f"/v1/replay/{session['id']}/stream"
        refused(await reader.send("GET", path), 403, "FORBIDDEN")


async def test_a_session_of_other_event_types_is_closed_to_who_may_not_read_them(
    start_gateway: Start, tenant: str
) -> None:
    """Symptom: initialised anew, it sent watchers of the open type the secrets as well."""
    schema: dict[str, Any] = {
        "secret": {"identifier": {}, "auth": {"required": True, "read_roles": {"lab": ["spy"]}}},
        "open": {"identifier": {}},
    }
    async with start_gateway(auth=PROXY, notification_schema=schema) as running:
        admin, spy = Controls(running.client, tenant), Controls(running.client, tenant)
        admin.headers |= bearer("admin", "ops")
        for kind in ("open", "secret"):
            items: list[dict[str, Any]] = [
                {"event_type": kind, "identifier": {}, "payload": 1, "time": START}
            ]
            assert (await admin.send("POST", "/api/v1/notifications", items)).json()["accepted"]
        spy.headers |= bearer("spy")
        session = await spy.begin(event_types=["open"])
        seen: dict[str, list[Frame]] = {"reader": [], "spy": []}
        opened = []
        for name, frames in seen.items():
            path = f"/v1/replay/{session['id']}/stream"
            request = head("GET", path, tenant, bearer(name))
            opened.append(await open_frames(running.port, request, frames.append))
        try:
            for frames in seen.values():
                await has(frames, "system-time")
            done(await spy.init(event_types=["open", "secret"], session_id=session["id"]), 201)
            done(await spy.start(session["id"]))
            await has(seen["spy"], "replay", 2)
            await has(seen["reader"], "connection-closing")
        finally:
            for each in opened:
                abort(each)
        assert seen["reader"][-1].json()["reason"] == "forbidden"
        assert not [frame for frame in seen["reader"] if frame.name == "replay"]


async def has(frames: list[Frame], name: str, count: int = 1) -> None:
    await eventually(
        lambda: [frame.name for frame in frames].count(name) >= count, f"{name}, {count} times"
    )


# -- calls that mean the only session there is


async def test_without_a_tenant_the_only_active_session_is_meant(alone: RunningGateway) -> None:
    nobody = Controls(alone.client, None)
    assert await nobody.current() is None
    assert done(await nobody.reset(), null=True) is None

    # Not the default tenant's: the only one, whosever it is.
    one, two = (Controls(alone.client, str(uuid4())) for _ in range(2))
    session = await one.begin()
    assert await nobody.current() == session

    other = await two.begin()
    for method, path in (("GET", "/v1/replay/current-session"), ("POST", "/v1/replay/reset")):
        found = refused(await nobody.send(method, path), 400, "INVALID_SESSION_REQUEST")
        assert "tenant_id" in found["message"]
        # With a tenant they go on; that it has no session is an answer too.
        named = Controls(alone.client, alone.tenant)
        assert done(await named.send(method, path), null=True) is None
    assert [await one.current(), await two.current()] == [session, other]

    done(await one.end(session["id"]))
    assert await nobody.current() == other
    assert done(await nobody.reset())["id"] == other["id"]
    assert await nobody.current() is None
    assert await two.current() is None


async def test_an_administrator_sees_the_sessions_of_all_tenants(alone: RunningGateway) -> None:
    nobody = Controls(alone.client, None)
    tenants = sorted(str(uuid4()) for _ in range(3))
    assert done_many(await nobody.send("GET", SESSIONS)) == []
    made = [await Controls(alone.client, tenant).begin() for tenant in tenants]
    assert done_many(await nobody.send("GET", SESSIONS)) == made
    second = Controls(alone.client, tenants[1])
    assert done_many(await second.send("GET", SESSIONS)) == [made[1]], "the tenant that is named"
    done(await second.end(made[1]["id"]))
    assert done_many(await second.send("GET", SESSIONS)) == []
    assert done_many(await nobody.send("GET", SESSIONS)) == [made[0], made[2]]
    for tenant in tenants:
        done(await Controls(alone.client, tenant).reset(), null=True)


async def test_an_administrator_of_one_tenant_sees_no_session_of_others(
    guarded: RunningGateway, tenant: str
) -> None:
    mine, other = Controls(guarded.client, tenant), Controls(guarded.client, str(uuid4()))
    for controls in (mine, other):
        controls.headers |= bearer("admin", "ops")
    sessions = [await mine.begin(), await other.begin()]
    seen = done_many(await Controls(guarded.client, None).send("GET", SESSIONS, headers=ADMIN))
    assert [session for session in seen if session in sessions] == sorted(
        sessions, key=lambda session: str(session["tenant_id"])
    )
    bound = bearer("admin", "ops", tenant_id=tenant)
    answer = await Controls(guarded.client, None).send("GET", SESSIONS, headers=bound)
    assert done_many(answer) == [sessions[0]]


async def test_verbs_without_a_tenant_mean_the_default_one_even_if_there_is_another_session(
    alone: RunningGateway,
) -> None:
    nobody, one = Controls(alone.client, None), Controls(alone.client, str(uuid4()))
    session = await one.begin()
    refused(await nobody.start(session["id"]), 404, "SESSION_NOT_FOUND")
    refused(await nobody.end(session["id"]), 403, "FORBIDDEN")
    mine = await nobody.begin()
    assert mine["tenant_id"] == alone.tenant
    done(await nobody.end(mine["id"]))
    done(await one.end(session["id"]))


async def test_the_tenant_of_a_token_is_named_too(guarded: RunningGateway, tenant: str) -> None:
    other = Controls(guarded.client, str(uuid4()))
    other.headers |= bearer("reader")
    await other.begin()
    bound = Controls(guarded.client, None)
    bound.headers |= bearer("reader", tenant_id=tenant)
    assert await bound.current() is None
    assert (await bound.begin())["tenant_id"] == tenant
