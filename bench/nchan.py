"""The peer: nginx with its module nchan, as Debian has it, with a configuration of its own."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.dialect import NCHAN
from bench.load import request
from bench.site import Site, untold

_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx/modules")
_MODULE = "ngx_nchan_module.so"
_PATIENCE_SEC = 10.0
_POLL_SEC = 0.02
# It numbers the events of a second with 16 bits: a replay of more than that came to a halt.
MOST_A_SECOND = 30_000
# One worker, as the gateway is one process. Its log is in memory only: nothing is written to disk.
_CONFIG = """
load_module {module};
{user}
worker_processes 1;
worker_rlimit_nofile {descriptors};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {descriptors}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_body_buffer_size 64k;
  client_body_in_single_buffer on;
  nchan_shared_memory_size 2G;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /publish {{
      nchan_publisher;
      nchan_channel_id bench;
      nchan_message_buffer_length 1000000;
      nchan_message_timeout 1h;
    }}
    location = /watch {{
      nchan_subscriber eventsource;
      nchan_channel_id bench;
      nchan_subscriber_first_message newest;
    }}
    location = /replay {{
      nchan_subscriber eventsource;
      nchan_channel_id bench;
      nchan_subscriber_first_message oldest;
    }}
  }}
}}
"""


def missing() -> str | None:
    """Why there is no peer here, in a sentence; None where there is one."""
    if shutil.which("nginx", path=_path()) is None:
        return "nginx is not installed (Debian: apt-get install nginx libnginx-mod-nchan)"
    if _module() is None:
        return "nginx has no module nchan (Debian: apt-get install libnginx-mod-nchan)"
    return untold()


def version() -> str:
    if missing():
        return "none"
    nginx = shutil.which("nginx", path=_path())
    assert nginx is not None
    told = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    return told.strip().rpartition("/")[2]


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def _module() -> Path | None:
    found = [Path(folder) / _MODULE for folder in _MODULES]
    return next((each for each in found if each.exists()), None)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def open_nchan() -> AsyncIterator[Site]:
    nginx = shutil.which("nginx", path=_path())
    assert nginx is not None
    with tempfile.TemporaryDirectory() as directory:
        port = _free_port()
        config = Path(directory) / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            _CONFIG.format(
                module=_module(), user=user, folder=directory, port=port, descriptors=20_000
            )
        )
        command = [nginx, "-p", directory, "-c", str(config), "-e", f"{directory}/error.log"]
        process = await asyncio.create_subprocess_exec(*command)
        try:
            workers = await _await_workers(process.pid, port)
            yield Site(("127.0.0.1", port), NCHAN, (process.pid, *workers))
        finally:
            process.terminate()
            await process.wait()


async def _await_workers(process_id: int, port: int) -> list[int]:
    """The processes that answer, once they do: the port is open before there is one of them."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children")
    async with asyncio.timeout(_PATIENCE_SEC):
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request("GET", "/", b"", "Connection: close"))
                await reader.read()
                writer.close()
                return [int(each) for each in children.read_text().split()]
            await asyncio.sleep(_POLL_SEC)
