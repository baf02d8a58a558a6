"""The `playhead` command: serve | publish | watch | replay | check."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, BinaryIO

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway import logs
from gateway import settings as configuration
from gateway.client import PATIENCE_SEC, SILENCE_SEC, Client, ClientError, Operation
from gateway.following import Following
from gateway.ndjson import read_batches
from gateway.schema.catalog import Catalog
from gateway.schema.errors import SchemaError
from gateway.serve import serve as serve_gateway
from gateway.settings import Loaded, SettingsError
from gateway.terminal import describe_event, drop_output, say, show_progress, write_line
from store.errors import StoreError

_COMPARISON = re.compile(r"([^<>=!\s][^<>=!]*?)\s*(>=|<=|==|>|<|=)\s*([^=].*)", re.DOTALL)
_OPERATORS = {">=": ".gte", "<=": ".lte", ">": ".gt", "<": ".lt", "=": "", "==": ""}

app = typer.Typer(
    help="Durable Server-Sent Events: watch live, replay the past.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
DEFAULT_URL = "http://127.0.0.1:8000"


@app.callback()
def callback(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    ...
