"""The example that ships with the wheel: its configuration accepts its recording as it is."""

from importlib.resources import files

import msgspec
import pytest

from gateway.schema.catalog import Catalog
from gateway.schema.query import parse, publication

EXAMPLE = files("gateway.example")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    configuration = msgspec.yaml.decode(EXAMPLE.joinpath("config.yaml").read_bytes())
    schema = msgspec.convert(configuration["notification_schema"], dict[str, object])
    return Catalog.parse(schema, strict=None)


def test_every_earthquake_of_the_recording_fits_its_schema_unchanged(catalog: Catalog) -> None:
    lines = EXAMPLE.joinpath("earthquakes.ndjson").read_bytes().splitlines()
    assert len(lines) == 1679
    before_ms = 0
    for line in lines:
        item = parse(line, "notification", catalog, bulk_item=True)
        stored = publication(item, catalog)
        assert msgspec.json.decode(stored.identifier) == msgspec.json.decode(line)["identifier"]
        assert stored.time_ms is not None
        assert stored.time_ms >= before_ms
        before_ms = stored.time_ms


def test_polygon_takes_no_part_in_the_topic_of_an_extreme_event(catalog: Catalog) -> None:
    schema = catalog.get("extreme_event")
    assert schema is not None
    assert list(schema.key_order) == ["region", "run_time", "severity", "anomaly"]
    assert "polygon" in schema.fields
    assert not schema.payload_required
