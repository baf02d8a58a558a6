"""One gateway over plain HTTP, as the CLI sees it.

Publishing stores an event once however often it is sent. What happens on the way is told to `say`
in sentences; what trying again would not mend is a ClientError.
"""

import email.utils
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import httpx
import msgspec

# A gateway without other orders sends a heartbeat every 30 s: three of them are missing.
SILENCE_SEC = 90.0
PATIENCE_SEC = 300.0
FIRST_PAUSE_SEC = 0.5

_CONNECT_SEC = 10.0
# A session's verb is one step of the server's: somebody waits for its answer at a key.
_CALL_SEC = 10.0
_LONGEST_PAUSE_SEC = 30.0
_LONGEST_RETRY_AFTER_SEC = 300.0
# RFC 9110 §15.6, RFC 6585 §4: the next answer may be another one.
PASSING = (429, 502, 503, 504)
_NOBODY_THERE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
_BROKEN_REQUEST = (httpx.LocalProtocolError, httpx.UnsupportedProtocol)

Say = Callable[[str], None]

_Answer = TypeVar("_Answer")


class ClientError(Exception):
    """A sentence for the user."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An event of a bulk request that was not stored; `index` counts from 0."""

    index: int
    sentence: str


class CallRefused(ClientError):
    """The gateway answered that it does not do that; `passing`: it may do it in a while."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(describe_refusal(answer))
        self.status = answer.status_code
        self.passing = answer.status_code in PASSING


class _Refusal(msgspec.Struct, frozen=True):
    """The body of an answer that is no success."""

    message: str
    code: str = ""
    request_id: str = ""
    configured_event_types: tuple[str, ...] = ()


class _Stored(msgspec.Struct, frozen=True):
    id: str


class _Result(msgspec.Struct, frozen=True):
    status: str
    message: str = ""


class _Results(msgspec.Struct, frozen=True):
    results: list[_Result]


_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_decode_stored = msgspec.json.Decoder(_Stored).decode
_decode_results = msgspec.json.Decoder(_Results).decode


class Client:
    """One gateway. Leaving it as a context manager closes its connections."""

    def __init__(
        self,
        url: str,
        *,
        say: Say,
        tenant: str | None = None,
        token: str | None = None,
        silence_sec: float = SILENCE_SEC,
        patience_sec: float = PATIENCE_SEC,
        first_pause_sec: float = FIRST_PAUSE_SEC,
    ) -> None:
        try:
            base = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ClientError(f"the gateway's address {url!r} cannot be used: {error}") from error
        if base.scheme not in ("http", "https") or not base.host:
            raise ClientError(f"the gateway's address must be http://… or https://…, got {url!r}")
        headers = {}
        if tenant is not None:
            headers["X-Tenant-ID"] = _header("the tenant", tenant)
        if token is not None:
            headers["Authorization"] = f"Bearer {_header('the token', token)}"
        self.name = str(base.copy_with(userinfo=b"")).rstrip("/")
        self.say = say
        self._patience_sec = patience_sec
        self._first_pause_sec = first_pause_sec
        self._reached = False
        self._http = httpx.Client(
            base_url=base,
            headers=headers,
            timeout=httpx.Timeout(silence_sec, connect=min(_CONNECT_SEC, silence_sec)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def publish(self, body: bytes) -> str:
        """Store one event; its id."""
        answer = self._post("api/v1/notification", body, "application/json")
        return self._read(answer, _decode_stored).id

    def publish_many(self, lines: Sequence[bytes]) -> list[Refused]:
        """Store many events, a line of JSON each; those that were refused, in order."""
        answer = self._post("api/v1/notifications", b"\n".join(lines), "application/x-ndjson")
        results = self._read(answer, _decode_results).results
        if len(results) != len(lines):
            raise ClientError(f"{self.name} answered {len(results)} results to {len(lines)} events")
        return [
            Refused(index, result.message)
            for index, result in enumerate(results)
            if result.status != "success"
        ]

    def call(
        self, method: str, path: str, decode: Callable[[bytes], _Answer], body: bytes | None = None
    ) -> _Answer:
        """Ask once. Raises CallRefused and httpx.RequestError."""
        answer = self._http.request(
            method,
            path,
            content=body,
            headers=None if body is None else {"Content-Type": "application/json"},
            timeout=_CALL_SEC,
        )
        self.on_answer()
        if not answer.is_success:
            raise CallRefused(answer)
        return self._decode(answer, decode)

    def open_stream(
        self, path: str, params: Sequence[tuple[str, str]], last_event_id: str
    ) -> AbstractContextManager[httpx.Response]:
        """The answer before its body is read; `params` are those of the GET forms."""
        headers = {"Accept": "text/event-stream"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        return self._http.stream(
            "GET", path, params=httpx.QueryParams(list(params)), headers=headers
        )

    def pauses(self) -> "Pauses":
        """For one request and its repetitions."""
        return Pauses(self._first_pause_sec)

    def on_answer(self) -> None:
        """Somebody is there: from now on a failure to connect passes."""
        self._reached = True

    def on_failure(self, error: httpx.RequestError) -> str:
        """What happened. Raises ClientError where nobody ever answered or nothing can be sent."""
        why = _explain(error)
        if isinstance(error, _BROKEN_REQUEST) or (
            not self._reached and isinstance(error, _NOBODY_THERE)
        ):
            raise ClientError(f"cannot reach {self.name}: {why}") from error
        return f"lost {self.name}: {why}"

    def _post(self, path: str, body: bytes, content_type: str) -> httpx.Response:
        """Send until there is an answer that stays; the key makes the gateway store it once."""
        headers = {"Content-Type": content_type, "Idempotency-Key": str(uuid4())}
        deadline = time.monotonic() + self._patience_sec
        pauses = self.pauses()
        while True:
            try:
                answer = self._http.post(path, content=body, headers=headers)
            except httpx.RequestError as error:
                why, pause_sec = self.on_failure(error), pauses.next_sec()
            else:
                self.on_answer()
                if answer.status_code not in PASSING:
                    return answer
                why, pause_sec = describe_refusal(answer), pauses.next_sec(answer)
            if time.monotonic() + pause_sec > deadline:
                raise ClientError(f"{why}; gave up after {self._patience_sec:g} s")
            self.say(f"{why}; trying again in {pause_sec:.1f} s")
            time.sleep(pause_sec)

    def _read(self, answer: httpx.Response, decode: Callable[[bytes], _Answer]) -> _Answer:
        if answer.status_code != 200:
            raise ClientError(describe_refusal(answer))
        return self._decode(answer, decode)

    def _decode(self, answer: httpx.Response, decode: Callable[[bytes], _Answer]) -> _Answer:
        try:
            return decode(answer.content)
        except msgspec.DecodeError as error:
            raise ClientError(f"{self.name} does not answer as a gateway: {error}") from error


class Pauses:
    """How long to wait before the next attempt: longer each time, and never in step with others."""

    def __init__(self, first_sec: float) -> None:
        self._first_sec = first_sec
        self._failures = 0

    def next_sec(self, answer: httpx.Response | None = None) -> float:
        """Seconds; not less than the answer's `Retry-After`."""
        wanted_sec = min(self._first_sec * 2.0**self._failures, _LONGEST_PAUSE_SEC)
        self._failures = min(self._failures + 1, 10)
        if answer is not None:
            wanted_sec = max(wanted_sec, read_retry_after(answer.headers.get("retry-after", "")))
        return wanted_sec * random.uniform(1, 1.5)  # noqa: S311 - spread, no secret

    def restart(self, retry_ms: int | None) -> None:
        """The last attempt succeeded; `retry_ms` is the first pause the server wishes for."""
        self._failures = 0
        if retry_ms is not None:
            self._first_sec = min(retry_ms / 1000, _LONGEST_PAUSE_SEC)


def read_retry_after(text: str) -> float:
    """Seconds of a `Retry-After`, which is a number or a date (RFC 9110 §10.2.3); 0 for neither."""
    if text.isdecimal():
        return min(float(text), _LONGEST_RETRY_AFTER_SEC)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return min(max(moment.timestamp() - time.time(), 0.0), _LONGEST_RETRY_AFTER_SEC)


def describe_refusal(answer: httpx.Response) -> str:
    """The gateway's own sentence, which holds the offending value; else what the status says."""
    try:
        refusal = _decode_refusal(answer.content)
    except msgspec.DecodeError:
        place = str(answer.url.copy_with(userinfo=b"", query=None))
        return f"{place} answered {answer.status_code} {answer.reason_phrase}".rstrip()
    sentence = refusal.message.rstrip(".")
    if refusal.configured_event_types:
        sentence += f"; the gateway knows {', '.join(refusal.configured_event_types)}"
    return f"{sentence} ({answer.status_code} {refusal.code}, request {refusal.request_id})"


def _explain(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.ReadTimeout):
        return "it was silent for too long"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the connection broke off"
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def _header(what: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ClientError(f"{what} has characters that cannot be sent: {value!r}")
    return value
