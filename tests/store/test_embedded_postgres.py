"""The private PostgreSQL: it keeps what was committed, ends with its owner's word, runs under root."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from store.embedded_postgres import EmbeddedPostgres
from store.errors import StoreConfigurationError


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every account can reach, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="playhead-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


async def count(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        found: int = await connection.fetchval("SELECT count(*) FROM kept")
        return found
    finally:
        await connection.close()


async def fill(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    finally:
        await connection.close()


async def test_a_killed_server_has_everything_committed_when_it_starts_again(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "pg", {"fsync": "off"})
    server.start()
    try:
        await fill(server.dsn)
        server.kill()
        server.start()
        assert await count(server.dsn) == 1
    finally:
        server.stop()


async def test_a_folder_in_use_is_refused_with_a_sentence(folder: Path) -> None:
    async with EmbeddedPostgres(folder / "pg", {"fsync": "off"}):
        with pytest.raises(StoreConfigurationError, match="is in use by process"):
            EmbeddedPostgres(folder / "pg").start()


async def test_a_server_left_behind_by_a_killed_owner_is_ended_first(folder: Path) -> None:
    program = (
        "import os, sys; from store.embedded_postgres import EmbeddedPostgres; "
        "EmbeddedPostgres(sys.argv[1], {'fsync': 'off'}).start(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "pg")], check=False)
    server = EmbeddedPostgres(folder / "pg", {"fsync": "off"})
    server.start()
    try:
        await fill(server.dsn)
        assert await count(server.dsn) == 1
    finally:
        server.stop()


async def test_a_setting_it_does_not_know_is_told_in_the_servers_words(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "pg", {"no_such_setting": "1"})
    with pytest.raises(StoreConfigurationError, match="no_such_setting"):
        server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must run the server as somebody else")
async def test_run_by_root_it_finds_a_place_that_its_account_can_reach(folder: Path) -> None:
    private = folder / "home"
    private.mkdir(mode=0o700)
    server = EmbeddedPostgres(private / "pg", {"fsync": "off"})
    try:
        async with server:
            await fill(server.dsn)
            assert await count(server.dsn) == 1
            assert not server.folder.is_relative_to(private)
        assert EmbeddedPostgres(private / "pg").folder == server.folder
    finally:
        shutil.rmtree(server.folder, ignore_errors=True)
