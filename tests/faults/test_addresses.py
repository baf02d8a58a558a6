"""The addresses a log can have: TCP with a password, TLS; and those that are refused at start."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from redis import Redis

from tests.faults.cast import acting
from tests.faults.cluster import free_ports
from tests.faults.proof import check_log, check_watcher, wait_for_all
from tests.faults.publisher import Publisher
from tests.faults.site import configuration
from tests.faults.tls import make_certificate, tls_proxy
from tests.faults.watcher import Watcher, read_log
from tests.faults.wire import eventually
from tests.servers import GatewayProcess, Valkey, running

PASSWORD = "a pass/word:with@signs"
QUOTED = "a%20pass%2Fword%3Awith%40signs"


class TcpValkey(Valkey):
    """A server on a TCP port; its unix socket is for the harness."""

    def __init__(self, directory: Path, *options: str) -> None:
        [self.port] = free_ports(1)
        super().__init__(directory, "--port", str(self.port), "--bind", "127.0.0.1", *options)

    def execute(self, *command: str) -> Any:
        with Redis(unix_socket_path=str(self.socket)) as client:
            return client.execute_command(*command)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TcpValkey]:
    started = TcpValkey(tmp_path / "valkey")
    with running(started):
        yield started


def refusal(directory: Path, url: str) -> str:
    """What a gateway says that does not start with this address."""
    path = directory / "refused.yaml"
    path.write_text(yaml.safe_dump(configuration({"url": url})))
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(path), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1, (ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip()


async def prove(directory: Path, url: str, disturb: Callable[[], None] = lambda: None) -> None:
    """Publish, watch and replay through a gateway with this address."""
    gateway = GatewayProcess(directory / "gateway", configuration({"url": url}))
    await asyncio.to_thread(gateway.start)
    tenant = str(uuid4())
    publisher = Publisher([gateway.port], tenant, "publisher")
    watchers = [Watcher([gateway.port], tenant), Watcher([gateway.port], tenant, form="POST")]
    try:
        async with acting() as enter:
            enter([publisher, *watchers])
            for count in (50, 100):
                await eventually(
                    lambda: len(publisher.acknowledged) >= count,  # noqa: B023 - awaited at once
                    "events are acknowledged",
                )
                disturb()
            await publisher.finish()
            log = await read_log(gateway.port, tenant)
            await wait_for_all(watchers, log)
        check_log(log, [publisher])
        for watcher in watchers:
            check_watcher(watcher, log)
            assert watcher.openings == 1
    finally:
        await asyncio.to_thread(gateway.stop)


async def test_tcp_with_a_password(server: TcpValkey, tmp_path: Path) -> None:
    server.execute("CONFIG", "SET", "requirepass", PASSWORD)
    await prove(tmp_path, f"redis://:{QUOTED}@127.0.0.1:{server.port}")


async def test_tls_with_a_verified_certificate(tmp_path: Path) -> None:
    """Connections that are cut are made again, and nothing is lost."""
    certificate = make_certificate(tmp_path)
    valkey = Valkey(tmp_path / "valkey")
    with running(valkey):
        async with tls_proxy(certificate, valkey.socket) as proxy:
            url = f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={certificate}"
            await prove(tmp_path, url, disturb=proxy.cut)


async def test_tls_with_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    valkey = Valkey(tmp_path / "valkey")
    with running(valkey):
        async with tls_proxy(certificate, valkey.socket) as proxy:
            url = f"rediss://127.0.0.1:{proxy.port}"
            said = await asyncio.to_thread(refusal, tmp_path, url)
    assert said.startswith(f"playhead: no Redis or Valkey server answers at {url}: ")
    assert "certificate verify failed" in said


def test_a_wrong_password_and_none_are_refused_without_telling_it(
    server: TcpValkey, tmp_path: Path
) -> None:
    server.execute("CONFIG", "SET", "requirepass", PASSWORD)
    said = refusal(tmp_path, f"redis://:wrong@127.0.0.1:{server.port}")
    assert said == (
        f"playhead: redis://:***@127.0.0.1:{server.port} wants other credentials: invalid "
        "username-password pair or user is disabled.; put user and password into the address"
    )
    said = refusal(tmp_path, f"redis://127.0.0.1:{server.port}")
    assert said.startswith(f"playhead: redis://127.0.0.1:{server.port} wants other credentials: ")


def test_a_server_that_evicts_is_refused(tmp_path: Path) -> None:
    server = TcpValkey(tmp_path / "valkey", "--maxmemory-policy", "allkeys-lru")
    with running(server):
        said = refusal(tmp_path, f"redis://127.0.0.1:{server.port}")
    assert said == (
        f"playhead: redis://127.0.0.1:{server.port} has maxmemory-policy allkeys-lru, which deletes "
        "logs when memory runs short; set it with CONFIG SET maxmemory-policy noeviction"
    )


def test_an_address_where_nobody_listens_is_refused(tmp_path: Path) -> None:
    [port] = free_ports(1)
    said = refusal(tmp_path, f"redis://127.0.0.1:{port}")
    assert said.startswith(
        f"playhead: no Redis or Valkey server answers at redis://127.0.0.1:{port}: "
    )
    assert said.endswith("; start one there or give another address")


def test_the_scheme_of_a_cluster_and_that_of_a_single_server_are_told_apart(
    server: TcpValkey, tmp_path: Path
) -> None:
    said = refusal(tmp_path, f"redis+cluster://127.0.0.1:{server.port}")
    assert said == (
        f"playhead: redis+cluster://127.0.0.1:{server.port} is no node of a cluster; write redis:// "
        "in the address, or rediss:// for TLS"
    )
    [bus] = free_ports(1)
    node = TcpValkey(tmp_path / "node", "--cluster-enabled", "yes", "--cluster-port", str(bus))
    with running(node):
        said = refusal(tmp_path, f"redis://127.0.0.1:{node.port}")
    assert said == (
        f"playhead: redis://127.0.0.1:{node.port} is a node of a cluster; write redis+cluster:// in "
        "the address, or rediss+cluster:// for TLS"
    )
