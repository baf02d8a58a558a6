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

from store.link import Argument, Link

Address: TypeAlias = tuple[str, int]

SLOTS = 16384
# One move redirects once, or twice when it ends meanwhile; more is a quarrel between the nodes.
_REDIRECTIONS = 4


def slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


class Cluster:
    """The nodes of one cluster, each with one connection that all share.

    Raises what redis-py raises; a ClusterError when nobody has a slot.
    """

    def __init__(self, seed: Address, connect: Callable[[Address], Link]) -> None:
        self._seed = seed
        self._connect = connect
        self._links: dict[Address, Link] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        # Whom to ask, first those who answered last.
        self._nodes: list[Address] = [seed]
        self._stale = True
        self._discovering = asyncio.Lock()

    async def primaries(self) -> list[Link]:
        """A link to every node that has slots."""
        await self._discover()
        return [self._link(owner) for owner in dict.fromkeys(self._owners) if owner is not None]

    async def link_for(self, key: str) -> Link:
        """The link to the node that has this key."""
        await self._discover()
        owner = self._owners[slot_of(key)]
        if owner is None:
            self._stale = True
            raise ClusterError(f"no node of the cluster has slot {slot_of(key)}")
        return self._link(owner)

    async def execute(self, key: str, *command: Argument) -> Any:
        """Run a command on a key, or on several of its slot."""
        link, asking = await self.link_for(key), False
        for _ in range(_REDIRECTIONS):
            try:
                if asking:
                    return (await link.batch([("ASKING",), command]))[1]
                return await link.execute(*command)
            except AskError as redirection:  # MOVED is one, too
                asking = not isinstance(redirection, MovedError)
                link = self._follow(redirection, link, lasting=not asking)
            except (RedisError, OSError) as error:
                self._suspect(error)
                raise
        raise ClusterError("the nodes of the cluster redirect in a circle")

    async def pipeline(self, key: str, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands on keys of one slot in one round trip, in this order."""
        link = await self.link_for(key)
        try:
            return await link.batch(commands)
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
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            await link.aclose()

    def _link(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = self._connect(address)
        return link

    def _follow(self, redirection: AskError, sender: Link, *, lasting: bool) -> Link:
        # Without a host the node means its own, under which we know it.
        host = redirection.host or self._address_of(sender)[0]
        address = (host, int(redirection.port))
        if lasting:
            self._owners[int(redirection.slot_id)] = address
            self._stale = True
        return self._link(address)

    def _address_of(self, link: Link) -> Address:
        return next(address for address, each in self._links.items() if each is link)

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
                    ranges = await self._link(node).execute("CLUSTER", "SLOTS")
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
