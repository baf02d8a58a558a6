"""Every setting of the gateway: its name, type, default, limits and meaning.

Sections and keys are Aviso's where the meaning is the same (Aviso wire contract §11.3), so that an
Aviso configuration without its `notification_backend` works unchanged. Read by settings.py.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

_YEAR_SEC = 366 * 86_400
_SIZE = {"size": True}

_Port = Annotated[int, Meta(ge=0, le=65_535)]


class Homepage(Struct, frozen=True):
    client_documentation_url: (
        Annotated[str, Meta(description="Link of the home page to the clients' documentation.")]
        | None
    ) = None
    client_repository_url: (
        Annotated[str, Meta(description="Link of the home page to the clients' source.")] | None
    ) = None
    server_documentation_url: (
        Annotated[str, Meta(description="Link of the home page to this server's documentation.")]
        | None
    ) = None
    server_repository_url: (
        Annotated[str, Meta(description="Link of the home page to this server's source.")] | None
    ) = None


class Application(Struct, frozen=True):
    host: Annotated[
        str, Meta(description="Address to listen on; 0.0.0.0 for every network.", min_length=1)
    ] = "127.0.0.1"
    port: Annotated[_Port, Meta(description="Port to listen on; 0 takes a free one.")] = 8000
    base_url: Annotated[
        str,
        Meta(description="`source` of every CloudEvent and the start of its `dataschema`."),
    ] = "http://localhost"
    static_files_path: (
        Annotated[
            str,
            Meta(
                description="Folder served under /static, its index.html as home page; else built in."
            ),
        ]
        | None
    ) = None
    homepage: Homepage = Homepage()


class WatchEndpoint(Struct, frozen=True):
    sse_heartbeat_interval_sec: Annotated[
        float, Meta(description="A quiet stream gets a heartbeat this often.", gt=0, le=_YEAR_SEC)
    ] = 30
    connection_max_duration_sec: Annotated[
        float, Meta(description="A watch is closed after this; clients resume.", gt=0, le=_YEAR_SEC)
    ] = 3600
    replay_batch_size: Annotated[
        int, Meta(description="Events read from the log at a time.", ge=1, le=10_000)
    ] = 500
    max_historical_notifications: Annotated[
        int, Meta(description="Most events of history one request gets.", ge=1)
    ] = 10_000
    replay_batch_delay_ms: Annotated[
        int, Meta(description="Pause between two batches of history.", ge=0, le=60_000)
    ] = 0
    concurrent_notification_processing: Annotated[
        int, Meta(description="No effect: accepted for Aviso configurations.", ge=1)
    ] = 15
    send_timeout_sec: Annotated[
        float,
        Meta(
            description="A client that takes no byte for this long is closed.", gt=0, le=_YEAR_SEC
        ),
    ] = 60
    backend_patience_sec: Annotated[
        float,
        Meta(
            description="History waits this long for a lost store, then ends with an error frame.",
            ge=0,
            le=_YEAR_SEC,
        ),
    ] = 10
    ring_events: Annotated[
        int,
        Meta(description="Recent events kept in memory per stream for clients that keep up.", ge=1),
    ] = 4096
    ring_bytes: Annotated[int, Meta(description="The same in bytes (2Mi).", ge=1, extra=_SIZE)] = (
        2 << 20
    )


class Store(Struct, frozen=True):
    url: (
        Annotated[
            str,
            Meta(
                description="Redis or Valkey to keep the log in: redis://, rediss://, unix://, "
                "redis+cluster:// or rediss+cluster://; none starts a private one on data_dir."
            ),
        ]
        | None
    ) = None
    data_dir: Annotated[
        str, Meta(description="Directory of the private server's data.", min_length=1)
    ] = "./playhead-data"


class Limits(Struct, frozen=True):
    body_bytes: Annotated[
        int, Meta(description="Largest request body (16Mi); larger: 413.", ge=1, extra=_SIZE)
    ] = 16 << 20
    header_bytes: Annotated[
        int, Meta(description="Largest request head (32Ki); larger: 431.", ge=1024, extra=_SIZE)
    ] = 32 << 10
    query_bytes: Annotated[
        int, Meta(description="Longest query string (8Ki); longer: 414.", ge=1, extra=_SIZE)
    ] = 8 << 10
    bulk_items: Annotated[
        int, Meta(description="Most events of one bulk publish; more: 413.", ge=1)
    ] = 10_000


class Publish(Struct, frozen=True):
    idempotency_window_sec: Annotated[
        int,
        Meta(description="An Idempotency-Key is remembered this long.", ge=1, le=_YEAR_SEC),
    ] = 86_400
    event_type_prefix: Annotated[
        str, Meta(description="Put before the event type in the CloudEvent's `type`.")
    ] = "int.ecmwf.aviso."


class Tenants(Struct, frozen=True):
    default: Annotated[
        str,
        Meta(description="Tenant of a request without X-Tenant-ID, a UUID.", extra={"fold": True}),
    ] = "00000000-0000-0000-0000-000000000000"


class Cors(Struct, frozen=True):
    allow_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins whose pages may call the API, such as https://host:8443; * is all."
        ),
    ] = ()
    allow_credentials: Annotated[
        bool, Meta(description="Whether such a page may send cookies; needs named origins.")
    ] = False
    max_age_sec: Annotated[
        int, Meta(description="A browser may keep the permission this long.", ge=0, le=86_400)
    ] = 600


class Metrics(Struct, frozen=True):
    enabled: Annotated[bool, Meta(description="Serve Prometheus metrics.")] = False
    host: Annotated[str, Meta(description="Address the metrics port listens on.", min_length=1)] = (
        "127.0.0.1"
    )
    port: (
        Annotated[
            _Port, Meta(description="Port of the metrics alone; none serves them on the main port.")
        ]
        | None
    ) = None
    path: Annotated[str, Meta(description="Path of the metrics.", pattern="^/[!-~]*$")] = "/metrics"


class Logging(Struct, frozen=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(
            description="Least level that is logged.",
            extra={"fold": True, "aliases": {"warn": "warning", "trace": "debug"}},
        ),
    ] = "info"
    format: Annotated[
        Literal["json", "console"],
        Meta(
            description="One JSON object a line, or text for people.",
            extra={
                "fold": True,
                "aliases": dict.fromkeys(("text", "pretty", "compact", "full"), "console"),
            },
        ),
    ] = "json"
    access: Annotated[bool, Meta(description="Log a line for every request.")] = False


class Auth(Struct, frozen=True):
    enabled: Annotated[bool, Meta(description="Ask for credentials.")] = False
    mode: Annotated[
        Literal["direct", "trusted_proxy"],
        Meta(
            description="direct: credentials are checked by auth-o-tron; trusted_proxy: a JWT is "
            "verified here.",
            extra={"fold": True},
        ),
    ] = "direct"
    auth_o_tron_url: (
        Annotated[str, Meta(description="Base address of auth-o-tron (mode direct).")] | None
    ) = None
    jwt_secret: (
        Annotated[str, Meta(description="HS256 key of the tokens.", extra={"secret": True})] | None
    ) = None
    admin_roles: Annotated[
        dict[str, list[str]],
        Meta(description="The roles that make an administrator, by realm; * is every role."),
    ] = {}
    timeout_ms: Annotated[
        int, Meta(description="auth-o-tron must answer within this.", ge=1, le=600_000)
    ] = 5000
    tenant_claim: Annotated[
        str, Meta(description="Claim of a token that binds it to one tenant.", min_length=1)
    ] = "tenant_id"


class Drain(Struct, frozen=True):
    window_sec: Annotated[
        float,
        Meta(description="On SIGTERM the open streams are closed over this time.", ge=0, le=3600),
    ] = 2
    timeout_sec: Annotated[
        float,
        Meta(description="What is still open this long after SIGTERM is cut off.", gt=0, le=3600),
    ] = 7


class Playback(Struct, frozen=True):
    default_range_sec: Annotated[
        int, Meta(description="Length of a session without an end.", ge=1, le=_YEAR_SEC)
    ] = 7200
    longest_range_sec: Annotated[
        int, Meta(description="Longest session there may be.", ge=1, le=100 * _YEAR_SEC)
    ] = 31 * 86_400
    lowest_speed: Annotated[float, Meta(description="Slowest speed of play.", gt=0)] = 0.5
    highest_speed: Annotated[float, Meta(description="Highest speed of play.", gt=0)] = 4
    allow_fastest: Annotated[bool, Meta(description="Allow speed 0: as fast as can be sent.")] = (
        False
    )
    idle_sec: Annotated[
        int,
        Meta(
            description="A session nobody watches or touches ends after this.", ge=1, le=_YEAR_SEC
        ),
    ] = 1800
    lease_sec: Annotated[
        float,
        Meta(
            description="A gateway that is silent for this long loses its lease.", ge=0.1, le=3600
        ),
    ] = 15
    lock_replays: Annotated[
        bool,
        Meta(description="A one-shot replay of a named tenant takes the tenant's session lock."),
    ] = True
    database: (
        Annotated[
            str,
            Meta(
                description="PostgreSQL that sessions are played into; its tables are emptied and "
                "filled by them.",
                extra={"secret": True},
            ),
        ]
        | None
    ) = None
    work_limit_sec: Annotated[
        int,
        Meta(
            description="What a verb does in playback.database fails after this.",
            ge=1,
            le=7 * 86_400,
        ),
    ] = 900
    outage_sec: Annotated[
        float,
        Meta(description="playback.database may be away this long before play fails.", gt=0),
    ] = 30
    step_patience_sec: Annotated[
        float,
        Meta(description="A verb is answered after this, though its work goes on.", ge=0, le=3600),
    ] = 10


class CaptureSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One database. `slot` is playhead_<name> unless it is given."""

    name: Annotated[str, Meta(pattern="^[a-z0-9_]{1,40}$")]
    dsn: Annotated[str, Meta(min_length=1)]
    publication: Annotated[str, Meta(min_length=1, max_length=63)] = "playhead"
    slot: Annotated[str, Meta(pattern="^[a-z0-9_]{1,63}$")] | None = None
    tables: tuple[str, ...] = ()
    tenant: str | None = None
    tenant_column: Annotated[str, Meta(min_length=1)] | None = None
    on_lost_slot: Literal["refuse", "resume"] = "refuse"

    @property
    def slot_name(self) -> str:
        return self.slot or f"playhead_{self.name}"


