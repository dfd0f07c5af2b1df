"""A gigabyte that is signed by the digest which its client announced: it is streamed, and never held (G28)."""

import asyncio
import hashlib
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from tests.corpus.process_stats import resident_bytes
from tests.grants.proxied import Answering, reply
from tests.wire.test_sts import document

from robin.testing.process import RobinProcess
from robin.testing.tokens import make_token

GIB = 1 << 30
BLOCK = bytes(1 << 20)
PROFILE = """\
id: s3
display_name: S3
credentials: [{name: aws, token_grant: {preset: aws, role_arn: "arn:aws:iam::1:role/role", region: eu-west-1, token_endpoint: "http://127.0.0.1:%d/"}}]
endpoints: [{host: localhost, port: %d, tls: none, signing_service: s3, signing_region: eu-west-1}]
"""


def _take(listener: socket.socket, seen: list[bytes]) -> None:
    """Read one request: its head, and the digest of its body."""
    peer, _ = listener.accept()
    with peer:
        head = b""
        while b"\r\n\r\n" not in head:
            head += peer.recv(65536)
        head, _, rest = head.partition(b"\r\n\r\n")
        digest, got, buffer = hashlib.sha256(rest), len(rest), bytearray(1 << 20)
        while got < GIB:
            size = peer.recv_into(buffer)
            digest.update(memoryview(buffer)[:size])
            got += size
        seen += [head, digest.hexdigest().encode()]
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def _put(proxy: tuple[str, int], port: int, digest: str) -> bytes:
    with socket.create_connection(proxy) as caller:
        fields = f"Host: localhost:{port}\r\nContent-Length: {GIB}\r\nx-amz-content-sha256: {digest}\r\nConnection: close\r\n"
        caller.sendall(f"PUT http://localhost:{port}/bucket/key HTTP/1.1\r\n{fields}\r\n".encode())
        for _ in range(GIB // len(BLOCK)):
            caller.sendall(BLOCK)
        return caller.recv(65536)


def _digest() -> str:
    digest = hashlib.sha256()
    for _ in range(GIB // len(BLOCK)):
        digest.update(BLOCK)
    return digest.hexdigest()


@pytest.mark.slow
async def test_g28_a_gigabyte_with_a_digest_is_signed_and_streams_with_less_than_32_mib_of_growth(tmp_path: Path) -> None:
    seen: list[bytes] = []
    async with Answering(lambda _: reply(200, document(), b"Content-Type: text/xml")) as sts:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            (tmp_path / "p.yaml").write_text(PROFILE % (sts.port, port))
            (tmp_path / "token").write_bytes(make_token(expires_at=int(time.time()) + 300, audience="sts.amazonaws.com"))
            section = {
                "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
                "admin": {"listen": "127.0.0.1:0"},
                "identities": {"default": {"source": "file", "token_file": str(tmp_path / "token"), "audience": "sts.amazonaws.com"}},
                "profiles": ["p.yaml"],
                "providers": [{"profile": "s3", "callers": ["local"]}],
                "addresses": {"hosts": {"localhost": ["127.0.0.1"]}, "unsafe_loopback": [f"127.0.0.1:{port}"]},
            }
            (tmp_path / "robin.yaml").write_text(json.dumps({"version": 1, "gateway": section}))
            thread = threading.Thread(target=_take, args=(listener, seen))
            thread.start()
            async with RobinProcess("gateway", "--config", str(tmp_path / "robin.yaml")) as robin:
                host, _, number = (await robin.event("listening"))["listen"][0].rpartition(":")
                await robin.event("started")
                digest = await asyncio.to_thread(_digest)
                before, most = resident_bytes(robin.pid), 0
                asking = asyncio.ensure_future(asyncio.to_thread(_put, (host, int(number)), port, digest))
                while not asking.done():
                    most = max(most, resident_bytes(robin.pid))
                    await asyncio.wait([asking], timeout=0.05)
                assert (await asking).startswith(b"HTTP/1.1 200 ")
            thread.join(10.0)
    head, taken = seen
    assert taken.decode() == digest
    assert f"X-Amz-Content-Sha256: {digest}".encode() in head
    assert b"SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token" in head
    assert most - before < 32 << 20
