"""A captured change as it is stored: its topic, its JSON, its event type."""

import json

import msgspec
import pytest

from gateway.changes import ChangeRenderer
from gateway.cloudevent import Renderer
from gateway.schema.catalog import Catalog
from gateway.schema.errors import Rejected, SchemaError
from gateway.schema.query import parse, publication, query, request_from_params
from store.change_stream import Transaction
from store.event import ChangeDraft
from store.rows import Change

TRANSACTION = Transaction(0x16B374D848, 742, 1_700_000_000_123_456, 1_700_000_000_123)
CATALOG = Catalog.parse(None, None, changes=True)


@pytest.fixture
def renderer() -> ChangeRenderer:
    schema = CATALOG.get("change")
    assert schema is not None
    return ChangeRenderer('fl"eet', schema, Renderer(source="http://h/", type_prefix="p."))


def change(op: str = "u", key_text: str = "1", **more: object) -> Change:
    known: dict[str, object] = {
        "table": "public.t",
        "key": b'{"id":1}',
        "old_key": None,
        "before": None,
        "after": b'{"id":1,"n":1.50}',
    }
    return Change(op=op, key_text=key_text, **{**known, **more})  # type: ignore[arg-type]


def stored(renderer: ChangeRenderer, draft: ChangeDraft) -> str:
    """As the log completes it."""
    envelope = renderer.envelope
    return (draft.head + b"9" + envelope.middle + b"2024" + envelope.tail).decode()


def test_a_change_is_a_cloud_event_whose_payload_has_a_fixed_order(
    renderer: ChangeRenderer,
) -> None:
    draft = renderer.render(change(), TRANSACTION, 3, True)
    assert (draft.time_ms, draft.topic) == (1_700_000_000_123, b"change.public%2Et.u.1")
    assert stored(renderer, draft) == (
        '{"data":{"identifier":{"key":"1","op":"u","table":"public.t"},"payload":{"before":null,'
        '"after":{"id":1,"n":1.50},"key":{"id":1},"xid":742,"lsn":"16/B374D848","index":3,'
        '"last":true,"source":"fl\\"eet","committed":"2023-11-14T22:13:20.123456Z"}},'
        '"datacontenttype":"application/json","dataschema":"http://h/schema/change",'
        '"id":"change@9","source":"http://h","specversion":"1.0","time":"2024","type":"p.change"}'
    )


def test_what_is_only_there_sometimes_has_its_place(renderer: ChangeRenderer) -> None:
    moved = change(old_key=b'{"id":0}', before=b'{"id":0}', unchanged=("a", "b"))
    payload = json.loads(stored(renderer, renderer.render(moved, TRANSACTION, 0, False)))["data"][
        "payload"
    ]
    assert list(payload) == [
        *("before", "after", "key", "old_key", "xid", "lsn", "index", "last", "source"),
        *("committed", "unchanged"),
    ]
    assert payload["unchanged"] == ["a", "b"]
    assert payload["last"] is False


def test_a_truncate_has_neither_key_nor_rows(renderer: ChangeRenderer) -> None:
    gone = change("t", "*", key=None, after=None)
    draft = renderer.render(gone, TRANSACTION, 0, True)
    payload = json.loads(stored(renderer, draft))["data"]["payload"]
    assert draft.topic == b"change.public%2Et.t.%2A"
    assert (payload["before"], payload["after"], payload["key"]) == (None, None, None)


def test_every_transaction_and_table_is_told_by_its_own_words(renderer: ChangeRenderer) -> None:
    later = TRANSACTION._replace(lsn=0x16B374D849, xid=743)
    for transaction in (TRANSACTION, later, TRANSACTION):
        draft = renderer.render(change(table='public."T"'), transaction, 0, True)
        payload = json.loads(stored(renderer, draft))["data"]["payload"]
        assert payload["xid"] == transaction.xid
        assert draft.topic == b'change.public%2E"T".u.1'


@pytest.mark.parametrize("key", ["", "a.b>c*%", '["x",7]', "line\nbreak", "é\U0001f4a5"])
def test_any_key_is_found_by_its_filter_and_by_no_other(renderer: ChangeRenderer, key: str) -> None:
    draft = renderer.render(change(key_text=key), TRANSACTION, 0, True)
    event = stored(renderer, draft).encode()
    assert json.loads(event)["data"]["identifier"]["key"] == key
    if key:  # an empty text cannot be asked for, of no event type
        for asked, found in ((key, True), (key + "x", False)):
            params = [("event_type", "change"), ("identifier.key", asked)]
            wanted = query(request_from_params(params, "watch", CATALOG), "watch", CATALOG)
            assert wanted.filter.matches(draft.topic, event) is found


def test_the_event_type_is_there_with_the_sources_and_not_without() -> None:
    assert CATALOG.event_types == ("change",)
    assert not CATALOG.strict, "other event types are as free as without capture"
    assert Catalog.parse(None, None).event_types == ()
    assert set(CATALOG.describe("change")["identifier"]) == {"table", "op", "key"}  # type: ignore[call-overload]


def test_a_configuration_adds_retention_and_access_to_changes() -> None:
    added = {"storage_policy": {"max_messages": 5}, "auth": {"required": True}}
    schema = Catalog.parse({"change": added}, None, changes=True).get("change")
    assert schema is not None
    assert schema.storage_policy is not None
    assert schema.storage_policy.max_messages == 5
    assert schema.auth is not None
    assert schema.key_order == ("table", "op", "key")
    assert schema.captured


@pytest.mark.parametrize("key", ["topic", "identifier", "payload"])
def test_a_configuration_cannot_change_what_changes_are(key: str) -> None:
    with pytest.raises(SchemaError, match=f"notification_schema.change.{key}: .* is built in"):
        Catalog.parse({"change": {key: {}}}, None, changes=True)


def test_nobody_publishes_a_change() -> None:
    identifier = {"table": "t", "op": "c", "key": "1"}
    body = msgspec.json.encode({"event_type": "change", "identifier": identifier, "payload": {}})
    with pytest.raises(Rejected, match="nobody can publish one"):
        publication(parse(body, "notification", CATALOG), CATALOG)
