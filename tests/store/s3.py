"""An S3-speaking server of its own process, and a bucket of one's own on it."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import httpx

from store.objects import Objects, S3Access
from tests.servers import STARTUP_SEC, wait_until


class S3Server:
    """moto's server on a free port."""

    def __init__(self, directory: Path) -> None:
        self._log_file = directory / "s3.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def access(self) -> S3Access:
        return S3Access(self.endpoint, "us-east-1", "key", "secret")

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
        wait_until(self._answers, "the S3 server answers", STARTUP_SEC)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log_file.read_text()
        try:
            return httpx.get(self.endpoint, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def bucket(self) -> str:
        """The address of a new, empty one."""
        name = f"bucket-{uuid4().hex[:12]}"
        httpx.put(f"{self.endpoint}/{name}", trust_env=False).raise_for_status()
        return f"s3://{name}/prefix"

    def objects(self) -> Objects:
        """In a new bucket."""
        return Objects(self.bucket(), self.access)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
