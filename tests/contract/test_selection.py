"""A request that names every field of an event type is served by the log's index, and is the same."""

import pytest

from store.connection import Connection, index_keys
from store.event import StreamKey
from tests.contract.api import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADA = {"author": "ada"}


async def publish_among_others(api: Api) -> list[int]:
    """Three of Ada's among many of others; their sequences."""
    sequences = []
    for _ in range(3):
        await api.publish_many(500, author="bob")
        sequences.append(await api.publish(identifier=ADA))
    await api.publish_many(20, author="eve")
    return sequences


async def test_a_rare_topic_is_found_between_any_two_places(api: Api) -> None:
    first, second, third = await publish_among_others(api)
    assert await api.found("note", ADA) == [first, second, third]
    assert await api.found("note", {"author": "nobody"}) == []
    assert await api.found("note", ADA, from_id=str(first + 1)) == [second, third]
    assert await api.found("note", ADA, from_id=str(first), to_id=str(second)) == [first, second]
    assert await api.found("note", {"author": "bob"}, from_id="3", to_id="40") == [*range(3, 41)]


async def test_a_watch_goes_from_the_history_of_its_topic_to_live(api: Api) -> None:
    sequences = await publish_among_others(api)
    async with api.watch("note", ADA, from_id="0") as stream:
        for sequence in sequences:
            assert (await stream.notification()).sequence == sequence
        live = await api.publish(identifier=ADA)
        assert (await stream.notification()).sequence == live


async def test_an_event_that_was_deleted_is_not_found_any_more(api: Api) -> None:
    first, second, third = await publish_among_others(api)
    answer = await api.send("DELETE", f"/api/v1/admin/notification/note@{second}")
    assert answer.status_code == 200
    assert await api.found("note", ADA) == [first, third]


async def test_it_is_the_index_that_is_asked(api: Api, backend: Connection) -> None:
    """Else an index that knows nothing would make no difference."""
    await api.publish_many(500, author="bob")
    last = await api.publish(identifier=ADA)
    _, labels, _ = index_keys(StreamKey(api.tenant, "note"))
    await backend.execute("SETRANGE", labels, 0, bytes(2 * last))
    assert await api.found("note", ADA) == []
    assert await api.found("note", from_id=str(last)) == [last]
