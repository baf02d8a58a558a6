"""Playback sessions of all tenants: the record that is the lock, its verbs, its feed, the leases.

Each verb is one atomic server-side function; the record never stays between two statuses, unless
the session is owned: then a verb asks for work, and who holds the work's lease walks on. All times
are ms since 1970, UTC. Every status that a verb passes is an entry of the tenant's feed.
"""

import asyncio
import re
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import structlog

from store.connection import Connection, log_key, meta_key
from store.errors import StoreError, WorkLost
from store.event import StreamKey, rfc3339

# Idle sessions end by themselves, and at the latest by this, though nobody asks for them.
SWEEP_SEC = 30.0
_TENANT_OF = "ph:sessions"
# Quotes inside of a JSON text are escaped, so that this can be nothing but the field.
_LAST = re.compile(rb'("replay_last_timestamp":")[^"]*')
_TOUCH_SEC = 10.0
# The statuses of an end, and of an init that may have come since.
_WALK_MOST = 12

logger = structlog.get_logger(__name__)


class Clock(msgspec.Struct, frozen=True):
    """What every gateway plays by: at wall time `wall_ms` the playhead stood at `event_ms`.

    `run` grows with every initialisation and seek, and when a failover lost some of them:
    positions of different runs do not compare.
    It began there at `run_start_ms`, with the events of that very time. While it does not play,
    everything up to `through_ms` has been played. `revision` grows with
    every change, so that of two descriptions the later one is known. All this holds at wall time
    `told_ms`, when the server said it. `owned`: its verbs are work that somebody has to do.
    """

    revision: int
    run: int
    playing: bool
    wall_ms: int
    event_ms: int
    speed: float
    start_ms: int
    end_ms: int
    run_start_ms: int
    through_ms: int
    told_ms: int
    owned: bool = False


class Session(msgspec.Struct, frozen=True):
    """A session at one moment: the JSON that clients see, and its clock."""

    session: msgspec.Raw
    clock: Clock

    @property
    def view(self) -> "SessionView":
        return _decode_view(self.session)

    @property
    def working(self) -> bool:
        """Whether a verb has been asked for and has not come to its end."""
        return self.clock.owned and not self.view.status.endswith(("_OK", "_KO"))

    def stopped_after(self, clock: Clock) -> bool:
        """Whether it stands still, and further on in the same run than it was at another moment."""
        own = self.clock
        return not own.playing and own.run == clock.run and own.through_ms > clock.through_ms

    def at(self, playhead_ms: int) -> bytes:
        """The JSON that clients see, of a moment at which the playhead stands elsewhere."""
        return _LAST.sub(rb"\g<1>%b" % rfc3339(playhead_ms).encode(), bytes(self.session), count=1)


class SessionView(msgspec.Struct, frozen=True):
    """The fields of the session JSON that the gateway itself looks at."""

    id: str
    tenant_id: str
    status: str
    event_types: list[str]


