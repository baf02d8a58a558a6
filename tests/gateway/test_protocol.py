"""HTTP/1.1 on the loop that the gateway runs on, which raises where another keeps silent."""

import asyncio

import uvloop
from starlette.types import Receive, Scope, Send

from gateway.protocol import protocol
from gateway.server import Server, config

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def no_drain() -> None:
    """There are no streams."""


def test_who_asks_twice_and_leaves_is_told_to_the_first_answer_too() -> None:
    """Only the last request knew: the answer to the first failed as it was sent, with a traceback
    in the log for each such client."""
    asked = asyncio.Event()
    received: list[str] = []
    answered: asyncio.Queue[None] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        await receive()  # the body, which is empty
        asked.set()
        received.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"too late"})
        answered.put_nowait(None)

    async def ask_and_leave(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST * 2)
        await asked.wait()
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        server = Server(
            config(app, host="127.0.0.1", port=0, http=protocol(header_bytes=1000)),
            drain=no_drain,
            on_started=port.set_result,
        )
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(30):
                await ask_and_leave(await port)
                await answered.get()
        finally:
            server.should_exit = True
            await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert received == ["http.disconnect"]
