"""Lines that begin with their tenant, divided among the tenants. Pure."""

from collections.abc import Iterator

_TENANT_BYTES = 36


class TenantRows:
    """Takes text cut anywhere, in which the lines of a tenant stand together."""

    def __init__(self) -> None:
        self._rest = b""

    def divide(self, text: bytes) -> Iterator[tuple[str, bytes]]:
        """Whole lines by tenant, without it."""
        text = self._rest + text
        end = text.rfind(b"\n") + 1
        self._rest = text[end:]
        start = 0
        while start < end:
            tenant = text[start : start + _TENANT_BYTES]
            mark = b"\n" + tenant + b"\t"
            # The last line of this tenant: those of the next one follow it.
            last = max(text.rfind(mark, start, end) + 1, start)
            stop = text.index(b"\n", last) + 1
            yield (
                tenant.decode(),
                text[start + _TENANT_BYTES + 1 : stop].replace(mark, b"\n"),
            )
            start = stop
