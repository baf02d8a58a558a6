"""The event that every question publishes: 386 bytes when stored, with a number and a time in it.

Two identifier fields make its topic: `region` is one of ten, and of each `track` there is one event
in 10,000. The payload has the number by which a lost or repeated frame shows, and when it was sent.
"""

import re
import time

EVENT_TYPE = "bench"
TENANT = "00000000-0000-0000-0000-000000000000"
REGIONS = 10
TRACKS = 10_000
STORED_BYTES = 386
NEEDLES = 100

# Once in each event's frame of any server, and in no other frame.
MARK = b'"number":'
# The dense number that a server which speaks the Aviso API gives each event.
SEQUENCE = b'"id":"%b@' % EVENT_TYPE.encode()
SENT = re.compile(rb'"number":([0-9]+),"sent":"([0-9]+)"')
_PLACE = b"0" * 16

CATALOG: dict[str, object] = {
    EVENT_TYPE: {
        "topic": {"base": EVENT_TYPE, "key_order": ["region", "track"]},
        "identifier": {
            "region": {"type": "StringHandler", "required": False},
            "track": {"type": "IntHandler", "required": False},
        },
    }
}


def now_us() -> int:
    """The clock of all stamps: of this process, and never turned back."""
    return time.perf_counter_ns() // 1000


def _payload(number: int, size: int) -> bytes:
    head = b'{"number":%d,"sent":"%b","text":"' % (number, _PLACE)
    return head + b"x" * (size - len(head)) + b'"}'


def body(number: int, *, track: int | None = None, at: str | None = None) -> bytes:
    """What is published. `at`: when it happened, where it is loaded as the past."""
    track = number % TRACKS if track is None else track
    moment = b"" if at is None else b',"time":"%b"' % at.encode()
    return b'{"event_type":"%b","identifier":{"region":"r%d","track":%d},"payload":%b%b}' % (
        EVENT_TYPE.encode(),
        number % REGIONS,
        track,
        _payload(number, 104),
        moment,
    )


def rendered(number: int) -> bytes:
    """The event as a server that stores what it is given has to be given it, in as many bytes."""
    head = b'{"data":{"identifier":{"region":"r%d","track":"%d"},"payload":' % (
        number % REGIONS,
        number % TRACKS,
    )
    return head + _payload(number, STORED_BYTES - len(head) - 4) + b"}}"


def needles(first: int, after: int) -> range:
    """Which events of those in between are to be found by their topic: a hundred, evenly spread."""
    return range(first, after, max(1, (after - first) // NEEDLES))[:NEEDLES]


def stamped(publication: bytes, sent_us: int) -> bytes:
    """The same bytes with the time in their place."""
    return publication.replace(_PLACE, b"%016d" % sent_us, 1)
