"""Who is asking, and what they may do (Aviso wire contract §11.1).

Two ways in: ``Authenticator`` reads the Authorization header, ``OpenAccess`` stands in for it when
authentication is off and lets everybody do everything. Both answer the same five questions, so a
route never asks which one it has. Tokens and passwords are never logged, kept or repeated.
"""

import asyncio
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Literal
from uuid import UUID

import httpx
import jwt
import msgspec
import structlog

from gateway.errors import ApiError
from gateway.schema.policy import StreamAuth

Mode = Literal["direct", "trusted_proxy"]
Roles = Mapping[str, Sequence[str]]

logger = structlog.get_logger(__name__)

_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z]+) +(?P<credentials>[!-~]+)")
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# RFC 7518 §3.2: an HS256 key is at least as long as the hash.
_KEY_BYTES = 32


class User(msgspec.Struct, frozen=True):
    """An authenticated user; ``tenant`` is set when the token is bound to one."""

    username: str
    realm: str
    roles: frozenset[str]
    tenant: str | None = None

    def holds(self, roles: Roles) -> bool:
        """Whether the user has one of the roles listed for the user's realm; ``*`` is every user."""
        allowed = roles.get(self.realm, ())
        return "*" in allowed or not self.roles.isdisjoint(allowed)


class _Claims(msgspec.Struct, frozen=True):
    username: str | None = None
    sub: str | None = None
    realm: str | None = None
    roles: frozenset[str] = frozenset()
    attributes: dict[str, object] = {}


class _RemoteAnswer(msgspec.Struct, frozen=True):
    token: str | None = None
    jwt: str | None = None
    access_token: str | None = None


_remote_answer = msgspec.json.Decoder(_RemoteAnswer | str)


class OpenAccess:
    """Authentication is off: nobody is asked for credentials, and whatever they send is ignored."""

    async def authenticate(self, headers: Mapping[str, str]) -> User | None:
        return None

    async def require_admin(self, headers: Mapping[str, str]) -> User | None:
        return None

    def require_read(self, user: User | None, stream_auth: StreamAuth | None) -> None:
        return

    def require_write(self, user: User | None, stream_auth: StreamAuth | None) -> None:
        return

    def tenant_for(self, user: User | None, headers: Mapping[str, str], tenant: str) -> str:
        return tenant

    async def aclose(self) -> None:
        return


