"""Aviso wire contract §11.1: mode `direct`, where an authentication service decides."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.conftest import Start
from tests.contract.api import Api
from tests.contract.users import GUARDED, NO_READER, NOBODY, PROXY, assert_refused, attempt, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


class _Service(ThreadingHTTPServer):
    """Stands where the authentication service would."""

    daemon_threads = True
    status = 200
    answer: bytes = b""
    authorization: str | None = None
    seen: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: _Service

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.path} {self.headers['Authorization']}")
        self.send_response(self.server.status)
        if self.server.authorization is not None:
            self.send_header("Authorization", self.server.authorization)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def service() -> Iterator[_Service]:
    with _Service(("127.0.0.1", 0), _Handler) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_direct_mode_asks_the_service_and_tells_what_it_decides(
    start_gateway: Start, service: _Service
) -> None:
    url = f"http://127.0.0.1:{service.server_port}"
    auth = {**PROXY, "mode": "direct", "auth_o_tron_url": url, "timeout_ms": 2000}
    both = ("Bearer", "Basic")
    async with start_gateway(auth=auth, notification_schema=GUARDED) as gateway:
        api = Api(gateway, gateway.tenant)

        async def read(authorization: str | None) -> httpx.Response:
            headers = {} if authorization is None else {"Authorization": authorization}
            return await asyncio.wait_for(attempt(api, "watch", "readers", headers), 10)

        assert_refused(await read(None), 401, NOBODY, both)
        service.authorization = f"Bearer {token('reader')}"
        for authorization in ("Basic YWRhOnB3", "Bearer opaque"):
            assert (await read(authorization)).status_code == 200
            assert service.seen[-1] == f"/authenticate {authorization}"
        service.authorization = None
        for answer in (
            *({"token": token("reader")}, {"jwt": token("reader")}),
            {"access_token": token("reader")},
        ):
            service.answer = json.dumps(answer).encode()
            assert (await read("Bearer opaque")).status_code == 200
        service.answer = token("reader").encode()
        assert (await read("Bearer opaque")).status_code == 200
        service.answer = token("writer").encode()
        assert_refused(await read("Bearer opaque"), 403, NO_READER)
        service.answer = token("reader", exp=1).encode()
        assert_refused(await read("Bearer opaque"), 401, "Invalid or expired token", both)
        away = "Authentication service temporarily unavailable"
        for status, expected, message in (
            (401, 401, "Invalid or expired token"),
            (403, 403, "Token validation was denied"),
            (500, 503, away),
            (302, 503, away),
        ):
            service.status = status
            assert_refused(await read("Bearer opaque"), expected, message, both)
        service.status, service.answer = 200, b"{}"
        assert_refused(await read("Bearer opaque"), 503, away)
