"""Makes a replication slot at a place from where PostgreSQL decodes every change rightly.

While PostgreSQL makes a slot (17.10 and every version before it) it does not look at transactions that
end meanwhile. As long as an older one stays open it takes their new tables and columns for not there
yet: what is decoded then fails ("could not map filenumber") or has the columns of before. Hence a slot
is moved on, until it reads from where all that were open when it was made have ended.
"""

import asyncio

import asyncpg

from store.errors import SourceRefused, SourceUnavailable
from store.pgsource import PLUGIN, PgSource, Slot
from store.visibility import Visibility

_POLL_SEC = 0.1


async def make_slot(source: PgSource) -> Slot:
    """Waits for the transactions that are open to end. Raises SourceRefused, SourceUnavailable."""
    before = await _visible(source)
    try:
        await source.execute(
            "SELECT pg_create_logical_replication_slot($1, $2)", source.settings.slot, PLUGIN
        )
    except SourceUnavailable as error:
        if not isinstance(error.__cause__, asyncpg.ConfigurationLimitExceededError):
            raise
        most = await source.value("SELECT current_setting('max_replication_slots')")
        raise SourceRefused(
            [
                f"all its {most} replication slots are taken: drop one with "
                "SELECT pg_drop_replication_slot('…'), or raise max_replication_slots and "
                "restart PostgreSQL"
            ]
        ) from error
    after = await _visible(source)
    if before.xmin == after.xmax:
        # No transaction that wrote was open, and none began.
        return await _look(source)
    return await _settle(source, after.xmax)


async def _settle(source: PgSource, xmax: int) -> Slot:
    """Move the slot to a place before which every transaction older than `xmax` has ended."""
    # Nobody tells when another transaction ends.
    while (await _visible(source)).xmin < xmax:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SEC)
    # Also a place of its own in the log: of a quiet source the running transactions are not logged.
    await source.execute("SELECT pg_logical_emit_message(true, 'playhead', 'slot')")
    place = (await source.moment()).insert_lsn
    while (slot := await _look(source)).restart_lsn < place:
        await source.log_running_transactions()
        await asyncio.sleep(_POLL_SEC)
        await source.advance((await source.moment()).flush_lsn)
    return slot


async def _visible(source: PgSource) -> Visibility:
    return Visibility.parse(await source.value("SELECT pg_current_snapshot()::text"))


async def _look(source: PgSource) -> Slot:
    slot = await source.slot()
    if slot is None:
        raise SourceUnavailable(f"slot '{source.settings.slot}' was dropped as it was made")
    return slot
