"""A publisher that gives up on nothing: the same event with the same key until it is acknowledged."""

import asyncio
import time
from collections import Counter
from itertools import count

from tests.faults.wire import LOST, Client

EVENT_TYPE = "reading"
STATIONS = ("north", "south", "east", "west")
SCHEMA = {
    EVENT_TYPE: {
        "topic": {"base": "reading", "key_order": ["station"]},
        "identifier": {
            "station": {"type": "EnumHandler", "values": list(STATIONS), "required": False}
        },
        "payload": {"required": False},
    }
}


def notification(
    payload: object, station: str = STATIONS[0], event_type: str = EVENT_TYPE
) -> dict[str, object]:
    return {"event_type": event_type, "identifier": {"station": station}, "payload": payload}


class Publisher:
    """Publishes one event after another. `acknowledged`: payload -> the sequence that was answered."""

    def __init__(
        self,
        ports: list[int],
        tenant: str,
        name: str,
        *,
        event_type: str = EVENT_TYPE,
        pause_sec: float = 0.005,
    ) -> None:
        self.name = name
        self.event_type = event_type
        self.acknowledged: dict[str, int] = {}
        self.refusals: Counter[str] = Counter()
        self.longest_outage_sec = 0.0
        self._clients = [Client(port, tenant) for port in ports]
        self._pause_sec = pause_sec
        self._stopping = False
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Publish until stopped; what was begun is finished first."""
        try:
            for number in count():
                if self._stopping:
                    return
                await self._publish(f"{self.name}/{number}", STATIONS[number % len(STATIONS)])
                await asyncio.sleep(self._pause_sec)
        finally:
            self._done.set()
            for client in self._clients:
                client.close()

    def stop(self) -> None:
        self._stopping = True

    async def finish(self) -> None:
        """Stop, and return when the last event is acknowledged."""
        self.stop()
        await self._done.wait()

    async def _publish(self, payload: str, station: str) -> None:
        started = time.monotonic()
        for attempt in count():
            client = self._clients[attempt % len(self._clients)]
            try:
                answer = await client.publish(
                    notification(payload, station, self.event_type), key=payload
                )
            except LOST as error:
                self.refusals[type(error).__name__] += 1
            else:
                if answer.status == 200:
                    self.acknowledged[payload] = answer.json()["sequence"]
                    waited = time.monotonic() - started
                    self.longest_outage_sec = max(self.longest_outage_sec, waited)
                    return
                assert answer.status == 503, answer
                assert int(answer.headers["retry-after"]) > 0, answer
                self.refusals["503"] += 1
            # Sooner than a well-behaved client would: the more requests meet the fault, the better.
            await asyncio.sleep(0.02)
