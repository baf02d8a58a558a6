"""A route that does nothing, in the gateway's own server and layers: what a request costs at least.

Prints its port. The body is read to its end and answered in as many bytes as a publication.
"""

import sys

import uvloop
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.event import TENANT
from gateway import server as http_server
from gateway.edge import Admission, Edge
from gateway.metrics import Metrics
from gateway.protocol import protocol
from gateway.routes.request import read_body

_HEADER_BYTES = 32768
_ANSWER = b'{"status":"success","request_id":"%b","processed_at":"%b","id":"bench@1234567"}' % (
    b"0" * 36,
    b"0" * 20,
)


async def _answer(request: Request) -> Response:
    await read_body(request, 1 << 20)
    return Response(_ANSWER, media_type="application/json")


async def _nothing() -> None:
    return


async def _serve() -> None:
    admission = Middleware(
        Admission, default_tenant=TENANT, header_bytes=_HEADER_BYTES, query_bytes=_HEADER_BYTES
    )
    routes = [Route("/api/v1/notification", _answer, methods=["POST"])]
    app = Edge(
        Starlette(routes=routes, middleware=[admission]), metrics=Metrics("0"), access_log=False
    )
    config = http_server.config(
        app, host="127.0.0.1", port=0, http=protocol(header_bytes=_HEADER_BYTES)
    )
    await http_server.Server(
        config, drain=_nothing, on_started=lambda port: print(port, flush=True)
    ).serve()


if __name__ == "__main__":
    sys.exit(uvloop.run(_serve()))
