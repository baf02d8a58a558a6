"""Event types with every field handler and option of the contract, and events that fit them."""

from typing import Any, Final

SQUARE: Final = [[0, 0], [0, 10], [10, 10], [10, 0], [0, 0]]

SCHEMAS: Final[dict[str, Any]] = {
    # Every text handler; its topic base is another word than the event type.
    "storm": {
        "payload": {"required": False},
        "topic": {
            "base": "weather",
            "key_order": [
                *("region", "run", "severity", "anomaly", "day"),
                *("iso_day", "expver", "level", "step", "name"),
            ],
        },
        "identifier": {
            "region": {"type": "EnumHandler", "required": False, "values": ["north", "South"]},
            "run": {"type": "TimeHandler", "required": False, "description": "Of the model."},
            "severity": {"type": "IntHandler", "required": False, "range": [1, 7]},
            "anomaly": {"type": "FloatHandler", "required": False, "range": [-40.5, 100]},
            "day": {"type": "DateHandler", "required": False, "canonical_format": "%Y%m%d"},
            "iso_day": {"type": "DateHandler", "required": False, "canonical_format": "%Y-%m-%d"},
            "expver": {"type": "ExpverHandler", "required": False, "default": "1"},
            "level": {"type": "FloatHandler", "required": False},
            "step": {"type": "IntHandler", "required": False},
            "name": {"type": "StringHandler", "required": False, "max_length": 9},
        },
    },
    # One short text field: for everything that is not about fields.
    "note": {
        "topic": {"base": "note", "key_order": ["author"]},
        "identifier": {"author": {"type": "StringHandler", "required": False}},
    },
    # What must be given, on publishing and on reading.
    "order": {
        "payload": {"required": True},
        "topic": {"base": "Orders", "key_order": ["shop", "version"]},
        "identifier": {
            "shop": {"type": "StringHandler", "required": True},
            "version": {"type": "ExpverHandler", "required": False},
        },
    },
    "area": {
        "topic": {"base": "area", "key_order": ["name"]},
        "identifier": {
            "name": {"type": "StringHandler", "required": False},
            "polygon": {"type": "PolygonHandler", "required": False},
        },
    },
    # The upstream practical example: `polygon` in the key order must narrow nothing by its text.
    "legacy_area": {
        "topic": {"base": "legacy_area", "key_order": ["name", "polygon"]},
        "identifier": {
            "name": {"type": "StringHandler", "required": False},
            "polygon": {"type": "PolygonHandler", "required": False},
        },
    },
    "zone": {
        "topic": {"base": "zone", "key_order": ["name"]},
        "identifier": {
            "name": {"type": "StringHandler", "required": False},
            "polygon": {"type": "PolygonHandler", "required": True},
        },
    },
    "cloud": {
        "topic": {"base": "cloud", "key_order": ["name"]},
        "identifier": {
            "name": {"type": "StringHandler", "required": False},
            "point_cloud": {"type": "PointCloudHandler", "required": False, "max_points": 4},
        },
    },
    "swarm": {
        "identifier": {"point_cloud": {"type": "PointCloudHandler", "required": True}},
    },
    "capped": {
        "topic": {"base": "capped", "key_order": ["author"]},
        "identifier": {"author": {"type": "StringHandler", "required": False}},
        "max_historical_notifications": 3,
    },
    "plain": {"identifier": {}},
}

STORM: Final[dict[str, Any]] = {
    "region": "north",
    "run": "1200",
    "severity": 4,
    "anomaly": 42.5,
    "day": "2026-02-25",
    "iso_day": "2026-02-25",
    "expver": "1",
    "level": 500,
    "step": 6,
    "name": "Elpis",
}

STORED_STORM: Final[dict[str, str]] = {
    "region": "north",
    "run": "1200",
    "severity": "4",
    "anomaly": "42.5",
    "day": "20260225",
    "iso_day": "2026-02-25",
    "expver": "0001",
    "level": "500",
    "step": "6",
    "name": "Elpis",
}
