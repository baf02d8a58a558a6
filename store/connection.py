"""The one owner of Redis clients: opens them, checks the server, loads library.lua, names keys.

Speaks to a single server (TCP, TLS, unix socket) or a cluster. Every redis error leaves here as a
`StoreError`. Nothing is retried on its own: an append that is sent twice is an event stored twice.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
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
    RedisClusterException,
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

from store.errors import StoreConfigurationError, StoreError, StoreUnavailable
from store.event import StreamKey

Argument: TypeAlias = bytes | str | int

_LIBRARY = files("store").joinpath("library.lua").read_text(encoding="utf-8")
_DIGEST = hashlib.sha256(_LIBRARY.encode()).hexdigest()[:12]
_CODE = f"#!lua name=playhead_{_DIGEST}\n" + _LIBRARY.replace("@DIGEST@", _DIGEST)

COMMAND_TIMEOUT_SEC = 5.0
POOL_SIZE = 32
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


def _prefix(stream: StreamKey) -> str:
    # Without an event type: the feed of the tenant's sessions, in the slot of their record.
    tag = f"{stream.tenant}/{stream.event_type}" if stream.event_type else stream.tenant
    return f"ph:{{{tag}}}"


def log_key(stream: StreamKey) -> str:
    return f"{_prefix(stream)}:log"


def meta_key(stream: StreamKey) -> str:
    return f"{_prefix(stream)}:meta"


def promise_key(stream: StreamKey, key: bytes) -> str:
    """Where an idempotency key's event is remembered."""
    return f"{_prefix(stream)}:idem:{key.decode()}"


def streams_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:streams"


TENANTS_KEY = "ph:tenants"


