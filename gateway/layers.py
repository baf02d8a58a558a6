"""One frozen struct tree filled from four layers: flag over environment over file over default.

Knows no setting: names, types, limits and descriptions are read from the structs it is given.
A key that names nothing, in whichever layer, is a problem that names the closest key there is.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec

from gateway.yaml_file import parse_yaml, read_yaml

Source = Literal["flag", "environment", "file", "default"]
Tree = TypeVar("Tree", bound=msgspec.Struct)

_SIZE = re.compile(r"(\d+) ?([KMGT]i?)?B?")
_UNITS: dict[str, int] = {
    unit: base ** (power + 1)
    for power, letter in enumerate("KMGT")
    for unit, base in ((letter, 1000), (f"{letter}i", 1024))
}


class SettingsError(Exception):
    """The settings cannot be used; `problems` has one sentence for each thing to change."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        text = self.problems[0]
        if len(self.problems) > 1:
            text = f"{len(self.problems)} problems:" + "".join(f"\n  - {p}" for p in self.problems)
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting, as the struct that holds it declares it.

    `extra` may hold `secret` (never shown), `size` (bytes, also written `16Mi`), `fold` (lower
    case) and `aliases` (other words for a value).
    """

    name: str
    type: Any
    default: Any
    description: str
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it, and where."""

    raw: object
    where: str
    text: bool = False


def leaves(tree: type[msgspec.Struct], prefix: str = "") -> dict[str, Leaf]:
    """Every setting of the tree by its dotted name, in the order of definition."""
    found: dict[str, Leaf] = {}
    for field in msgspec.structs.fields(tree):
        name = prefix + field.name
        if _is_section(field.type):
            found |= leaves(field.type, f"{name}.")
        else:
            metas = _metas(field.type)
            default = field.default
            if default is msgspec.NODEFAULT:
                default = field.default_factory()
            description = next((meta.description for meta in metas if meta.description), "")
            extra = next((meta.extra for meta in metas if meta.extra), {})
            found[name] = Leaf(name, field.type, default, description, extra)
    return found


def read_file(
    path: Path, tree: type[msgspec.Struct], removed: Mapping[str, str], problems: list[str]
) -> dict[str, Given]:
    """The settings of a YAML file.

    `removed` has a sentence for each key that is known and not served.
    """
    try:
        raw = read_yaml(path)
    except ValueError as error:
        problems.append(f"configuration {error}")
        return {}
    known = leaves(tree)
    sections = {name.rpartition(".")[0] for name in known} - {""}
    found: dict[str, Given] = {}

    def walk(mapping: Mapping[object, object], prefix: str) -> None:
        for key, value in mapping.items():
            name = f"{prefix}{key}"
            if name in removed:
                problems.append(f"{name} (file {path}): {removed[name]}")
            elif name in known:
                found[name] = Given(value, f"file {path}")
            elif name not in sections:
                problems.append(
                    f"{name} (file {path}) is not a setting; "
                    f"the closest is {_closest(name, [*known, *sections])}"
                )
            elif isinstance(value, Mapping):
                walk(value, f"{name}.")
            elif value is not None:
                problems.append(f"{name} (file {path}) is a section of settings, got {value!r}")

    walk(raw, "")
    return found


def read_environment(
    environ: Mapping[str, str],
    prefix: str,
    tree: type[msgspec.Struct],
    removed: Mapping[str, str],
    problems: list[str],
) -> dict[str, Given]:
    """The settings among the environment's variables that start with `prefix`."""
    known = {variable(prefix, name): name for name in leaves(tree)}
    gone = {variable(prefix, name): sentence for name, sentence in removed.items()}
    found: dict[str, Given] = {}
    for key, value in sorted(environ.items()):
        if not key.startswith(prefix):
            continue
        section = prefix + key.removeprefix(prefix).partition("__")[0]
        if section in gone:
            problems.append(f"environment variable {key}: {gone[section]}")
        elif key in known:
            found[known[key]] = Given(value, f"environment variable {key}", text=True)
        else:
            problems.append(
                f"environment variable {key} names no setting; "
                f"the closest is {_closest(key, list(known))}"
            )
    return found


