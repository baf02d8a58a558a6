"""Publishing: one event, or many in one request with a result each (Aviso wire contract §3, §13)."""

import asyncio
from collections import defaultdict
from typing import TypeAlias

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import sse
from gateway.auth import Authenticator, OpenAccess, User
from gateway.cloudevent import Renderer
from gateway.errors import ApiError, unavailable
from gateway.metrics import Metrics
from gateway.routes.request import header, invalid, read_body, refused
from gateway.schema.catalog import Catalog
from gateway.schema.errors import Rejected
from gateway.schema.jsontext import find_json_fault
from gateway.schema.query import parse, publication
from store.errors import StoreError, StoreUnavailable
from store.event import Appended, Draft, Refusal, StreamKey, rfc3339
from store.lanes import Outcome
from store.log import EventLog

logger = structlog.get_logger(__name__)

_KEY_LENGTH = 255
# A large request gives the loop back after so many items (about 20 us each).
_ITEMS_BEFORE_YIELD = 200

_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")

# The groups of a bulk request: by event type, the place of each draft among its items.
_Groups: TypeAlias = dict[str, tuple[list[int], list[Draft]]]

_encode = msgspec.json.Encoder().encode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Stored(msgspec.Struct, frozen=True, gc=False, tag_field="status", tag="success"):
    """The result of an item that is in the log."""

    id: str
    sequence: int


class _Failed(msgspec.Struct, frozen=True, gc=False, tag_field="status", tag="error"):
    """The result of an item that is not, or may not be."""

    code: str
    error: str
    message: str
    details: str | None


