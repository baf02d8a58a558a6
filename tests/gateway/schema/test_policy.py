"""Storage units and stream roles: read, or refused with the path to change."""

import pytest

from gateway.schema.errors import SchemaError
from gateway.schema.policy import (
    StoragePolicy,
    StreamAuth,
    parse_duration_ms,
    parse_size,
    read_storage_policy,
    read_stream_auth,
)

STORAGE = "notification_schema.mars.storage_policy"
AUTH = "notification_schema.mars.auth"


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1s", 1000),
        ("90 s", 90_000),
        ("5m", 300_000),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
    ],
)
def test_a_duration_has_a_unit(text: str, ms: int) -> None:
    assert parse_duration_ms(text, "x") == ms


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "1.5d", "7D", "7 days", "1d12h", "1y"])
def test_another_duration_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match=r"^x: expected a positive number and a unit s, m, h, d"):
        parse_duration_ms(text, "x")


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (500, 500),
        ("500", 500),
        ("1K", 1000),
        ("1Ki", 1024),
        ("2M", 2_000_000),
        ("2Mi", 2_097_152),
        ("3G", 3_000_000_000),
        ("3 Gi", 3_221_225_472),
        ("1T", 10**12),
        ("1Ti", 2**40),
    ],
)
def test_a_size_may_have_a_decimal_or_a_binary_unit(raw: str | int, size: int) -> None:
    assert parse_size(raw, "x") == size


@pytest.mark.parametrize("raw", ["", "0", 0, -1, "1k", "1KB", "1.5G", "G", "1 GiB", True])
def test_another_size_is_refused(raw: str | int) -> None:
    with pytest.raises(SchemaError, match=r"^x: expected a positive number of bytes"):
        parse_size(raw, "x")


def test_a_storage_policy_is_read_in_milliseconds_and_bytes() -> None:
    raw = {
        "retention_time": "7d",
        "max_messages": 1000,
        "max_size": "10Gi",
        "allow_duplicates": False,
        "compression": True,
    }
    assert read_storage_policy(raw, STORAGE) == StoragePolicy(
        retention_time_ms=604_800_000,
        max_messages=1000,
        max_bytes=10 * 2**30,
        allow_duplicates=False,
        compression=True,
    )


def test_an_empty_storage_policy_limits_nothing_and_says_nothing() -> None:
    policy = read_storage_policy({}, STORAGE)
    assert policy == StoragePolicy()
    assert policy.allow_duplicates is policy.compression is None


def test_the_name_of_a_compression_is_kept_so_that_it_can_be_reported() -> None:
    assert read_storage_policy({"compression": "s2"}, STORAGE).compression == "s2"


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"retention": "7d"}, ".retention: unknown key. Allowed: retention_time, max_messages"),
        ({"retention_time": 7}, ".retention_time: expected `str | null`, got `int`"),
        ({"retention_time": "7"}, ".retention_time: expected a positive number and a unit"),
        ({"max_messages": 0}, ".max_messages: expected `int` >= 1"),
        ({"max_size": "10X"}, ".max_size: expected a positive number of bytes"),
        ({"max_size": 1.5}, ".max_size: expected `int | str | null`, got `float`"),
        ({"allow_duplicates": "no"}, ".allow_duplicates: expected `bool | null`, got `str`"),
        ({"compression": 1}, ".compression: expected `bool | str | null`, got `int`"),
    ],
)
def test_a_wrong_storage_policy_is_refused(raw: object, sentence: str) -> None:
    with pytest.raises(SchemaError) as caught:
        read_storage_policy(raw, STORAGE)
    assert str(caught.value).startswith(STORAGE + sentence)


def test_stream_roles_are_read_by_realm() -> None:
    raw = {
        "required": True,
        "read_roles": {"ecmwf": ["reader", "*"]},
        "write_roles": {"ecmwf": ["writer"], "other": []},
        "plugins": [],
    }
    assert read_stream_auth(raw, AUTH) == StreamAuth(
        required=True,
        read_roles={"ecmwf": ("reader", "*")},
        write_roles={"ecmwf": ("writer",), "other": ()},
    )


@pytest.mark.parametrize("required", [True, False])
def test_roles_may_be_left_out(required: bool) -> None:
    assert read_stream_auth({"required": required}, AUTH) == StreamAuth(required=required)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({}, ".required: this key is required"),
        ({"required": True, "roles": {}}, ".roles: unknown key. Allowed: required, read_roles, w"),
        ({"required": True, "read_roles": {}}, ".read_roles: an empty map admits nobody"),
        ({"required": True, "write_roles": {}}, ".write_roles: an empty map admits nobody"),
        (
            {"required": False, "read_roles": {"r": ["x"]}},
            ".read_roles: roles need 'required: true' beside them",
        ),
        (
            {"required": False, "write_roles": {"r": ["x"]}},
            ".write_roles: roles need 'required: true' beside them",
        ),
        ({"required": True, "read_roles": ["x"]}, ".read_roles: expected `object | null`, got"),
        ({"required": True, "read_roles": {"r": [""]}}, ".read_roles[...][0]: expected `str` of l"),
        ({"required": True, "plugins": ["ecpds"]}, ".plugins: authorization plugins are not ava"),
    ],
)
def test_wrong_stream_roles_are_refused(raw: object, sentence: str) -> None:
    with pytest.raises(SchemaError) as caught:
        read_stream_auth(raw, AUTH)
    assert str(caught.value).startswith(AUTH + sentence)