def variable(prefix: str, name: str) -> str:
    """The environment variable of a dotted name."""
    return prefix + name.upper().replace(".", "__")


def fill(
    tree: type[Tree],
    layers: Sequence[tuple[Source, Mapping[str, Given]]],
    problems: list[str],
) -> tuple[Tree | None, dict[str, Source]]:
    """The tree, each leaf from the first layer that has it; None when there are problems."""
    values: dict[str, object] = {}
    sources: dict[str, Source] = {}
    for name, leaf in leaves(tree).items():
        values[name], sources[name] = leaf.default, "default"
        for source, layer in layers:
            if name in layer:
                sources[name] = source
                try:
                    values[name] = _convert(leaf, layer[name])
                except ValueError as error:
                    problems.append(str(error))
                break
    return (None if problems else _build(tree, values, "")), sources


def lookup(tree: msgspec.Struct, name: str) -> object:
    """The value at a dotted name."""
    value: object = tree
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _convert(leaf: Leaf, given: Given) -> object:
    raw, expected = given.raw, leaf.type
    optional = type(None) in get_args(expected)
    if given.text:
        # `VARIABLE=` of a compose file means that it is not set.
        if raw == "" and optional:
            return None
        origin = get_origin(_plain(expected))
        if isinstance(raw, str) and origin in {tuple, dict}:
            raw = _parse_collection(raw, is_list=origin is tuple)
    if isinstance(raw, str):
        raw = _spelled_out(raw, leaf.extra)
    try:
        return msgspec.convert(raw, expected, strict=False)
    except msgspec.ValidationError as error:
        message = str(error).replace("`$", f"`{leaf.name}")
        choices = [repr(choice) for choice in _choices(expected)]
        if choices:
            message = f"Expected one of {', '.join(choices)}"
        got = "" if leaf.extra.get("secret") else f", got {given.raw!r}"
        raise ValueError(f"{leaf.name} ({given.where}): {message}{got}") from error


def _spelled_out(raw: str, extra: Mapping[str, Any]) -> str | int:
    if extra.get("fold"):
        raw = raw.strip().lower()
    if extra.get("size") and (size := _SIZE.fullmatch(raw.strip())):
        return int(size[1]) * _UNITS.get(size[2], 1)
    aliases: Mapping[str, str] = extra.get("aliases", {})
    return aliases.get(raw, raw)


def _build(tree: type[Tree], values: Mapping[str, object], prefix: str) -> Tree:
    arguments = {
        field.name: _build(field.type, values, f"{prefix}{field.name}.")
        if _is_section(field.type)
        else values[prefix + field.name]
        for field in msgspec.structs.fields(tree)
    }
    return tree(**arguments)


def _is_section(type_: object) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _alternatives(type_: Any) -> Iterator[Any]:
    """The type itself, or the members of its union."""
    if get_origin(type_) is Annotated or not get_args(type_) or type(None) not in get_args(type_):
        yield type_
    else:
        yield from (member for member in get_args(type_) if member is not type(None))


def _plain(type_: Any) -> Any:
    member = next(_alternatives(type_))
    return get_args(member)[0] if get_origin(member) is Annotated else member


def _metas(type_: Any) -> list[msgspec.Meta]:
    return [
        meta
        for member in _alternatives(type_)
        for meta in getattr(member, "__metadata__", ())
        if isinstance(meta, msgspec.Meta)
    ]


def _choices(type_: Any) -> tuple[Any, ...]:
    plain = _plain(type_)
    return get_args(plain) if get_origin(plain) is Literal else ()


def _closest(name: str, names: Sequence[str]) -> str:
    return difflib.get_close_matches(name, names, n=1, cutoff=0)[0]


def _parse_collection(text: str, *, is_list: bool) -> object:
    try:
        value = parse_yaml(text)
    except ValueError:
        return text
    if is_list and not isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return value
