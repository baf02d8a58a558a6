"""The house keeps its shape: imports go down only, none hides, no file outgrows its subject."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("gateway", "store")
    for path in sorted((ROOT / package).rglob("*.py"))
}
# A line of the list may import those below it, and its own.
FLOORS = (
    ("gateway.cli", "gateway.__main__"),
    ("gateway.serve",),
    ("gateway.app",),
    ("gateway.routes", "gateway.edge"),
    ("gateway.playback", "gateway.log_stream"),
    ("gateway.stream", "gateway.fanout", "gateway.schema", "gateway.auth"),
    ("gateway.sse", "gateway.metrics", "gateway.tenant"),
    ("gateway.errors",),
    ("store",),
)
# Where a library may be imported, when not everywhere.
AT_HOME = {
    "redis": {"store.connection", "store.cluster", "store.embedded"},
    "starlette": {"gateway"},
    "sse_starlette": {"gateway.stream", "gateway.sse"},
}


def imports(module: str) -> Iterator[ast.Import | ast.ImportFrom]:
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def imported(module: str) -> set[str]:
    names: set[str] = set()
    for node in imports(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.module is not None, f"{module}: a relative import"
            names |= {
                name if (name := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            }
    return names


def floor_of(module: str) -> int | None:
    """Its height; None for what stands beside the stairs."""
    for height, members in enumerate(reversed(FLOORS)):
        if any(module == member or module.startswith(f"{member}.") for member in members):
            return height
    return None


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own = floor_of(module)
    for name in imported(module):
        other = floor_of(name)
        if own is not None and other is not None:
            assert other <= own, f"{module} imports {name}, which lies above it"
        package = name.partition(".")[0]
        homes = AT_HOME.get(package)
        assert homes is None or any(
            module == home or module.startswith(f"{home}.") for home in homes
        ), f"{module} imports {package}"


def test_there_is_no_circle() -> None:
    TopologicalSorter(
        {module: imported(module) & MODULES.keys() - {module} for module in MODULES}
    ).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_every_import_stands_at_the_top(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert id(node) in top, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_can_be_read_in_one_go(module: str) -> None:
    text = MODULES[module].read_text()
    assert len(text.splitlines()) <= 430
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 75, f"{module}: {node.name} has {lines} lines"
