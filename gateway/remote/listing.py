"""`playhead sessions`: a table for people, lines of JSON for programs."""

import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.remote.controls import decode_session
from gateway.terminal import escape, say, write_line


def show_sessions(found: Sequence[msgspec.Raw]) -> None:
    """Sessions as the gateway wrote them; a table when stdout is a terminal."""
    if not sys.stdout.isatty():
        for text in found:
            write_line(bytes(text).decode())
        return
    if not found:
        say("no session is active")
        return
    table = Table("tenant", "session", "state", "playhead", "end", "speed", "events", box=None)
    for text in found:
        session = decode_session(text)
        playhead, end = session.replay_last_timestamp, session.replay_end_timestamp
        row = (
            session.tenant_id,
            session.id,
            session.display_status,
            playhead.isoformat(timespec="seconds"),
            end.isoformat(timespec="seconds"),
            f"{session.replay_speed:g}",
            ", ".join(session.event_types),
        )
        table.add_row(*(Text(escape(each)) for each in row))
    Console().print(table)
