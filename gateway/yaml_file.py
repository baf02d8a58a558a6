"""Reads a YAML file by YAML 1.2's core words instead of 1.1's, and refuses a key that is there twice.

In YAML 1.1 the enum value `no` is a boolean, `12:30` is 750, `012` is ten and a date is no string;
and of two schemas of one name the first is lost in silence.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path) -> Mapping[object, object]:
    """The file's mapping. Raises ValueError: missing, unreadable, empty, no YAML, no mapping."""
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"file {path} does not exist") from error
    except OSError as error:
        raise ValueError(f"file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"file {path} cannot be read: {error}") from error
    if raw is None:
        raise ValueError(f"file {path} is empty")
    if not isinstance(raw, Mapping):
        raise ValueError(f"file {path} is no mapping of settings: it holds {raw!r}")
    return raw


def parse_yaml(text: str) -> object:
    """The text's value, None when it has none. Raises ValueError with line and column."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem or error.context}{place}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (an own set of words instead of the inherited)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                if key_node.value in seen:
                    problem = f"key '{key_node.value}' is there twice"
                    raise yaml.constructor.ConstructorError(
                        None, None, problem, key_node.start_mark
                    )
                seen.add(key_node.value)
        return dict(super().construct_mapping(node, deep=deep))

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _add_word(tag: str, pattern: str, first_letters: str) -> None:
    letters = [*first_letters] or [""]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), letters)


_add_word("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF")
_add_word("null", r"(?:~|null|Null|NULL)\Z", "~nN")
_add_word("null", r"\Z", "")
_add_word("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", "-+0123456789")
_add_word(
    "float",
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
    "-+.0123456789",
)
_add_word("merge", r"<<\Z", "<")
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
