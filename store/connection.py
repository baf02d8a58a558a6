"""The one owner of Redis clients: opens them, checks the server, loads library.lua, names keys.

Speaks to a single server (TCP, TLS, unix socket) or a cluster. Every redis error leaves here as a
`StoreError`. Nothing is retried on its own: an append that is sent twice is an event stored twice.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Connection as RedisLink
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from store.cluster import Cluster, slot_of
from store.errors import StoreConfigurationError, StoreError, StoreUnavailable
from store.event import StreamKey
from store.link import Argument, Link, pack

_LIBRARY = files("store").joinpath("library.lua").read_text(encoding="utf-8")
_DIGEST = hashlib.sha256(_LIBRARY.encode()).hexdigest()[:12]
_CODE = f"#!lua name=playhead_{_DIGEST}\n" + _LIBRARY.replace("@DIGEST@", _DIGEST)

COMMAND_TIMEOUT_SEC = 5.0
# Answers that mean "not now" rather than "never": the client should come back.
_TRANSIENT = (
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "LOADING",
    "BUSY",
)
_MINIMUM_VERSION = (7, 0)
_QUERY_PASSWORD = re.compile(r"([?&]password=)[^&]*")


def _prefix(stream: StreamKey) -> str:
    # Without an event type: the feed of the tenant's sessions, in the slot of their record.
    tag = f"{stream.tenant}/{stream.event_type}" if stream.event_type else stream.tenant
    return f"ph:{{{tag}}}"


def log_key(stream: StreamKey) -> str:
    return f"{_prefix(stream)}:log"


def meta_key(stream: StreamKey) -> str:
    return f"{_prefix(stream)}:meta"


def index_keys(stream: StreamKey) -> tuple[str, str, str]:
    """Where the topics of a log's events are found: by blocks; labels and times of the newest."""
    prefix = _prefix(stream)
    return f"{prefix}:topics", f"{prefix}:labels", f"{prefix}:times"


def promise_key(stream: StreamKey, key: bytes) -> str:
    """Where an idempotency key's event is remembered."""
    return f"{_prefix(stream)}:idem:{key.decode()}"


def rows_key(stream: StreamKey, source: str, table: str) -> str:
    """Where the newest event of each row of a captured table is found, if the row is large."""
    return f"{_prefix(stream)}:rows:{source}:{table}"


def streams_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:streams"


TENANTS_KEY = "ph:tenants"


