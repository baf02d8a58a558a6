"""Shapes of requests and events (Aviso wire contract §8): latitude first, planar, no antimeridian.

Parsing is done here for the sake of its messages; the geometry is GEOS's, asked only after the
bounding boxes have met. Stored shapes are read from the event's JSON, and only then.
"""

import math
import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import shapely
from msgspec import UNSET, Raw, Struct, UnsetType

from gateway.schema.errors import Fault, clip
from gateway.schema.jsontext import decode_string, kind_of
from gateway.schema.topic import Box, parse_box

Pair = tuple[float, float]
Points = tuple[Pair, ...]

MAX_CLOUD_POINTS: Final = 10_000
MAX_CLOUD_BYTES: Final = 61_440
_SMALLEST_RING: Final = 4

_FLOAT: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_NOT_FINITE: Final = re.compile(r"[+-]?(?:inf|infinity|nan)", re.IGNORECASE)
_LONGEST_FLOAT: Final = 1100  # the longest exact text of a double has 1077 characters

_decode_pairs: Final = msgspec.json.Decoder(tuple[Pair, ...]).decode
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode


class _Shapes(Struct, frozen=True):
    polygon: Points | UnsetType = UNSET
    point_cloud: Points | UnsetType = UNSET


class _Data(Struct, frozen=True):
    identifier: _Shapes


class _StoredEvent(Struct, frozen=True):
    data: _Data


_decode_event: Final = msgspec.json.Decoder(_StoredEvent).decode


def parse_float(text: str) -> float:
    """A finite double from decimal text, exponent allowed; Fault otherwise."""
    if len(text) > _LONGEST_FLOAT or _FLOAT.fullmatch(text) is None:
        if _NOT_FINITE.fullmatch(text):
            raise Fault("must be finite")
        raise Fault("must be a number")
    value = float(text)
    if not math.isfinite(value):
        raise Fault("must be finite")
    return value + 0.0  # -0.0 becomes 0.0: equal numbers have equal text


def parse_polygon(value: bytes) -> Points:
    """The closed ring of a JSON string or array; Fault with the cause."""
    kind = kind_of(value)
    if kind == "string":
        ring = _parse_text_pairs(decode_string(value))
    elif kind == "array":
        ring = _parse_array_pairs(value)
    else:
        raise Fault(f"expected a string or an array of [lat,lon] pairs, got {kind}")
    if len(ring) < _SMALLEST_RING:
        raise Fault(f"a polygon needs at least 4 points, got {len(ring)}")
    if ring[0] != ring[-1]:
        raise Fault("the first and the last point must be the same")
    return ring


def parse_point(value: bytes) -> Pair:
    """One [lat, lon] of ``"lat,lon"``, ``"(lat,lon)"`` or an array; Fault with the cause."""
    kind = kind_of(value)
    if kind == "string":
        numbers = _parse_numbers(decode_string(value))
        if len(numbers) != 2:
            raise Fault(f"expected exactly two values, got {len(numbers)}")
        return _check_pair(numbers[0], numbers[1])
    if kind == "array":
        return _parse_pair(value)
    raise Fault(f"expected a string or an array, got {kind}")


def parse_cloud(value: bytes, max_points: int) -> Points:
    """The points of a cloud in the order sent, repeated ones kept; Fault with the predicate."""
    if kind_of(value) != "array":
        raise Fault("must be a JSON array of [lat,lon] points")
    count = len(_decode_array(value))
    if not count:
        raise Fault("point cloud must contain at least one point")
    if count > max_points:
        raise Fault(f"point cloud contains {count} points, maximum is {max_points}")
    points = _parse_array_pairs(value)
    size = len(msgspec.json.encode(points))
    if size > MAX_CLOUD_BYTES:
        raise Fault(
            f"point cloud canonical JSON is {size} bytes, maximum is {MAX_CLOUD_BYTES} bytes"
        )
    return points


def box_of(points: Sequence[Pair]) -> Box:
    """``min_lat, min_lon, max_lat, max_lon``."""
    lats = [lat for lat, _ in points]
    lons = [lon for _, lon in points]
    return min(lats), min(lons), max(lats), max(lons)


