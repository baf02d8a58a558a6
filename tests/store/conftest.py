"""Where snapshots are kept in tests: a folder, and an S3 bucket."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.objects import Objects
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
