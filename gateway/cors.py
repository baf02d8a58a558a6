"""CORS by setting: Starlette's middleware, whose refusals have the shape of every other one."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.edge import answer
from gateway.errors import ApiError


class Cors(CORSMiddleware):
    """Answers preflights and adds the headers that let pages of other origins read answers."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        return response if response.status_code == 200 else _Refused(response)


class _Refused(Response):
    def __init__(self, plain: Response) -> None:
        super().__init__()
        self._plain = plain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = bytes(self._plain.body).decode()
        error = ApiError(400, "CORS_REFUSED", "CORS Refused", message)
        response = answer(error, scope["state"]["request_id"])
        for name, value in self._plain.headers.items():
            if not name.startswith("content-"):
                response.headers[name] = value
        await response(scope, receive, send)