def shown(url: str) -> str:
    """The address without its password, for messages."""
    url = _QUERY_PASSWORD.sub(r"\1***", url)
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Run commands: failures become ours, and a cancellation that redis-py forgot is raised.

    It sends by `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes when
    the inner call is done: a task told to end would go on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except (
        RedisConnectionError,
        RedisTimeoutError,
        BusyLoadingError,
        ReadOnlyError,
        OutOfMemoryError,
        # A slot that moves: ASK and MOVED to a client that does not follow them, or not yet.
        AskError,
        TryAgainError,
        ClusterError,
        OSError,
        asyncio.IncompleteReadError,
    ) as error:
        raise StoreUnavailable(f"the log server did not answer: {error}") from error
    except ResponseError as error:
        if str(error).startswith(_TRANSIENT):
            raise StoreUnavailable(f"the log server cannot take commands now: {error}") from error
        raise StoreError(f"the log server refused a command: {error}") from error
    except RedisError as error:
        raise StoreError(f"the log server failed: {error}") from error
    except RuntimeError as error:
        # How uvloop says that the connection was closed between two steps of a command.
        if "handler is closed" not in str(error):
            raise
        raise StoreUnavailable(f"the log server did not answer: {error}") from error
    finally:
        # Also when the command has failed: who tries again would go on for ever.
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


class SingleServer:
    """One server that has every key, in the shape of a `Cluster`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def primaries(self) -> list[Link]:
        return [self._link]

    async def link_for(self, key: str) -> Link:
        return self._link

    async def execute(self, key: str, *command: Argument) -> Any:
        return await self._link.execute(*command)

    async def pipeline(self, key: str, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        return await self._link.batch(commands)

    async def rediscover(self) -> None:
        """There is nothing to learn."""

    async def aclose(self) -> None:
        await self._link.aclose()


class Durability:
    """What an acknowledged append has survived, as the server's own settings say."""

    def __init__(self, *, append_only: str, fsync: str) -> None:
        self.append_only = append_only
        self.fsync = fsync

    @property
    def strength(self) -> int:
        """Higher survives more."""
        if self.append_only != "yes":
            return 0
        return {"always": 4, "everysec": 3, "no": 2}.get(self.fsync, 1)

    def describe(self) -> dict[str, str]:
        if self.append_only != "yes":
            meaning = "events are in memory only: a crash of the server loses them"
        elif self.fsync == "always":
            meaning = "written to disk before the answer"
        elif self.fsync == "everysec":
            meaning = "written to disk within a second of the answer"
        elif self.fsync == "no":
            meaning = "handed to the operating system, which writes it when it likes"
        else:
            meaning = "unknown: the server does not tell its append-only settings"
        return {"appendonly": self.append_only, "appendfsync": self.fsync, "meaning": meaning}


class Connection:
    """Clients of one Redis server or cluster, shared by everything in the process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cluster = url.startswith(("redis+cluster://", "rediss+cluster://"))
        self.durability = Durability(append_only="unknown", fsync="unknown")
        self._loading = asyncio.Lock()
        self._waits = True
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": COMMAND_TIMEOUT_SEC,
            "socket_connect_timeout": COMMAND_TIMEOUT_SEC,
            "socket_read_size": 1 << 18,
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            options |= parse_url(url.replace("+cluster", "", 1))
        except ValueError as error:
            raise StoreConfigurationError(
                f"'{shown(url)}' is no address of a Redis server: {error}"
            ) from error

        options.pop("max_connections", None)  # of a pool, which others put into the address
        self._kind = options.pop("connection_class", RedisLink)
        self._options = options
        self._server = self._connect()

    def _connect(self) -> SingleServer | Cluster:
        def link(**place: Any) -> Link:
            options = self._options | place
            return Link(lambda: self._kind(**options), silence_sec=COMMAND_TIMEOUT_SEC)

        if not self.cluster:
            return SingleServer(link())
        seed = (str(self._options["host"]), int(self._options.get("port", 6379)))
        return Cluster(seed, lambda node: link(host=node[0], port=node[1]))

    async def open(self) -> None:
        """Check that the server can keep a log, and load the functions.

        Raises StoreConfigurationError, whose sentence says what to change, and StoreUnavailable.
        """
        where = shown(self.url)
        try:
            async with _translated():
                nodes = [await self._check(node, where) for node in await self._server.primaries()]
                # A cluster promises no more than its weakest node keeps.
                self.durability = min(nodes, key=lambda each: each.strength)
            await self._load()
        except StoreConfigurationError:
            raise
        except StoreUnavailable as error:
            cause = error.__cause__
            # Met while connecting, redis-py wraps it into a lost connection.
            if isinstance(cause, AuthenticationError) or (
                cause is not None and isinstance(cause.__cause__, AuthenticationError)
            ):
                raise StoreConfigurationError(
                    f"{where} wants other credentials: {cause}; "
                    "put user and password into the address"
                ) from error
            raise StoreUnavailable(
                f"no Redis or Valkey server answers at {where}: {cause}; "
                "start one there or give another address"
            ) from error
        except StoreError as error:
            if self.cluster and "cluster support disabled" in str(error):
                raise StoreConfigurationError(
                    f"{where} is no node of a cluster; write redis:// in the address, or "
                    "rediss:// for TLS"
                ) from error
            denied = isinstance(error.__cause__, NoPermissionError)
            advice = "allow it with ACL SETUSER" if denied else "Playhead needs Redis 7.0 or Valkey"
            raise StoreConfigurationError(
                f"{where} refuses a command: {error.__cause__}; {advice}"
            ) from error

    async def _check(self, node: Link, where: str) -> Durability:
        version = (await _info(node, "server"))["redis_version"]
        if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM_VERSION:
            raise StoreConfigurationError(
                f"{where} runs Redis {version}; Playhead needs Redis 7.0 or newer, or Valkey"
            )
        if not self.cluster and (await _info(node, "cluster")).get("cluster_enabled") == "1":
            raise StoreConfigurationError(
                f"{where} is a node of a cluster; write redis+cluster:// in the address, or "
                "rediss+cluster:// for TLS"
            )
        policy = (await _info(node, "memory")).get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreConfigurationError(
                f"{where} has maxmemory-policy {policy}, which deletes logs when memory runs "
                "short; set it with CONFIG SET maxmemory-policy noeviction"
            )
        append_only = (await _info(node, "persistence")).get("aof_enabled") == "1"
        fsync = "unknown"
        try:
            answer = await node.execute("CONFIG", "GET", "appendfsync")
            fsync = answer[1].decode() if answer else fsync
        except ResponseError:
            # Hosted servers forbid CONFIG; then the policy is not known and said to be so.
            fsync = "unknown"
        return Durability(append_only="yes" if append_only else "no", fsync=fsync)

    async def _load(self) -> None:
        async with self._loading, _translated():
            for node in await self._server.primaries():
                try:
                    await node.execute("FUNCTION", "LOAD", _CODE)
                except ResponseError as error:
                    if "already exists" not in str(error):
                        raise

    async def call(self, function: str, keys: Sequence[str], *args: Argument) -> Any:
        """Run a server-side function once. Answers as the parser gives them: bytes, int, list."""
        name = f"{function}_{_DIGEST}"
        try:
            async with _translated():
                return await self._fcall(name, keys, args)
        except StoreError as error:
            # A new or emptied server does not know the library; nothing has run, so call again.
            if "Function not found" not in str(error):
                raise
        await self._load()
        async with _translated():
            return await self._fcall(name, keys, args)

    async def _fcall(self, name: str, keys: Sequence[str], args: Iterable[Argument]) -> Any:
        command = ("FCALL", name, len(keys), *keys, *args)
        return await self._server.execute(keys[0], *command)

    async def execute(self, *command: Argument) -> Any:
        """Run one command; its first argument, if it has any, is the key."""
        async with _translated():
            key = str(command[1]) if len(command) > 1 else ""
            return await self._server.execute(key, *command)

    async def pipeline(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Run commands on the keys of one slot in one round trip, in this order, not as one unit."""
        async with _translated():
            return await self._server.pipeline(str(commands[0][1]), commands)

    async def write_to_disk(self, *command: Argument) -> None:
        """Run a write; return when its server has it and all before it on disk, if it can tell.

        Where every answer waits for the disk it is only run; so it is before Redis 7.2.
        """
        durability = self.durability
        if durability.append_only != "yes" or durability.fsync == "always" or not self._waits:
            await self.execute(*command)
            return
        # It is the connection's own write that is waited for, so the two go together; and on one of
        # their own, where nobody else's commands wait behind them.
        commands = (command, ("WAITAOF", 1, 0, int(COMMAND_TIMEOUT_SEC * 900)))
        server = self._connect()
        try:
            async with _translated():
                _, (on_disk, _) = await server.pipeline(str(command[1]), commands)
        except StoreError as error:
            if "unknown command" not in str(error).lower():
                raise
            self._waits = False
            return
        finally:
            await server.aclose()
        if not on_disk:
            raise StoreUnavailable("the log server did not write to its disk in time")

    async def ping(self, timeout_sec: float) -> None:
        """One real round trip to every server of the log."""
        async with _translated():
            async with asyncio.timeout(timeout_sec):
                for node in await self._server.primaries():
                    await node.execute("PING")

    def reader_group(self, stream: StreamKey, shards: int) -> int:
        """Streams of one group may share a blocking read: one slot's in a cluster, else a shard."""
        key = log_key(stream)
        if self.cluster:
            return slot_of(key)
        return hash(key) % shards

    @asynccontextmanager
    async def dedicated(self, stream: StreamKey, block_ms: int) -> AsyncIterator["Dedicated"]:
        """A connection of its own to the server that has this stream, for blocking reads.

        Never a shared one: others would wait for the end of the blocking read.
        """
        link: AbstractConnection | None = None
        try:
            async with _translated():
                link = (await self._server.link_for(log_key(stream))).make()
                await link.connect()  # type: ignore[no-untyped-call]
                await link.send_command("CLIENT", "ID")
                identity = int(await link.read_response())
            yield Dedicated(link, identity, block_ms / 1000 + COMMAND_TIMEOUT_SEC)
        finally:
            if link is not None:
                await link.disconnect(nowait=True)

    async def unblock(self, stream: StreamKey, client_id: int) -> bool:
        """Wake a blocked `Dedicated` reader of this stream's server. False when it did not block."""
        async with _translated():
            link = await self._server.link_for(log_key(stream))
            return bool(await link.execute("CLIENT", "UNBLOCK", client_id))

    async def rediscover(self) -> None:
        """Learn anew which cluster node has which slot; nothing to do for a single server."""
        async with _translated():
            await self._server.rediscover()

    async def close(self) -> None:
        await self._server.aclose()


class Dedicated:
    """A connection used by one reader alone."""

    def __init__(self, link: AbstractConnection, client_id: int, timeout_sec: float) -> None:
        self._link = link
        self._timeout_sec = timeout_sec
        self.client_id = client_id

    async def execute(self, *command: Argument) -> Any:
        # Not the client's own time-out: that answers None and leaves the answer to come in the
        # connection, where the next command would take it for its own.
        async with _translated(), asyncio.timeout(self._timeout_sec):
            async with _translated():  # a forgotten cancellation, before it waits for the answer
                # Packed by hiredis: redis-py's own way takes 3 us an argument, and a tail names all
                # the streams it follows in each read.
                await self._link.send_packed_command(pack(command))
            return await self._link.read_response(timeout=math.inf)


async def _info(node: Link, section: str) -> dict[str, str]:
    lines = (await node.execute("INFO", section)).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
