"""HTTP/1.1 on the loop that the gateway runs on, which raises where another keeps silent."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.protocol import protocol
from gateway.server import Server, config

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def no_drain() -> None:
    """There are no streams."""


def converse(app: ASGIApp, talk: Callable[[int], Awaitable[None]]) -> list[str]:
    """Serve an application while a client talks to its port; what was raised where nobody waits."""
    raised: list[str] = []

    async def living(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: raised.append(str(context.get("exception"))))
        port: asyncio.Future[int] = loop.create_future()
        server = Server(
            config(living, host="127.0.0.1", port=0, http=protocol(header_bytes=1000)),
            drain=no_drain,
            on_started=port.set_result,
        )
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(30):
                await talk(await port)
        finally:
            server.should_exit = True
            await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return raised


def test_who_asks_twice_and_leaves_is_told_to_the_first_answer_too() -> None:
    """Only the last request knew: the answer to the first failed as it was sent, with a traceback
    in the log for each such client."""
    asked, answered = asyncio.Event(), asyncio.Event()
    received: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the body, which is empty
        asked.set()
        received.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"too late"})
        answered.set()

    async def ask_and_leave(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST * 2)
        await asked.wait()
        writer.close()
        await answered.wait()

    assert converse(app, ask_and_leave) == []
    assert received == ["http.disconnect"]


def test_who_was_refused_is_not_told_to_go_on() -> None:
    """The word that it may send its body came behind the end of the connection, and failed."""
    answers: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n")
        answers.append(await reader.read(-1))
        writer.close()
        await writer.wait_closed()

    assert converse(app, ask) == []
    assert answers[0].startswith(b"HTTP/1.1 400 ")
    assert answers[0].count(b"HTTP/1.1") == 1


def test_a_connection_that_is_being_closed_is_not_lent(caplog: pytest.LogCaptureFixture) -> None:
    """The server took it for an answer that the application had forgotten to end, and said so."""
    lent: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["playhead"]["connection"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        connection.abort()  # by who saw that its client takes nothing
        lent.append(connection.borrow(lambda: None))

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        with suppress(ConnectionResetError):
            await reader.read(-1)
        writer.close()

    assert converse(app, ask) == []
    assert lent == [False]
    assert [each.message for each in caplog.records if each.levelno >= logging.ERROR] == []
