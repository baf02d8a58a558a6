"""A tenant's name as it comes in a request: a UUID, in canonical form."""

import re
from uuid import UUID

from gateway.errors import ApiError

# Not every text that UUID takes: it is generous with braces, signs and underscores.
_UUID = re.compile(r"(?:urn:uuid:)?([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def parse_tenant(text: str | None, default: str, *, name: str = "X-Tenant-ID") -> str:
    """A tenant in canonical form, `name` being where it stands. Raises ApiError 400."""
    if text is None:
        return default
    match = _UUID.fullmatch(text.strip().lower())
    if match is None:
        raise ApiError(
            400,
            "INVALID_TENANT",
            "Invalid Tenant",
            f"{name} must be a UUID, got: '{text[:100]}'",
        )
    return str(UUID(match[1]))
