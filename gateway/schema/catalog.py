"""The configured event types (Aviso wire contract §6): checked once at start, read-only after.

Everything that can be wrong with a schema is refused here, with the path of the key to change.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from gateway.schema.block import read_block, read_mapping
from gateway.schema.change import CHANGE, with_changes
from gateway.schema.errors import SchemaError, clip
from gateway.schema.fields import (
    Field,
    PointCloudHandler,
    PolygonHandler,
    SpatialField,
    TextField,
    read_field,
)
from gateway.schema.policy import (
    StoragePolicy,
    StreamAuth,
    read_storage_policy,
    read_stream_auth,
)
from gateway.schema.topic import encode_token

PATH: Final = "notification_schema"
MAX_EVENT_TYPE_BYTES: Final = 255

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _PayloadBlock(Struct, frozen=True, kw_only=True):
    required: bool


class _TopicBlock(Struct, frozen=True, kw_only=True):
    base: str
    key_order: list[str]


class _SchemaBlock(Struct, frozen=True, kw_only=True):
    payload: dict[str, object] | None = None
    topic: dict[str, object] | None = None
    endpoint: dict[str, object] | None = None
    identifier: dict[str, object] = {}
    storage_policy: dict[str, object] | None = None
    auth: dict[str, object] | None = None
    max_historical_notifications: Annotated[int, Meta(ge=1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSchema:
    """One event type.

    ``fields`` are all, sorted by name; ``text_fields`` leaves out the one spatial field there may
    be, which is named by ``spatial`` and is ``shape``; ``places`` tells where in ``key_order``
    each of them is.
    ``payload_required`` is None when the schema has no ``payload`` block. ``captured``: its events
    come from a database and cannot be published.
    """

    event_type: str
    base: str
    key_order: tuple[str, ...]
    fields: Mapping[str, Field]
    text_fields: Mapping[str, TextField]
    spatial: Literal["polygon", "point_cloud"] | None
    shape: SpatialField | None
    payload_required: bool | None
    storage_policy: StoragePolicy | None
    auth: StreamAuth | None
    max_historical_notifications: int | None
    base_token: str
    places: tuple[tuple[str, TextField, int], ...]
    captured: bool = False


class Catalog:
    """All event types. ``strict``: an event type that is not here is refused."""

    __slots__ = ("_by_name", "_schemas", "event_types", "strict")

    def __init__(self, schemas: Mapping[str, EventSchema], strict: bool) -> None:
        self._schemas = dict(schemas)
        self.event_types: tuple[str, ...] = tuple(sorted(self._schemas))
        self.strict = strict
        bases = {schema.base.lower(): schema for schema in self._schemas.values()}
        self._by_name = bases | {name.lower(): self._schemas[name] for name in self.event_types}

    @classmethod
    def parse(
        cls, raw: Mapping[str, object] | None, strict: bool | None, *, changes: bool = False
    ) -> "Catalog":
        """The catalog of a ``notification_schema`` block; SchemaError when it cannot be used.

        ``strict`` None means: exactly when there is at least one schema in the block. With
        ``changes`` the event type of captured changes is there too.
        """
        blocks = {} if raw is None else read_mapping(raw, PATH)
        strict = bool(blocks) if strict is None else strict
        if changes:
            blocks = with_changes(blocks, PATH)
        schemas = {name: _read_schema(name, block) for name, block in blocks.items()}
        if changes:
            schemas[CHANGE] = replace(schemas[CHANGE], captured=True)
        _refuse_shared_bases(schemas)
        return cls(schemas, strict)

    def refuse_guarded(self) -> None:
        """SchemaError when an event type asks for users; for a gateway that asks nobody who he is."""
        for event_type in self.event_types:
            auth = self._schemas[event_type].auth
            if auth is not None and auth.required:
                raise SchemaError(
                    f"{PATH}.{event_type}.auth.required: with auth.enabled false everybody could "
                    "read and write it; enable authentication or remove the block"
                )

    def get(self, event_type: str) -> EventSchema | None:
        """The schema of exactly this event type."""
        return self._schemas.get(event_type)

    def find(self, name: str) -> EventSchema | None:
        """The schema of an event type or a topic base, whatever the case; event types first."""
        return self._schemas.get(name) or self._by_name.get(name.lower())

    def describe(self, event_type: str) -> dict[str, object]:
        """``payload`` and ``identifier`` as ``GET /schema`` shows them; KeyError when unknown."""
        schema = self._schemas[event_type]
        required = schema.payload_required
        return {
            "identifier": {name: field.describe() for name, field in schema.fields.items()},
            "payload": None if required is None else {"required": required},
        }


def find_name_fault(name: str) -> str | None:
    """Why a text cannot be an event type or a topic base, or None when it can."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "must be valid Unicode"
    if not name.strip():
        return "must not be empty"
    if length > MAX_EVENT_TYPE_BYTES:
        return f"must not be longer than {MAX_EVENT_TYPE_BYTES} bytes, got {length}"
    if _CONTROL.search(name):
        return "must not contain control characters"
    if "@" in name:
        # A notification id is <event type>@<sequence> and is split at its first '@'.
        return "must not contain '@'"
    return None


