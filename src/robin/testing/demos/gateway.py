"""A client that knows a proxy URL and a CA file reaches an allowed https service through the bridge; a denied host gets 403."""

import asyncio
import datetime
import json
import ssl
from pathlib import Path

from robin.planes.gateway.new_authority import make_authority
from robin.testing.certificates import CertificateAuthority
from robin.testing.demos.demo import Demo, refuse_taken
from robin.testing.process import RobinProcess
from robin.transport.clock import SystemClock

_TIMEOUT_S = 10.0


async def run(demo: Demo) -> None:
    """An origin, a gateway, and a client of plain sockets; four checks."""
    folder = demo.folder
    pki = CertificateAuthority(folder / "pki")
    leaf = pki.issue("api.demo.test")
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    origin_port = 0 if demo.port_base is None else demo.port_base + 1
    if origin_port:
        refuse_taken(origin_port)
    origin = await asyncio.start_server(serve, "127.0.0.1", origin_port, ssl=leaf.server_context(alpn=("http/1.1",)))
    demo.stack.callback(origin.close)
    port = origin.sockets[0].getsockname()[1]
    config, ca_file = _write_files(folder, demo.port_base or 0, port, pki.ca_file)
    robin = await demo.stack.enter_async_context(RobinProcess("gateway", "--config", str(config)))
    address = (await robin.event("listening"))["listen"][0]
    demo.say(f"gateway on {address}; the client knows http://{address} and {ca_file.name}")
    demo.to_try.append(f"curl -x http://{address} --cacert {ca_file} https://api.demo.test:{port}/public/hello")

    status, tls = await _get(address, "api.demo.test", port, "/public/hello", ca_file)
    issuer = dict(pair[0] for pair in tls["issuer"])["commonName"]
    demo.check("GET https://api.demo.test/public/hello through the bridge -> 200", ok=status == 200, detail=str(status))
    demo.check(f"the client sees a leaf signed by {issuer}", ok=issuer.startswith("robin-bridge-ca"), detail=str(issuer))
    status, _ = await _get(address, "api.demo.test", port, "/private", ca_file)
    demo.check(
        "GET https://api.demo.test/private -> 403, nothing sent", ok=status == 403 and len(seen) == 1, detail=f"{status} {len(seen)}"
    )
    status, _ = await _get(address, "other.demo.test", 443, "/", ca_file)
    demo.check("CONNECT other.demo.test:443 -> 403", ok=status == 403, detail=str(status))


def _write_files(folder: Path, listen_port: int, port: int, origin_ca: Path) -> tuple[Path, Path]:
    """The gateway's CA and its settings."""
    now = datetime.datetime.fromtimestamp(SystemClock().wall(), datetime.UTC)
    certificate, key = make_authority("robin-bridge-ca-demo", days=1, permit_dns=[], now=now)
    slot = folder / "ca"
    slot.mkdir()
    (slot / "tls.crt").write_bytes(certificate)
    (slot / "tls.key").touch(mode=0o600)
    (slot / "tls.key").write_bytes(key)
    settings = {
        "listeners": [{"name": "proxy", "listen": f"127.0.0.1:{listen_port}"}],
        "admin": {"listen": "127.0.0.1:0"},
        "drain": {"min": "0s", "max": "1s"},
        "policy": {"rules": [{"name": "public", "hosts": ["api.demo.test"], "ports": [port], "paths": ["/public/**"]}]},
        "bridge": {"slots": {"a": str(slot)}},
        "upstream_tls": {"ca_files": [str(origin_ca)]},
        "addresses": {"hosts": {"api.demo.test": ["127.0.0.1"]}, "unsafe_loopback": [f"127.0.0.1:{port}"]},
    }
    config = folder / "robin.yaml"
    config.write_text(json.dumps({"version": 1, "gateway": settings}, indent=2))  # JSON is YAML
    return config, slot / "tls.crt"


async def _get(
    proxy: str, host: str, port: int, path: str, ca_file: Path
) -> tuple[int, dict[str, tuple[tuple[tuple[str, str], ...], ...]]]:
    """The status of one GET through the proxy, or of its CONNECT where that is refused; and the certificate that was shown."""
    async with asyncio.timeout(_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(*proxy.rsplit(":", 1))
        try:
            writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            status = await _status(reader)
            if status != 200:
                return status, {}
            await writer.start_tls(ssl.create_default_context(cafile=str(ca_file)), server_hostname=host)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            return await _status(reader), writer.get_extra_info("ssl_object").getpeercert()
        finally:
            writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1])
