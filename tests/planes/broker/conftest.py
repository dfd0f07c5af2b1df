"""A real broker with verifier, forward-auth listener and a recording service, in a folder of its own."""

import asyncio
import hashlib
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.descriptors import open_descriptors

from robin.cli.main import main
from robin.testing.process import RobinProcess, free_port
from robin.testing.recording_upstream import RecordingUpstream

ROUTE = {"route_id": "read", "audiences": ["orders"], "method": "GET", "path_template": "/orders", "scheme": "http"}
CREATE = {**ROUTE, "route_id": "create", "method": "POST"}
ASSERTED = {**CREATE, "route_id": "asserted", "path_template": "/asserted", "body": "asserted"}
ADMIN = {**ROUTE, "route_id": "admin", "path_template": "/admin"}


class Life:
    """One broker process. `ask` speaks its protocol, `send` HTTP to the verifier."""

    def __init__(self, folder: Path, service: RecordingUpstream, **changes: Any) -> None:
        self.folder = folder
        self.service = service
        self.authority = f"127.0.0.1:{free_port()}"
        self.forward = f"127.0.0.1:{free_port()}"
        self.socket = str(folder / "broker.sock")
        routes = [{**one, "authorities": [self.authority]} for one in (ROUTE, CREATE, ASSERTED, ADMIN)]
        allowed = ["read", "create", "asserted"]
        peer = {"name": "me", "match": {"uid": os.getuid()}, "subject": "spiffe://example.org/agent", "routes": allowed}
        self.broker: dict[str, Any] = {
            "trust_domain": "example.org",
            "issuer": "https://issuer.example",
            "state_dir": str(folder / "state"),
            "admin": {"listen": "127.0.0.1:0"},
            "issue": {"socket": self.socket, "peers": [peer], "routes": routes},
            "verify": {
                "bundle": str(folder / "bundle.json"),
                "bundle_keys": [str(folder / "sign.jwk.pub")],
                "authorities": [self.authority],
                "scheme": "http",
                "clock_skew": "0s",  # one clock here; a start takes as long as the skew
                "inbound": {"listen": self.authority, "upstream": f"127.0.0.1:{service.port}"},
                "forward_auth": {"listen": self.forward},
            },
            **changes,
        }
        self.config = folder / "robin.yaml"
        self.write()

    def write(self) -> None:
        self.config.write_text(json.dumps({"version": 1, "broker": self.broker}))

    def serve(self, authority: str) -> None:
        """Be what verifies for this authority, which a proxy has."""
        self.authority = authority
        for route in self.broker["issue"]["routes"]:
            route["authorities"] = [authority]
        self.broker["verify"]["authorities"] = [authority]
        self.write()

    def make_bundle(self, change: Callable[[dict[str, Any]], object] = lambda _: None, serial: int = 1) -> None:
        """Build and sign a bundle; `change` is made to the draft between."""
        draft, key, bundle = (str(self.folder / name) for name in ("draft.json", "sign.jwk", "bundle.json"))
        if not Path(key).exists():
            assert main(["passport", "bundle", "keygen", "--out", key]) == 0
        assert main(["passport", "bundle", "build", "--config", str(self.config), "--out", draft, "--serial", str(serial)]) == 0
        document = json.loads(Path(draft).read_text())
        change(document)
        Path(draft).write_text(json.dumps(document))
        assert main(["passport", "bundle", "sign", "--bundle", draft, "--key", key, "--out", bundle]) == 0

    def request(self, profile: str = "wimse-httpsig", method: str = "GET", target: str = "/orders", **changes: Any) -> dict[str, Any]:
        body = changes.pop("body", b"")
        digest = hashlib.sha256(body).hexdigest() if body else None
        fields = changes.pop("fields", [])
        http = {"method": method, "scheme": "http", "authority": self.authority, "target": target, "fields": fields, "body_sha256": digest}
        asked = {"request_id": f"t-{secrets.token_hex(4)}", "profile": profile, "http": http, "audience": None, "route_id": None}
        rest = {"nonce": None, "ctx": {}, "signer": {"identity": "none", "key_protection": "software"}, "svid_proof": None}
        return {**asked, **rest, **changes}

    async def ask_line(self, line: bytes, *, finish: bool = False) -> bytes:
        """Send these bytes, and FIN with `finish`; return all that comes until EOF."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        async with asyncio.timeout(20):
            writer.write(line)
            await writer.drain()
            if finish:
                writer.write_eof()
            reply = await reader.read()
        writer.close()
        return reply

    async def ask(self, request: dict[str, Any], *, kind: str = "issue", version: str = "robin-broker-ipc-v1") -> dict[str, Any]:
        reply = await self.ask_line(json.dumps({"version": version, "kind": kind, "request": request}).encode() + b"\n")
        assert reply.endswith(b"\n")
        assert reply.count(b"\n") == 1
        return json.loads(reply)

    async def headers(self, **changes: Any) -> list[tuple[str, str]]:
        """The headers of a new passport."""
        reply = await self.ask(self.request(**changes))
        assert reply["status"] == "allow", reply
        return [tuple(pair) for pair in reply["headers"]]

    async def send(
        self,
        headers: list[tuple[str, str]],
        method: str = "GET",
        target: str = "/orders",
        *,
        body: bytes = b"",
        to: str = "",
        host: str = "",
        chunked: bool = False,
    ) -> tuple[int, dict[str, Any], bytes]:
        """One request on its own connection: status, JSON body, head."""
        address, port = (to or self.authority).split(":")
        reader, writer = await asyncio.open_connection(address, int(port))
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or self.authority}", "Connection: close", *(f"{n}: {v}" for n, v in headers)]
        if chunked:
            lines += ["Transfer-Encoding: chunked"]
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif body:
            lines += [f"Content-Length: {len(body)}"]
        async with asyncio.timeout(20):
            writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            await writer.drain()
            answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        try:
            document = json.loads(rest)
        except ValueError:
            document = {}
        return int(head.split(b" ")[1]), document, head

    async def text(self, target: str, *, to: str) -> str:
        """The body of a page."""
        host, port = to.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(20):
            page = await reader.read()
        writer.close()
        return page.partition(b"\r\n\r\n")[2].decode()

    def records(self, event: str = "") -> list[dict[str, Any]]:
        lines = (self.folder / "state" / "audit.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [one for one in found if one["event"] == event] if event else found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket is in it."""
    with tempfile.TemporaryDirectory(prefix="rb") as made:
        yield Path(made)


@pytest.fixture
async def service() -> AsyncIterator[RecordingUpstream]:
    async with RecordingUpstream() as upstream:
        yield upstream


@pytest.fixture
async def life(folder: Path, service: RecordingUpstream) -> AsyncIterator[Life]:
    """A broker that is ready."""
    one = Life(folder, service)
    one.make_bundle()
    async with RobinProcess("broker", "--config", str(one.config)) as process:
        await process.event("started")
        one.process = process
        yield one


def ask_as(uid: int, path: str, line: bytes) -> bytes:
    """Send a line from a process of another user."""
    os.chmod(path, 0o666)
    os.chmod(os.path.dirname(path), 0o755)
    code = (
        "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.sendall(sys.stdin.buffer.read())\n"
        "r=b''\nwhile p:=s.recv(65536): r+=p\nsys.stdout.buffer.write(r)"
    )
    return subprocess.run(["python3", "-c", code, path], input=line, capture_output=True, check=True, user=uid, timeout=30).stdout


def tcp_listeners(pid: int) -> list[int]:
    """Ports on which sockets of a process listen."""
    inodes = open_descriptors(pid)
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
