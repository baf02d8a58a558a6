"""What a schema says besides its fields: how long events are kept and who may read and write."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from gateway.schema.block import name_type, read_block
from gateway.schema.errors import SchemaError, clip

_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_BYTES: Final = {
    "": 1,
    "K": 1000,
    "Ki": 1024,
    "M": 1000**2,
    "Mi": 1024**2,
    "G": 1000**3,
    "Gi": 1024**3,
    "T": 1000**4,
    "Ti": 1024**4,
}
_DURATION: Final = re.compile(r"([0-9]{1,9}) ?([smhdw])")
_SIZE: Final = re.compile(r"([0-9]{1,15}) ?((?:[KMGT]i?)?)")

RoleName = Annotated[str, Meta(min_length=1)]
Roles = Mapping[str, tuple[str, ...]]


class StoragePolicy(Struct, frozen=True, kw_only=True):
    """How long and how much of an event type is kept; None is no limit.

    Every event is kept, also repeated ones, and the log is not compressed: ``allow_duplicates``
    and ``compression`` are what the configuration says (None when it does not), without effect.
    """

    retention_time_ms: int | None = None
    max_messages: int | None = None
    max_bytes: int | None = None
    allow_duplicates: bool | None = None
    compression: bool | str | None = None


class StreamAuth(Struct, frozen=True, kw_only=True):
    """Who may use an event type when authentication is on: role names by realm.

    ``read_roles`` None admits every user, ``write_roles`` None administrators only (§11.1).
    """

    required: bool
    read_roles: Roles | None = None
    write_roles: Roles | None = None


class _StorageBlock(Struct, frozen=True, kw_only=True):
    retention_time: str | None = None
    max_messages: Annotated[int, Meta(ge=1)] | None = None
    max_size: str | int | None = None
    allow_duplicates: bool | None = None
    compression: bool | str | None = None


class _AuthBlock(Struct, frozen=True, kw_only=True):
    required: bool
    read_roles: dict[str, list[RoleName]] | None = None
    write_roles: dict[str, list[RoleName]] | None = None
    plugins: list[str] | None = None


def read_storage_policy(raw: object, path: str) -> StoragePolicy:
    """The ``storage_policy`` block at ``path``."""
    block = read_block(raw, _StorageBlock, path)
    retention, size = block.retention_time, block.max_size
    return StoragePolicy(
        retention_time_ms=None
        if retention is None
        else parse_duration_ms(retention, f"{path}.retention_time"),
        max_messages=block.max_messages,
        max_bytes=None if size is None else parse_size(size, f"{path}.max_size"),
        allow_duplicates=block.allow_duplicates,
        compression=block.compression,
    )


def read_stream_auth(raw: object, path: str) -> StreamAuth:
    """The ``auth`` block at ``path``."""
    block = read_block(raw, _AuthBlock, path)
    if block.plugins:
        # Ignoring an authorization plugin would admit users whom it refuses.
        raise SchemaError(
            f"{path}.plugins: authorization plugins are not available here; "
            "remove the key and name the roles in read_roles and write_roles"
        )
    for key in ("read_roles", "write_roles"):
        roles = getattr(block, key)
        if roles is None:
            continue
        if not block.required:
            raise SchemaError(f"{path}.{key}: roles need 'required: true' beside them")
        if not roles:
            raise SchemaError(f"{path}.{key}: an empty map admits nobody; leave the key out")
    return StreamAuth(
        required=block.required,
        read_roles=_freeze_roles(block.read_roles),
        write_roles=_freeze_roles(block.write_roles),
    )


def parse_duration_ms(text: str, path: str) -> int:
    """Milliseconds of a number and a unit: s, m, h, d or w."""
    match = _DURATION.fullmatch(text)
    if match is None or not int(match[1]):
        raise SchemaError(
            f"{path}: expected a positive number and a unit s, m, h, d or w (like 7d), "
            f"got '{clip(text)}'"
        )
    return int(match[1]) * _MS[match[2]]


def parse_size(raw: str | int, path: str) -> int:
    """Bytes of a number with or without a unit: K, M, G, T (1000) or Ki, Mi, Gi, Ti (1024)."""
    match = _SIZE.fullmatch(str(raw))
    if isinstance(raw, bool) or match is None or not int(match[1]):
        shown = f"'{clip(raw)}'" if isinstance(raw, str) else f"{name_type(raw)} ({raw})"
        raise SchemaError(
            f"{path}: expected a positive number of bytes, with a unit K, Ki, M, Mi, G, Gi, T or "
            f"Ti if you like (like 10Gi), got {shown}"
        )
    return int(match[1]) * _BYTES[match[2]]


def _freeze_roles(roles: Mapping[str, list[str]] | None) -> Roles | None:
    return None if roles is None else {realm: tuple(names) for realm, names in roles.items()}
