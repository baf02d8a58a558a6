"""The `playhead` command: serve | publish | watch | replay | check."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gateway import logs
from gateway import settings as configuration
from gateway.schema.catalog import Catalog
from gateway.schema.errors import SchemaError
from gateway.serve import serve as serve_gateway
from gateway.settings import Loaded, SettingsError
from store.errors import StoreError

app = typer.Typer(
    help="Durable Server-Sent Events: watch live, replay the past.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (YAML); PLAYHEAD_CONFIG.")
]


def _load(config: Path | None, flags: Mapping[str, object]) -> tuple[Loaded, Catalog]:
    """Settings and schemas, or the sentences that say what is wrong with them and exit status 2."""
    try:
        loaded = configuration.load(config, os.environ, flags)
        read = loaded.settings
        return loaded, Catalog.parse(read.notification_schema, read.notification_schema_strict)
    except (SettingsError, SchemaError) as error:
        print(f"playhead: the configuration cannot be used: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


@app.command()
def serve(
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
def check(config: ConfigOption = None) -> None:
    """Validate a configuration; print every setting with its value, source and meaning."""
    loaded, catalog = _load(config, {})
    table = Table("setting", "value", "source", "meaning", box=None, header_style="bold")
    for row in configuration.explain(loaded):
        table.add_row(row.name, row.value, row.source, row.description)
    Console().print(table)
    mode = "strict" if catalog.strict else "permissive"
    names = ", ".join(catalog.event_types) or "none"
    print(f"\nThe configuration can be used. Event types ({mode}): {names}")


def main() -> None:
    app()
