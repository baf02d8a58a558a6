"""The `playhead` command and its arguments."""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway import logs
from gateway import settings as configuration
from gateway.arguments import UsageError, build_notification, build_params
from gateway.captures import check_sources, read_sources
from gateway.client import PATIENCE_SEC, SILENCE_SEC, Client, ClientError
from gateway.demo import demonstrate
from gateway.descriptors import describe_shortage
from gateway.following import Following, Operation
from gateway.ndjson import read_batches
from gateway.remote.bar import Bar
from gateway.remote.controls import Controls
from gateway.remote.listing import show_sessions
from gateway.remote.play import Wanted
from gateway.remote.play import play as play_session
from gateway.schema.catalog import Catalog
from gateway.schema.errors import SchemaError
from gateway.serve import run_capture
from gateway.serve import serve as serve_gateway
from gateway.settings import Loaded, Settings, SettingsError
from gateway.snapshots import take_now
from gateway.terminal import (
    describe_event,
    drop_output,
    say,
    show_progress,
    show_rows,
    write_line,
)
from store.errors import StoreError
from store.event import rfc3339

DEFAULT_URL = "http://127.0.0.1:8000"

app = typer.Typer(
    help="Durable Server-Sent Events: watch live, replay the past.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_PIPE_COLUMNS = 240
# A session's stream tells the time each second.
PLAY_SILENCE_SEC = 15.0

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (YAML); PLAYHEAD_CONFIG.")
]
UrlOption = Annotated[
    str, typer.Option(help="Address of the gateway.", envvar=configuration.URL_VARIABLE)
]
TenantOption = Annotated[
    str | None, typer.Option(help="Tenant (a UUID); none is the gateway's default tenant.")
]
TokenOption = Annotated[
    str | None, typer.Option(help="Bearer token.", envvar=configuration.TOKEN_VARIABLE)
]
IdentifierOption = Annotated[
    list[str] | None,
    typer.Option(help="Only events with this value: field=value. May be given again."),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Only events that compare so: 'severity>=4', or field.operator=operand with gt, gte, "
        "lt, lte, in and between ('severity.between=2,4'). May be given again."
    ),
]
FromIdOption = Annotated[str | None, typer.Option(help="Start with this sequence.")]
FromDateOption = Annotated[
    str | None, typer.Option(help="Start at this time: RFC 3339, or Unix seconds or milliseconds.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Events as JSON, one a line.")]
SilenceOption = Annotated[
    float, typer.Option(help="Connect again when nothing came for this many seconds.", min=0.1)
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"playhead {version('playhead')}")
        raise typer.Exit


