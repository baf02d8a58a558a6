"""When snapshots are taken and of which tables: checked when it is set, kept with the tenant."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway.playback.tables import parse_tables
from store.capture_record import CaptureRecord
from store.connection import Connection
from tests.conftest import Start
from tests.playback.conftest import House
from tests.playback.controls import Controls, refused
from tests.servers import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")

INVALID = "INVALID_CONFIGURATION_REQUEST"
DEFAULT: dict[str, Any] = {
    "snapshot_interval": "*/15 * * * *",
    "list_tables": [],
    "next_snapshot": None,
}


async def put_interval(controls: Controls, expression: str) -> httpx.Response:
    body = {"snapshot_interval": expression}
    return await controls.send("PUT", "/v1/configuration/snapshot-interval", body)


async def put_tables(controls: Controls, tables: str) -> httpx.Response:
    body = {"list_tables": tables}
    return await controls.send("PUT", "/v1/configuration/snapshot-list-tables", body)


def settings(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    body = response.json()
    assert sorted(body) == ["data", "message", "sent_at"]
    assert sorted(body["data"]) == sorted(DEFAULT)
    return body["data"]


async def shown(controls: Controls) -> Any:
    return settings(await controls.send("GET", "/v1/configuration"))


async def test_a_tenant_begins_with_the_original_interval_and_all_tables(
    controls: Controls,
) -> None:
    assert await shown(controls) == DEFAULT


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        *(
            (text, text)
            for text in ("* * * * *", "*/15 * * * *", "0 0 1 1 0", "5,10-20/2 4 * * 1-5")
        ),
        *((text, text) for text in ("0 12 * jan mon", "59 23 31 12 7", "0 0 29 2 *", "0 0 L * *")),
        ("  */5\t*  * * *\n", "*/5 * * * *"),
        *((text, "") for text in ("", " ", "\n\t")),
    ],
)
async def test_an_interval_is_a_cron_expression_or_off(
    controls: Controls, others: Controls, text: str, kept: str
) -> None:
    found = settings(await put_interval(controls, text))
    assert found == {**DEFAULT, "snapshot_interval": kept}
    assert await shown(others) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *((text, "5 cron fields") for text in ("* * * *", "* * * * * *", "@daily", "off", "*/15")),
        ("60 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("x * * * *", "minute"),
        ("1-0 * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day-of-week"),
        ("0 0 31 2 *", "day-of-month"),
        ("１ * * * *", "minute"),
        ("*/99999999999999 * * * *", "2 digits"),
        ("0 0 LW * */6", "never due"),
        ("0 0 30,31 2 *", "day-of-month"),
    ],
)
async def test_what_is_no_interval_is_refused_with_the_reason(
    controls: Controls, text: str, told: str
) -> None:
    settings(await put_interval(controls, "0 6 * * *"))
    found = refused(await put_interval(controls, text), 400, INVALID)
    assert told in found["message"]
    assert text in found["message"]
    assert (await shown(controls))["snapshot_interval"] == "0 6 * * *"


@pytest.mark.parametrize("field", ["9" * 5000, ",".join(["0-59"] * 100_000), "0" * 197 + "1"])
async def test_an_interval_is_not_parsed_beyond_200_characters(
    controls: Controls, field: str
) -> None:
    """Symptom: 5,000 digits were answered by 500; a megabyte held the gateway up for seconds."""
    found = refused(await put_interval(controls, f"{field} * * * *"), 400, INVALID)
    assert "200 characters" in found["message"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        *((text, []) for text in ("", " ", ",", " , ,")),
        ("public.events", ["public.events"]),
        ("a.b,c.d", ["a.b", "c.d"]),
        ("  a.b ,\n c . d\t,", ["a.b", "c.d"]),
        ("Public.EVENTS,public.Events", ["public.events"]),
        ('"Public"."Events"', ['"Public"."Events"']),
        ('"a,b"."c.d"', ['"a,b"."c.d"']),
        ('s."say ""hi"""', ['s."say ""hi"""']),
        ("_a.b$1", ["_a.b$1"]),
        # PostgreSQL folds the letters of ASCII alone.
        ("GrÖsse.ÄPFEL", ["grÖsse.Äpfel"]),
        # Quotes that change nothing name the same table.
        ('"public"."events",public.events', ["public.events"]),
        ("z.z,a.a", ["z.z", "a.a"]),
    ],
)
async def test_tables_are_a_list_of_qualified_names(
    controls: Controls, others: Controls, text: str, kept: list[str]
) -> None:
    settings(await put_tables(controls, "before.this"))
    found = settings(await put_tables(controls, text))
    assert found == {**DEFAULT, "list_tables": kept}
    assert await shown(others) == found


