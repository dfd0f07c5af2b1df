"""Origins of foreign lineage that answer with what they parsed: programs around one parser each, and proxies in front of the one of h11.

A proxy's understanding of a request is what it forwards, so what the h11 origin behind it saw is what the proxy parsed.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.real.parts import gobuild, javac, nodeclients, pyclients
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder
from tests.real.parts.webservers import envoy, haproxy, nginx

SOURCES = Path(__file__).resolve().parent.parent / "origins"
READY_TIMEOUT_S = 90.0


@contextlib.contextmanager
def program(name: str, *command: str | Path, environment: dict[str, str] | None = None) -> Iterator[str]:
    """The URL of an origin whose first line is its port."""
    with scratch_folder(name) as folder:
        server = Server(name, command, folder=folder, environment=environment)
        try:
            server.start(lambda: "\n" in server.log_text(), timeout_s=READY_TIMEOUT_S)
            port = int(server.log_text().partition("\n")[0])
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def by_h11() -> AbstractContextManager[str]:
    return program("h11-origin", sys.executable, SOURCES / "h11_origin.py")


def by_aiohttp() -> AbstractContextManager[str]:
    environment = {"AIOHTTP_NO_EXTENSIONS": "1"}
    return program("aiohttp-origin", pyclients.find(), SOURCES / "aiohttp_origin.py", environment=environment)


def by_node() -> AbstractContextManager[str]:
    return program("node-origin", nodeclients.node(), SOURCES / "node_origin.mjs")


def by_go() -> AbstractContextManager[str]:
    return program("go-origin", gobuild.find(gobuild.HTTP) / "http-origin")


def by_java() -> AbstractContextManager[str]:
    limits = (
        "-Dsun.net.httpserver.nodelay=true",
        "-Dsun.net.httpserver.maxReqHeaders=2000",
        "-Dsun.net.httpserver.maxReqHeaderSize=1000000",
    )
    return program("java-origin", javac.java(), "-Xmx128m", "-XX:TieredStopAtLevel=1", *limits, "-cp", javac.find(), "JavaOrigin")


@contextlib.contextmanager
def by_nginx(more: str = "") -> Iterator[str]:
    """Settings: heads as large as Robin lets through, no field dropped for its name, the body as it is; `more` goes into its location."""
    with by_h11() as behind:

        def http(port: int, _folder: Path) -> str:
            limits = "large_client_header_buffers 8 128k; client_max_body_size 0; proxy_buffer_size 256k; proxy_buffers 8 256k;"
            fields = "underscores_in_headers on; ignore_invalid_headers off; proxy_busy_buffers_size 512k; proxy_http_version 1.1;"
            host = "proxy_set_header Host $http_host; proxy_set_header Connection close;"
            forward = f"location / {{ proxy_pass {behind}; {host} {more} }}"
            again = f"location = /again {{ internal; proxy_pass {behind}$request_uri; {host} }}"
            return f"{limits} {fields} server {{ listen 127.0.0.1:{port}; {forward} {again} }}"

        with nginx(http) as front:
            yield front.url


@contextlib.contextmanager
def by_haproxy() -> Iterator[str]:
    """Settings: room for the heads that Robin lets through."""
    with by_h11() as behind:

        def configuration(port: int, _folder: Path) -> str:
            return (
                "global\n tune.bufsize 262144\n tune.http.maxhdr 1000\n"
                "defaults\n mode http\n timeout client 30s\n timeout server 30s\n timeout connect 5s\n"
                f"frontend front\n bind 127.0.0.1:{port}\n default_backend back\n"
                f"backend back\n server one {behind.removeprefix('http://')}\n"
            )

        with haproxy(configuration) as front:
            yield front.url


@contextlib.contextmanager
def by_envoy() -> Iterator[str]:
    """Settings: room for the heads that Robin lets through, nothing added that can be left out."""
    prefix = "type.googleapis.com/envoy.extensions"
    with by_h11() as behind:
        manager: dict[str, Any] = {
            "@type": f"{prefix}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "generate_request_id": False,
            "max_request_headers_kb": 256,
            "common_http_protocol_options": {"max_headers_count": 1000},
            "http_protocol_options": {"enable_trailers": True},
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "back"}}]}]
            },
            "http_filters": [
                {"name": "router", "typed_config": {"@type": f"{prefix}.filters.http.router.v3.Router", "suppress_envoy_headers": True}}
            ],
        }
        listener = {
            "name": "front",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }
        place = {"socket_address": {"address": "127.0.0.1", "port_value": int(behind.rpartition(":")[2])}}
        endpoints = {"cluster_name": "back", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": place}}]}]}
        cluster = {"name": "back", "type": "STATIC", "connect_timeout": "5s", "load_assignment": endpoints}
        with envoy({"listeners": [listener], "clusters": [cluster]}) as front:
            yield f"http://127.0.0.1:{front.ports['front']}"


ALL: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "h11": by_h11,
    "aiohttp": by_aiohttp,
    "node": by_node,
    "go": by_go,
    "java": by_java,
    "nginx": by_nginx,
    "haproxy": by_haproxy,
    "envoy": by_envoy,
}