class Capture(Struct, frozen=True):
    enabled: Annotated[
        bool, Meta(description="Capture the sources in this process; else `playhead capture` does.")
    ] = False
    sources: Annotated[
        tuple[CaptureSource, ...],
        Meta(
            description="PostgreSQL databases to capture, each with name, dsn, publication, slot, "
            "tables, tenant, tenant_column, on_lost_slot.",
            extra={"secret": True},
        ),
    ] = ()


class Snapshots(Struct, frozen=True):
    url: Annotated[
        str,
        Meta(
            description="Where snapshots are kept: file://folder or s3://bucket/prefix.",
            min_length=1,
        ),
    ] = "file://./playhead-snapshots"
    retention_sec: Annotated[
        int,
        Meta(
            description="Older snapshots are removed, the newest never.", ge=1, le=100 * _YEAR_SEC
        ),
    ] = 7 * 86_400
    patience_sec: Annotated[
        float,
        Meta(
            description="A snapshot fails when capture has not come up to it within this.",
            gt=0,
            le=_YEAR_SEC,
        ),
    ] = 600
    endpoint: (
        Annotated[str, Meta(description="Address of the S3 service; none is Amazon's.")] | None
    ) = None
    region: Annotated[str, Meta(description="Region of the bucket; none: AWS_REGION.")] | None = (
        None
    )
    access_key_id: (
        Annotated[
            str, Meta(description="S3 access key; none: AWS_ACCESS_KEY_ID or the machine's role.")
        ]
        | None
    ) = None
    secret_access_key: (
        Annotated[
            str,
            Meta(description="Its secret; none: AWS_SECRET_ACCESS_KEY.", extra={"secret": True}),
        ]
        | None
    ) = None


class Settings(Struct, frozen=True):
    application: Application = Application()
    watch_endpoint: WatchEndpoint = WatchEndpoint()
    notification_schema: (
        Annotated[
            dict[str, object],
            Meta(description="Event types and the fields that identify their events."),
        ]
        | None
    ) = None
    notification_schema_strict: (
        Annotated[bool, Meta(description="Refuse other event types; none: when there is a schema.")]
        | None
    ) = None
    store: Store = Store()
    limits: Limits = Limits()
    publish: Publish = Publish()
    tenants: Tenants = Tenants()
    cors: Cors = Cors()
    metrics: Metrics = Metrics()
    logging: Logging = Logging()
    auth: Auth = Auth()
    drain: Drain = Drain()
    playback: Playback = Playback()
    capture: Capture = Capture()
    snapshots: Snapshots = Snapshots()
