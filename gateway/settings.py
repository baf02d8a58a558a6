"""The settings, read once at start: flag over environment over file over default, then frozen.

Everything that does not fit is told at once: unknown keys, values out of their limits, and values
that do not go together.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from gateway.layers import (
    Given,
    SettingsError,
    Source,
    fill,
    leaves,
    lookup,
    read_environment,
    read_file,
)
from gateway.options import Auth, Capture, Cors, Metrics, Settings
from gateway.playback.tables import parse_tables

__all__ = ["Loaded", "Row", "Settings", "SettingsError", "explain", "load"]

PREFIX = "PLAYHEAD_"
CONFIG_VARIABLE = "PLAYHEAD_CONFIG"
# Of `playhead publish`, `watch` and `replay`, which may run where a gateway does.
URL_VARIABLE = "PLAYHEAD_URL"
TOKEN_VARIABLE = "PLAYHEAD_TOKEN"  # noqa: S105 - the variable's name
_NO_SETTINGS = {CONFIG_VARIABLE, URL_VARIABLE, TOKEN_VARIABLE}
# What Kubernetes puts into every pod beside a service that is called `playhead`.
_SERVICE_LINK = re.compile(r"PLAYHEAD_(SERVICE_(HOST|PORT\w*)=.*|PORT=\w+://.*|PORT_\d+_\w+=.*)")
_REMOVED = {
    "notification_backend": "Playhead keeps its log in Redis or Valkey; remove this section and "
    "use `store` (store.url for a server of your own, store.data_dir for the embedded one)",
    "ecpds": "the ECPDS plugin is no part of Playhead; remove this section",
}
_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_PASSWORD = re.compile(r"(?<=://)([^/@]*):[^/@]*@")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and for each dotted name the layer its value is from."""

    settings: Settings
    sources: dict[str, Source]
    file: Path | None


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as `playhead check` prints it; secrets are `***`."""

    name: str
    value: str
    source: Source
    description: str


def load(config: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Read the settings; `flags` by dotted name, None for a flag that was not given.

    Without `config` the file is the one PLAYHEAD_CONFIG names, else there is none.
    Raises SettingsError, which has a sentence for every problem.
    """
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE])
    problems: list[str] = []
    variables = {
        key: value
        for key, value in environ.items()
        if key not in _NO_SETTINGS and not _SERVICE_LINK.fullmatch(f"{key}={value}")
    }
    unknown = [name for name in flags if name not in leaves(Settings)]
    problems += [f"flag {name} is not a setting" for name in unknown]
    layers: list[tuple[Source, Mapping[str, Given]]] = [
        ("flag", {n: Given(v, "flag", text=True) for n, v in flags.items() if v is not None}),
        ("environment", read_environment(variables, PREFIX, Settings, _REMOVED, problems)),
        ("file", {} if config is None else read_file(config, Settings, _REMOVED, problems)),
    ]
    settings, sources = fill(Settings, layers, problems)
    if settings is not None:
        problems += _contradictions(settings)
    if settings is None or problems:
        raise SettingsError(problems)
    return Loaded(settings, sources, config)


def explain(loaded: Loaded) -> list[Row]:
    """Every setting in the order of definition, with its value, source and meaning."""
    rows = []
    for name, leaf in leaves(Settings).items():
        value = lookup(loaded.settings, name)
        if name == "capture.sources":
            # Their addresses may hold passwords.
            value = tuple(source.name for source in loaded.settings.capture.sources)
            shown = _show(name, value)
        else:
            shown = "***" if value and leaf.extra.get("secret") else _show(name, value)
        rows.append(Row(name, shown, loaded.sources[name], leaf.description))
    return rows


def _show(name: str, value: object) -> str:
    match value:
        case None | () | dict() if not value:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value))
        case dict() if name == "notification_schema":
            return ", ".join(sorted(map(str, value)))
        case dict():
            return json.dumps(value)
        case _:
            return _PASSWORD.sub(r"\1:***@", str(value))


def _contradictions(settings: Settings) -> Iterator[str]:
    """A sentence for each value that cannot be used as it is, or not beside the others."""
    yield from _about_words(settings)
    if settings.store.url is not None:
        yield from _about_store_url(settings.store.url)
    tenant = settings.tenants.default
    if not _is_tenant(tenant):
        yield f"tenants.default must be a UUID such as {UUID(int=0)}, got {tenant!r}"
    if settings.playback.database is not None:
        yield from _about_database(settings.playback.database)
    yield from _about_cors(settings.cors)
    yield from _about_metrics(settings.metrics, settings.application.port)
    if settings.auth.enabled:
        yield from _about_auth(settings.auth)
    yield from _about_capture(settings.capture)


def _about_words(settings: Settings) -> Iterator[str]:
    application = settings.application
    if not application.base_url.isprintable() or " " in application.base_url:
        yield f"application.base_url must be an address, got {application.base_url!r}"
    for name in application.homepage.__struct_fields__:
        url = getattr(application.homepage, name)
        if url is not None and _why_no_web_address(url):
            yield f"application.homepage.{name} {_why_no_web_address(url)}"
    if not settings.publish.event_type_prefix.isprintable():
        yield "publish.event_type_prefix must be printable"
    if settings.drain.timeout_sec < settings.drain.window_sec:
        yield "drain.timeout_sec must not be lower than drain.window_sec"
    playback = settings.playback
    if playback.lowest_speed > playback.highest_speed:
        yield "playback.lowest_speed must not be above playback.highest_speed"
    if playback.default_range_sec > playback.longest_range_sec:
        yield "playback.default_range_sec must not be longer than playback.longest_range_sec"


