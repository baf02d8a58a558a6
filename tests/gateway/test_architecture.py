"""The walls of the house: imports go down only, never in circles, never out of sight."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# From the roof to the ground; a package stands for all its modules.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("gateway.__main__",),
    ("gateway.cli",),
    ("gateway.demo",),
    ("gateway.serve", "gateway.fleet"),
    ("gateway.app",),
    ("gateway.captures",),
    ("gateway.snapshots",),
    ("gateway.settings", "gateway.layers"),
    ("gateway.routes", "gateway.openapi", "gateway.edge", "gateway.cors"),
    ("gateway.playback",),
    (
        "gateway.census",
        "gateway.log_stream",
        "gateway.reading",
        "gateway.changes",
        "gateway.row_stream",
    ),
    ("gateway.cloudevent",),
    ("gateway.stream", "gateway.auth", "gateway.fanout", "gateway.schema"),
    ("gateway.ring", "gateway.sse", "gateway.metrics", "gateway.server", "gateway.options"),
    ("gateway.protocol",),
    ("gateway.descriptors",),
    ("gateway.errors", "gateway.tenant", "gateway.logs", "gateway.yaml_file", "gateway.row_text"),
    ("gateway.tally",),
    ("gateway.remote",),
    ("gateway.following", "gateway.resumption", "gateway.terminal", "gateway.arguments"),
    ("gateway.client", "gateway.eventsource", "gateway.ndjson"),
    ("store.retention", "store.tail", "store.merge", "store.embedded", "store.embedded_postgres"),
    ("store.schedule", "store.playback_db"),
    ("store.playback_target",),
    ("store.snapshot", "store.source_tables", "store.alignment", "store.state"),
    ("store.snapshot_reader", "store.row_upload", "store.snapshot_source", "store.captured"),
    ("store.playback_connection", "store.playback_script"),
    ("store.snapshot_index", "store.objects", "store.row_file", "store.fold", "store.tenant_rows"),
    ("store.capture", "store.source_setup"),
    ("store.resumption", "store.capture_rounds"),
    ("store.copier", "store.slot_making"),
    ("store.last_rows",),
    ("store.change_stream", "store.pgsource", "store.capture_record"),
    ("store.rows", "store.pgcatalog"),
    ("store.playback_tables",),
    ("store.pgoutput", "store.pgtypes"),
    ("store.log", "store.data_directory", "store.server_binary"),
    ("store.topic_index", "store.session", "store.server_time", "store.configuration"),
    ("store.connection",),
    ("store.cluster",),
    ("store.link", "store.lanes"),
    ("store.visibility", "store.cron", "store.playback_schema", "store.json_members"),
    ("store.event", "store.errors"),
)
# Who may know a library, or the settings.
ONLY = {
    "redis": {"store.connection", "store.cluster", "store.link"},
    "asyncpg": {
        "gateway.fleet",
        "store.pgsource",
        "store.playback_connection",
        "store.slot_making",
        "store.snapshot_source",
        "store.source_tables",
    },
    "obstore": {"store.objects"},
    "zstandard": {"store.row_file"},
    "gateway.settings": {
        "gateway.app",
        "gateway.captures",
        "gateway.cli",
        "gateway.demo",
        "gateway.serve",
        "gateway.snapshots",
    },
}
FORBIDDEN_IN_STORE = ("gateway", "starlette", "sse_starlette", "uvicorn")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {
    name_of(path): ast.parse(path.read_text())
    for package in ("gateway", "store")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(tree: ast.AST) -> set[str]:
    """The modules that are imported anywhere in this piece of code, by their full names."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in TREES else str(node.module) for name in whole}
    return found


IMPORTS = {module: imports_of(tree) for module, tree in TREES.items()}


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def floor(module: str) -> int:
    found = [number for number, names in enumerate(FLOORS) for name in names if is_in(module, name)]
    assert found, f"{module} has no floor: give it one"
    return found[0]


@pytest.mark.parametrize("module", [name for name in TREES if name not in ("gateway", "store")])
def test_a_module_imports_only_from_its_own_floor_and_below(module: str) -> None:
    for other in IMPORTS[module] & TREES.keys():
        assert floor(module) <= floor(other), f"{module} imports {other}, which is above it"


def test_no_import_leads_in_a_circle() -> None:
    own = {module: names & TREES.keys() - {module} for module, names in IMPORTS.items()}
    assert len(list(TopologicalSorter(own).static_order())) == len(TREES)


def test_the_store_knows_nothing_of_the_gateway() -> None:
    for module in (name for name in TREES if is_in(name, "store")):
        for package in FORBIDDEN_IN_STORE:
            assert not any(is_in(other, package) for other in IMPORTS[module]), (module, package)


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_known_only_to_those_whose_business_it_is(library: str) -> None:
    users = {module for module, names in IMPORTS.items() for name in names if is_in(name, library)}
    assert users <= ONLY[library]


@pytest.mark.parametrize("module", TREES)
def test_imports_stand_in_the_open(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert not imports_of(node), f"{module}.{node.name} imports inside a function"
        assert not (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING"), module
