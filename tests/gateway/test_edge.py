"""What every request meets first and last: its id, its limits, its tenant, its count, its last resort."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from gateway import edge
from gateway.edge import Admission, Edge
from gateway.errors import ApiError
from gateway.metrics import Metrics
from store.errors import StoreUnavailable

DEFAULT = "00000000-0000-0000-0000-000000000000"
REFUSED = ApiError(
    418, "TEAPOT", "teapot", "short and stout", "the cause", headers=[("A", "1"), ("A", "2")]
)


async def tenant(request: Request) -> Response:
    return Response(request.state.tenant)


async def refused(request: Request) -> Response:
    raise REFUSED


async def unavailable(request: Request) -> Response:
    raise StoreUnavailable("the log server did not answer")


async def broken(request: Request) -> Response:
    raise ValueError("a defect")


async def broken_stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        raise ValueError("a defect in mid-stream")

    return StreamingResponse(parts())


async def body(request: Request) -> Response:
    return Response(await request.body())


@dataclass
class House:
    """The layers as app.py puts them, round routes that do what a test wants."""

    metrics: Metrics = field(default_factory=lambda: Metrics("1", ()))
    access_log: bool = True

    def __post_init__(self) -> None:
        app = Starlette(
            routes=[
                Route("/tenant", tenant),
                Route("/refused", refused),
                Route("/unavailable", unavailable),
                Route("/broken/{what}", broken),
                Route("/broken-stream", broken_stream),
                Route("/body", body, methods=["POST"]),
            ],
            middleware=[
                Middleware(Admission, default_tenant=DEFAULT, header_bytes=1000, query_bytes=50)
            ],
            exception_handlers={
                ApiError: edge.on_api_error,
                StoreUnavailable: edge.on_unavailable,
                ClientDisconnect: edge.on_client_gone,
                HTTPException: edge.on_http_exception,
                Exception: edge.on_defect,
            },
        )
        self.app = Edge(app, metrics=self.metrics, access_log=self.access_log)

    async def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None, query: str = ""
    ) -> "Answer":
        """One request, in the words of ASGI; its client leaves when it is asked for a body."""
        lines = {"host": "x", **(headers or {})}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in lines.items()],
            "client": ("192.0.2.1", 1234),
            "state": {},
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return Answer(sent)

    def counted(self, route: str, status: int, method: str = "GET") -> bool:
        line = (
            f'playhead_http_requests_total{{method="{method}",route="{route}",'
            f'status_code="{status}"}} 1.0'
        )
        return line in self.metrics.render().decode()


@dataclass
class Answer:
    sent: list[Message]

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [(name.decode(), value.decode()) for name, value in self.sent[0]["headers"]]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def error(self) -> Any:
        """The one shape of errors, whose request id is the answer's."""
        found = json.loads(self.body)
        assert list(found) == sorted(found)
        assert found["request_id"] == dict(self.headers)["x-request-id"]
        return found


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


# -- answers


async def test_every_answer_has_an_id_of_its_own(house: House) -> None:
    paths = ["/tenant", "/refused", "/unavailable", "/nowhere", "/broken/x", "/broken-stream"]
    ids = [dict((await house.ask(path)).headers)["x-request-id"] for path in paths]
    assert len({UUID(each) for each in ids}) == len(paths)


async def test_an_error_of_the_api_is_answered_as_it_says(house: House) -> None:
    answer = await house.ask("/refused")
    assert answer.status == 418
    assert answer.error["code"] == "TEAPOT"
    assert (answer.error["message"], answer.error["details"]) == ("short and stout", "the cause")
    assert [value for name, value in answer.headers if name == "a"] == ["1", "2"]


