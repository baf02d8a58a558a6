"""The life of the server process: settings in, exit status out."""

import asyncio
import contextlib
import gc
import shlex
import signal
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import version
from importlib.resources import files
from typing import TypeAlias

import httpx
import structlog
import uvicorn
import uvloop
from starlette.applications import Starlette

from gateway import descriptors
from gateway import server as http_server
from gateway.app import Gateway, open_gateway
from gateway.captures import capture_alone
from gateway.protocol import protocol
from gateway.routes.about import metrics_route
from gateway.schema.catalog import Catalog
from gateway.settings import Settings
from store.errors import StoreError
from store.event import StreamKey

EXAMPLE_TYPE = "earthquake"

# Containers made and not yet let go of; the default of 700 is met by every page that is read.
_COLLECT_AFTER = 10_000

logger = structlog.get_logger(__name__)

# A client of the gateway in its own process, given the address, from when it listens until it drains.
Beside: TypeAlias = Callable[[str], Coroutine[object, object, None]]


def serve(
    settings: Settings,
    catalog: Catalog,
    *,
    load_example: bool = False,
    beside: Beside | None = None,
) -> int:
    """Serve until SIGTERM, SIGINT or a failure. The exit status: 0 for a clean end.

    Raises StoreConfigurationError or StoreUnavailable when it cannot start.
    """
    descriptors.raise_limit()
    if (shortage := descriptors.describe_shortage()) is not None:
        logger.warning("few_open_files", advice=shortage)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, catalog, load_example, beside))


def _freeze() -> None:
    """Keep the collector away from all that was loaded, which stays anyway.

    Looking through it took 50 ms each time, and whatever was due meanwhile was late.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def run_capture(settings: Settings, catalog: Catalog) -> None:
    """Capture until SIGTERM or SIGINT.

    Raises a StoreError with what to change when it cannot start.
    """

    async def run() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        _freeze()
        with contextlib.suppress(asyncio.CancelledError):
            await capture_alone(settings, catalog)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def _serve(
    settings: Settings, catalog: Catalog, load_example: bool, beside: Beside | None
) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        async with open_gateway(settings, catalog) as gateway:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
                # uvicorn raises the signal again when it has ended: the process would die by it.
                signal.signal(number, lambda *_: None)
            _freeze()
            await _listen(gateway, load_example, beside)
    except asyncio.CancelledError:
        return 0  # told to end while it was starting
    return 1 if gateway.failed.is_set() else 0


async def _listen(gateway: Gateway, load_example: bool, beside: Beside | None) -> None:
    settings = gateway.settings
    application = settings.application
    clients: list[asyncio.Task[None]] = []

    async def drain() -> None:
        # First: one that still asked would be turned away.
        for client in clients:
            client.cancel()
        await gateway.drain()

    def on_started(port: int) -> None:
        address = _address(application.host, port)
        gateway.spawn("welcome", _welcome(gateway, address, load_example))
        if beside is not None:
            clients.append(gateway.spawn("beside", beside(address)))

    server = http_server.Server(
        http_server.config(
            gateway.app,
            host=application.host,
            port=application.port,
            http=protocol(header_bytes=settings.limits.header_bytes),
        ),
        drain=drain,
        on_started=on_started,
    )
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_end_on_failure(gateway, server))
        metrics = _MetricsServer.of(gateway)
        if metrics is not None:
            group.create_task(metrics.serve())
        try:
            await server.serve()
        finally:
            watching.cancel()
            if metrics is not None:
                metrics.should_exit = True


async def _end_on_failure(gateway: Gateway, server: uvicorn.Server) -> None:
    await gateway.failed.wait()
    logger.critical("ending", reason="a background task died")
    server.should_exit = True


class _MetricsServer(uvicorn.Server):
    """The metrics on a port of their own; signals are the main server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @classmethod
    def of(cls, gateway: Gateway) -> "_MetricsServer | None":
        metrics = gateway.settings.metrics
        if not metrics.enabled or metrics.port is None:
            return None
        app = Starlette(routes=[metrics_route(gateway.metrics, metrics.path)])
        return cls(
            uvicorn.Config(
                app,
                host=metrics.host,
                port=metrics.port,
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
            )
        )


def _address(host: str, port: int) -> str:
    """Where this machine reaches what listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not listened on
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _welcome(gateway: Gateway, address: str, load_example: bool) -> None:
    loaded = await _load_example(gateway, address) if load_example else 0
    lines = [f"Playhead {version('playhead')} listens on {address}"]
    if loaded:
        lines.append(f"Loaded {loaded} earthquakes of the week to 7 February 2018 into the log.")
    if load_example:
        lines += ["", "Try:", *_examples(address)]
    print("\n".join(lines), flush=True)  # noqa: T201 - the welcome is the program's output


async def _load_example(gateway: Gateway, address: str) -> int:
    """Publish the recording into a log that never held an event; the number of events stored."""
    stream = StreamKey(gateway.settings.tenants.default, EXAMPLE_TYPE)
    recording = files("gateway").joinpath("example/earthquakes.ndjson").read_bytes()
    try:
        if (await gateway.log.head(stream)).last.sequence:
            return 0
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(
                f"{address}/api/v1/notifications",
                content=recording,
                headers={"Content-Type": "application/x-ndjson"},
            )
    except (httpx.HTTPError, StoreError) as error:
        logger.error("example_not_loaded", error=str(error))
        return 0
    if answer.status_code != 200 or answer.json()["rejected"]:
        logger.error("example_not_loaded", status=answer.status_code, answer=answer.text[:500])
        return 0
    return int(answer.json()["accepted"])


def _examples(address: str) -> list[str]:
    watch = (
        f"{address}/api/v1/watch?event_type=extreme_event"
        "&identifier.region=north&identifier.run_time=1200&identifier.severity.gte=4"
    )
    publish = (
        '{"event_type": "extreme_event", "identifier": {"region": "north", "run_time": "1200", '
        '"severity": 5, "anomaly": 42.5, "polygon": [[52.5,13.4],[52.6,13.5],[52.5,13.6],'
        '[52.4,13.5],[52.5,13.4]]}, "payload": {"note": "hello"}}'
    )
    taiwan = (
        '{"event_type": "earthquake", "from_id": "1", "identifier": {"magnitude": {"gte": 5}, '
        '"polygon": [[21.5,119.5],[21.5,123],[25.5,123],[25.5,119.5],[21.5,119.5]]}}'
    )
    return [
        "  # watch live (leave it open)",
        f"  curl -N {shlex.quote(watch)}",
        "  # publish, in another terminal",
        f"  curl {address}/api/v1/notification -d {shlex.quote(publish)}",
        "  # replay the quakes of magnitude 5 and more around Taiwan",
        f"  curl -N {address}/api/v1/replay -d {shlex.quote(taiwan)}",
        "  # and all of any magnitude from 15:00 UTC on 6 February 2018",
        f"  curl -N {shlex.quote(f'{address}/api/v1/replay?event_type=earthquake&from_date=2018-02-06T15:00:00Z')}",
    ]