def _read_schema(event_type: str, raw: object) -> EventSchema:
    path = f"{PATH}.{clip(event_type)}"
    fault = find_name_fault(event_type)
    if fault is not None:
        raise SchemaError(f"{path}: the event type {clip(event_type)!r} {fault}")
    block = read_block(raw, _SchemaBlock, path)
    fields = {
        name: read_field(name, block.identifier[name], f"{path}.identifier.{name}")
        for name in sorted(block.identifier)
    }
    spatial, shape = _find_shape(fields, path)
    text_fields = {
        name: field for name, field in fields.items() if not isinstance(field, SpatialField)
    }
    base, key_order = _read_topic(block.topic, event_type, fields, text_fields, path)
    payload, storage, auth = block.payload, block.storage_policy, block.auth
    return EventSchema(
        event_type=event_type,
        base=base,
        key_order=key_order,
        fields=fields,
        text_fields=text_fields,
        spatial=spatial,
        shape=shape,
        payload_required=None
        if payload is None
        else read_block(payload, _PayloadBlock, f"{path}.payload").required,
        storage_policy=None
        if storage is None
        else read_storage_policy(storage, f"{path}.storage_policy"),
        auth=None if auth is None else read_stream_auth(auth, f"{path}.auth"),
        max_historical_notifications=block.max_historical_notifications,
        base_token=encode_token(base),
        places=tuple((name, text_fields[name], key_order.index(name)) for name in text_fields),
    )


def _find_shape(
    fields: Mapping[str, Field], path: str
) -> tuple[Literal["polygon", "point_cloud"] | None, SpatialField | None]:
    polygon, cloud = fields.get("polygon"), fields.get("point_cloud")
    if polygon is not None and cloud is not None:
        raise SchemaError(
            f"{path}.identifier: polygon and point_cloud cannot both be declared in one schema"
        )
    if isinstance(polygon, PolygonHandler):
        return "polygon", polygon
    return ("point_cloud", cloud) if isinstance(cloud, PointCloudHandler) else (None, None)


def _read_topic(
    raw: dict[str, object] | None,
    event_type: str,
    fields: Mapping[str, Field],
    text_fields: Mapping[str, TextField],
    path: str,
) -> tuple[str, tuple[str, ...]]:
    """The base and key order; without a topic block the event type and all keys, sorted."""
    if raw is None:
        return event_type, tuple(text_fields)
    where = f"{path}.topic.key_order"
    block = read_block(raw, _TopicBlock, f"{path}.topic")
    fault = find_name_fault(block.base)
    if fault is not None:
        raise SchemaError(f"{path}.topic.base: the base {clip(block.base)!r} {fault}")
    if not block.key_order:
        raise SchemaError(f"{where}: must not be empty; leave out the topic block for the default")
    seen: set[str] = set()
    for name in block.key_order:
        if name in seen:
            raise SchemaError(f"{where}: '{name}' is listed twice")
        seen.add(name)
        if name not in fields:
            raise SchemaError(f"{where}: '{name}' is not declared in identifier")
        if name == "point_cloud":
            raise SchemaError(f"{where}: 'point_cloud' cannot be part of the topic")
    for name in text_fields:
        if name not in seen:
            raise SchemaError(f"{where}: the identifier '{name}' is missing")
    return block.base, tuple(block.key_order)


def _refuse_shared_bases(schemas: Mapping[str, EventSchema]) -> None:
    owners: dict[str, str] = {}
    for event_type, schema in schemas.items():
        owner = owners.setdefault(schema.base.lower(), event_type)
        if owner != event_type:
            raise SchemaError(
                f"{PATH}.{event_type}.topic.base: '{schema.base}' is already the base of "
                f"'{owner}' (bases are compared without regard to case)"
            )
