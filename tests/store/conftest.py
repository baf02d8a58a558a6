"""Where snapshots are kept in tests: a folder, and an S3 bucket. What is played into: a database."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from store.connection import Connection
from store.log import EventLog
from store.objects import Objects
from store.snapshot_index import SnapshotIndex
from store.state import States
from tests.playback.recording import connect
from tests.store.s3 import S3Server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty place for objects, each kind in turn."""
    make: dict[str, Callable[[], Objects]] = {
        "file": lambda: Objects(f"file://{tmp_path}/objects"),
        "s3": lambda: request.getfixturevalue("s3").objects(),
    }
    return make[request.param]()


@pytest.fixture
async def inside(database: str) -> AsyncIterator[Any]:
    """A connection to the database, to see what is there."""
    connection = await connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def states(connection: Connection, log: EventLog) -> States:
    return States(connection, log, SnapshotIndex(connection), None)
