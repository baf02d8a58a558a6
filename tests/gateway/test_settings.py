"""What a configuration may say, who wins, and what the operator is told."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.layers import leaves
from gateway.settings import Loaded, Row, Settings, SettingsError, explain, load

EXAMPLE = Path(__file__).parents[2] / "gateway" / "example" / "config.yaml"
SECRET = "a secret of at least thirty-two bytes"
AUTH = f"""
auth:
  enabled: true
  mode: trusted_proxy
  jwt_secret: "{SECRET}"
  admin_roles: {{ecmwf: [admin]}}
"""


def load_text(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {}, {})


def problems_of(
    tmp_path: Path, text: str = "{}", environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_text(tmp_path, text, environ)
    return caught.value.problems


def row(loaded: Loaded, name: str) -> Row:
    return next(row for row in explain(loaded) if row.name == name)


def test_nothing_given_is_a_working_configuration() -> None:
    loaded = load(None, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.file is None


def test_defaults_fit_their_own_types_and_limits() -> None:
    flags = {
        name: ",".join(leaf.default) if isinstance(leaf.default, tuple) else leaf.default
        for name, leaf in leaves(Settings).items()
        if leaf.default is not None
    }
    assert load(None, {}, flags).settings == Settings()


def test_every_setting_is_described() -> None:
    for line in explain(load(None, {}, {})):
        assert line.description.endswith("."), line.name
        assert line.value, line.name


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("application: {host: file, port: 1}\nlogging: {level: error}\n")
    environ = {"PLAYHEAD_APPLICATION__HOST": "environment", "PLAYHEAD_APPLICATION__PORT": "2"}
    flags = {"application.port": 3, "logging.level": None}
    loaded = load(path, environ, flags)
    application = loaded.settings.application
    assert (application.port, loaded.sources["application.port"]) == (3, "flag")
    assert (application.host, loaded.sources["application.host"]) == ("environment", "environment")
    assert (loaded.settings.logging.level, loaded.sources["logging.level"]) == ("error", "file")
    assert loaded.sources["store.url"] == "default"
    assert loaded.file == path


def test_environment_reaches_every_kind_of_value() -> None:
    environ = {
        "PLAYHEAD_WATCH_ENDPOINT__REPLAY_BATCH_SIZE": "200",
        "PLAYHEAD_WATCH_ENDPOINT__SSE_HEARTBEAT_INTERVAL_SEC": "0.5",
        "PLAYHEAD_METRICS__ENABLED": "true",
        "PLAYHEAD_NOTIFICATION_SCHEMA_STRICT": "false",
        "PLAYHEAD_CORS__ALLOW_ORIGINS": "https://a.example, http://b.example:8080",
        "PLAYHEAD_AUTH__ADMIN_ROLES": '{"ecmwf": ["admin"]}',
        "PLAYHEAD_NOTIFICATION_SCHEMA": "{mars: {identifier: {}}}",
        "PLAYHEAD_LIMITS__BODY_BYTES": "2Mi",
        "PLAYHEAD_STORE__URL": "",
        "OTHER": "left alone",
    }
    settings = load(None, environ, {}).settings
    assert settings.watch_endpoint.replay_batch_size == 200
    assert settings.watch_endpoint.sse_heartbeat_interval_sec == 0.5
    assert settings.metrics.enabled
    assert settings.notification_schema_strict is False
    assert settings.cors.allow_origins == ("https://a.example", "http://b.example:8080")
    assert settings.auth.admin_roles == {"ecmwf": ["admin"]}
    assert settings.notification_schema == {"mars": {"identifier": {}}}
    assert settings.limits.body_bytes == 2 << 20
    assert settings.store.url is None


@pytest.mark.parametrize(
    ("written", "size"),
    [("4096", 4096), ("64K", 64_000), ("64Ki", 65_536), ("1 MiB", 1 << 20), ("2G", 2 * 10**9)],
)
def test_sizes_may_have_units(tmp_path: Path, written: str, size: int) -> None:
    loaded = load_text(tmp_path, f"limits: {{body_bytes: {written}}}")
    assert loaded.settings.limits.body_bytes == size


def test_words_of_other_services_are_understood(tmp_path: Path) -> None:
    logging = load_text(tmp_path, "logging: {level: WARN, format: Pretty}").settings.logging
    assert (logging.level, logging.format) == ("warning", "console")


def test_aviso_configuration_without_its_backend_works_unchanged(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path,
        """
