"""What the gateway says about itself: health, readiness, schemas, metrics, API document, home page.

None of these routes needs credentials. ``/health`` says that the process answers; ``/ready`` that
it can serve: it makes a real round trip to the log's server and turns to 503 while draining.
"""

import html
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from time import perf_counter

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.schema.catalog import Catalog
from store.errors import StoreError

logger = structlog.get_logger(__name__)

_PAGE = files("gateway.routes").joinpath("openapi.html").read_text(encoding="utf-8")
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


class Readiness:
    """Whether requests should be sent here.

    ``ping`` makes a round trip to the log's server within a number of seconds or raises
    StoreError.
    """

    def __init__(
        self,
        ping: Callable[[float], Awaitable[None]],
        *,
        tail_lag_ms: Callable[[], float],
        durability: Callable[[], Mapping[str, str]],
        draining: Callable[[], bool],
        captures: Callable[[], Mapping[str, object]],
        timeout_s: float = 2.0,
    ) -> None:
        self._ping = ping
        self._tail_lag_ms = tail_lag_ms
        self._durability = durability
        self._draining = draining
        self._captures = captures
        self._timeout_s = timeout_s

    async def report(self) -> tuple[bool, dict[str, object]]:
        """Ready or not, and what ``/ready`` answers."""
        started = perf_counter()
        try:
            await self._ping(self._timeout_s)
        except StoreError as error:
            logger.warning("not_ready", error=str(error))
            round_trip_ms = None
        else:
            round_trip_ms = round((perf_counter() - started) * 1000, 3)
        connected = round_trip_ms is not None
        draining = self._draining()
        ready = connected and not draining
        report: dict[str, object] = {
            "status": "ready" if ready else "not_ready",
            "backend_connected": connected,
            "round_trip_ms": round_trip_ms,
            "tail_lag_ms": round(self._tail_lag_ms(), 3),
            "durability": dict(self._durability()),
            "draining": draining,
        }
        captures = self._captures()
        if captures:
            # Told and no more: requests are served whether capture is at work or not.
            report["capture"] = dict(captures)
        return ready, report


class Homepage(msgspec.Struct, frozen=True):
    """Links of the home page, by what they lead to; None is left out."""

    client_documentation_url: str | None = None
    client_repository_url: str | None = None
    server_documentation_url: str | None = None
    server_repository_url: str | None = None


def routes(
    *,
    version: str,
    catalog: Catalog,
    readiness: Readiness,
    document: Mapping[str, object],
    homepage: Homepage,
    static_path: Path | None = None,
    metrics: Metrics | None = None,
    metrics_path: str = "/metrics",
) -> list[BaseRoute]:
    """Everything here; metrics only when given, ``/static`` only when there is such a directory."""
    about = _About(catalog, readiness, document, _home_page(version, homepage, static_path))
    found: list[BaseRoute] = [
        Route("/", about.home),
        Route("/health", about.health),
        Route("/ready", about.ready),
        Route("/api/v1/schema", about.schemas),
        # `path`, so that an event type with a slash is answered like any other unknown one.
        Route("/api/v1/schema/{event_type:path}", about.schema),
        Route("/api-docs/openapi.json", about.openapi),
        Route("/swagger-ui/", about.page),
    ]
    if metrics is not None:
        found.append(metrics_route(metrics, metrics_path))
    if static_path is not None and static_path.is_dir():
        found.append(Mount("/static", StaticFiles(directory=static_path), name="static"))
    return found


def metrics_route(metrics: Metrics, path: str = "/metrics") -> Route:
    """The metrics, for the main port or one of their own."""

    async def scrape(request: Request) -> Response:
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    return Route(path, scrape)


class _About:
    def __init__(
        self,
        catalog: Catalog,
        readiness: Readiness,
        document: Mapping[str, object],
        home_page: str,
    ) -> None:
        self._catalog = catalog
        self._readiness = readiness
        self._document = msgspec.json.encode(document)
        self._home = home_page

    async def home(self, request: Request) -> Response:
        return HTMLResponse(self._home)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        ready, report = await self._readiness.report()
        headers = {"Cache-Control": "no-store"}
        return JSONResponse(report, 200 if ready else 503, headers)

    async def schemas(self, request: Request) -> Response:
        event_types = self._catalog.event_types
        answer: dict[str, object] = {
            "status": "success",
            "schema": {name: self._catalog.describe(name) for name in event_types},
            "event_types": event_types,
            "total_schemas": len(event_types),
        }
        if not event_types:
            answer["message"] = "No notification schema configured"
        return JSONResponse(answer)

    async def schema(self, request: Request) -> Response:
        event_type = request.path_params["event_type"]
        event_types = self._catalog.event_types
        if event_type in event_types:
            return JSONResponse(
                {
                    "status": "success",
                    "event_type": event_type,
                    "schema": self._catalog.describe(event_type),
                }
            )
        answer: dict[str, object] = {
            "status": "error",
            "message": "No notification schema configured",
            "request_id": request.state.request_id,
        }
        if event_types:
            answer["message"] = f"Event type '{event_type}' not found"
            answer["available_types"] = event_types
        return JSONResponse(answer, 404)

    async def openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def page(self, request: Request) -> Response:
        return HTMLResponse(_PAGE, headers=_PAGE_HEADERS)


def _home_page(version: str, homepage: Homepage, static_path: Path | None) -> str:
    """The operator's own page when the static directory has one, else a short one."""
    links = {
        name: html.escape(url)
        for name, url in msgspec.structs.asdict(homepage).items()
        if url is not None
    }
    own = None if static_path is None else static_path / "index.html"
    if own is not None and own.is_file():
        text = own.read_text(encoding="utf-8").replace("{{SERVER_VERSION}}", html.escape(version))
        for name in Homepage.__struct_fields__:
            text = text.replace(f"{{{{{name.upper()}}}}}", links.get(name, ""))
        return text
    items = [
        '<li><a href="swagger-ui/">API</a></li>',
        '<li><a href="api/v1/schema">Event types</a></li>',
        '<li><a href="ready">State</a></li>',
    ]
    for name, url in links.items():
        label = name.removesuffix("_url").replace("_", " ").capitalize()
        items.append(f'<li><a href="{url}">{label}</a></li>')
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Playhead</title>'
        f"</head>\n<body>\n<h1>Playhead {html.escape(version)}</h1>\n"
        "<p>Events, kept and played back over HTTP.</p>\n"
        f"<ul>\n{chr(10).join(items)}\n</ul>\n</body>\n</html>\n"
    )