@app.callback()
def describe(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Durable Server-Sent Events: watch live, replay the past."""


def _load(config: Path | None, flags: Mapping[str, object]) -> tuple[Loaded, Catalog]:
    """Settings and schemas, or the sentences that say what is wrong with them and exit status 2."""
    try:
        loaded = configuration.load(config, os.environ, flags)
        read = loaded.settings
        catalog = Catalog.parse(
            read.notification_schema,
            read.notification_schema_strict,
            changes=bool(read.capture.sources),
        )
        if not read.auth.enabled:
            catalog.refuse_guarded()
        return loaded, catalog
    except (SettingsError, SchemaError) as error:
        print(f"playhead: the configuration cannot be used: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


@app.command()
def serve(
    *,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of the embedded server's data.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="A Redis or Valkey server instead of the embedded one.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    load_example: Annotated[
        bool, typer.Option(help="Load a recorded week of earthquakes into an empty log.")
    ] = False,
) -> None:
    """Run the gateway."""
    loaded, catalog = _load(
        config,
        {
            "application.host": host,
            "application.port": port,
            "store.data_dir": None if data_dir is None else str(data_dir),
            "store.url": redis,
            "logging.level": log_level,
        },
    )
    logging = loaded.settings.logging
    logs.configure(logging.level, logging.format)
    try:
        status = serve_gateway(loaded.settings, catalog, load_example=load_example)
    except StoreError as error:
        print(f"playhead: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    raise typer.Exit(status)


@app.command()
def capture(
    *,
    config: ConfigOption = None,
    redis: Annotated[
        str | None, typer.Option(help="The Redis or Valkey server of the gateways.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Capture the changes of databases, in a process of its own."""
    loaded, catalog = _load(config, {"store.url": redis, "logging.level": log_level})
    settings = loaded.settings
    if not settings.capture.sources:
        print("playhead: there is nothing to capture in capture.sources", file=sys.stderr)
        raise typer.Exit(2)
    logs.configure(settings.logging.level, settings.logging.format)
    try:
        run_capture(settings, catalog)
    except StoreError as error:
        print(f"playhead: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@app.command()
def snapshot(
    source: Annotated[
        str | None, typer.Argument(help="Source to take it of; none takes one of each.")
    ] = None,
    *,
    config: ConfigOption = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of the gateway's embedded server.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="The Redis or Valkey server of the gateways.")
    ] = None,
) -> None:
    """Take a snapshot now, of all tables that are configured and everybody's rows in them."""
    flags = {"store.url": redis, "store.data_dir": None if data_dir is None else str(data_dir)}
    loaded, _ = _load(config, flags)
    sources = read_sources(loaded.settings)
    chosen = [each for each in sources if source in (None, each.name)]
    if not chosen:
        known = ", ".join(each.name for each in sources) or "none"
        print(f"playhead: there is no source '{source}'; known: {known}", file=sys.stderr)
        raise typer.Exit(2)
    logs.configure("warning", "console")
    for each in chosen:
        try:
            with show_rows(each.name) as on_progress:
                taken = asyncio.run(take_now(loaded.settings, each, on_progress))
        except StoreError as error:
            print(f"playhead: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        for tenant, made in sorted(taken.items()):
            write_line(
                f"{each.name}: {made.rows} rows of {tenant} as of {rfc3339(made.at_ms)}, "
                f"{made.size} bytes in {made.folder}"
            )


@app.command()
def demo(
    *,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Directory of all its data.")] = Path("demo-data"),
) -> None:
    """Capture a busy database that is started for it, and say how to look at its past."""
    try:
        status = demonstrate(data_dir, port)
    except StoreError as error:
        print(f"playhead: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(status)


@app.command()
def check(
    *,
    config: ConfigOption = None,
    sources: Annotated[bool, typer.Option(help="Also ask the databases to capture.")] = True,
) -> None:
    """Validate a configuration; print every setting with its value, source and meaning."""
    loaded, catalog = _load(config, {})
    table = Table("setting", "value", "source", "meaning", box=None, header_style="bold")
    for row in configuration.explain(loaded):
        table.add_row(row.name, escape(row.value), row.source, row.description)
    # Into a file or a pipe a row stays a line, for grep.
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(table)
    mode = "strict" if catalog.strict else "permissive"
    names = ", ".join(catalog.event_types) or "none"
    print(f"\nThe configuration can be used. Event types ({mode}): {names}")
    if (shortage := describe_shortage()) is not None:
        print(shortage)
    if sources and not _check_sources(loaded.settings):
        raise typer.Exit(1)


def _check_sources(settings: Settings) -> bool:
    good = True
    for name, found in asyncio.run(check_sources(settings)).items():
        if isinstance(found, StoreError):
            good = False
            print(f"Source {name} cannot be captured: {found}")
        else:
            print("\n  ".join([f"Source {name} can be captured.", *found]))
    return good


@app.command()
def publish(
    *,
    lines: Annotated[
        str | None,
        typer.Argument(
            metavar="[-]", help="Publish many: a JSON object a line, from standard input."
        ),
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Publish many: a JSON object a line, from this file.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Most events of one request.", min=1)] = 500,
    event_type: Annotated[str | None, typer.Option(help="Publish one event of this type.")] = None,
    identifier: Annotated[
        list[str] | None,
        typer.Option(help="Of the one event: field=text, or field:=JSON. May be given again."),
    ] = None,
    payload: Annotated[str | None, typer.Option(help="Of the one event: any JSON.")] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for a gateway that is away.", min=0)
    ] = PATIENCE_SEC,
    url: UrlOption = DEFAULT_URL,
    tenant: TenantOption = None,
    token: TokenOption = None,
) -> None:
    """Publish one event, or many from standard input or a file. Sending again stores none twice."""
    with _reporting():
        source = _source(lines, file)
        if (source is None) == (event_type is None):
            raise UsageError("give either one event, by --event-type, or many, by - or --file")
        client = Client(url, say=say, tenant=tenant, token=token, patience_sec=patience)
        with client:
            if source is None:
                body = build_notification(event_type or "", identifier or [], payload)
                write_line(client.publish(body))
                return
            if identifier or payload is not None:
                raise UsageError("--identifier and --payload are for one event, by --event-type")
            refused = _publish_lines(client, source, batch)
    raise typer.Exit(1 if refused else 0)


@app.command()
def watch(
    event_type: Annotated[str, typer.Argument(help="Type of the events.")],
    *,
    identifier: IdentifierOption = None,
    where: WhereOption = None,
    from_id: FromIdOption = None,
    from_date: FromDateOption = None,
    json: JsonOption = False,
    silence: SilenceOption = SILENCE_SEC,
    url: UrlOption = DEFAULT_URL,
    tenant: TenantOption = None,
    token: TokenOption = None,
) -> None:
    """Print events as they come, after those since --from-id or --from-date. Ctrl-C ends it."""
    with _reporting():
        limits = {"from_id": from_id, "from_date": from_date}
        params = build_params(event_type, limits, identifier or [], where or [])
        with Client(url, say=say, tenant=tenant, token=token, silence_sec=silence) as client:
            _print_events(client, "watch", params, json)


@app.command()
def replay(
    event_type: Annotated[str, typer.Argument(help="Type of the events.")],
    *,
    identifier: IdentifierOption = None,
    where: WhereOption = None,
    from_id: FromIdOption = None,
    from_date: FromDateOption = None,
    to_id: Annotated[str | None, typer.Option(help="End with this sequence.")] = None,
    to_date: Annotated[str | None, typer.Option(help="End at this time.")] = None,
    json: JsonOption = False,
    silence: SilenceOption = SILENCE_SEC,
    url: UrlOption = DEFAULT_URL,
    tenant: TenantOption = None,
    token: TokenOption = None,
) -> None:
    """Print the events of the past: all that are kept, or those between a start and an end."""
    with _reporting():
        limits = {"from_id": from_id, "from_date": from_date, "to_id": to_id, "to_date": to_date}
        if from_id is None and from_date is None:
            limits["from_id"] = "0"
        params = build_params(event_type, limits, identifier or [], where or [])
        with Client(url, say=say, tenant=tenant, token=token, silence_sec=silence) as client:
            _print_events(client, "replay", params, json)


@app.command()
def play(
    *,
    start: Annotated[str, typer.Option("--from", help="Start of the range: RFC 3339.")],
    end: Annotated[
        str | None, typer.Option("--to", help="End of the range; none takes the gateway's length.")
    ] = None,
    speed: Annotated[float, typer.Option(help="How many times as fast as it happened.")] = 1,
    event_type: Annotated[
        list[str] | None,
        typer.Option(help="Only events of this type; none plays all. May be given again."),
    ] = None,
    json: JsonOption = False,
    silence: SilenceOption = PLAY_SILENCE_SEC,
    url: UrlOption = DEFAULT_URL,
    tenant: TenantOption = None,
    token: TokenOption = None,
) -> None:
    """Play the past at a speed, in a session of one's own; space, arrows and + - steer, q quits."""
    bar = Bar()
    with (
        _reporting(),
        Client(url, say=bar.say, tenant=tenant, token=token, silence_sec=silence) as client,
    ):
        wanted = Wanted(start, end, speed, event_type or [])
        status = play_session(client, wanted, bar, str if json else describe_event)
    raise typer.Exit(status)


@app.command()
def sessions(
    *,
    url: UrlOption = DEFAULT_URL,
    tenant: Annotated[
        str | None, typer.Option(help="Only this tenant's; that of all is for administrators.")
    ] = None,
    token: TokenOption = None,
) -> None:
    """List the active sessions: a table, or into a file or a pipe as JSON, one a line."""
    with _reporting(), Client(url, say=say, tenant=tenant, token=token) as client:
        controls = Controls(client)
        show_sessions(controls.active() if tenant is None else controls.current())


@contextmanager
def _reporting() -> Iterator[None]:
    """Failures as one sentence and an exit status."""
    try:
        yield
    except UsageError as error:
        say(str(error))
        raise typer.Exit(2) from error
    except ClientError as error:
        say(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        drop_output()
        raise typer.Exit(141) from None  # as a shell shows one that SIGPIPE ended


def _print_events(
    client: Client, operation: Operation, params: list[tuple[str, str]], json: bool
) -> None:
    for event in Following(client, operation, params).events():
        write_line(event if json else describe_event(event))


def _source(lines: str | None, file: str | None) -> str | None:
    """Where many events are to be read, `-` for standard input; None for one event by options."""
    if lines not in (None, "-"):
        raise UsageError(f"only - may follow publish; for a file: --file {lines}")
    if lines is not None and file is not None:
        raise UsageError("give either - or --file, not both")
    return lines or file


def _publish_lines(client: Client, source: str, most_lines: int) -> int:
    """Publish a file of lines; how many of them were refused."""
    done = stored = refused = 0
    with ExitStack() as stack:
        try:
            file: BinaryIO = (
                sys.stdin.buffer if source == "-" else stack.enter_context(Path(source).open("rb"))
            )
            about = os.fstat(file.fileno())
            size = about.st_size if S_ISREG(about.st_mode) else None
            advance = stack.enter_context(show_progress(size))
            for batch in read_batches(file, most_lines):
                refusals = client.publish_many([line.text for line in batch])
                for each in refusals:
                    say(f"line {batch[each.index].number}: {each.sentence}")
                refused += len(refusals)
                stored += len(batch) - len(refusals)
                done = batch[-1].number
                advance(len(batch), sum(len(line.text) + 1 for line in batch))
        except ClientError as error:
            raise ClientError(f"{error}; all lines up to {done} were published") from error
        except OSError as error:
            raise UsageError(f"cannot read {source}: {error.strerror}") from error
    write_line(f"published {stored}, refused {refused}")
    return refused


def main() -> None:
    app()