async def test_every_entry_that_is_no_table_is_named(controls: Controls) -> None:
    settings(await put_tables(controls, "kept.table"))
    wrong = [
        *("events", "a.b.c", ".b", "a.", "a b.c", "1a.b", "a.1b", "a-b.c", 'a."', '"a.b', '""."b"'),
        *("a.b;drop", "$a.b", "'a'.b", "a.*", 'a."b"c'),
    ]
    for each in (*wrong, '"a\0"."b"'):
        found = refused(await put_tables(controls, f"good.one,{each}"), 400, INVALID)
        assert f"'{each}'" in found["message"]
        assert "good" not in found["message"]
    unclosed = '"a.b'
    several = [each for each in wrong if each not in {unclosed, 'a."'}]
    found = refused(
        await put_tables(controls, " , ".join([*several, "good.one", unclosed])), 400, INVALID
    )
    for each in [*several, unclosed]:
        assert f"'{each}'" in found["message"]
    assert "good" not in found["message"]
    assert (await shown(controls))["list_tables"] == ["kept.table"]


async def test_every_table_that_is_not_captured_is_named(
    controls: Controls, tenant: str, backend: Connection
) -> None:
    """As soon as capture has told what it captures for the tenant."""
    record = CaptureRecord(backend, f"s{uuid4().hex[:10]}")
    await record.tell_through(tenant, 0)
    assert settings(await put_tables(controls, "public.t,public.nope"))
    await record.save_published({"public.t": [1], 'public."U"': [2]})
    assert settings(await put_tables(controls, 'public.t,PUBLIC."U"'))
    found = refused(await put_tables(controls, "public.t,public.nope,other.t"), 400, INVALID)
    assert found["message"].endswith("'public.nope', 'other.t'")
    assert settings(await put_tables(controls, ""))


async def test_a_long_list_of_wrong_entries_is_named_to_the_last(controls: Controls) -> None:
    """Only the first twenty were named."""
    wrong = [f"table_{number}" for number in range(300)]
    found = refused(await put_tables(controls, ",".join(wrong)), 400, INVALID)
    assert [each for each in wrong if f"'{each}'" not in found["message"]] == []


async def test_no_more_than_a_thousand_wrong_entries_are_named(controls: Controls) -> None:
    found = refused(await put_tables(controls, ",".join(["x"] * 1500)), 400, INVALID)
    assert found["message"].count("'x'") == 1000
    assert found["message"].endswith("and 500 more")


@pytest.mark.parametrize(
    "text", ['"' * 100_001, '""' * 50_000, "a" * 100_000, ",".join(["a.b"] * 30_000), '"a' * 50_000]
)
async def test_reading_tables_takes_no_longer_than_the_text_is_long(text: str) -> None:
    tables, wrong = parse_tables(text)
    assert len(tables) + len(wrong) == 1


async def test_settings_are_a_tenants_own(house: House, controls: Controls) -> None:
    settings(await put_interval(controls, "1 1 1 1 1"))
    settings(await put_tables(controls, "a.b"))
    assert await shown(Controls(house.second.client, str(uuid4()))) == DEFAULT
    expected = {**DEFAULT, "snapshot_interval": "1 1 1 1 1", "list_tables": ["a.b"]}
    assert await shown(controls) == expected
    # The tenant may stand in the body too.
    body = {"snapshot_interval": "", "tenant_id": controls.tenant}
    nobody = Controls(house.second.client, None)
    settings(await nobody.send("PUT", "/v1/configuration/snapshot-interval", body))
    assert await shown(controls) == {**expected, "snapshot_interval": ""}


async def test_settings_survive_a_restart_of_gateway_and_server(
    start_gateway: Start, tmp_path: Path, tenant: str
) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        async with start_gateway(url=valkey.url) as running:
            controls = Controls(running.client, tenant)
            settings(await put_interval(controls, ""))
            kept = settings(await put_tables(controls, 'b.b,"A".a'))
        valkey.kill()
        valkey.start()
        async with start_gateway(url=valkey.url) as running:
            assert await shown(Controls(running.client, tenant)) == kept
            assert kept["snapshot_interval"] == ""
    finally:
        valkey.stop()
