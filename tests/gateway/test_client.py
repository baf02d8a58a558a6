"""Publishing by the CLI's client, and what it says of answers that are no success."""

import email.utils
import json
import socket
import time
from collections.abc import Iterator

import pytest

from gateway.client import Client, ClientError, Refused, read_retry_after
from tests.scripted import LOST, Reply, scripted

STORED = Reply.json({"status": "success", "id": "mars@7", "sequence": 7})
AWAY = Reply.json(
    {"code": "BACKEND_UNAVAILABLE", "message": "The event log is away.", "request_id": "r1"},
    503,
    Retry_After="0",
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_publish_names_tenant_and_token(said: list[str]) -> None:
    with (
        scripted(STORED) as server,
        Client(server.url, say=said.append, tenant="t", token="secret") as client,
    ):
        assert client.publish(b"{}") == "mars@7"
    [asked] = server.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/notification")
    assert asked.headers["x-tenant-id"] == "t"
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.headers["content-type"] == "application/json"


def test_an_address_with_a_path_and_a_user_is_used_and_the_password_never_shown(
    said: list[str],
) -> None:
    with scripted(STORED, Reply(404)) as server:
        url = server.url.replace("http://", "http://ann:secret@") + "/hub/"
        with Client(url, say=said.append) as client:
            client.publish(b"{}")
            with pytest.raises(ClientError) as failure:
                client.publish(b"{}")
    assert server.asked[0].path == "/hub/api/v1/notification"
    assert server.asked[0].headers["authorization"].startswith("Basic ")
    assert str(failure.value) == f"{server.url}/hub/api/v1/notification answered 404 Status"


@pytest.mark.parametrize("fault", [AWAY, LOST], ids=["503", "connection lost"])
def test_a_publish_is_sent_again_with_the_same_key(fault: Reply, said: list[str]) -> None:
    with (
        scripted(fault, fault, STORED, STORED) as server,
        Client(server.url, say=said.append, first_pause_sec=0.01) as client,
    ):
        assert client.publish(b"{}") == "mars@7"
        client.publish(b"{}")
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len(said) == 2
    assert all(" trying again in " in sentence for sentence in said)


def test_a_gateway_that_stays_away_is_given_up_after_the_patience(said: list[str]) -> None:
    with (
        scripted(*[AWAY] * 9) as server,
        Client(server.url, say=said.append, patience_sec=0.05, first_pause_sec=0.03) as client,
        pytest.raises(ClientError) as failure,
    ):
        client.publish(b"{}")
    assert str(failure.value) == (
        "The event log is away (503 BACKEND_UNAVAILABLE, request r1); gave up after 0.05 s"
    )


def test_a_refusal_is_the_gateways_sentence_and_is_not_sent_again(said: list[str]) -> None:
    refusal = Reply.json(
        {
            "code": "UNKNOWN_EVENT_TYPE",
            "error": "unknown_event_type",
            "message": "unknown event type 'x'",
            "configured_event_types": ["mars", "venus"],
            "request_id": "r2",
        },
        400,
    )
    with (
        scripted(refusal) as server,
        Client(server.url, say=said.append) as client,
        pytest.raises(ClientError) as failure,
    ):
        client.publish(b"{}")
    assert str(failure.value) == (
        "unknown event type 'x'; the gateway knows mars, venus (400 UNKNOWN_EVENT_TYPE, request r2)"
    )
    assert said == []


def test_many_events_are_one_request_and_their_refusals_are_told_by_index(said: list[str]) -> None:
    ok = {"status": "success", "id": "mars@1"}
    bad = {"status": "error", "code": "INVALID_JSON", "message": "JSON parsing failed"}
    with (
        scripted(Reply.json({"status": "partial", "results": [ok, bad, ok]})) as server,
        Client(server.url, say=said.append) as client,
    ):
        refused = client.publish_many([b"{}", b"x", b"{ }"])
    assert refused == [Refused(1, "JSON parsing failed")]
    [asked] = server.asked
    assert asked.path == "/api/v1/notifications"
    assert asked.headers["content-type"] == "application/x-ndjson"
    assert asked.body == b"{}\nx\n{ }"


@pytest.mark.parametrize(
    "answer",
    [Reply(200, b"<html>"), Reply.json({"results": "none"}), Reply.json({"results": []})],
)
def test_an_answer_that_is_none_of_a_gateways_is_said(answer: Reply, said: list[str]) -> None:
    with (
        scripted(answer) as server,
        Client(server.url, say=said.append) as client,
        pytest.raises(ClientError) as failure,
    ):
        client.publish_many([b"{}"])
    assert str(failure.value).startswith(server.url)


def test_an_address_where_nobody_listens_is_said_at_once(free_port: int, said: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port}"
    with Client(url, say=said.append) as client, pytest.raises(ClientError) as failure:
        client.publish(b"{}")
    assert str(failure.value) == f"cannot reach {url}: Connection refused"
    assert said == []


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "", "http://host:port", "/"]
)
def test_what_is_no_address_is_said(url: str, said: list[str]) -> None:
    with pytest.raises(ClientError, match="the gateway's address") as failure:
        Client(url, say=said.append)
    assert repr(url) in str(failure.value)


@pytest.mark.parametrize("value", ["a\nb", "ä", "a\0"])
def test_a_tenant_or_token_that_no_header_can_hold_is_said(value: str, said: list[str]) -> None:
    with pytest.raises(ClientError, match="the tenant has characters that cannot be sent"):
        Client("http://host", say=said.append, tenant=value)
    with pytest.raises(ClientError, match="the token has characters that cannot be sent"):
        Client("http://host", say=said.append, token=value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("7", 7), ("86400", 300), ("", 0), ("soon", 0), ("-1", 0)]
)
def test_retry_after_may_be_a_number(text: str, seconds: float) -> None:
    assert read_retry_after(text) == seconds


def test_retry_after_may_be_a_date() -> None:
    soon = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert 15 < read_retry_after(soon) <= 20
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_the_body_is_sent_as_it_is(said: list[str]) -> None:
    body = json.dumps({"event_type": "mars", "payload": "é"}, ensure_ascii=False).encode()
    with scripted(STORED) as server, Client(server.url, say=said.append) as client:
        client.publish(body)
    assert server.asked[0].body == body
