"""`playhead publish`, `watch` and `replay` as they are typed: real processes against a real gateway."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from tests.conftest import EXAMPLE
from tests.journeys.playhead import ENVIRONMENT, Playhead, Site, build_gateway, note_line, texts
from tests.servers import Valkey, running

RECORDING = EXAMPLE.with_name("earthquakes.ndjson")
TAIWAN = "21.5,119.5,21.5,123,25.5,123,25.5,119.5,21.5,119.5"
SECRET = "a secret of this test that is long enough"


# -- publish and watch


def test_what_one_terminal_publishes_another_one_watches(site: Site) -> None:
    storms = ["--identifier", "region=north", "--identifier", "run_time=12"]
    with site.start("watch", "extreme_event", *storms, "--where", "severity>=4") as watch:
        watch.wait_for_note("watching extreme_event.north.1200")
        area = "polygon:=[[52.5,13.4],[52.6,13.5],[52.5,13.6],[52.5,13.4]]"
        for severity in ("3", "5"):
            event = [
                *storms,
                "--identifier",
                f"severity={severity}",
                "--identifier",
                "anomaly=42.50",
            ]
            status, published = site.run(
                *("publish", "--event-type", "extreme_event", *event, "--identifier", area),
                *("--payload", '{"note": "take care"}'),
            )
            assert status == 0, published.notes
        assert published.lines == ["extreme_event@2"]

        watch.wait_for(1)
        [line] = watch.lines
        assert line.partition(" ")[2] == (
            "extreme_event@2 anomaly=42.5 polygon=[[52.5,13.4],[52.6,13.5],[52.5,13.6],[52.5,13.4]]"
            ' region=north run_time=1200 severity=5 {"note":"take care"}'
        )

        watch.press_ctrl_c()
        assert watch.wait() == 130
        assert len(watch.notes) == 1, "Ctrl-C is no reason for words"


def test_a_watch_may_begin_in_the_past_and_prints_json_for_programs(site: Site) -> None:
    site.publish("first", "second", "third")
    with site.start("watch", "note", "--from-id", "2", "--json") as watch:
        watch.wait_for(2)
        site.publish("fourth")
        watch.wait_for(3)
        events = [json.loads(line) for line in watch.lines]
        assert [event["id"] for event in events] == ["note@2", "note@3", "note@4"]
        assert events[2]["data"] == {"identifier": {"text": "fourth"}, "payload": None}


def test_lines_that_trickle_in_are_published_as_they_come(site: Site) -> None:
    with site.start("watch", "note") as watch, site.start("publish", "-") as publish:
        watch.wait_for_note("watching note")
        for count, text in enumerate(("one", "two", "three"), 1):
            publish.type(note_line(text))
            watch.wait_for(count)
        assert texts(watch) == ["one", "two", "three"]
        assert publish.wait() == 0
        assert publish.lines == ["published 3, refused 0"]


def test_refused_lines_are_named_and_do_not_stop_the_others(site: Site) -> None:
    lines = (
        note_line("good") + "\n" + "{nonsense}\n" + '{"event_type": "note"}\n' + note_line("too")
    )
    status, publish = site.run("publish", "-", "--batch", "2", typed=lines)
    assert status == 1
    assert publish.lines == ["published 2, refused 2"]
    first, second = publish.notes
    assert first.startswith("playhead: line 3: JSON parsing failed: ")
    assert second == (
        "playhead: line 4: Request deserialization failed: missing field 'identifier'"
    )
    assert texts(site.run("replay", "note")[1]) == ["good", "too"]


# -- replay


def is_strong_and_near_taiwan(event: Mapping[str, Any]) -> bool:
    [[latitude, longitude]] = event["identifier"]["point_cloud"]
    inside = 21.5 <= latitude <= 25.5 and 119.5 <= longitude <= 123
    return inside and float(event["identifier"]["magnitude"]) >= 5


def test_a_recorded_week_is_published_and_searched(site: Site) -> None:
    status, publish = site.run("publish", "--file", str(RECORDING), "--batch", "400")
    assert (status, publish.lines) == (0, ["published 1679, refused 0"]), publish.notes

    # More than one request may have: the replay goes on by itself.
    status, everything = site.run("replay", "earthquake")
    assert (status, everything.notes) == (0, [])
    assert everything.ids == [f"earthquake@{sequence}" for sequence in range(1, 1680)]

    strong = ["--where", "magnitude>=5", "--identifier", f"polygon={TAIWAN}"]
    status, near_taiwan = site.run("replay", "earthquake", *strong)
    assert status == 0
    assert near_taiwan.ids == [
        f"earthquake@{sequence}"
        for sequence, event in enumerate(map(json.loads, RECORDING.read_text().splitlines()), 1)
        if is_strong_and_near_taiwan(event)
    ]
    assert sum("M 6.4 - 22km NNE of Hualian, Taiwan" in line for line in near_taiwan.lines) == 1

    since = ["--from-date", "2018-02-06T15:00:00Z", "--to-date", "2018-02-06T18:00:00Z"]
    status, one_evening = site.run("replay", "earthquake", *strong, *since, "--json")
    times = [json.loads(line)["time"] for line in one_evening.lines]
    assert status == 0
    assert 0 < len(times) < len(near_taiwan.lines)
    assert times == sorted(times)
    assert times[0] >= "2018-02-06T15:00"
    assert times[-1] < "2018-02-06T18:00"

    some = ["--from-id", "5", "--to-id", "260", "--where", "magnitude.between=2,3"]
    status, between = site.run("replay", "earthquake", *some)
    sequences = [int(each.partition("@")[2]) for each in between.ids]
    assert status == 0
    assert sequences[0] >= 5
    assert sequences[-1] <= 260


def test_events_that_are_no_longer_kept_are_told_as_a_gap(site: Site) -> None:
    site.publish("1", "2", "3")
    wiped = httpx.request(
        "DELETE",
        f"{site.gateway.url}/api/v1/admin/wipe/stream",
        json={"stream_name": "note"},
        headers={"X-Tenant-ID": site.tenant},
        trust_env=False,
    )
    assert wiped.status_code == 200
    site.publish("4")
    status, replay = site.run("replay", "note", "--from-id", "2")
    assert (status, texts(replay)) == (0, ["4"])
    assert replay.notes == ["playhead: gap: 2 to 3 are no longer kept; going on with 4"]


def test_nobody_reads_on(site: Site) -> None:
    """`playhead replay … | head -1` ends without a complaint."""
    site.publish(*map(str, range(50)))
    pipeline = f"{quote(sys.executable)} -m gateway replay note --tenant {site.tenant} | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{pipeline}; exit ${{PIPESTATUS[0]}}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**ENVIRONMENT, "PLAYHEAD_URL": site.gateway.url},
    )
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert done.returncode in (0, 141), "0: all was written before head had ended"


# -- errors


@pytest.mark.parametrize(
    ("typed", "status", "sentence"),
    [
        (
            ["watch", "quake", "--where", "magnitude!=5"],
            2,
            "--where must be a field, one of >= <= > < = and a value, or field.operator=operand, "
            "got 'magnitude!=5'",
        ),
        (
            ["watch", "earthquake", "--where", "magnitude>=much"],
            1,
            "Field 'magnitude' constraint operator 'gte' expects numeric value",
        ),
        (
            ["watch", "earthquake", "--identifier", "colour=red"],
            1,
            "Unknown field 'colour' provided for watch operation",
        ),
        (["replay", "earthquake", "--from-id", "x"], 1, "Got: 'x'"),
        (["replay", "earthquake", "--from-id", "1", "--from-date", "1"], 1, "Cannot specify both"),
        (["replay", "earthquake", "--from-id", "5", "--to-id", "4"], 1, "to_id (4) must not be"),
        (["replay", "earthquake", "--to-date", "soon"], 1, "to_date must be a valid"),
        (
            ["replay", "e", "--url", "localhost"],
            1,
            "must be http://… or https://…, got 'localhost'",
        ),
        (
            ["replay", "e", "--url", "http://127.0.0.1:1"],
            1,
            "http://127.0.0.1:1: Connection refused",
        ),
        (["publish"], 2, "give either one event, by --event-type, or many, by - or --file"),
        (["publish", "-", "--file", "x"], 2, "give either - or --file, not both"),
        (["publish", "events.ndjson"], 2, "for a file: --file events.ndjson"),
        (["publish", "-", "--payload", "1"], 2, "--identifier and --payload are for one event"),
        (["publish", "--file", "none.ndjson"], 2, "cannot read none.ndjson: No such file"),
        (["publish", "--file", "/"], 2, "cannot read /: Is a directory"),
        (["publish", "--event-type", "note", "--payload", "{"], 2, "--payload is not JSON"),
        (["publish", "--event-type", "note", "--identifier", "x"], 2, "field=text or field:=JSON"),
        (["publish", "--event-type", "earthquake"], 1, "Required field 'depth_km' missing"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    typed: Sequence[str], status: int, sentence: str, site: Site
) -> None:
    found, command = site.run(*typed)
    assert (found, command.lines) == (status, [])
    [note] = command.notes
    assert note.startswith("playhead: ")
    assert sentence in note


def test_a_refusal_names_the_request_and_the_event_types_there_are(
    tmp_path: Path, valkey: Valkey
) -> None:
    gateway = build_gateway(tmp_path, valkey, notification_schema_strict=True)
    with running(gateway):
        status, command = Site(gateway).run("watch", "earthquakes")
    assert status == 1
    [note] = command.notes
    assert note.startswith(
        "playhead: unknown event type 'earthquakes'; the gateway knows earthquake, extreme_event "
        "(400 UNKNOWN_EVENT_TYPE, request "
    )


# -- round about


def test_a_token_opens_what_is_protected(tmp_path: Path, valkey: Valkey) -> None:
    gateway = build_gateway(
        tmp_path,
        valkey,
        auth={
            "enabled": True,
            "mode": "trusted_proxy",
            "jwt_secret": SECRET,
            "admin_roles": {"home": ["admin"]},
        },
        notification_schema={"earthquake": {"auth": {"required": True}}},
    )
    claims = {"sub": "ann", "realm": "home", "roles": ["reader"], "exp": int(time.time()) + 600}
    token = jwt.encode(claims, SECRET, "HS256")
    with running(gateway):
        site = Site(gateway)
        status, command = site.run("replay", "earthquake")
        assert status == 1
        assert "Authentication is required for this stream (401 UNAUTHORIZED" in command.notes[0]
        assert site.run("replay", "earthquake", "--token", token)[0] == 0
        assert site.run("replay", "earthquake", PLAYHEAD_TOKEN=token)[0] == 0


def test_tenants_do_not_see_each_other(site: Site) -> None:
    site.publish("mine")
    mine, site.tenant = site.tenant, str(uuid4())
    assert site.run("replay", "note")[1].lines == []
    site.tenant = mine
    assert texts(site.run("replay", "note")[1]) == ["mine"]
    site.tenant = "nobody"
    status, command = site.run("replay", "note")
    assert status == 1
    assert "X-Tenant-ID must be a UUID, got: 'nobody'" in command.notes[0]


def test_the_version_is_that_of_the_distribution() -> None:
    with Playhead("", "--version") as command:
        assert command.wait() == 0
        assert command.lines == [f"playhead {version('playhead')}"]
