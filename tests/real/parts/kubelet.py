"""The kubelet's side of `logs` and `exec` as one small HTTPS server of ours, which the real API server calls as it calls a node.

A Node object gives its address and declares the feature ExtendWebSocketsToKubelet, on which kube-apiserver 1.36 passes the WebSocket of
`kubectl exec` on to the kubelet instead of translating it to SPDY. What runs in the "container" is `echo` and `cat`.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.real.parts.kube import Cluster

from robin.wire.websocket import accept_value

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, ERROR, CLOSE = 0, 1, 3, 255
SUCCESS = json.dumps({"metadata": {}, "status": "Success"}).encode()


@dataclass(slots=True)
class Kubelet:
    """`asked` are the request targets, `protocols` the subprotocols that were offered. `lines` goes to each `logs -f` that is open."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    followers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.rstrip().split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
            target = line.split(" ")[1]
            self.asked.append(target)
            if target.startswith("/containerLogs/"):
                await self._log(reader, writer, follow="follow=true" in target)
            elif target.startswith("/exec/") and fields.get("upgrade", "").lower() == "websocket":
                self.protocols.append(fields.get("sec-websocket-protocol", ""))
                await self._exec(reader, writer, target, fields["sec-websocket-key"])
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    def write_line(self, text: str) -> None:
        """One more line for each log that is followed."""
        for writer in self.followers:
            writer.write(_chunk(text.encode() + b"\n"))

    async def _log(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, follow: bool) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunk(b"first line\n"))
        if follow:
            self.followers.append(writer)
            await reader.read()  # until the API server leaves
            self.followers.remove(writer)
        else:
            writer.write(b"0\r\n\r\n")

    async def _exec(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, key: str) -> None:
        command = [value for name, value in parse_qsl(urlsplit(target).query) if name == "command"]
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: %b\r\n\r\n" % (accept_value(key.encode()), PROTOCOL.encode())
        )
        if command[0] == "echo":
            writer.write(_message(STDOUT, " ".join(command[1:]).encode() + b"\n"))
        else:
            while (payload := await _payload(reader)) and payload[0] == STDIN:
                writer.write(_message(STDOUT, payload[1:]))
        writer.write(_message(ERROR, SUCCESS) + b"\x88\x02\x03\xe8")
        await writer.drain()
        await reader.read()


def _chunk(octets: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(octets), octets)


def _message(channel: int, octets: bytes) -> bytes:
    payload = bytes((channel,)) + octets
    size = bytes((len(payload),)) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    return b"\x82" + size + payload


async def _payload(reader: asyncio.StreamReader) -> bytes:
    """The payload of the next binary frame of a client, which is masked; empty for any other end."""
    while True:
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        mask = await reader.readexactly(4)
        octets = await reader.readexactly(size)
        payload = bytes(octet ^ mask[at % 4] for at, octet in enumerate(octets))
        if first & 0x0F == 8:
            return b""
        if payload and first & 0x0F in (1, 2):
            return payload


@contextlib.asynccontextmanager
async def kubelet(cluster: Cluster, *, node: str, namespace: str, pod: str) -> AsyncIterator[Kubelet]:
    """The server, a Node that names it, and a Pod on that Node."""
    one = Kubelet()
    context = cluster.authority.issue("127.0.0.1", node).server_context()
    context.verify_mode = ssl.CERT_NONE  # who calls is not judged here
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=context)
    one.port = server.sockets[0].getsockname()[1]
    try:
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": one.port}},
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        }
        await _post(cluster, "/api/v1/nodes", {"metadata": {"name": node}, "status": status})
        spec = {"nodeName": node, "containers": [{"name": "app", "image": "example.test/app"}], "automountServiceAccountToken": False}
        await _post(cluster, f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": pod}, "spec": spec})
        yield one
    finally:
        server.close()
        for writer in list(one.followers):
            writer.close()


async def _post(cluster: Cluster, path: str, body: dict[str, Any]) -> None:
    await asyncio.to_thread(cluster.request, "POST", path, body)
