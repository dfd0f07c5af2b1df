"""Envoy, nginx, HAProxy and Redis start with a test's configuration, answer on loopback, and are gone afterwards."""

import json
import os
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tests.real.parts import debian, envoy_wheel, versions
from tests.real.parts.ports import answers
from tests.real.parts.webservers import envoy, haproxy, nginx, redis

pytestmark = pytest.mark.real


def get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as response:
        found: bytes = response.read()
        return found


def test_nginx_answers() -> None:
    with nginx(lambda port, _: f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "nginx $uri"; }} }}') as started:
        assert get(f"{started.url}/here") == b"nginx /here"
        port, pid = started.port, started.server.pid
    assert not answers(port)
    assert not Path(f"/proc/{pid}").exists()


def test_nginx_serves_files_as_the_user_of_the_test() -> None:
    def http(port: int, folder: Path) -> str:
        (folder / "page").write_text("from disk")
        (folder / "page").chmod(0o600)
        return f"server {{ listen 127.0.0.1:{port}; root {folder}; }}"

    with nginx(http) as started:
        assert get(f"{started.url}/page") == b"from disk"


def test_haproxy_answers() -> None:
    def configuration(port: int, _folder: Path) -> str:
        return (
            "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n"
            f'frontend one\n bind 127.0.0.1:{port}\n http-request return status 200 content-type text/plain string "haproxy"\n'
        )

    with haproxy(configuration) as started:
        assert get(f"{started.url}/") == b"haproxy"


def test_redis_answers() -> None:
    with redis() as started, socket.create_connection(("127.0.0.1", started.port), timeout=5) as connection:
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert connection.recv(64) == b"+PONG\r\n"


def test_envoy_of_the_pinned_version_answers() -> None:
    asked = subprocess.run([envoy_wheel.find(), "--version"], capture_output=True, text=True, check=True).stdout
    assert f"/{versions.ENVOY}/" in asked
    prefix = "type.googleapis.com/envoy.extensions.filters"
    direct = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "envoy"}}}
    connections = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "one",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [direct]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{prefix}.http.router.v3.Router"}}],
    }
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}],
    }
    with envoy({"listeners": [listener]}) as started:
        assert get(f"http://127.0.0.1:{started.ports['front']}/") == b"envoy"
        assert json.loads(get(f"http://127.0.0.1:{started.admin_port}/server_info"))["state"] == "LIVE"


def test_faketime_moves_a_programs_clock() -> None:
    asked = subprocess.run([debian.find("faketime"), "-f", "+600s", "date", "+%s"], capture_output=True, text=True, check=True)
    now = int(subprocess.run(["date", "+%s"], capture_output=True, text=True, check=True).stdout)
    assert 590 <= int(asked.stdout) - now <= 610


def test_every_debian_program_is_there_and_has_a_version() -> None:
    found = debian.ensure_debian(*versions.DEBIAN)
    assert all(os.access(path, os.X_OK) for path in found.values())
    assert all(debian.installed_version(command) for command in versions.DEBIAN)
