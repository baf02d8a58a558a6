"""The API document of the session calls is true of sessions that there are, not only of refusals."""

from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator

from store.connection import Connection
from tests.conftest import Start
from tests.playback.conftest import House
from tests.playback.controls import Controls, moment
from tests.playback.test_states import put_into

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Document:
    """Judges answers by the document of their gateway."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def check(self, response: httpx.Response, path: str) -> None:
        method = response.request.method.lower()
        found = self.content["paths"][path][method]["responses"][str(response.status_code)]
        schema = found["content"]["application/json"]["schema"]
        whole = {**schema, "components": self.content["components"]}
        errors = [
            error.message for error in Draft202012Validator(whole).iter_errors(response.json())
        ]
        assert errors == []
        for name, header in found["headers"].items():
            assert not header.get("required") or name in response.headers

    def examples(self) -> list[tuple[str, str, Any]]:
        """Every example body of the session calls: method, path, body."""
        return [
            (method, path, example["value"])
            for path, item in self.content["paths"].items()
            for method, operation in item.items()
            if path.startswith("/v1/") and "requestBody" in operation
            for example in operation["requestBody"]["content"]["application/json"][
                "examples"
            ].values()
        ]


@pytest.fixture
def paths() -> dict[str, str]:
    return {verb: f"/v1/replay/{{id}}/{verb}" for verb in ("start", "stop", "seek", "end")} | {
        "init": "/v1/replay/init",
        "reset": "/v1/replay/reset",
        "current": "/v1/replay/current-session",
        "sessions": "/v1/replay/sessions",
        "replay": "/api/v1/replay",
        "configuration": "/v1/configuration",
    }


async def read_document(controls: Controls) -> Document:
    return Document((await controls.send("GET", "/api-docs/openapi.json")).json())


async def test_every_answer_about_a_session_is_as_the_document_says(
    controls: Controls, others: Controls, paths: dict[str, str], backend: Connection
) -> None:
    document = await read_document(controls)
    current = await controls.send("GET", paths["current"])
    document.check(current, paths["current"])
    answer = await controls.init()
    document.check(answer, paths["init"])
    session = answer.json()["data"]["id"]
    document.check(await others.init(), paths["init"])
    for name in ("current", "sessions"):
        document.check(await controls.send("GET", paths[name]), paths[name])
    params = {"event_type": "reading", "from_id": "1"}
    document.check(await controls.send("GET", paths["replay"], params=params), paths["replay"])
    body = {**params, "identifier": {}}
    document.check(await controls.send("POST", paths["replay"], body), paths["replay"])
    document.check(await controls.stop(session), paths["stop"])  # the wrong state
    for verb, call in (
        ("start", controls.start(session, 4)),
        ("stop", controls.stop(session)),
        ("seek", controls.seek(session, moment(1))),
    ):
        answer = await call
        assert answer.status_code == 200
        document.check(answer, paths[verb])
    stranger = Controls(others.http, "00000000-0000-4000-8000-00000000000e")
    document.check(await stranger.end(session), paths["end"])
    document.check(await controls.end(session), paths["end"])
    document.check(await controls.reset(), paths["reset"])
    document.check(await controls.send("GET", paths["configuration"]), paths["configuration"])
    await put_into(backend, controls, "DB_INIT_KO")
    document.check(await controls.send("GET", paths["current"]), paths["current"])
    document.check(await controls.reset(), paths["reset"])


async def test_every_example_is_taken(controls: Controls) -> None:
    document = await read_document(controls)
    examples = document.examples()
    assert len(examples) == 8
    session = None
    for method, path, body in sorted(examples, key=lambda each: "init" not in each[1]):
        answer = await controls.send(method.upper(), path.format(id=session), body)
        assert answer.status_code in {200, 201, 409}, answer.text
        document.check(answer, path)
        session = session or answer.json()["data"]["id"]


async def test_a_gateway_that_locks_no_replays_does_not_say_so(
    house: House, start_gateway: Start
) -> None:
    replay = (await read_document(Controls(house.first.client, None))).content["paths"]
    assert "409" in replay["/api/v1/replay"]["post"]["responses"]
    assert "409" in replay["/api/v1/replay"]["get"]["responses"]
    assert "409" not in replay["/api/v1/watch"]["post"]["responses"]
    async with start_gateway(playback={"lock_replays": False}) as running:
        free = (await read_document(Controls(running.client, None))).content["paths"]
        assert "409" not in free["/api/v1/replay"]["post"]["responses"]
