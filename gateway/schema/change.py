"""The event type of captured database changes: built in, and named like any other. Pure."""

from collections.abc import Mapping
from typing import Final

from gateway.schema.block import read_mapping
from gateway.schema.errors import SchemaError

CHANGE: Final = "change"

_BUILT_IN: Final[dict[str, object]] = {
    "topic": {"base": CHANGE, "key_order": ["table", "op", "key"]},
    "identifier": {
        "table": {
            "type": "StringHandler",
            "required": False,
            "description": "Table as schema.table, in quotes where PostgreSQL needs them.",
        },
        "op": {
            "type": "EnumHandler",
            "values": ["c", "u", "d", "t"],
            "required": False,
            "description": "Row made (c), changed (u), deleted (d), or table truncated (t).",
        },
        "key": {
            "type": "StringHandler",
            "required": False,
            "description": "Key of the row: the value's text, a JSON array of several, * for all.",
        },
    },
    "payload": {"required": True},
}


def with_changes(blocks: Mapping[str, object], path: str) -> dict[str, object]:
    """The schemas of a configuration and that of changes, to which the configuration may add.

    Retention, access and the longest history are its to say; topic and fields are not.
    """
    added = read_mapping(blocks.get(CHANGE, {}), f"{path}.{CHANGE}")
    for key in _BUILT_IN:
        if key in added:
            raise SchemaError(
                f"{path}.{CHANGE}.{key}: '{CHANGE}' is the event type of captured changes, whose "
                f"{key} is built in; remove this key, or the sources of capture"
            )
    return {**blocks, CHANGE: {**_BUILT_IN, **added}}