application:
  host: "127.0.0.1"
  port: 8000
  base_url: "localhost:8000"
  static_files_path: "./src/static"
  homepage:
    client_documentation_url: "https://docs.example/client"
watch_endpoint:
  sse_heartbeat_interval_sec: 30
  connection_max_duration_sec: 3600
  replay_batch_size: 100
  max_historical_notifications: 10000
  replay_batch_delay_ms: 0
  concurrent_notification_processing: 20
logging:
  level: info
  format: json
metrics:
  enabled: true
  host: "127.0.0.1"
  port: 9090
auth:
  enabled: false
notification_schema_strict: true
notification_schema:
  mars:
    topic: {base: mars, key_order: [class]}
    identifier:
      class: {type: EnumHandler, values: [od, no, on], required: true}
""",
    )
    assert loaded.settings.watch_endpoint.replay_batch_size == 100
    assert row(loaded, "watch_endpoint.concurrent_notification_processing").description.startswith(
        "No effect"
    )
    assert row(loaded, "notification_schema").value == "mars"
    schema = loaded.settings.notification_schema
    assert schema is not None
    assert "['od', 'no', 'on']" in str(schema)


def test_aviso_backend_section_says_what_to_use(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "notification_backend: {kind: in_memory}")
    assert problem.startswith("notification_backend (file ")
    assert "use `store`" in problem
    (problem,) = problems_of(tmp_path, environ={"PLAYHEAD_NOTIFICATION_BACKEND__KIND": "jetstream"})
    assert "use `store`" in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "watch_endpoint: {replay_batchsize: 1}",
            r"watch_endpoint\.replay_batchsize \(file .*\) is not a setting; "
            r"the closest is watch_endpoint\.replay_batch_size",
        ),
        ("aplication: {}", r"aplication .* the closest is application"),
        (
            "application: {homepage: {server_url: x}}",
            r"application\.homepage\.server_url .* is not",
        ),
        ("application: 5", r"application .* is a section of settings, got 5"),
        ("application: {port: eighty}", r"application\.port .*Expected `int`, got `str`.*'eighty'"),
        ("application: {port: 65536}", r"application\.port .*<= 65535, got 65536"),
        ("application: {port: }", r"application\.port .*got None"),
        ("watch_endpoint: {max_historical_notifications: 0}", r"max_historical.* >= 1, got 0"),
        ("watch_endpoint: {sse_heartbeat_interval_sec: .nan}", r"sse_heartbeat.*got nan"),
        ("logging: {level: loud}", r"logging\.level .*one of 'debug', 'info', 'warning', 'error'"),
        ("limits: {body_bytes: 2Xi}", r"limits\.body_bytes .*got '2Xi'"),
        ("cors: {allow_origins: [1]}", r"`cors\.allow_origins\[0\]`"),
        ("cors: {allow_origins: [https://a/path]}", r"cors\.allow_origins .*'https://a/path'"),
        ("cors: {allow_origins: ['*'], allow_credentials: true}", r"cors\.allow_credentials needs"),
        ("metrics: {enabled: true, port: 8000}", r"metrics\.port must not be application\.port"),
        ("metrics: {enabled: true, path: /ready}", r"metrics\.path must not be /ready"),
        ("metrics: {path: metrics}", r"metrics\.path "),
        ("tenants: {default: '{0}'}", r"tenants\.default must be a UUID"),
        ("drain: {window_sec: 9, timeout_sec: 8}", r"drain\.timeout_sec must not be lower"),
        ("playback: {lowest_speed: 5}", r"playback\.lowest_speed must not be above"),
        ("playback: {longest_range_sec: 60}", r"playback\.default_range_sec must not be longer"),
        ("application: {base_url: 'http://a b'}", r"application\.base_url must be an address"),
        ('publish: {event_type_prefix: "a\\nb"}', r"publish\.event_type_prefix must be printable"),
        ("ecpds: {}", r"ecpds .* remove this section"),
    ],
)
def test_what_does_not_fit_is_named_in_full(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = problems_of(tmp_path, text)
    assert re.match(rf".*{said}", problem), problem


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("PLAYHEAD_APPLICATION_PORT", "PLAYHEAD_APPLICATION__PORT"),
        ("PLAYHEAD_PORT", "PLAYHEAD_METRICS__PORT"),
        ("PLAYHEAD_STORE", "PLAYHEAD_STORE__URL"),
        ("PLAYHEAD_NOTIFICATION_SCHEMA__MARS", "PLAYHEAD_NOTIFICATION_SCHEMA"),
    ],
)
def test_variable_that_names_nothing_is_told_the_closest(
    tmp_path: Path, name: str, closest: str
) -> None:
    (problem,) = problems_of(tmp_path, environ={name: "8000"})
    assert problem == f"environment variable {name} names no setting; the closest is {closest}"


def test_variables_of_a_kubernetes_service_are_left_alone() -> None:
    environ = {
        "PLAYHEAD_SERVICE_HOST": "10.0.0.1",
        "PLAYHEAD_SERVICE_PORT": "8000",
        "PLAYHEAD_SERVICE_PORT_HTTP": "8000",
        "PLAYHEAD_PORT": "tcp://10.0.0.1:8000",
        "PLAYHEAD_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "PLAYHEAD_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, environ, {}).settings == Settings()


def test_variables_of_the_client_commands_are_no_settings() -> None:
    environ = {"PLAYHEAD_URL": "http://gateway:8000", "PLAYHEAD_TOKEN": "secret"}
    assert load(None, environ, {}).settings == Settings()


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "application: {port: x}\nlogging: {level: loud}\nwatch: {}\n"
    with pytest.raises(SettingsError, match="4 problems:") as caught:
        load_text(tmp_path, text, {"PLAYHEAD_X": "1"})
    assert len(caught.value.problems) == 4
    assert all(f"\n  - {problem}" in str(caught.value) for problem in caught.value.problems)


def test_flag_that_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"flag application\.prot is not a setting"):
        load(None, {}, {"application.prot": 1})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"# nothing but a remark\n", "is empty"),
        (b"- a\n", r"is no mapping of settings: it holds \['a'\]"),
        (b"a: [1", r"cannot be read: .* \(line 1, column 6\)"),
        (b"logging: {level: info}\nlogging: {}", r"'logging' is there twice \(line 2, column 1\)"),
        (b"\xff\xfe\xfd", "cannot be read: 'utf-8' codec"),
    ],
)
def test_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        load(path, {}, {})
    with pytest.raises(SettingsError, match=said):
        load(None, {"PLAYHEAD_CONFIG": str(path)}, {})


def test_file_is_found_by_the_environment_unless_one_is_named(tmp_path: Path) -> None:
    named, other = tmp_path / "named.yaml", tmp_path / "other.yaml"
    named.write_text("application: {port: 1}")
    other.write_text("application: {port: 2}")
    environ = {"PLAYHEAD_CONFIG": str(other)}
    assert load(None, environ, {}).settings.application.port == 2
    assert load(named, environ, {}).settings.application.port == 1


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://user:word@redis.example:6380/2?ssl_ca_certs=/etc/ca.pem",
        "unix:///run/valkey.sock",
        "redis+cluster://a.example:7000",
        "rediss+cluster://a.example:7000/0",
        "redis://[::1]:6379",
    ],
)
def test_store_addresses(url: str) -> None:
    assert load(None, {"PLAYHEAD_STORE__URL": url}, {}).settings.store.url == url


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://host:port",
        "redis://host:0",
        "unix://relative",
        "redis+cluster://host/1",
        "redis://user:topsecret@",
        "redis://ho st",
    ],
)
def test_other_store_addresses_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"store\.url must ") as caught:
        load(None, {"PLAYHEAD_STORE__URL": url}, {})
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize("url", ["/docs", "ftp://a.example", "https://", "https://u:p@a.example"])
def test_home_page_links_are_absolute_and_without_credentials(url: str) -> None:
    with pytest.raises(SettingsError, match=r"application\.homepage\.server_repository_url must"):
        load(None, {"PLAYHEAD_APPLICATION__HOMEPAGE__SERVER_REPOSITORY_URL": url}, {})


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, AUTH, {"PLAYHEAD_STORE__URL": "redis://me:topsecret@h:1/0"})
    shown = str(explain(loaded))
    assert SECRET not in shown
    assert "topsecret" not in shown
    assert row(loaded, "auth.jwt_secret").value == "***"
    assert row(loaded, "store.url").value == "redis://me:***@h:1/0"
    assert row(loaded, "auth.admin_roles").value == '{"ecmwf": ["admin"]}'
    assert SECRET not in "".join(
        problems_of(tmp_path, AUTH.replace(f'"{SECRET}"', f"['{SECRET}']"))
    )


def test_auth_of_both_modes(tmp_path: Path) -> None:
    assert load_text(tmp_path, AUTH).settings.auth.mode == "trusted_proxy"
    direct = AUTH.replace("trusted_proxy", "direct\n  auth_o_tron_url: http://auth:8080")
    assert load_text(tmp_path, direct).settings.auth.auth_o_tron_url == "http://auth:8080"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trusted_proxy", "direct", r"auth\.auth_o_tron_url is needed in auth\.mode direct"),
        ("trusted_proxy", "direct\n  auth_o_tron_url: ' http://a'", "no spaces around"),
        ("trusted_proxy", "direct\n  auth_o_tron_url: auth:8080", "must be an absolute http"),
        ("trusted_proxy", "open", r"auth\.mode .*one of 'direct', 'trusted_proxy'"),
        (f'jwt_secret: "{SECRET}"', "", r"auth\.jwt_secret is needed in auth\.mode trusted_proxy"),
        (f'"{SECRET}"', f'"{SECRET} "', r"auth\.jwt_secret must have no spaces around it"),
        ("{ecmwf: [admin]}", "{}", r"auth\.admin_roles must name at least one realm"),
        (
            "{ecmwf: [admin]}",
            "{ecmwf: []}",
            r"auth\.admin_roles\.ecmwf must hold at least one role",
        ),
        ("{ecmwf: [admin]}", "{ecmwf: [' admin']}", r"auth\.admin_roles: ' admin' must be"),
        ("{ecmwf: [admin]}", "{ecmwf: admin}", r"auth\.admin_roles .*Expected `array`"),
        ("enabled: true", "enabled: true\n  timeout_ms: 0", r"auth\.timeout_ms .* >= 1"),
        ("enabled: true", "enabled: true\n  realm: x", r"auth\.realm .* is not a setting"),
    ],
)
def test_auth_that_could_not_work_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    (problem,) = problems_of(tmp_path, AUTH.replace(old, new))
    assert re.match(rf".*{said}", problem), problem


def test_auth_that_is_off_needs_nothing(tmp_path: Path) -> None:
    assert not load_text(tmp_path, "auth: {enabled: false, mode: direct}").settings.auth.enabled


def test_example_configuration_is_valid() -> None:
    schema = load(EXAMPLE, {}, {}).settings.notification_schema
    assert schema is not None
    assert set(schema) == {"earthquake", "extreme_event"}


SOURCE = """
capture:
  sources:
    - name: fleet
      dsn: postgresql://user:secret@db/fleet
      tables: [public.vehicle]
