"""A real Valkey cluster of three nodes on free ports, which can move slots and lose nodes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import key_slot

from store.connection import log_key
from store.event import StreamKey
from tests.servers import Valkey, wait_until

SLOTS = 16384
NODE_TIMEOUT_MS = 2000
_KEYS_A_MOVE = 100


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Node:
    """One server of the cluster, and a client of it."""

    def __init__(self, directory: Path, port: int, bus_port: int) -> None:
        self.port = port
        self.bus_port = bus_port
        self.server = Valkey(
            directory,
            *("--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"),
            *("--cluster-port", str(bus_port), "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
        )
        self._client: Any = Redis(host="127.0.0.1", port=port, decode_responses=True, protocol=2)

    def execute(self, *command: str | int) -> Any:
        return self._client.execute_command(*command)

    @property
    def id(self) -> str:
        return str(self.execute("CLUSTER MYID"))

    @property
    def healthy(self) -> bool:
        """It knows all the others and serves."""
        info: dict[str, str] = self.execute("CLUSTER INFO")
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"

    def close(self) -> None:
        self._client.close()
        self.server.stop()


class Cluster:
    """Three primaries that share the slots."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(6)
        self.nodes = [
            Node(directory / f"node-{number}", port, bus_port)
            for number, (port, bus_port) in enumerate(zip(ports[:3], ports[3:], strict=True))
        ]
        self._owners: dict[int, Node] = {}

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def start(self) -> None:
        for node in self.nodes:
            node.server.start()
        size = SLOTS // len(self.nodes) + 1
        for number, node in enumerate(self.nodes):
            first, last = number * size, min((number + 1) * size, SLOTS) - 1
            node.execute("CLUSTER ADDSLOTSRANGE", first, last)
            self._owners.update(dict.fromkeys(range(first, last + 1), node))
        # The same epoch at all would let any two quarrel over a slot for a while.
        for number, node in enumerate(self.nodes):
            node.execute("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].execute("CLUSTER MEET", "127.0.0.1", node.port, node.bus_port)
        self.wait_healthy()

    def wait_healthy(self) -> None:
        wait_until(lambda: all(node.healthy for node in self.nodes), "the cluster serves all slots")

    def owner(self, stream: StreamKey) -> Node:
        return self._owners[slot_of(stream)]

    @contextmanager
    def moving(self, stream: StreamKey, target: Node) -> Iterator[None]:
        """Begin to move a stream's slot; inside, both nodes have a part of its keys; then finish."""
        slot, source = slot_of(stream), self.owner(stream)
        target.execute("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.execute("CLUSTER SETSLOT", slot, "MIGRATING", target.id)
        source.execute("MIGRATE", "127.0.0.1", target.port, log_key(stream), 0, 5000)
        yield
        while keys := source.execute("CLUSTER GETKEYSINSLOT", slot, _KEYS_A_MOVE):
            source.execute("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            node.execute("CLUSTER SETSLOT", slot, "NODE", target.id)
        self._owners[slot] = target

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def slot_of(stream: StreamKey) -> int:
    return key_slot(log_key(stream).encode())
