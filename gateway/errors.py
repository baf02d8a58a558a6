"""The gateway's one error and the JSON shape every refused request is answered with.

    ApiError
    └── (raised with a status, a stable code and a sentence; translated once, in edge.py)

Shape (Aviso wire contract §4): ``code``, ``error``, ``message``, ``details``, ``request_id``.
"""

from collections.abc import Mapping, Sequence

RETRY_AFTER_SEC = 1


class ApiError(Exception):
    """A request that is answered with an error.

    ``code`` is stable and for programs, ``error`` a short label, ``message`` a sentence that holds
    the offending value, ``details`` the innermost cause. ``extra`` adds keys, ``omit_details``
    leaves ``details`` out where the wire contract does. ``headers`` are pairs, for a name may be
    sent twice (two ``WWW-Authenticate`` challenges).
    """

    def __init__(
        self,
        status: int,
        code: str,
        error: str,
        message: str,
        details: str | None = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        extra: Mapping[str, object] | None = None,
        omit_details: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.error = error
        self.message = message
        self.details = message if details is None else details
        self.headers: tuple[tuple[str, str], ...] = tuple(
            headers.items() if isinstance(headers, Mapping) else headers
        )
        self.extra = dict(extra or {})
        self.omit_details = omit_details

    def body(self, request_id: str) -> dict[str, object]:
        """The JSON object of the answer, keys in alphabetical order."""
        fields: dict[str, object] = {
            "code": self.code,
            "error": self.error,
            "message": self.message,
            "request_id": request_id,
            **self.extra,
        }
        if not self.omit_details:
            fields["details"] = self.details
        return dict(sorted(fields.items()))


def unavailable() -> ApiError:
    """The answer while the log's server is away. Where it is and why is for the server's log."""
    return ApiError(
        503,
        "BACKEND_UNAVAILABLE",
        "Backend Unavailable",
        "The event log is not available now; try again",
        headers={"Retry-After": str(RETRY_AFTER_SEC)},
    )


def shutting_down() -> ApiError:
    """The answer to who wants a new stream while the open ones are being closed."""
    return ApiError(
        503,
        "SHUTTING_DOWN",
        "Shutting Down",
        "Server is shutting down; connect again",
        headers={"Retry-After": str(RETRY_AFTER_SEC)},
    )
