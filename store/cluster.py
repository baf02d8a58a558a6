"""Which node of a cluster has which slot, and commands sent to the node that has their key.

A command that a node redirects has not run and is sent on; nothing else is sent twice. After a node
was lost the others are asked who has its slots, so that a failover is found.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

Address: TypeAlias = tuple[str, int]
Argument: TypeAlias = bytes | str | int
# redis-py's clients are hardly typed; what they answer is Any in any case.
Client: TypeAlias = Any

SLOTS = 16384
# One move redirects once, or twice when it ends meanwhile; more is a quarrel between the nodes.
_REDIRECTIONS = 4


def slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


class Cluster:
    """The nodes of one cluster, each with a pool of connections of its own.

    Raises what redis-py raises; a ClusterError when nobody has a slot.
    """

    def __init__(self, seed: Address, connect: Callable[[Address], Client]) -> None:
        self._seed = seed
        self._connect = connect
        self._clients: dict[Address, Client] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        # Whom to ask, first those who answered last.
        self._nodes: list[Address] = [seed]
        self._stale = True
        self._discovering = asyncio.Lock()

    async def primaries(self) -> list[Client]:
        """A client for every node that has slots."""
        await self._discover()
        return [self._client(owner) for owner in dict.fromkeys(self._owners) if owner is not None]

    async def client_for(self, key: str) -> Client:
        """The client of the node that has this key."""
        await self._discover()
        owner = self._owners[slot_of(key)]
        if owner is None:
            self._stale = True
            raise ClusterError(f"no node of the cluster has slot {slot_of(key)}")
        return self._client(owner)

    async def execute(self, key: str, *command: Argument) -> Any:
        """Run a command on a key, or on several of its slot."""
        client, asking = await self.client_for(key), False
        for _ in range(_REDIRECTIONS):
            try:
                if asking:
                    return (await batch(client, [("ASKING",), command]))[1]
                return await client.execute_command(*command)
            except AskError as redirection:  # MOVED is one, too
                asking = not isinstance(redirection, MovedError)
                client = self._follow(redirection, client, lasting=not asking)
            except (RedisError, OSError) as error:
                self._suspect(error)
                raise
        raise ClusterError("the nodes of the cluster redirect in a circle")

    async def pipeline(self, key: str, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands on keys of one slot in one round trip, in this order."""
        client = await self.client_for(key)
        try:
            return await batch(client, commands)
        except AskError:
            # Some of the keys may have moved and others not: each finds its own way, in order.
            return [await self.execute(key, *command) for command in commands]
        except (RedisError, OSError) as error:
            self._suspect(error)
            raise

    async def rediscover(self) -> None:
        """Ask anew who has which slot."""
        self._stale = True
        await self._discover()

    async def aclose(self) -> None:
        clients = list(self._clients.values())
        self._clients.clear()
        for client in clients:
            await client.aclose(close_connection_pool=True)

    def _client(self, address: Address) -> Client:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = self._connect(address)
        return client

    def _follow(self, redirection: AskError, sender: Client, *, lasting: bool) -> Client:
        # Without a host the node means its own, under which we know it.
        host = redirection.host or str(sender.connection_pool.connection_kwargs["host"])
        address = (host, int(redirection.port))
        if lasting:
            self._owners[int(redirection.slot_id)] = address
            self._stale = True
        return self._client(address)

    def _suspect(self, error: Exception) -> None:
        """What was answered says whether the nodes may have changed their parts."""
        lasting = isinstance(error, ResponseError)
        if not lasting or isinstance(error, (ClusterError, ReadOnlyError)):
            self._stale = True

    async def _discover(self) -> None:
        if not self._stale:
            return
        async with self._discovering:
            if not self._stale:
                return  # somebody has asked while this one waited
            failure: Exception | None = None
            for node in list(self._nodes):
                try:
                    ranges = await self._client(node).execute_command("CLUSTER", "SLOTS")
                except (RedisError, OSError) as error:
                    failure = error
                    # The next to ask begins with another: a hung node costs its time-out.
                    self._nodes.remove(node)
                    self._nodes.append(node)
                else:
                    self._learn(ranges, asked=node)
                    return
            raise failure or RedisConnectionError("the cluster has no nodes")

    def _learn(self, ranges: Sequence[Any], *, asked: Address) -> None:
        owners: list[Address | None] = [None] * SLOTS
        nodes: dict[Address, None] = {asked: None}
        for first, last, *members in ranges:
            # A node that does not know its own name leaves it out.
            addresses = [
                (host.decode() if host else asked[0], int(port)) for host, port, *_ in members
            ]
            owners[first : last + 1] = [addresses[0]] * (last + 1 - first)
            nodes.update(dict.fromkeys(addresses))
        nodes.setdefault(self._seed)
        self._owners, self._nodes, self._stale = owners, list(nodes), False


async def batch(client: Client, commands: Sequence[Sequence[Argument]]) -> list[Any]:
    """The answers of commands sent together; the first error is raised once all have come."""
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    # Not raised inside: that would change an error's text.
    answers = list(await pipe.execute(raise_on_error=False))
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