class Authenticator:
    """Verifies credentials and decides by role.

    ``direct`` sends the Authorization header on to the authentication service, which answers with
    a token; ``trusted_proxy`` takes the token from the header. The token is an HS256 JWT with an
    ``exp``. ``tenant_claim`` names the claim (or the entry of ``attributes``) that binds a token
    to one tenant. ``count`` is told each outcome: success, unauthorized, forbidden or
    service_unavailable.
    """

    def __init__(
        self,
        mode: Mode,
        secret: str,
        admin_roles: Roles,
        *,
        url: str = "",
        timeout_ms: int = 5000,
        tenant_claim: str | None = None,
        count: Callable[[str], object] = lambda outcome: None,
    ) -> None:
        self._mode: Mode = mode
        self._secret = secret
        self._admin_roles = admin_roles
        self._tenant_claim = tenant_claim
        self._count = count
        self._timeout_s = timeout_ms / 1000
        self._url = f"{url.rstrip('/')}/authenticate"
        self._client: httpx.AsyncClient | None = None
        self._schemes = ("bearer", "basic") if mode == "direct" else ("bearer",)
        self._challenges = tuple(
            ("WWW-Authenticate", scheme.capitalize()) for scheme in self._schemes
        )
        if mode == "direct":
            # Its DEBUG lines print response headers, and one of those is a user's token.
            logging.getLogger("httpcore").setLevel(logging.INFO)
            # One client serves every user: a cookie kept from one answer would be sent for another.
            cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
            self._client = httpx.AsyncClient(cookies=cookies, timeout=self._timeout_s)
        if len(secret.encode()) < _KEY_BYTES:
            warnings.filterwarnings("ignore", category=jwt.InsecureKeyLengthWarning)
            logger.warning("jwt_secret_short", advised_bytes=_KEY_BYTES)

    async def aclose(self) -> None:
        """Close the connections to the authentication service."""
        if self._client is not None:
            await self._client.aclose()

    async def authenticate(self, headers: Mapping[str, str]) -> User | None:
        """The user of a request, or None when the request presents no credentials.

        A header of another scheme, or without credentials, counts as none. Raises ApiError: 401
        for credentials that are not valid, 403 and 503 as the authentication service decides.
        """
        header = headers.get("authorization", "").strip()
        match = _CREDENTIALS.fullmatch(header)
        if match is None or match["scheme"].lower() not in self._schemes:
            return None
        token = match["credentials"]
        if self._client is not None:
            token = await self._exchange(self._client, header)
        user = self._verify(token)
        self._count("success")
        return user

    async def require_admin(self, headers: Mapping[str, str]) -> User:
        """The user of a request to an administrative route; anybody but an admin is refused."""
        if "authorization" not in headers:
            raise self._unauthorized("Authorization header is required")
        user = await self.authenticate(headers)
        if user is None:
            schemes = " or ".join(scheme.capitalize() for scheme in self._schemes)
            raise self._unauthorized(f"Authorization header must hold {schemes} credentials")
        if not user.holds(self._admin_roles):
            raise self._forbidden("User does not have required administrative role")
        return user

    def require_read(self, user: User | None, stream_auth: StreamAuth | None) -> None:
        """Refuse a watch or replay of a stream the user may not read."""
        if stream_auth is None or not stream_auth.required:
            return
        user = self._require_user(user)
        roles = stream_auth.read_roles
        if roles and not user.holds(roles) and not user.holds(self._admin_roles):
            raise self._forbidden("User does not have required read role for this stream")

    def require_write(self, user: User | None, stream_auth: StreamAuth | None) -> None:
        """Refuse a publication to a stream the user may not write; without roles, admins only."""
        if stream_auth is None or not stream_auth.required:
            return
        user = self._require_user(user)
        if user.holds(self._admin_roles):
            return
        if not stream_auth.write_roles:
            raise self._forbidden("Only administrators can write to this stream")
        if not user.holds(stream_auth.write_roles):
            raise self._forbidden("User does not have required write role for this stream")

    def tenant_for(self, user: User | None, headers: Mapping[str, str], tenant: str) -> str:
        """The tenant whose log a request means, given the one its X-Tenant-ID header (or the
        default) names. A token bound to a tenant means that one, and may not name another.
        """
        if user is None or user.tenant is None or user.tenant == tenant:
            return tenant
        if "x-tenant-id" in headers:
            raise self._forbidden("Token does not give access to the tenant of X-Tenant-ID")
        return user.tenant

    async def _exchange(self, client: httpx.AsyncClient, authorization: str) -> str:
        """Let the authentication service turn credentials into a token."""
        try:
            # httpx's own limit is per read: a service that trickles bytes would never reach it.
            async with asyncio.timeout(self._timeout_s):
                response = await client.get(self._url, headers={"Authorization": authorization})
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._unavailable(type(error).__name__) from error
        if response.status_code == 401:
            raise self._unauthorized("Invalid or expired token")
        if response.status_code == 403:
            raise self._forbidden("Token validation was denied")
        if not response.is_success:
            raise self._unavailable(f"status {response.status_code}")
        token = _token_of(response)
        if token is None:
            raise self._unavailable("no token in the answer")
        return token

    def _verify(self, token: str) -> User:
        try:
            raw = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                # A clock a second behind the issuer's must not refuse a fresh token, hence no `iat`.
                options={
                    "require": ["exp"],
                    "verify_aud": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
            claims = msgspec.convert(raw, _Claims)
            tenant = self._tenant_of(raw, claims)
        except (jwt.PyJWTError, ValueError) as error:
            raise self._unauthorized("Invalid or expired token") from error
        username = claims.username or claims.sub
        if not username:
            raise self._unauthorized("Token is missing required user claims")
        return User(username, claims.realm or "", claims.roles, tenant)

    def _tenant_of(self, raw: Mapping[str, object], claims: _Claims) -> str | None:
        """ValueError when the claim is there but no UUID: such a token must not be unbound."""
        if self._tenant_claim is None:
            return None
        value = raw.get(self._tenant_claim, claims.attributes.get(self._tenant_claim))
        return None if value is None else str(UUID(str(value)))

    def _require_user(self, user: User | None) -> User:
        if user is None:
            raise self._unauthorized("Authentication is required for this stream")
        return user

    def _unauthorized(self, message: str) -> ApiError:
        self._count("unauthorized")
        return ApiError(
            401,
            "UNAUTHORIZED",
            "unauthorized",
            message,
            headers=self._challenges,
            omit_details=True,
        )

    def _forbidden(self, message: str) -> ApiError:
        self._count("forbidden")
        return ApiError(403, "FORBIDDEN", "forbidden", message, omit_details=True)

    def _unavailable(self, cause: str) -> ApiError:
        self._count("service_unavailable")
        logger.warning("authentication_service_silent", cause=cause)
        return ApiError(
            503,
            "SERVICE_UNAVAILABLE",
            "service_unavailable",
            "Authentication service temporarily unavailable",
            headers={"Retry-After": "5"},
            omit_details=True,
        )


Access = Authenticator | OpenAccess


def _token_of(response: httpx.Response) -> str | None:
    """The JWT in an answer of the authentication service: header, JSON member, or bare text."""
    match = _CREDENTIALS.fullmatch(response.headers.get("authorization", "").strip())
    if (
        match is not None
        and match["scheme"].lower() == "bearer"
        and _JWT.fullmatch(match["credentials"])
    ):
        return match["credentials"]
    text = response.text.strip()
    try:
        answer = _remote_answer.decode(text)
    except msgspec.DecodeError:
        candidate: str | None = text
    else:
        candidate = (
            answer if isinstance(answer, str) else answer.token or answer.jwt or answer.access_token
        )
    candidate = (candidate or "").strip()
    return candidate if _JWT.fullmatch(candidate) else None