async def test_a_log_that_is_away_is_503_with_a_time_to_come_back(house: House) -> None:
    answer = await house.ask("/unavailable")
    assert (answer.status, answer.error["code"]) == (503, "BACKEND_UNAVAILABLE")
    assert int(dict(answer.headers)["retry-after"]) > 0


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/nowhere", "GET", 404, "NOT_FOUND"),
        ("/tenant", "DELETE", 405, "METHOD_NOT_ALLOWED"),
        ("/broken/x", "GET", 500, "INTERNAL_ERROR"),
    ],
)
async def test_what_no_route_answers_has_the_shape_of_errors_too(
    house: House, path: str, method: str, status: int, code: str
) -> None:
    answer = await house.ask(path, method)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert "a defect" not in answer.body.decode()


async def test_a_defect_leaves_its_traceback_and_the_id_in_the_log(
    house: House, logged: list[Any]
) -> None:
    answer = await house.ask("/broken/x")
    [line] = [line for line in logged if line["event"] == "request_failed"]
    assert line["request_id"] == answer.error["request_id"]
    assert line["exc_info"]


async def test_a_defect_in_mid_stream_ends_the_request_alone(
    house: House, logged: list[Any]
) -> None:
    answer = await house.ask("/broken-stream")
    assert (answer.status, answer.body) == (200, b"one")
    assert [line["event"] for line in logged] == ["request", "request_failed"]


async def test_a_client_that_leaves_before_its_body_has_come_is_nobodys_failure(
    house: House, logged: list[Any]
) -> None:
    """It was counted as an error of the server, 500."""
    await house.ask("/body", "POST")
    assert [(line["event"], line["status"]) for line in logged] == [("request", 499)]
    assert house.counted("/body", 499, "POST")


# -- limits


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({"x": "y" * 1000}, "", 431, "HEADERS_TOO_LARGE"),
        ({}, "q" * 51, 414, "QUERY_TOO_LARGE"),
        ({"x-tenant-id": "none"}, "", 400, "INVALID_TENANT"),
        ({"x-tenant-id": ""}, "", 400, "INVALID_TENANT"),
    ],
)
async def test_what_is_too_large_or_names_no_tenant_is_refused_at_the_door(
    house: House, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    answer = await house.ask("/tenant", headers=headers, query=query)
    assert (answer.status, answer.error["code"]) == (status, code)


async def test_what_is_just_within_the_limits_is_let_in(house: House) -> None:
    size = 1000 - len("hostx") - len("x")
    assert (await house.ask("/tenant", headers={"x": "y" * size}, query="q" * 50)).status == 200
    assert (await house.ask("/tenant", headers={"x": "y" * (size + 1)})).status == 431


async def test_the_tenant_is_the_headers_in_canonical_form_or_the_default(house: House) -> None:
    given = uuid4()
    assert (await house.ask("/tenant")).body.decode() == DEFAULT
    for written in (str(given), str(given).upper(), given.hex, f" {given} "):
        answer = await house.ask("/tenant", headers={"x-tenant-id": written})
        assert answer.body.decode() == str(given)


# -- counts


async def test_requests_are_counted_by_route_method_and_status(house: House) -> None:
    await house.ask("/broken/one")
    await house.ask("/nowhere")
    await house.ask("/tenant")
    assert house.counted("/broken/{what}", 500)
    assert house.counted("unmatched", 404)
    assert house.counted("/tenant", 200)
    in_flight = 'playhead_http_requests_in_flight{method="GET"} 0.0'
    assert in_flight in house.metrics.render().decode()


async def test_the_access_log_has_a_line_a_request_without_the_query(
    house: House, logged: list[Any]
) -> None:
    """A query may hold a one-time ticket or a token."""
    answer = await house.ask("/tenant", query="ticket=secret")
    [line] = logged
    assert (line["method"], line["path"], line["status"]) == ("GET", "/tenant", 200)
    assert line["request_id"] == dict(answer.headers)["x-request-id"]
    assert line["client"] == "192.0.2.1"
    assert "secret" not in str(line)
    del logged[:]
    await House(access_log=False).ask("/tenant")
    assert logged == []