def _about_store_url(url: str) -> Iterator[str]:
    shown = _PASSWORD.sub(r"\1:***@", url)
    parts = _split(url)
    if parts is None or parts.scheme not in _SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        yield f"store.url must be an address that starts with one of {schemes}, got {shown!r}"
    elif parts.scheme == "unix" and not parts.path.startswith("/"):
        yield f"store.url must name a socket by its full path (unix:///path), got {shown!r}"
    elif parts.scheme != "unix" and not parts.hostname:
        yield f"store.url must name a host, got {shown!r}"
    elif "cluster" in parts.scheme and parts.path.strip("/") not in {"", "0"}:
        yield f"store.url must name no database but 0, for a cluster has no other, got {shown!r}"


def _about_database(dsn: str) -> Iterator[str]:
    parts = _split(dsn)
    if parts is None or parts.scheme not in {"postgresql", "postgres"}:
        yield "playback.database must be an address that starts with postgresql://"


def _about_cors(cors: Cors) -> Iterator[str]:
    for origin in cors.allow_origins:
        parts = _split(origin)
        if origin != "*" and (
            parts is None
            or parts.scheme not in {"http", "https"}
            or not parts.hostname
            or origin != f"{parts.scheme}://{parts.netloc}"
        ):
            yield f"cors.allow_origins must hold origins such as https://host, got {origin!r}"
    if cors.allow_credentials and "*" in cors.allow_origins:
        yield "cors.allow_credentials needs the origins by name: take * out of cors.allow_origins"


def _about_metrics(metrics: Metrics, main_port: int) -> Iterator[str]:
    if not metrics.enabled:
        return
    if metrics.port is not None and metrics.port == main_port != 0:
        yield (
            f"metrics.port must not be application.port ({main_port}); leave it out to serve "
            f"{metrics.path} on the main port"
        )
    taken = metrics.path in {"/", "/health", "/ready"} or metrics.path.startswith("/api/")
    if metrics.port is None and taken:
        yield f"metrics.path must not be {metrics.path} on the main port: that path is taken"


def _about_capture(capture: Capture) -> Iterator[str]:
    if capture.enabled and not capture.sources:
        yield "capture.enabled needs at least one source in capture.sources"
    names = [source.name for source in capture.sources]
    slots = [source.slot_name for source in capture.sources]
    for number, source in enumerate(capture.sources):
        where = f"capture.sources[{number}]"
        if names.index(source.name) != number:
            yield f"{where}.name: '{source.name}' is another source's name too"
        elif slots.index(source.slot_name) != number:
            yield f"{where}.slot: '{source.slot_name}' is another source's slot too"
        if not source.dsn.startswith(("postgresql://", "postgres://")):
            yield f"{where}.dsn must be an address that starts with postgresql://"
        if source.tenant is not None and not _is_tenant(source.tenant):
            yield f"{where}.tenant must be a UUID such as {UUID(int=0)}, got {source.tenant!r}"
        for table in source.tables:
            tables, wrong = parse_tables(table)
            if wrong or tables != [table]:
                advice = f"write {tables[0]}" if tables and not wrong else "write schema.table"
                yield f"{where}.tables: {table!r} is no name of a table; {advice}"


def _is_tenant(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _about_auth(auth: Auth) -> Iterator[str]:
    """Aviso wire contract §11.1, the rules that need no schema."""
    if auth.mode == "direct":
        if not auth.auth_o_tron_url:
            yield "auth.auth_o_tron_url is needed in auth.mode direct"
        elif auth.auth_o_tron_url != auth.auth_o_tron_url.strip():
            yield "auth.auth_o_tron_url must have no spaces around it"
        elif _why_no_web_address(auth.auth_o_tron_url):
            yield f"auth.auth_o_tron_url {_why_no_web_address(auth.auth_o_tron_url)}"
    if not auth.jwt_secret:
        yield f"auth.jwt_secret is needed in auth.mode {auth.mode}"
    elif auth.jwt_secret != auth.jwt_secret.strip():
        yield "auth.jwt_secret must have no spaces around it"
    if not auth.admin_roles:
        yield "auth.admin_roles must name at least one realm with its roles"
    for realm, roles in auth.admin_roles.items():
        if not roles:
            yield f"auth.admin_roles.{realm} must hold at least one role"
        for word in (realm, *roles):
            if not word or word != word.strip():
                yield f"auth.admin_roles: {word!r} must be a name without spaces around it"


def _why_no_web_address(url: str) -> str | None:
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        return f"must be an absolute http or https address, got {url!r}"
    if parts.username is not None or parts.password is not None:
        return "must hold no user and no password"
    return None


def _split(url: str) -> SplitResult | None:
    """The parts of an address, None when it is none: odd characters, a port that is no number."""
    try:
        parts = urlsplit(url)
        return parts if url.isprintable() and " " not in url and parts.port != 0 else None
    except ValueError:
        return None