class Answer(StrEnum):
    """What came of a verb."""

    OK = "ok"
    ACTIVE = "active"
    ONE_SHOT = "one_shot"
    MISSING = "missing"
    STATE = "state"
    RANGE = "range"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a verb, with the session as it stands (the holder's, when it is active)."""

    answer: Answer
    session: Session | None


@dataclass(frozen=True, slots=True)
class Lease:
    """A hold on a tenant's lock, or on the work of its session.

    Its token is higher than any given before.
    """

    owner: str
    token: str


_decode = msgspec.json.Decoder(Session).decode
_decode_view = msgspec.json.Decoder(SessionView).decode


def parse(text: bytes) -> Session:
    """An entry of the feed."""
    return _decode(text)


def feed(tenant: str) -> StreamKey:
    """The stream of a tenant's session changes, in the same slot as the record."""
    return StreamKey(tenant, "")


class Sessions:
    """Raises StoreUnavailable when the server is away; a verb may then have happened.

    The work of an owned session's verb becomes KO when it has not ended after `work_limit_ms`.
    """

    def __init__(
        self, connection: Connection, *, idle_ms: int, lease_ms: int, work_limit_ms: int = 0
    ) -> None:
        self._connection = connection
        self._idle_ms = idle_ms
        self._lease_ms = lease_ms
        self._work_limit_ms = work_limit_ms
        # A session that is watched must be touched well within its idle time.
        self.touch_sec = min(_TOUCH_SEC, idle_ms / 3000)

    async def init(
        self,
        tenant: str,
        session_id: str,
        *,
        start_ms: int,
        end_ms: int,
        event_types: list[str],
        again: bool,
        failure: str,
        owned: bool = False,
    ) -> Outcome:
        """Take the lock and initialise; `again` re-initialises the tenant's own session.

        `failure` says why the state of the start cannot be restored, '' when it can. `owned`: its
        verbs are asked for, and are done by who takes the work.
        """
        if not again:
            # Found by its id even if the gateway ends right after; a name without a session is
            # harmless. One that is there again keeps its name: it may be another tenant's.
            await self._connection.execute("HSET", _TENANT_OF, session_id, tenant)
        outcome = await self._verb(
            "session_init",
            tenant,
            session_id,
            tenant,
            start_ms,
            end_ms,
            "1.0",
            msgspec.json.encode(event_types),
            self._idle_ms,
            session_id if again else "",
            failure,
            int(owned),
            self._work_limit_ms,
        )
        if not again:
            # Again when it is given: the name was a leftover to whoever looked meanwhile.
            if outcome.answer is Answer.OK:
                await self._connection.execute("HSET", _TENANT_OF, session_id, tenant)
            else:
                await self._connection.execute("HDEL", _TENANT_OF, session_id)
        return outcome

    async def start(self, tenant: str, session_id: str, speed: float) -> Outcome:
        return await self._verb("session_start", tenant, session_id, repr(float(speed)))

    async def stop(self, tenant: str, session_id: str) -> Outcome:
        return await self._verb("session_stop", tenant, session_id)

    async def seek(self, tenant: str, session_id: str, ms: int) -> Outcome:
        return await self._verb("session_seek", tenant, session_id, ms)

    async def end(self, tenant: str, session_id: str) -> Outcome:
        return await self._end(tenant, session_id)

    async def reset(self, tenant: str, *, force: bool = True) -> Outcome:
        """End what holds the tenant's lock; with `force` free it, whatever is owed to it."""
        return await self._end(tenant, "", "1" if force else "")

    async def _end(self, tenant: str, *args: str) -> Outcome:
        outcome = await self._verb("session_end", tenant, *args)
        session = outcome.session
        # An owned session keeps its lock until its work is done; who lists sessions forgets it then.
        if session is not None and not session.working:
            await self._connection.execute("HDEL", _TENANT_OF, session.view.id)
        return outcome

    async def get(self, tenant: str, *, touch: bool = False) -> Session | None:
        """The tenant's session as it stands now. `touch`: somebody is interested in it."""
        found = await self._connection.call("session_get", _keys(tenant), int(touch))
        return None if found is None else _decode(found)

    async def last_told(self, tenant: str, session_id: str) -> Session | None:
        """What was last told of a session, which may be over by now."""
        found = await self._connection.execute(
            "XREVRANGE", log_key(feed(tenant)), "+", "-", "COUNT", _WALK_MOST
        )
        told = (_decode(event) for _, (_, event) in found)
        return next((session for session in told if session.view.id == session_id), None)

    async def tenant_of(self, session_id: str) -> str | None:
        """Whose active session it is."""
        found = await self._connection.execute("HGET", _TENANT_OF, session_id)
        if found is None or await self._named(session_id.encode(), found) is None:
            return None
        return str(found.decode())

    async def active(self) -> list[Session]:
        """The sessions of all tenants; those that have ended by themselves are forgotten here."""
        listed = await self._connection.execute("HGETALL", _TENANT_OF)
        found: dict[str, Session] = {}
        for session_id, tenant in zip(listed[::2], listed[1::2], strict=True):
            session = await self._named(session_id, tenant)
            if session is None:
                await self._connection.execute("HDEL", _TENANT_OF, session_id)
                session = await self._named(session_id, tenant)
                if session is not None:  # it was being given
                    await self._connection.execute("HSET", _TENANT_OF, session_id, tenant)
            if session is not None:
                found[session.view.tenant_id] = session
        return [found[tenant] for tenant in sorted(found)]

    async def _named(self, session_id: bytes, tenant: bytes) -> Session | None:
        session = await self.get(tenant.decode())
        return session if session and session.view.id == session_id.decode() else None

    async def run(self) -> None:
        """End what nobody has watched or touched for its idle time, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SEC)
            try:
                await self.active()
            except StoreError as error:
                logger.warning("sessions_not_swept", error=str(error))

    async def _verb(self, function: str, tenant: str, *args: str | bytes | int) -> Outcome:
        reply = await self._connection.call(function, _keys(tenant), *args)
        session = _decode(reply[1]) if len(reply) > 1 else None
        return Outcome(Answer(reply[0].decode()), session)

    # -- the work of an owned session

    async def take_work(self, tenant: str, owner: str) -> tuple[Lease, Session] | None:
        """Hold the work there is, with what it is. None: there is none, or it is another's."""
        keys = (*_keys(tenant), _fence_key(tenant))
        reply = await self._connection.call("work_take", keys, owner, self._lease_ms)
        if reply[0] != b"ok":
            return None
        return Lease(owner, reply[1].decode()), _decode(reply[2])

    async def take_nothing(self, tenant: str, owner: str) -> Lease | None:
        """Hold the work of a tenant that has no session; None: it has one, or another holds it."""
        keys = (*_keys(tenant), _fence_key(tenant))
        reply = await self._connection.call("work_take", keys, owner, self._lease_ms, 1)
        return Lease(owner, reply[1].decode()) if reply[0] == b"ok" else None

    async def look(self, tenant: str, lease: Lease, known: Session) -> Session | None:
        """Keep the work for another `lease_ms`; the session as it is now, None when it is over.

        Raises WorkLost.
        """
        args = (*_holder(lease), self._lease_ms, known.clock.revision)
        answer, session = await self._work("work_look", tenant, *args)
        return known if answer == b"same" else session

    async def step(
        self,
        tenant: str,
        lease: Lease,
        known: Session,
        *,
        failure: str = "",
        reached_ms: int = 0,
    ) -> Session | None:
        """Walk on from the status that is known, to KO if there is a failure.

        A session that stops or starts stands at `reached_ms` if it has come further than it was
        asked to. The session as it is now: another one, if a verb came between. Raises WorkLost.
        """
        args = (*_holder(lease), known.view.id, known.clock.revision, failure, reached_ms)
        return (await self._work("session_step", tenant, *args))[1]

    async def leave_work(self, tenant: str, lease: Lease) -> Session | None:
        """Give the work back; not when there is some again, which is then told. Raises WorkLost."""
        return (await self._work("work_leave", tenant, *_holder(lease)))[1]

    async def release_work(self, tenant: str, lease: Lease) -> None:
        """Give the work back undone, for another to go on with."""
        await self._connection.call("lease_release", (_work_key(tenant),), *_holder(lease))

    async def _work(
        self, function: str, tenant: str, *args: str | int
    ) -> tuple[bytes, Session | None]:
        reply = await self._connection.call(function, _keys(tenant), *args)
        if reply[0] == b"lost":
            raise WorkLost(f"the work of tenant {tenant} is another's")
        return reply[0], _decode(reply[1]) if len(reply) > 1 else None

    # -- the lock for a one-shot replay

    async def take_lease(self, tenant: str, owner: str) -> Lease | Outcome:
        """Hold the tenant's lock while a one-shot replay runs; renew it within `lease_ms`."""
        keys = (*_keys(tenant), _fence_key(tenant))
        reply = await self._connection.call("lease_take", keys, owner, self._lease_ms)
        answer = Answer(reply[0].decode())
        if answer is Answer.OK:
            return Lease(owner, reply[1].decode())
        return Outcome(answer, _decode(reply[1]) if len(reply) > 1 else None)

    async def renew_lease(self, tenant: str, lease: Lease) -> bool:
        """False: it has expired, and may be another's."""
        args = (lease.owner, lease.token, self._lease_ms)
        return bool(await self._connection.call("lease_renew", (_lease_key(tenant),), *args))

    async def release_lease(self, tenant: str, lease: Lease) -> bool:
        args = (lease.owner, lease.token)
        return bool(await self._connection.call("lease_release", (_lease_key(tenant),), *args))


def _record_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:session"


def _lease_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:lease"


def _fence_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:fence"


def _work_key(tenant: str) -> str:
    return f"ph:{{{tenant}}}:work"


def _holder(lease: Lease) -> tuple[str, str]:
    return lease.owner, lease.token


def _keys(tenant: str) -> tuple[str, str, str, str, str]:
    stream = feed(tenant)
    leases = _lease_key(tenant), _work_key(tenant)
    return _record_key(tenant), log_key(stream), meta_key(stream), *leases
