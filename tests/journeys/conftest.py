"""Fixtures of the stories: gateways to talk to, and nothing of whoever runs the tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyaviso
import pytest

from tests.conftest import RunningGateway
from tests.journeys.playhead import Site, build_gateway
from tests.servers import GatewayProcess, Valkey, running


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration file, credential or proxy of whoever runs the tests is found."""
    for name in list(os.environ):
        if name.startswith("AVISO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def client(gateway: RunningGateway) -> pyaviso.AsyncAvisoClient:
    return pyaviso.AsyncAvisoClient(base_url=gateway.url)


@pytest.fixture(scope="session")
def shared_gateway(
    tmp_path_factory: pytest.TempPathFactory, valkey: Valkey
) -> Iterator[GatewayProcess]:
    """For every story in which the gateway need not die. A request gets 100 events of history."""
    gateway = build_gateway(
        tmp_path_factory.mktemp("gateway"),
        valkey,
        watch_endpoint={"max_historical_notifications": 100},
    )
    with running(gateway):
        yield gateway


@pytest.fixture(scope="session", autouse=True)
def keyboard() -> Iterator[None]:
    """Ctrl-C must reach the commands also where the tests run in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def site(shared_gateway: GatewayProcess) -> Site:
    return Site(shared_gateway)


@pytest.fixture
def mortal(tmp_path: Path, valkey: Valkey) -> Iterator[Site]:
    """A site whose gateway may be killed."""
    gateway = build_gateway(tmp_path / "gateway", valkey)
    with running(gateway):
        yield Site(gateway)