"""


def test_a_source_has_what_it_needs_by_default(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, SOURCE)
    [source] = loaded.settings.capture.sources
    assert (source.publication, source.slot_name) == ("playhead", "playhead_fleet")
    assert source.on_lost_slot == "refuse"
    assert row(loaded, "capture.sources").value == "fleet"


def test_sources_are_given_by_the_environment_too(tmp_path: Path) -> None:
    text = '[{"name": "fleet", "dsn": "postgresql://db/fleet", "tenant_column": "t"}]'
    loaded = load(None, {"PLAYHEAD_CAPTURE__SOURCES": text}, {})
    assert loaded.settings.capture.sources[0].tenant_column == "t"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SOURCE + "      nmae: x", "unknown field `nmae`"),
        (SOURCE.replace("fleet\n", "Fl eet\n", 1), "matching regex"),
        (SOURCE.replace("postgresql://", "mysql://"), "starts with postgresql://"),
        (SOURCE + "      tenant: nobody", "capture.sources[0].tenant must be a UUID"),
        (SOURCE + "      on_lost_slot: ignore", "Invalid enum value"),
        (SOURCE.replace("[public.vehicle]", "[vehicle]"), "is no name of a table"),
        (SOURCE.replace("[public.vehicle]", "[Public.Vehicle]"), "write public.vehicle"),
        (SOURCE + SOURCE[SOURCE.index("    - ") :], "'fleet' is another source's name too"),
        (
            SOURCE + "    - {name: b, dsn: 'postgresql://b', slot: playhead_fleet}",
            "is another source's slot too",
        ),
        ("capture: {enabled: true}", "needs at least one source"),
    ],
)
def test_a_source_that_cannot_be_is_refused_without_its_password(
    tmp_path: Path, text: str, problem: str
) -> None:
    found = problems_of(tmp_path, text)
    assert any(problem in each for each in found), found
    assert "secret" not in " ".join(found)
