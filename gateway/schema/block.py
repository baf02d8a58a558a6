"""Reads one mapping of a configuration into a struct, or says by its path which key to change."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from gateway.schema.errors import SchemaError, clip

T = TypeVar("T", bound=msgspec.Struct)

_WHERE = re.compile(r"(.*?) - at `\$(.*)`", re.DOTALL)


def read_mapping(raw: object, path: str) -> dict[str, object]:
    """The mapping with text keys at ``path``; SchemaError otherwise."""
    if not isinstance(raw, Mapping):
        raise SchemaError(f"{path}: expected a mapping, got {name_type(raw)}")
    for key in raw:
        if not isinstance(key, str):
            raise SchemaError(f"{path}: the key {key!r} must be text; write it in quotes")
    return dict(raw)


def read_block(raw: object, struct: type[T], path: str) -> T:
    """The mapping at ``path`` as ``struct``; unknown, missing and wrong keys raise SchemaError."""
    block = read_mapping(raw, path)
    refuse_unknown_keys(block, struct.__struct_fields__, path)
    for field in msgspec.structs.fields(struct):
        if field.required and field.name not in block:
            raise SchemaError(f"{path}.{field.name}: this key is required")
    try:
        return msgspec.convert(block, struct)
    except msgspec.ValidationError as error:
        match = _WHERE.fullmatch(str(error))
        where, what = (match[2], match[1]) if match else ("", str(error))
        raise SchemaError(f"{path}{where}: {what[0].lower()}{what[1:]}") from None


def refuse_unknown_keys(block: Mapping[str, object], allowed: Iterable[str], path: str) -> None:
    """SchemaError with the exact path of the first key that is not allowed."""
    names = list(allowed)
    for key in block:
        if key not in names:
            raise SchemaError(
                f"{path}.{clip(key)}: unknown key. Allowed: {', '.join(names) or 'none'}"
            )


def name_type(raw: object) -> str:
    """How a configuration file would call the type of a value."""
    names: dict[type, str] = {str: "text", bool: "a boolean", int: "a number", float: "a number"}
    if raw is None:
        return "nothing"
    return names.get(type(raw), "a list" if isinstance(raw, list) else "a mapping")
