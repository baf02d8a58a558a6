"""Which tenant a call means: body, token, header, query, or the default (playback contract)."""

from starlette.requests import Request

from gateway.auth import User
from gateway.errors import ApiError
from gateway.tenant import parse_tenant


class Tenancy:
    """Two sources that disagree are refused: 400, or 403 when one of them is the token."""

    def __init__(self, default: str) -> None:
        self.default = default

    def names(self, request: Request, user: User | None, named: str | None) -> bool:
        """Whether a call names its tenant at all."""
        return bool(self._named(request, user, named))

    def of(self, request: Request, user: User | None, named: str | None) -> str:
        found = self._named(request, user, named)
        if len({tenant for _, tenant in found}) > 1:
            token = any(source == "token" for source, _ in found)
            told = ", ".join(f"{source} says {tenant}" for source, tenant in found)
            if token:
                raise ApiError(403, "FORBIDDEN", "forbidden", f"Tenants disagree: {told}")
            raise ApiError(400, "INVALID_TENANT", "Invalid Tenant", f"Tenants disagree: {told}")
        return found[0][1] if found else self.default

    def _named(
        self, request: Request, user: User | None, named: str | None
    ) -> list[tuple[str, str]]:
        sources = [
            ("tenant_id", named),
            ("token", user.tenant if user else None),
            # Each may stand there more than once: all of them have to agree.
            *(("X-Tenant-ID", text) for text in request.headers.getlist("x-tenant-id")),
            *(("?tenant_id", text) for text in request.query_params.getlist("tenant_id")),
        ]
        return [
            (name, parse_tenant(text, self.default, name=name))
            for name, text in sources
            if text is not None
        ]
