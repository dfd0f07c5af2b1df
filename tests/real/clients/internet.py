"""One HTTPS server that stands for the public services that an agent uses: a package index, an npm registry, two model APIs, the API of a
code host with its git repositories (git's own http-backend), and an MCP server over HTTP. It responds by path, whatever the host is.

`seen` has every request with its fields, so that a test can look at which credential arrived.
"""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.real.clients.models import answer_to, rendered

from robin.testing.certificates import Leaf

MCP_SESSION = "session-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request; the names of `fields` are in lower case."""

    host: str
    method: str
    target: str
    fields: dict[str, str]


@dataclass(slots=True, kw_only=True)
class Internet:
    """`wheels` and `tarballs` are the packages of the two registries, `repositories` the folder of bare git repositories."""

    wheels: dict[str, bytes] = field(default_factory=dict)
    tarballs: dict[str, bytes] = field(default_factory=dict)
    repositories: Path | None = None
    seen: list[Seen] = field(default_factory=list)
    address: str = ""
    port: int = 0

    def to(self, path: str) -> list[Seen]:
        """The requests for a path, without its query."""
        return [one for one in self.seen if one.target.partition("?")[0] == path]


def npm_package(name: str, content: bytes) -> bytes:
    """A tarball as npm publishes one."""
    octets = io.BytesIO()
    with tarfile.open(fileobj=octets, mode="w:gz") as archive:
        for path, data in (("package.json", json.dumps({"name": name, "version": "1.0.0"}).encode()), ("noise.bin", content)):
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return octets.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    internet: Internet

    def do_GET(self) -> None:
        self._note()
        path, internet = self.path.partition("?")[0], self.internet
        name = path.rpartition("/")[2]
        if path.startswith("/simple/"):
            sums = {one: hashlib.sha256(octets).hexdigest() for one, octets in internet.wheels.items()}
            links = (f'<a href="/files/{one}#sha256={digest}">{one}</a>' for one, digest in sums.items())
            self._reply(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode(), "text/html")
        elif path.startswith("/files/"):
            self._reply(internet.wheels[name], "application/octet-stream")
        elif path.endswith(".tgz"):
            self._reply(internet.tarballs[name.removesuffix("-1.0.0.tgz")], "application/octet-stream")
        elif name in internet.tarballs:
            self._tell(self._packument(name))
        elif path == "/user":
            self._tell({"login": "robin", "id": 1})
        elif "/info/refs" in path:
            self._git(b"")
        elif path == "/mcp":
            self._reply(b"", status=405)
        else:
            self._reply(b"hello from " + self.headers["Host"].encode())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._note()
        body = self._body()
        path = self.path.partition("?")[0]
        if path in ("/v1/chat/completions", "/v1/messages"):
            self._model(path, json.loads(body))
        elif path == "/graphql":
            self._tell({"data": {"viewer": {"login": "robin"}}})
        elif path == "/mcp":
            self._mcp(json.loads(body))
        elif path.endswith(("/git-upload-pack", "/git-receive-pack")):
            self._git(body)
        else:
            self._reply(str(len(body)).encode())

    def do_DELETE(self) -> None:
        self._note()
        self._reply(b"")

    def _note(self) -> None:
        fields = {name.lower(): value for name, value in self.headers.items()}
        self.internet.seen.append(Seen(host=self.headers["Host"], method=self.command, target=self.path, fields=fields))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _model(self, path: str, asked: dict[str, Any]) -> None:
        question = asked["messages"][-1]["content"]
        if not asked.get("stream"):
            self._tell(rendered(path, answer_to(question)))
            return
        words = answer_to(question).split(" ")
        self._reply(b"".join(rendered(path, [word + " " for word in words[:-1]] + words[-1:])), "text/event-stream")

    def _packument(self, name: str) -> dict[str, Any]:
        octets = self.internet.tarballs[name]
        integrity = "sha512-" + b64encode(hashlib.sha512(octets).digest()).decode()
        tarball = f"https://{self.headers['Host']}/{name}/-/{name}-1.0.0.tgz"
        version = {"name": name, "version": "1.0.0", "dist": {"tarball": tarball, "integrity": integrity}}
        return {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}

    def _mcp(self, asked: dict[str, Any]) -> None:
        """The requests of a client that initializes, lists the tools and calls one (Streamable HTTP)."""
        results = {
            "initialize": {
                "protocolVersion": asked.get("params", {}).get("protocolVersion"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "tools", "version": "1"},
            },
            "tools/list": {"tools": [{"name": "add", "description": "adds", "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": "3"}]},
        }
        if asked["method"] not in results:
            self._reply(b"", status=202)
            return
        response = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]})
        self._reply(f"event: message\ndata: {response}\n\n".encode(), "text/event-stream", ("Mcp-Session-Id", MCP_SESSION))

    def _git(self, body: bytes) -> None:
        """git http-backend as a CGI program (RFC 3875)."""
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.internet.repositories),
            "GIT_HTTP_EXPORT_ALL": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "http.receivepack",
            "GIT_CONFIG_VALUE_1": "true",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True, timeout=60)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self._reply(content, fields["Content-Type"], status=int(fields.get("Status", "200").split()[0]))

    def _tell(self, value: object) -> None:
        self._reply(json.dumps(value).encode(), "application/json")

    def _reply(self, body: bytes, kind: str = "text/plain", *fields: tuple[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *fields):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def running(leaf: Leaf, internet: Internet, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[Internet]:
    """Serving until the end of the block, with its port."""
    server = ThreadingHTTPServer(address, type("Handler", (_Handler,), {"internet": internet}))
    server.daemon_threads = True
    server.socket = leaf.server_context(alpn=("http/1.1",)).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    internet.address, internet.port = address[0], server.server_address[1]
    try:
        yield internet
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
