"""Envoy, nginx, HAProxy and Redis on loopback, each with the configuration that a test hands it, each ended and removed after.

Envoy picks its ports itself (port_value 0) and tells them; the others listen on a port that is held for them.
"""

import contextlib
import http.client
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real.parts import debian, envoy_wheel
from tests.real.parts.ports import answers, held_port
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder

READY_TIMEOUT_S = 90.0

NGINX_FRAME = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/client; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{http}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServer:
    """A running server: where it listens on 127.0.0.1, its process, its folder."""

    port: int
    server: Server
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def nginx(http: Callable[[int, Path], str]) -> Iterator[WebServer]:
    """`http(port, folder)` gives what stands inside `http { }`; it listens on 127.0.0.1:port."""
    program = debian.find("nginx")
    with scratch_folder("nginx") as folder, held_port() as port:
        (folder / "nginx.conf").write_text(NGINX_FRAME.format(folder=folder, http=http(port, folder)))
        command: list[str | Path] = [program, "-c", folder / "nginx.conf", "-p", folder, "-e", "stderr"]
        user = ["-g", "user root;"] if os.geteuid() == 0 else []  # else its workers could not read the folder
        with _running("nginx", [*command, *user], port, folder) as started:
            yield started


@contextlib.contextmanager
def haproxy(configuration: Callable[[int, Path], str]) -> Iterator[WebServer]:
    """`configuration(port, folder)` gives the whole file; it binds 127.0.0.1:port."""
    program = debian.find("haproxy")
    with scratch_folder("haproxy") as folder, held_port() as port:
        (folder / "haproxy.cfg").write_text(configuration(port, folder))
        with _running("haproxy", [program, "-db", "-f", folder / "haproxy.cfg"], port, folder) as started:
            yield started


@contextlib.contextmanager
def redis(*options: str) -> Iterator[WebServer]:
    """A Redis that keeps nothing; `options` are more of its command line."""
    program = debian.find("redis-server")
    with scratch_folder("redis") as folder, held_port() as port:
        command: list[str | Path] = [
            program,
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder,
            *options,
        ]
        with _running("redis", command, port, folder) as started:
            yield started


@dataclass(frozen=True, slots=True, kw_only=True)
class Envoy:
    """A running Envoy: the port of each listener by its name, the port of its administration, its process and folder."""

    ports: dict[str, int]
    admin_port: int
    server: Server
    folder: Path


@contextlib.contextmanager
def envoy(static_resources: dict[str, Any]) -> Iterator[Envoy]:
    """Envoy with these `static_resources` (as in its bootstrap); listeners have names and say port_value 0."""
    program = envoy_wheel.find()
    with scratch_folder("envoy") as folder:
        told = folder / "admin.address"
        anywhere = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
        (folder / "envoy.json").write_text(json.dumps({"admin": {"address": anywhere}, "static_resources": static_resources}))
        arguments: list[str | Path] = [
            "-c",
            folder / "envoy.json",
            "--admin-address-path",
            told,
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "warn",
        ]
        server = Server("envoy", [program, *arguments], folder=folder)
        try:
            server.start(lambda: told.exists() and told.read_text() and _envoy_asked(told, "/ready")[0] == 200, timeout_s=READY_TIMEOUT_S)
            listeners = json.loads(_envoy_asked(told, "/listeners?format=json")[1]).get("listener_statuses", [])
            ports = {one["name"]: int(one["local_address"]["socket_address"]["port_value"]) for one in listeners}
            yield Envoy(ports=ports, admin_port=_port_of(told), server=server, folder=folder)
        finally:
            server.kill()


def _envoy_asked(told: Path, path: str) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", _port_of(told), timeout=5)) as connection:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def _port_of(told: Path) -> int:
    return int(told.read_text().strip().rpartition(":")[2])


@contextlib.contextmanager
def _running(name: str, command: list[str | Path], port: int, folder: Path) -> Iterator[WebServer]:
    server = Server(name, command, folder=folder)
    try:
        server.start(lambda: answers(port), timeout_s=READY_TIMEOUT_S)
        yield WebServer(port=port, server=server, folder=folder)
    finally:
        server.kill()
