"""Aviso wire contract §11.1, and a token bound to a tenant. The authentication service is real HTTP."""

import base64
import logging
import socket
import time
from asyncio import Event, create_task
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import jwt
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.auth import Access, Authenticator, Mode, OpenAccess, User
from gateway.errors import ApiError
from gateway.schema.policy import StreamAuth

SECRET = "a secret of at least thirty-two bytes"
ADMIN_ROLES = {"ops": ["admin"]}
TENANT = "11111111-2222-3333-4444-555555555555"
OTHER_TENANT = "99999999-2222-3333-4444-555555555555"
BEARER = ("WWW-Authenticate", "Bearer")
BASIC = ("WWW-Authenticate", "Basic")

READER = User("reader", "science", frozenset({"read"}))
WRITER = User("writer", "science", frozenset({"write"}))
ADMIN = User("boss", "ops", frozenset({"admin"}))


def make_token(secret: object = SECRET, algorithm: object = "HS256", **claims: object) -> str:
    described = {"username": "ada", "realm": "science", "roles": ["read"]}
    merged = {"exp": int(time.time()) + 600, **described, **claims}
    return jwt.encode(
        {name: value for name, value in merged.items() if value is not None},
        str(secret),
        algorithm=str(algorithm),
    )


def bearer(token: str) -> Headers:
    return Headers({"Authorization": f"Bearer {token}"})


def unsigned_token(header: bytes) -> str:
    parts = (header, b'{"exp":9999999999,"username":"eve"}', b"x" * 32)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def trusted_proxy(**options: object) -> Authenticator:
    return Authenticator("trusted_proxy", SECRET, ADMIN_ROLES, **options)  # type: ignore[arg-type]