class Publishing:
    """`POST /api/v1/notification` and `POST /api/v1/notifications`."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        log: EventLog,
        renderer: Renderer,
        access: Authenticator | OpenAccess,
        metrics: Metrics,
        body_limit: int,
        bulk_items: int,
    ) -> None:
        self._catalog = catalog
        self._log = log
        self._renderer = renderer
        self._access = access
        self._metrics = metrics
        self._body_limit = body_limit
        self._bulk_items = bulk_items

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/v1/notification", self.publish, methods=["POST"]),
            Route("/api/v1/notifications", self.publish_many, methods=["POST"]),
        ]

    # -- one

    async def publish(self, request: Request) -> Response:
        body = await read_body(request, self._body_limit)
        known: list[str] = []
        try:
            key = _idempotency_key(request)
            parsed = parse(body, "notification", self._catalog)
            known.append(parsed.event_type)
            user = await self._access.authenticate(request.headers)
            self._require_write(user, parsed.event_type)
            tenant = self._access.tenant_for(user, request.headers, request.state.tenant)
            published = publication(parsed, self._catalog)
        except (Rejected, ApiError) as error:
            self._metrics.notifications(known[0] if known else None, "rejected").inc()
            raise _answer_to(error) from error
        stream = StreamKey(tenant, published.event_type)
        draft = self._renderer.draft(published, key)
        with self._metrics.backend("publish"):
            [outcome] = await self._log.append(
                stream, self._renderer.envelope(stream.event_type), [draft]
            )
            if isinstance(outcome, StoreError):
                self._metrics.notifications(stream.event_type, "error").inc()
                raise _answer_to(outcome) from outcome
        if not isinstance(outcome, Appended):
            self._metrics.notifications(stream.event_type, "rejected").inc()
            raise _refusal(outcome.refusal, draft.time_ms, outcome.limit_ms)
        self._metrics.notifications(stream.event_type, "success").inc()
        sequence = outcome.sequence
        return _json(
            {
                "status": "success",
                "request_id": request.state.request_id,
                "processed_at": sse.timestamp(),
                "id": f"{stream.event_type}@{sequence}",
                "sequence": sequence,
            }
        )

    def _require_write(self, user: User | None, event_type: str) -> None:
        schema = self._catalog.get(event_type)
        self._access.require_write(user, schema.auth if schema else None)

    # -- many

    async def publish_many(self, request: Request) -> Response:
        body = await read_body(request, self._body_limit)
        key = _idempotency_key(request)
        items = _split(body, request.headers.get("content-type", ""))
        if len(items) > self._bulk_items:
            raise ApiError(
                413,
                "BODY_TOO_LARGE",
                "Request Body Too Large",
                f"A request may have {self._bulk_items} notifications, got: {len(items)}",
            )
        user = await self._access.authenticate(request.headers)
        tenant = self._access.tenant_for(user, request.headers, request.state.tenant)
        results: list[_Stored | _Failed | None] = [None] * len(items)
        groups: _Groups = defaultdict(lambda: ([], []))
        for index, item in enumerate(items):
            if index % _ITEMS_BEFORE_YIELD == _ITEMS_BEFORE_YIELD - 1:
                await asyncio.sleep(0)
            event_type: str | None = None
            try:
                parsed = parse(item, "notification", self._catalog, bulk_item=True)
                event_type = parsed.event_type
                if event_type not in groups:
                    self._require_write(user, event_type)
                published = publication(parsed, self._catalog)
            except (Rejected, ApiError) as error:
                self._metrics.notifications(event_type, "rejected").inc()
                results[index] = _failed(_answer_to(error))
                continue
            # No key of a single publish has a line break: the two never meet.
            item_key = None if key is None else f"{key}\n{index}"
            places, drafts = groups[event_type]
            places.append(index)
            drafts.append(self._renderer.draft(published, item_key))
        lost = await self._append_groups(tenant, groups, results)
        accepted = sum(isinstance(result, _Stored) for result in results)
        summary: dict[str, object] = {
            "request_id": request.state.request_id,
            "processed_at": sse.timestamp(),
            "accepted": accepted,
            "rejected": len(items) - accepted,
            "results": results,
        }
        if lost is not None:
            # With an Idempotency-Key the same request again stores just what is missing.
            raise ApiError(
                lost.status,
                lost.code,
                lost.error,
                lost.message,
                headers=lost.headers,
                extra=summary,
            )
        return _json({"status": "success" if accepted == len(items) else "partial", **summary})

    async def _append_groups(
        self, tenant: str, groups: _Groups, results: list[_Stored | _Failed | None]
    ) -> ApiError | None:
        """Store the drafts, type by type at once; the error of an item whose fate is unknown."""
        lost: ApiError | None = None

        async def store(event_type: str, drafts: list[Draft]) -> list[Outcome]:
            stream = StreamKey(tenant, event_type)
            with self._metrics.backend("publish"):
                return await self._log.append(stream, self._renderer.envelope(event_type), drafts)

        stored = await asyncio.gather(
            *(store(event_type, drafts) for event_type, (_, drafts) in groups.items())
        )
        for (event_type, (places, drafts)), outcomes in zip(groups.items(), stored, strict=True):
            successes = 0
            for index, draft, outcome in zip(places, drafts, outcomes, strict=True):
                if isinstance(outcome, Appended):
                    successes += 1
                    sequence = outcome.sequence
                    results[index] = _Stored(f"{event_type}@{sequence}", sequence)
                elif isinstance(outcome, StoreError):
                    self._metrics.notifications(event_type, "error").inc()
                    lost = _answer_to(outcome)
                    results[index] = _failed(lost)
                else:
                    self._metrics.notifications(event_type, "rejected").inc()
                    refusal = _refusal(outcome.refusal, draft.time_ms, outcome.limit_ms)
                    results[index] = _failed(refusal)
            self._metrics.notifications(event_type, "success").inc(successes)
        return lost


def _split(body: bytes, content_type: str) -> list[bytes]:
    """The items of a JSON array, or of newline-delimited JSON, which need not be labelled so."""
    media_type = content_type.partition(";")[0].strip().lower()
    start = body.lstrip()[:1]
    labelled = media_type in _LINES
    if labelled or start == b"{":
        lines = [line for line in body.split(b"\n") if line.strip()]
        if labelled or find_json_fault(lines[0]) is None:
            return lines
    if start == b"[":
        try:
            body.decode()  # the array is one text; what its items say is their own affair
            return [bytes(item) for item in _decode_array(body)]
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
            fault: str | None = find_json_fault(body) or str(error)
    else:
        fault = find_json_fault(body)
    if fault is not None:
        rejected = Rejected("INVALID_JSON", f"JSON parsing failed: {fault}", fault)
        raise refused(rejected, "notification")
    if start == b"{":
        return [body]  # one object, over several lines
    cause = "expected an array, or one JSON object a line"
    message = f"Request deserialization failed: {cause}"
    raise refused(Rejected("INVALID_REQUEST_SHAPE", message, cause), "notification")


def _idempotency_key(request: Request) -> str | None:
    key = header(request, b"idempotency-key")
    if key is not None and not 0 < len(key.strip()) <= _KEY_LENGTH:
        raise invalid(
            "notification",
            f"Idempotency-Key must have 1 to {_KEY_LENGTH} characters, got: '{key[:100]}'",
        )
    return None if key is None else key.strip()


def _failed(error: ApiError) -> _Failed:
    return _Failed(error.code, error.error, error.message, error.details)


def _answer_to(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Rejected):
        return refused(error, "notification")
    if isinstance(error, StoreUnavailable):
        logger.warning("log_unavailable", error=str(error))
        return unavailable()
    logger.error("append_failed", error=str(error))
    return ApiError(
        500,
        "NOTIFICATION_STORAGE_FAILED",
        "Notification Storage Failed",
        "The event log refused the notification; the server's log says why",
    )


def _refusal(refusal: Refusal, time_ms: int | None, limit_ms: int) -> ApiError:
    if refusal is Refusal.KEY_REUSED:
        return ApiError(
            422,
            "IDEMPOTENCY_KEY_REUSED",
            "Idempotency Key Reused",
            "Idempotency-Key was used before for another notification",
        )
    given = rfc3339(time_ms or 0)
    if refusal is Refusal.BEFORE_LAST:
        return invalid(
            "notification",
            f"time {given} is before the time of the stream's last event, {rfc3339(limit_ms)}",
        )
    return invalid("notification", f"time {given} is in the future; it is {rfc3339(limit_ms)} now")


def _json(content: dict[str, object]) -> Response:
    return Response(_encode(content), media_type="application/json")