class SpatialTest:
    """The polygon or the point of a query, against the shapes of stored events.

    A polygon matches a stored polygon it intersects (a shared edge or vertex counts) and a stored
    cloud with a point inside or on its boundary. A point matches a stored polygon that holds it
    strictly inside. Never raises on what is stored: what cannot be read does not match.
    """

    __slots__ = ("_box", "_polygon", "key", "kind", "points")

    def __init__(self, kind: Literal["polygon", "point"], points: Points) -> None:
        self.kind = kind
        self.points = points
        self.key = msgspec.json.encode((kind, points)).decode()
        self._box = box_of(points)
        self._polygon = _make_polygon(points) if kind == "polygon" else None
        if self._polygon is not None:
            shapely.prepare(self._polygon)

    def matches(self, topic: bytes, event: bytes) -> bool:
        """Whether the event of this stored topic and CloudEvent JSON is in the query's area."""
        separator = topic.find(b">")
        if separator < 0:
            return False
        try:
            min_lat, min_lon, max_lat, max_lon = parse_box(topic[separator + 1 :])
        except ValueError:
            return False
        own = self._box
        if min_lat > own[2] or max_lat < own[0] or min_lon > own[3] or max_lon < own[1]:
            return False
        try:
            shapes = _decode_event(event).data.identifier
            return self._matches_exactly(shapes)
        except (msgspec.MsgspecError, ValueError, shapely.errors.ShapelyError):
            return False

    def _matches_exactly(self, shapes: _Shapes) -> bool:
        if self._polygon is None:
            lat, lon = self.points[0]
            return shapes.polygon is not UNSET and bool(
                shapely.contains_xy(_make_polygon(shapes.polygon), lon, lat)
            )
        if shapes.polygon is not UNSET:
            return bool(shapely.intersects(self._polygon, _make_polygon(shapes.polygon)))
        if shapes.point_cloud is not UNSET:
            lats, lons = zip(*shapes.point_cloud, strict=True)
            return bool(shapely.intersects_xy(self._polygon, lons, lats).any())
        return False


def _make_polygon(points: Points) -> shapely.Polygon:
    return shapely.Polygon([(lon, lat) for lat, lon in points])


def _parse_text_pairs(text: str) -> Points:
    numbers = _parse_numbers(text)
    if len(numbers) % 2:
        raise Fault(f"expected an even count of coordinates, got {len(numbers)}")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return tuple(_check_point(index, *pair) for index, pair in enumerate(pairs))


def _parse_numbers(text: str) -> list[float]:
    inner = text.strip()
    opens, closes = inner.startswith("("), inner.endswith(")")
    if opens != closes:
        raise Fault("a parenthesis is missing")
    if opens:
        inner = inner[1:-1]
    if "(" in inner or ")" in inner:
        raise Fault("parentheses must not be nested")
    if not inner.strip():
        raise Fault("no coordinates given")
    return [_parse_coordinate(part.strip()) for part in inner.split(",")]


def _parse_coordinate(text: str) -> float:
    try:
        return parse_float(text)
    except Fault as fault:
        raise Fault(f"coordinate '{clip(text)}' {fault.predicate}") from None


def _parse_array_pairs(value: bytes) -> Points:
    try:
        pairs = _decode_pairs(value)
    except msgspec.ValidationError:
        items = [bytes(raw) for raw in _decode_array(value)]
        return tuple(_name_point(index, item) for index, item in enumerate(items))
    return tuple(_check_point(index, lat, lon) for index, (lat, lon) in enumerate(pairs))


def _name_point(index: int, value: bytes) -> Pair:
    try:
        return _parse_pair(value)
    except Fault as fault:
        raise Fault(f"point {index} is invalid: {fault.predicate}", fault.predicate) from None


def _parse_pair(value: bytes) -> Pair:
    if kind_of(value) != "array":
        raise Fault(f"expected a two-element array [lat,lon], got {kind_of(value)}")
    parts = [bytes(raw) for raw in _decode_array(value)]
    if len(parts) != 2:
        raise Fault(f"expected a two-element array [lat,lon], got {len(parts)} elements")
    return _check_pair(
        _parse_component("latitude", parts[0]), _parse_component("longitude", parts[1])
    )


def _parse_component(name: str, value: bytes) -> float:
    if kind_of(value) != "number":
        raise Fault(f"{name} must be a number, got {kind_of(value)}")
    try:
        return parse_float(value.decode())
    except Fault as fault:
        raise Fault(f"{name} {fault.predicate}") from None


def _check_point(index: int, lat: float, lon: float) -> Pair:
    if -90.0 <= lat <= 90.0 and -180.0 <= lon <= 180.0:
        return lat + 0.0, lon + 0.0
    try:
        return _check_pair(lat, lon)
    except Fault as fault:
        raise Fault(f"point {index} is invalid: {fault.predicate}", fault.predicate) from None


def _check_pair(lat: float, lon: float) -> Pair:
    if not -90.0 <= lat <= 90.0:
        raise Fault(f"latitude {lat!r} is outside [-90, 90]")
    if not -180.0 <= lon <= 180.0:
        raise Fault(f"longitude {lon!r} is outside [-180, 180]")
    return lat + 0.0, lon + 0.0
