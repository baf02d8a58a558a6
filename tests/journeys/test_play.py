"""`playhead play` and `sessions` as they are typed: in a pipe, and at a terminal with its keys."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from shlex import quote

import pytest

from tests.journeys.playhead import (
    ENVIRONMENT,
    Playhead,
    PlayheadAtTerminal,
    Site,
    texts,
)
from tests.playback.controls import moment
from tests.servers import wait_until

SPACE, UP, DOWN, RIGHT, LEFT = " ", "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"
MINUTES = ("play", "--from", moment(0), "--to", moment(600))
HOUR = ("play", "--from", moment(0), "--to", moment(3600))


def wait_for_status(site: Site, status: str) -> None:
    wait_until(lambda: site.session["status"] == status, f"the session is {status}")


def wait_for_speed(site: Site, speed: float) -> None:
    wait_until(lambda: site.session["replay_speed"] == speed, f"it plays at {speed}")


# -- from the beginning to the end


def test_a_stretch_of_the_past_is_played_to_its_end(site: Site) -> None:
    site.record([0, 100, 100, 300, 599.999, 600, 600, 600.001])
    status, play = site.run(*MINUTES, "--speed", "2000")
    assert (status, texts(play)) == (0, [*"1234567"])
    assert play.notes == [
        "playhead: 2018-02-06T00:00:00Z to 2018-02-06T00:10:00Z at " + site.gateway.url
    ]
    assert site.session is None


def test_only_what_was_asked_for_is_played_and_as_json_for_programs(site: Site) -> None:
    site.record([10, 30])
    site.record([20, 40], "other")
    wanted = (*MINUTES, "--speed", "2000", "--event-type", "earthquake", "--event-type", "note")
    status, play = site.run(*wanted, "--json")
    assert status == 0
    assert [json.loads(line)["id"] for line in play.lines] == ["note@1", "note@2"]


def test_it_goes_on_where_it_was_when_the_gateway_comes_back(mortal: Site) -> None:
    mortal.record(range(1, 600, 10))
    with mortal.start(*MINUTES, "--speed", "200") as play:
        play.wait_for(3)
        mortal.gateway.kill()
        play.wait_for_note("connecting again")
        mortal.gateway.start()
        assert play.wait() == 0, play.notes
        assert texts(play) == [str(number) for number in range(1, 61)]
        assert any("connected again, going on at 2018-02-06T00:" in note for note in play.notes)
    assert mortal.session is None


# -- however it ends, its session ends with it


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda play: play.press_ctrl_c(), 130),
        (lambda play: play.process.send_signal(signal.SIGHUP), 129),
    ],
    ids=["Ctrl-C", "SIGHUP"],
)
def test_a_signal_ends_the_session_too(
    site: Site, end: Callable[[Playhead], None], status: int
) -> None:
    site.record([0])
    with site.start(*HOUR) as play:
        play.wait_for(1)
        end(play)
        assert play.wait() == status
        assert len(play.notes) == 1, "it is no reason for words"
    assert site.session is None


def test_nobody_reads_on_and_the_session_ends(site: Site) -> None:
    site.record(range(1, 3600, 10))
    typed = " ".join([*HOUR, "--speed", "500", "--tenant", site.tenant])
    program = quote(sys.executable)
    done = subprocess.run(
        ["bash", "-c", f"{program} -m gateway {typed} | head -1; exit ${{PIPESTATUS[0]}}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**ENVIRONMENT, "PLAYHEAD_URL": site.gateway.url},
    )
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (141, 1, 1)
    assert site.session is None


def test_without_a_gateway_it_says_that_the_session_will_end_by_itself(mortal: Site) -> None:
    with mortal.start(*HOUR) as play:
        play.wait_for_note(" at http")
        wait_for_status(mortal, "MSG_START_OK")
        session = mortal.session["id"]
        mortal.gateway.kill()
        play.wait_for_note("connecting again")
        play.press_ctrl_c()
        assert play.wait() == 130
        assert f"the session {session} is not ended, it will end by itself" in play.notes[-1]


def test_a_session_that_others_end_is_over(site: Site) -> None:
    with site.start(*HOUR) as play:
        play.wait_for_note(" at http")
        wait_for_status(site, "MSG_START_OK")
        site.ask("POST", "reset")
        assert play.wait() == 1
        assert "the session was ended by others" in play.notes[-1]


def test_the_session_of_others_is_named_and_left_alone(site: Site) -> None:
    session = site.ask("POST", "init", {"replay_requested_timestamp": moment(0)})
    status, play = site.run(*HOUR)
    assert (status, play.lines) == (1, [])
    [note] = play.notes
    assert note.startswith(
        f"playhead: The tenant has an active replay session: {session['id']} (409 "
    )
    assert site.session == session


@pytest.mark.parametrize(
    ("typed", "status", "sentence"),
    [
        (["--from", "yesterday"], 1, "replay_requested_timestamp must be an RFC 3339 time"),
        (["--from", moment(0), "--speed", "9999"], 1, "replay_speed must be from 0.5 to 2000"),
        (
            ["--from", moment(0), "--url", "http://127.0.0.1:1"],
            1,
            "cannot reach http://127.0.0.1:1",
        ),
    ],
)
def test_what_cannot_be_played_is_said_and_leaves_no_session(
    site: Site, typed: Sequence[str], status: int, sentence: str
) -> None:
    found, play = site.run("play", *typed)
    assert (found, play.lines) == (status, [])
    assert sentence in play.notes[-1]
    assert site.session is None


# -- at a terminal


def test_keys_pause_change_the_speed_and_seek(site: Site) -> None:
    site.record([3500])
    with site.start_at_terminal(*HOUR) as play:
        play.wait_to_see("q quits")
        play.wait_to_see("playing")
        play.press(SPACE)
        wait_for_status(site, "MSG_STOP_OK")
        play.wait_to_see("paused")
        # While it is paused a new speed waits for the next start.
        play.press("+", UP, "=")
        play.wait_to_see("×8")
        assert site.session["status"] == "MSG_STOP_OK"
        play.press(SPACE)
        wait_for_speed(site, 8)
        for key, speed in ((DOWN, 4), ("-", 2), (UP, 4), (DOWN, 2), (DOWN, 1), (DOWN, 0.5)):
            play.press(key)
            wait_for_speed(site, speed)
            play.wait_to_see(f"×{speed:g}")
        play.press(DOWN)
        play.wait_to_see("replay_speed must be from 0.5 to 2000, got: 0.25 (400 ")
        assert site.session["status"] == "MSG_START_OK"
        assert site.session["replay_speed"] == 0.5
        # A tenth of the hour at a time.
        play.press(RIGHT, RIGHT)
        wait_until(lambda: site.session["replay_last_timestamp"] >= moment(720), "it is far on")
        play.press(LEFT)
        wait_until(lambda: site.session["replay_last_timestamp"] < moment(720), "it is back")
        assert site.session["replay_last_timestamp"] >= moment(360)
        assert play.lines == []
        play.press("q")
        assert play.wait() == 0
        assert play.modes == play.modes_before
    assert site.session is None


def test_what_is_sought_back_is_played_again_and_the_end_may_be_sought(site: Site) -> None:
    site.record([10, 3000])
    with site.start_at_terminal(*HOUR, "--speed", "50") as play:
        play.wait_for(1)
        play.press(LEFT)
        play.wait_for(2)
        assert texts(play) == ["1", "1"]
        play.press(*[RIGHT] * 10)
        assert play.wait() == 0, "the end of the range"
        assert play.lines[2:] == []
        play.wait_to_see("played")
        play.wait_to_see("100%")
        assert play.modes == play.modes_before
    assert site.session is None


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda play: play.press("\x03"), 130),
        (lambda play: play.process.send_signal(signal.SIGTERM), 143),
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_the_terminal_is_left_as_it_was(
    site: Site, end: Callable[[PlayheadAtTerminal], None], status: int
) -> None:
    with site.start_at_terminal(*HOUR) as play:
        play.wait_to_see("q quits")
        wait_until(lambda: play.modes != play.modes_before, "keys are read one by one")
        play.press("\x1a", "x")  # Ctrl-Z, which would leave the terminal so
        play.wait_to_see("playing")
        end(play)
        assert play.wait() == status
        assert play.modes == play.modes_before
        play.wait_to_see("\x1b[?25h")
    assert site.session is None


def lines_of(screen: str) -> list[str]:
    """What stands on a terminal after it was written to."""
    lines = [""]
    for word in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", screen):
        if word == "\n":
            lines.append("")
        elif word == "\x1b[2K":
            lines[-1] = ""
        elif word[0] not in "\x1b\r":
            lines[-1] += word
    return lines


def test_events_and_the_bar_share_a_terminal(site: Site) -> None:
    """Each line stands alone, where the bar was; the bar comes again below."""
    site.record([10, 20, 590])
    with site.start_at_terminal(*MINUTES, "--speed", "500", all_of_it=True) as play:
        assert play.wait() == 0
        play.wait_to_see("\x1b[?25h", keep=True)
    told, keys, *events, bar, rest = lines_of(play.screen)
    assert told.startswith("playhead: 2018-02-06T00:00:00Z to ")
    assert keys.startswith("playhead: space pauses")
    assert events == [
        f"{moment(second)} note@{number} text={number}"
        for number, second in enumerate((10, 20, 590), 1)
    ]
    assert re.fullmatch(r"played +2018-02-06 00:10:00 ━+ 100% ×500 3 events *", bar)
    assert rest == ""


# -- the sessions there are


def test_sessions_are_listed_for_programs_and_shown_to_people(site: Site) -> None:
    status, listed = site.run("sessions")
    assert (status, listed.lines, listed.notes) == (0, [], [])
    session = site.ask("POST", "init", {"replay_requested_timestamp": moment(0)})
    with Playhead(site.gateway.url, "sessions") as everybodys:
        assert everybodys.wait() == 0
        assert session in [json.loads(line) for line in everybodys.lines]
    with site.start_at_terminal("sessions", all_of_it=True) as shown:
        assert shown.wait() == 0
        shown.wait_to_see("tenant")
        shown.wait_to_see(session["id"][:8])
