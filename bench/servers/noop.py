"""A route that does nothing, in the gateway's own HTTP server: what a request costs at least.

Prints its port. The body is read to its end and answered in as many bytes as a publication.
"""

import sys

import uvloop
from starlette.types import Receive, Scope, Send

from gateway import server as http_server
from gateway.protocol import protocol

_ANSWER = b'{"status":"success","request_id":"%b","processed_at":"%b","id":"bench@1234567"}' % (
    b"0" * 36,
    b"0" * 20,
)
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_ANSWER)),
    (b"x-request-id", b"0" * 36),
]


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


async def _nothing() -> None:
    return


async def _serve() -> None:
    config = http_server.config(
        _answer, host="127.0.0.1", port=0, http=protocol(header_bytes=32768)
    )
    await http_server.Server(
        config, drain=_nothing, on_started=lambda port: print(port, flush=True)
    ).serve()


if __name__ == "__main__":
    sys.exit(uvloop.run(_serve()))