def shown(url: str) -> str:
    """The address without its password, for messages."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
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
    except RedisClusterException as error:
        raise StoreUnavailable(f"the cluster cannot be reached: {error}") from error
    except RedisError as error:
        raise StoreError(f"the log server failed: {error}") from error


class Durability:
    """What an acknowledged append has survived, as the server's own settings say."""

    def __init__(self, *, append_only: str, fsync: str) -> None:
        self.append_only = append_only
        self.fsync = fsync

    def describe(self) -> dict[str, str]:
        if self.append_only != "yes":
            meaning = "events are in memory only: a crash of the server loses them"
        elif self.fsync == "always":
            meaning = "written to disk before the answer"
        elif self.fsync == "everysec":
            meaning = "written to disk within a second of the answer"
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
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": COMMAND_TIMEOUT_SEC,
            "socket_connect_timeout": COMMAND_TIMEOUT_SEC,
            "socket_read_size": 1 << 18,
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            if self.cluster:
                self._client: Any = RedisCluster.from_url(
                    url.replace("+cluster", "", 1), max_connections=POOL_SIZE, **options
                )
            else:
                pool = BlockingConnectionPool.from_url(
                    url, max_connections=POOL_SIZE, timeout=COMMAND_TIMEOUT_SEC, **options
                )
                self._client = Redis(connection_pool=pool)
        except ValueError as error:
            raise StoreConfigurationError(
                f"'{shown(url)}' is no address of a Redis server: {error}"
            ) from error
        # Pages go on as the parser made them: turning a million entries into tuples costs seconds.
        for command in ("XRANGE", "XREVRANGE", "XREAD"):
            self._client.response_callbacks.pop(command, None)

    async def open(self) -> None:
        """Check that the server can keep a log, and load the functions.

        Raises StoreConfigurationError, whose sentence says what to change, and StoreUnavailable.
        """
        where = shown(self.url)
        try:
            async with _translated():
                if self.cluster:
                    await self._client.initialize()
                for node in self._nodes():
                    await self._check(node, where)
            await self._load()
        except StoreConfigurationError:
            raise
        except StoreUnavailable as error:
            if isinstance(error.__cause__, AuthenticationError):
                raise StoreConfigurationError(
                    f"{where} wants other credentials: {error.__cause__}; "
                    "put user and password into the address"
                ) from error
            raise StoreUnavailable(
                f"no Redis or Valkey server answers at {where}: {error.__cause__}; "
                "start one there or give another address"
            ) from error
        except StoreError as error:
            denied = isinstance(error.__cause__, NoPermissionError)
            advice = "allow it with ACL SETUSER" if denied else "Playhead needs Redis 7.0 or Valkey"
            raise StoreConfigurationError(
                f"{where} refuses a command: {error.__cause__}; {advice}"
            ) from error

    def _nodes(self) -> Sequence[ClusterNode | None]:
        return self._client.get_primaries() if self.cluster else (None,)

    async def _on(self, node: ClusterNode | None, *command: Argument) -> Any:
        if node is None:
            return await self._client.execute_command(*command)
        return await self._client.execute_command(*command, target_nodes=node)

    async def _check(self, node: ClusterNode | None, where: str) -> None:
        server = await self._info(node, "server")
        version = str(server["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM_VERSION:
            raise StoreConfigurationError(
                f"{where} runs Redis {version}; Playhead needs Redis 7.0 or newer, or Valkey"
            )
        memory = await self._info(node, "memory")
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise StoreConfigurationError(
                f"{where} has maxmemory-policy {policy}, which deletes logs when memory runs "
                "short; set it with CONFIG SET maxmemory-policy noeviction"
            )
        persistence = await self._info(node, "persistence")
        fsync = "unknown"
        try:
            answer = await self._on(node, "CONFIG", "GET", "appendfsync")
            fsync = _config_value(answer) or fsync
        except ResponseError:
            # Hosted servers forbid CONFIG; then the policy is not known and said to be so.
            fsync = "unknown"
        self.durability = Durability(
            append_only="yes" if str(persistence.get("aof_enabled")) == "1" else "no", fsync=fsync
        )

    async def _info(self, node: ClusterNode | None, section: str) -> dict[str, Any]:
        answer = await self._on(node, "INFO", section)
        # Asked of one cluster node the client answers {node name: fields}.
        if node is not None and node.name in answer:
            answer = answer[node.name]
        return dict(answer)

    async def _load(self) -> None:
        async with self._loading, _translated():
            for node in self._nodes():
                try:
                    await self._on(node, "FUNCTION", "LOAD", _CODE)
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
        if self.cluster:
            # Without a target the client asks the server which arguments are keys, every time.
            node = self._client.get_node_from_key(keys[0])
            return await self._client.execute_command(*command, target_nodes=node)
        return await self._client.execute_command(*command)

    async def execute(self, *command: Argument) -> Any:
        """Run one command."""
        async with _translated():
            return await self._client.execute_command(*command)

    async def pipeline(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Run commands on the keys of one slot in one round trip, in this order, not as one unit."""
        async with _translated():
            pipe = self._client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            return list(await pipe.execute())

    async def ping(self, timeout_sec: float) -> None:
        """One real round trip to every server of the log."""
        async with _translated():
            async with asyncio.timeout(timeout_sec):
                for node in self._nodes():
                    await self._on(node, "PING")

    def reader_group(self, stream: StreamKey, shards: int) -> int:
        """Streams of one group may share a blocking read: one slot's in a cluster, else a shard."""
        key = log_key(stream)
        if self.cluster:
            return int(self._client.keyslot(key))
        return hash(key) % shards

    @asynccontextmanager
    async def dedicated(self, stream: StreamKey, block_ms: int) -> AsyncIterator["Dedicated"]:
        """A connection of its own to the server that has this stream, for blocking reads.

        Never from the pool: a blocking read that is given up leaves its answer in the connection.
        """
        link: AbstractConnection | None = None
        try:
            async with _translated():
                if self.cluster:
                    node = self._client.get_node_from_key(log_key(stream))
                    link = node.connection_class(**node.connection_kwargs)
                else:
                    pool = self._client.connection_pool
                    link = pool.connection_class(**pool.connection_kwargs)
                await link.connect()
                await link.send_command("CLIENT", "ID")
                identity = int(await link.read_response())
            _heed_cancellation()
            yield Dedicated(link, identity, block_ms / 1000 + COMMAND_TIMEOUT_SEC)
        finally:
            if link is not None:
                await link.disconnect(nowait=True)

    async def unblock(self, stream: StreamKey, client_id: int) -> bool:
        """Wake a blocked `Dedicated` reader of this stream's server. False when it did not block."""
        async with _translated():
            command = ("CLIENT", "UNBLOCK", client_id)
            if not self.cluster:
                return bool(await self._client.execute_command(*command))
            node = self._client.get_node_from_key(log_key(stream))
            return bool(await self._client.execute_command(*command, target_nodes=node))

    async def rediscover(self) -> None:
        """Learn anew which cluster node has which slot; nothing to do for a single server."""
        if self.cluster:
            async with _translated():
                await self._client.nodes_manager.initialize()

    async def close(self) -> None:
        await self._client.aclose()
        if not self.cluster:
            await self._client.connection_pool.disconnect()


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
            await self._link.send_command(*command)
            _heed_cancellation()
            return await self._link.read_response(timeout=math.inf)


def _heed_cancellation() -> None:
    """Raise the cancellation that redis-py's sending may have swallowed.

    It sends by `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes when
    the inner call is done: a reader told to end would wait on for ever, and its process with it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _config_value(answer: Any) -> str | None:
    """The value in a CONFIG GET answer: [name, value], a dict, or one of them by node."""
    if isinstance(answer, dict):
        answer = next(iter(answer.values()), None)
        if isinstance(answer, (list, dict)):
            return _config_value(answer)
    elif isinstance(answer, list):
        answer = answer[1] if len(answer) > 1 else None
    return answer.decode() if isinstance(answer, bytes) else answer