async def refusal(access: Access, headers: Mapping[str, str]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await access.authenticate(headers)
    return caught.value


def described(error: ApiError) -> tuple[int, str, str, str]:
    assert set(error.body("r")) == {"code", "error", "message", "request_id"}
    return error.status, error.code, error.error, error.message


UNAUTHORIZED = (401, "UNAUTHORIZED", "unauthorized")
FORBIDDEN = (403, "FORBIDDEN", "forbidden")
UNAVAILABLE = (
    503,
    "SERVICE_UNAVAILABLE",
    "service_unavailable",
    "Authentication service temporarily unavailable",
)


class TestOpenAccess:
    async def test_nobody_is_asked_and_everything_is_allowed(self) -> None:
        access = OpenAccess()
        closed = StreamAuth(required=True)
        assert await access.authenticate(bearer("nonsense")) is None
        assert await access.require_admin(Headers()) is None
        access.require_read(None, closed)
        access.require_write(None, closed)
        assert access.tenant_for(None, Headers(), TENANT) == TENANT
        await access.aclose()


class TestTrustedProxy:
    async def test_a_valid_token_says_who_the_user_is(self) -> None:
        user = await trusted_proxy().authenticate(bearer(make_token()))
        assert user == User("ada", "science", frozenset({"read"}), None)

    async def test_the_subject_is_the_username_when_there_is_no_other(self) -> None:
        user = await trusted_proxy().authenticate(bearer(make_token(username=None, sub="ada@x")))
        assert user is not None
        assert user.username == "ada@x"

    async def test_the_scheme_may_have_any_case(self) -> None:
        headers = Headers({"Authorization": f"bEARER   {make_token()} "})
        assert await trusted_proxy().authenticate(headers) is not None

    async def test_audience_and_time_of_issue_are_not_checked(self) -> None:
        token = make_token(aud="somebody else", iat=int(time.time()) + 60)
        assert await trusted_proxy().authenticate(bearer(token)) is not None

    async def test_realm_and_roles_may_be_missing(self) -> None:
        user = await trusted_proxy().authenticate(bearer(make_token(realm=None, roles=None)))
        assert user == User("ada", "", frozenset(), None)

    async def test_no_header_is_no_user(self) -> None:
        assert await trusted_proxy().authenticate(Headers()) is None

    @pytest.mark.parametrize(
        "header", ["", " ", "Bearer", "Bearer ", "Basic YTpi", "Digest x", "token", "Bearer a b"]
    )
    async def test_a_malformed_header_counts_as_none(self, header: str) -> None:
        assert await trusted_proxy().authenticate(Headers({"Authorization": header})) is None

    @pytest.mark.parametrize(
        "token",
        [
            pytest.param("nonsense", id="no JWT"),
            pytest.param("a.b.c", id="no base64"),
            pytest.param(make_token(exp=int(time.time()) - 1), id="expired"),
            pytest.param(make_token(exp=None), id="never expires"),
            pytest.param(make_token(nbf=int(time.time()) + 600), id="not yet"),
            pytest.param(make_token("another secret of thirty-two bytes"), id="other secret"),
            pytest.param(
                make_token(SECRET * 2, algorithm="HS512"), id="other algorithm, other secret"
            ),
            pytest.param(make_token(SECRET * 2, algorithm="HS384"), id="other algorithm"),
            pytest.param(make_token(algorithm="none", secret=""), id="no algorithm"),
            pytest.param(unsigned_token(b'{"alg":"none"}'), id="no algorithm, with signature"),
            pytest.param(unsigned_token(b'{"alg":"NONE"}'), id="no algorithm, shouted"),
            pytest.param(unsigned_token(b'{"alg":[]}'), id="algorithm is a list"),
            pytest.param(unsigned_token(b'{"alg":' + b"[" * 20_000), id="deeply nested header"),
            pytest.param(make_token()[:-2], id="truncated"),
            pytest.param(make_token(roles="admin"), id="roles are no list"),
            pytest.param(make_token(sub=5, username=None), id="subject is a number"),
        ],
    )
    async def test_presented_but_invalid_credentials_are_refused(self, token: str) -> None:
        error = await refusal(trusted_proxy(), bearer(token))
        assert described(error) == (*UNAUTHORIZED, "Invalid or expired token")
        assert error.headers == (BEARER,)

    async def test_a_token_of_nobody_is_refused(self) -> None:
        for nobody in (make_token(username=None), make_token(username="", sub="")):
            error = await refusal(trusted_proxy(), bearer(nobody))
            assert described(error) == (*UNAUTHORIZED, "Token is missing required user claims")

    async def test_a_secret_shorter_than_advised_works(self) -> None:
        """PyJWT warns of it at every use; here a warning would be an error."""
        access = Authenticator("trusted_proxy", "short", ADMIN_ROLES)
        assert (await access.authenticate(Headers())) is None
        token = make_token("short")
        assert await access.authenticate(bearer(token)) is not None


class TestAdmin:
    async def test_an_admin_is_let_in(self) -> None:
        token = make_token(realm="ops", roles=["admin", "other"])
        user = await trusted_proxy().require_admin(bearer(token))
        assert user.username == "ada"

    async def test_every_user_of_a_realm_may_be_an_admin(self) -> None:
        access = Authenticator("trusted_proxy", SECRET, {"science": ["*"]})
        assert await access.require_admin(bearer(make_token(roles=[])))

    @pytest.mark.parametrize(
        "claims",
        [
            {"realm": "science", "roles": ["admin"]},
            {"realm": None, "roles": ["admin"]},
            {"realm": "ops", "roles": ["read"]},
            {"realm": "ops", "roles": []},
        ],
    )
    async def test_another_role_or_realm_is_forbidden(self, claims: dict[str, object]) -> None:
        with pytest.raises(ApiError) as caught:
            await trusted_proxy().require_admin(bearer(make_token(**claims)))
        message = "User does not have required administrative role"
        assert described(caught.value) == (*FORBIDDEN, message)
        assert caught.value.headers == ()

    async def test_no_header_is_unauthorized(self) -> None:
        with pytest.raises(ApiError) as caught:
            await trusted_proxy().require_admin(Headers())
        assert described(caught.value) == (*UNAUTHORIZED, "Authorization header is required")
        assert caught.value.headers == (BEARER,)

    @pytest.mark.parametrize("header", ["", "Basic YTpi", "Bearer"])
    async def test_a_malformed_header_is_unauthorized(self, header: str) -> None:
        with pytest.raises(ApiError) as caught:
            await trusted_proxy().require_admin(Headers({"Authorization": header}))
        message = "Authorization header must hold Bearer credentials"
        assert described(caught.value) == (*UNAUTHORIZED, message)


OPEN = StreamAuth(required=False)
ANY_READER = StreamAuth(required=True)
ROLES = StreamAuth(
    required=True, read_roles={"science": ("read",)}, write_roles={"science": ("write",)}
)
EVERYBODY = StreamAuth(
    required=True, read_roles={"science": ("*",)}, write_roles={"science": ("*",)}
)
REQUIRED = (*UNAUTHORIZED, "Authentication is required for this stream")
NO_READ = (*FORBIDDEN, "User does not have required read role for this stream")
NO_WRITE = (*FORBIDDEN, "User does not have required write role for this stream")
ADMINS_WRITE = (*FORBIDDEN, "Only administrators can write to this stream")


class TestStreams:
    @pytest.mark.parametrize(
        ("user", "stream_auth", "expected"),
        [
            (None, None, None),
            (None, OPEN, None),
            (READER, OPEN, None),
            (None, ANY_READER, REQUIRED),
            (WRITER, ANY_READER, None),
            (None, ROLES, REQUIRED),
            (READER, ROLES, None),
            (WRITER, ROLES, NO_READ),
            (ADMIN, ROLES, None),
            (WRITER, EVERYBODY, None),
            (User("x", "", frozenset({"read"})), ROLES, NO_READ),
            (User("x", "art", frozenset({"read"})), ROLES, NO_READ),
            (User("x", "art", frozenset({"*"})), EVERYBODY, NO_READ),
        ],
    )
    def test_who_may_read(
        self,
        user: User | None,
        stream_auth: StreamAuth | None,
        expected: tuple[int, str, str, str] | None,
    ) -> None:
        if expected is None:
            trusted_proxy().require_read(user, stream_auth)
            return
        with pytest.raises(ApiError) as caught:
            trusted_proxy().require_read(user, stream_auth)
        assert described(caught.value) == expected

    @pytest.mark.parametrize(
        ("user", "stream_auth", "expected"),
        [
            (None, None, None),
            (None, OPEN, None),
            (None, ANY_READER, REQUIRED),
            (WRITER, ANY_READER, ADMINS_WRITE),
            (ADMIN, ANY_READER, None),
            (None, ROLES, REQUIRED),
            (WRITER, ROLES, None),
            (READER, ROLES, NO_WRITE),
            (ADMIN, ROLES, None),
            (READER, EVERYBODY, None),
        ],
    )
    def test_who_may_write(
        self,
        user: User | None,
        stream_auth: StreamAuth | None,
        expected: tuple[int, str, str, str] | None,
    ) -> None:
        if expected is None:
            trusted_proxy().require_write(user, stream_auth)
            return
        with pytest.raises(ApiError) as caught:
            trusted_proxy().require_write(user, stream_auth)
        assert described(caught.value) == expected


class TestTenants:
    @pytest.mark.parametrize(
        "claims",
        [{"tenant": TENANT.upper()}, {"attributes": {"tenant": TENANT, "groups": ["a", "b"]}}],
    )
    async def test_a_claim_binds_a_token_to_a_tenant(self, claims: dict[str, object]) -> None:
        access = trusted_proxy(tenant_claim="tenant")
        user = await access.authenticate(bearer(make_token(**claims)))
        assert user is not None
        assert user.tenant == TENANT

    async def test_without_the_setting_no_claim_binds(self) -> None:
        user = await trusted_proxy().authenticate(bearer(make_token(tenant=TENANT)))
        assert user is not None
        assert user.tenant is None

    @pytest.mark.parametrize("claim", ["acme", "", 5, ["x"]])
    async def test_a_claim_that_is_no_uuid_is_refused(self, claim: object) -> None:
        access = trusted_proxy(tenant_claim="tenant")
        error = await refusal(access, bearer(make_token(tenant=claim)))
        assert described(error) == (*UNAUTHORIZED, "Invalid or expired token")

    def test_the_request_means_the_tenant_it_names(self) -> None:
        named = Headers({"X-Tenant-ID": TENANT})
        bound = User("ada", "science", frozenset(), TENANT)
        assert trusted_proxy().tenant_for(None, named, TENANT) == TENANT
        assert trusted_proxy().tenant_for(READER, named, TENANT) == TENANT
        assert trusted_proxy().tenant_for(bound, named, TENANT) == TENANT

    def test_a_bound_token_without_the_header_means_its_own_tenant(self) -> None:
        bound = User("ada", "science", frozenset(), TENANT)
        assert trusted_proxy().tenant_for(bound, Headers(), OTHER_TENANT) == TENANT

    def test_a_bound_token_may_not_name_another_tenant(self) -> None:
        bound = User("ada", "science", frozenset(), TENANT)
        named = Headers({"X-Tenant-ID": OTHER_TENANT})
        with pytest.raises(ApiError) as caught:
            trusted_proxy().tenant_for(bound, named, OTHER_TENANT)
        message = "Token does not give access to the tenant of X-Tenant-ID"
        assert described(caught.value) == (*FORBIDDEN, message)


@dataclass
class AuthService:
    """The authentication service: answers `response` and remembers what it was asked."""

    url: str = ""
    response: Response = field(default_factory=Response)
    seen: list[Headers] = field(default_factory=list)
    never: Event | None = None

    async def authenticate(self, request: Request) -> Response:
        self.seen.append(request.headers)
        if self.never is not None:
            await self.never.wait()
        return self.response


@asynccontextmanager
async def serving(service: AuthService) -> AsyncIterator[None]:
    app = Starlette(routes=[Route("/base/authenticate", service.authenticate)])
    # The socket listens before the server does: the first connection waits, no test has to.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service.url = f"http://127.0.0.1:{listener.getsockname()[1]}/base/"
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        task = create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def service() -> AsyncIterator[AuthService]:
    service = AuthService()
    async with serving(service):
        yield service


@asynccontextmanager
async def direct(
    url: str, mode: Mode = "direct", timeout_ms: int = 5000
) -> AsyncIterator[Authenticator]:
    access = Authenticator(mode, SECRET, ADMIN_ROLES, url=url, timeout_ms=timeout_ms)
    try:
        yield access
    finally:
        await access.aclose()


class TestDirect:
    @pytest.mark.parametrize("header", ["Bearer opaque", "Basic YWRhOnB3"])
    async def test_credentials_are_forwarded_as_they_came(
        self, service: AuthService, header: str
    ) -> None:
        service.response = Response(headers={"Authorization": f"Bearer {make_token()}"})
        async with direct(service.url) as access:
            user = await access.authenticate(Headers({"Authorization": header}))
        assert user == User("ada", "science", frozenset({"read"}))
        assert [seen["authorization"] for seen in service.seen] == [header]

    @pytest.mark.parametrize(
        "response",
        [
            JSONResponse({"token": make_token()}),
            JSONResponse({"jwt": make_token(), "more": [1]}),
            JSONResponse({"access_token": make_token()}, 201),
            JSONResponse(make_token()),
            PlainTextResponse(f"  {make_token()}\n"),
            PlainTextResponse(make_token(), headers={"Authorization": "Basic x"}),
        ],
    )
    async def test_the_token_may_stand_in_the_body(
        self, service: AuthService, response: Response
    ) -> None:
        service.response = response
        async with direct(service.url) as access:
            user = await access.authenticate(bearer("opaque"))
        assert user is not None
        assert user.username == "ada"

    @pytest.mark.parametrize(
        ("status", "expected", "challenges"),
        [
            (401, (*UNAUTHORIZED, "Invalid or expired token"), (BEARER, BASIC)),
            (403, (*FORBIDDEN, "Token validation was denied"), ()),
            (302, UNAVAILABLE, (("Retry-After", "5"),)),
            (404, UNAVAILABLE, (("Retry-After", "5"),)),
            (500, UNAVAILABLE, (("Retry-After", "5"),)),
            (503, UNAVAILABLE, (("Retry-After", "5"),)),
        ],
    )
    async def test_its_refusal_is_ours(
        self,
        service: AuthService,
        status: int,
        expected: tuple[int, str, str, str],
        challenges: tuple[tuple[str, str], ...],
    ) -> None:
        service.response = Response(make_token(), status, {"Location": "/elsewhere"})
        async with direct(service.url) as access:
            error = await refusal(access, bearer("opaque"))
        assert described(error) == expected
        assert error.headers == challenges

    @pytest.mark.parametrize(
        "response",
        [
            Response(),
            Response(b"\xff\xfe"),
            PlainTextResponse("welcome"),
            JSONResponse({}),
            JSONResponse({"token": None}),
            JSONResponse({"token": "opaque"}),
            JSONResponse({"token": 5}),
            JSONResponse([make_token()]),
        ],
    )
    async def test_an_answer_without_a_token_is_no_verdict(
        self, service: AuthService, response: Response
    ) -> None:
        service.response = response
        async with direct(service.url) as access:
            assert described(await refusal(access, bearer("opaque"))) == UNAVAILABLE

    async def test_its_token_is_verified_too(self, service: AuthService) -> None:
        service.response = JSONResponse({"token": make_token("another secret of thirty-two bytes")})
        async with direct(service.url) as access:
            error = await refusal(access, bearer("opaque"))
        assert described(error) == (*UNAUTHORIZED, "Invalid or expired token")

    async def test_a_service_that_does_not_answer_is_unavailable(
        self, service: AuthService
    ) -> None:
        service.never = Event()
        async with direct(service.url, timeout_ms=50) as access:
            assert described(await refusal(access, bearer("opaque"))) == UNAVAILABLE
        service.never.set()

    async def test_a_service_that_is_not_there_is_unavailable(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with direct(url) as access:
            assert described(await refusal(access, bearer("opaque"))) == UNAVAILABLE

    async def test_no_header_asks_nobody(self, service: AuthService) -> None:
        async with direct(service.url) as access:
            assert await access.authenticate(Headers()) is None
            assert await access.authenticate(Headers({"Authorization": "Negotiate x"})) is None
        assert service.seen == []

    async def test_a_malformed_header_on_an_admin_route_says_both_schemes(self) -> None:
        async with direct("http://127.0.0.1:1") as access:
            with pytest.raises(ApiError) as caught:
                await access.require_admin(Headers({"Authorization": "Negotiate x"}))
        message = "Authorization header must hold Bearer or Basic credentials"
        assert described(caught.value) == (*UNAUTHORIZED, message)
        assert caught.value.headers == (BEARER, BASIC)

    async def test_a_cookie_of_one_user_is_not_sent_for_another(self, service: AuthService) -> None:
        service.response = PlainTextResponse(make_token())
        service.response.set_cookie("session", "of-ada")
        async with direct(service.url) as access:
            await access.authenticate(bearer("ada"))
            await access.authenticate(bearer("eve"))
        assert [seen.get("cookie") for seen in service.seen] == [None, None]

    async def test_no_token_is_ever_logged(
        self,
        service: AuthService,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """httpcore prints the headers of an answer at DEBUG, and one of them is the token."""
        caplog.set_level(logging.DEBUG)
        token = make_token()
        async with direct(service.url) as access:
            service.response = Response(headers={"Authorization": f"Bearer {token}"})
            await access.authenticate(bearer("opaque-credentials"))
            service.response = Response(status_code=500)
            await refusal(access, bearer("opaque-credentials"))
        logged = caplog.text + "".join(capsys.readouterr())
        assert "authentication_service_silent" in logged
        assert token not in logged
        assert "opaque-credentials" not in logged


class TestOutcomes:
    async def test_every_attempt_is_counted_by_its_outcome(self, service: AuthService) -> None:
        counted: list[str] = []
        access = Authenticator("direct", SECRET, ADMIN_ROLES, url=service.url, count=counted.append)
        await access.authenticate(Headers())
        service.response = PlainTextResponse(make_token())
        await access.authenticate(bearer("x"))
        with pytest.raises(ApiError):
            await access.require_admin(bearer("x"))
        service.response = Response(status_code=401)
        await refusal(access, bearer("x"))
        service.response = Response(status_code=500)
        await refusal(access, bearer("x"))
        await access.aclose()
        assert counted == [
            *("success", "success", "forbidden"),
            *("unauthorized", "service_unavailable"),
        ]
