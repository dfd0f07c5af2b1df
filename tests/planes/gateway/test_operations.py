"""What an operator sees of a gateway: probes, readiness, metrics, an audit that fails, a drain, and its memory (gateway.md 10, 11)."""

import asyncio
import json
import os
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from tests.planes.gateway.rig import TIMEOUT_S, Client, Rig, client_hello, code_of, running, wall_now

from robin.planes.gateway.new_authority import make_authority
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAIN = {"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]}
TCP = {"name": "tcp", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["tcp"]}
BRIDGED = {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"}
CLOSED = {"name": "closed", "hosts": ["b.test"], "ports": ["TLS"]}
AUTHORITY = IdentityAuthority()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("operations")
    other = folder / "other"
    other.mkdir()
    certificate, key = make_authority("robin-bridge-ca-next", days=30, permit_dns=[], now=wall_now())
    (other / "tls.crt").write_bytes(certificate + key)  # a careless operator: the key must not be published
    (other / "tls.key").touch(mode=0o600)
    (other / "tls.key").write_bytes(key)
    section = {
        "admin": {"probes": "127.0.0.1:0"},
        "bridge": {"slots": {"a": str(folder / "ca"), "b": str(other)}, "sign_with": "a", "ech": "allow"},
        "limits": {"tunnels": 3},
    }
    async with running(folder, [PLAIN, BRIDGED, CLOSED], section=section) as rig:
        yield rig


async def test_the_probes_listener_shows_probes_metrics_and_both_cas_and_nothing_else(rig: Rig) -> None:  # E56
    probes = rig.listeners[-1]
    for path in ("/livez", "/readyz", "/startupz", "/metrics"):
        assert (await rig.page(path, probes))[0] == 200
    status, body = await rig.page("/ca.crt", probes)
    first, second = ((rig.folder / name / "tls.crt").read_bytes() for name in ("ca", "other"))
    assert status == 200
    assert body == first + second.partition(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    assert b"PRIVATE" not in body
    status, bundle = await rig.page("/bundle.crt", probes)
    if ssl.get_default_verify_paths().cafile is not None:
        assert status == 200
        assert bundle.startswith(body)
        assert bundle.count(b"BEGIN CERTIFICATE") > 10
    for path in ("/quitquitquit", "/status/gateway", "/ca.key", "/tls.key", "/../ca/tls.key"):
        assert (await rig.page(path, probes))[0] in {400, 404}
    before = rig.dials
    for address in (rig.admin, probes):  # neither listener forwards
        host, _, port = address.rpartition(":")
        for line in (f"GET http://b.test:{rig.plain.port}/", f"CONNECT b.test:{rig.plain.port}"):
            client = Client(*await asyncio.open_connection(host, int(port)))
            status, _, _ = await client.ask(f"{line} HTTP/1.1", f"Host: b.test:{rig.plain.port}")
            assert status in {400, 404, 405, 421, 501}
            client.writer.close()
    assert rig.dials == before
    for path in ("/metrics", "/readyz", "/ca.crt"):
        client = await rig.client()
        assert code_of(await client.ask(f"GET {path} HTTP/1.1", "Host: localhost")) == (421, "misdirected")


async def test_metrics_tell_what_was_decided_and_carried(rig: Rig) -> None:
    listener = f'listener="{rig.address}"'
    assert (await rig.get(f"http://b.test:{rig.plain.port}/m"))[0] == 200
    assert (await rig.get("http://evil.test/"))[0] == 403
    own = f"a.test:{rig.tls.port}"
    client = await rig.client()
    assert (await client.connect(own))[0] == 200
    assert await rig.metrics("robin_gateway_tunnels") == {'tls="bridge"': 1}
    await client.start_tls("a.test", rig.ca_file)
    assert (await client.ask("POST /m HTTP/1.1", f"Host: {own}", "Content-Length: 4", body=b"body"))[0] == 200
    client.writer.close()
    await rig.record("gateway.close", sni="a.test")
    decisions = await rig.metrics("robin_gateway_decisions_total")
    for op, verdict, code, rule in (
        ("request", "permit", "", "plain"),
        ("request", "deny", "rule_default", ""),
        ("connect", "permit", "", "bridged"),
        ("request", "permit", "", "bridged"),
    ):
        assert decisions[f'{listener},op="{op}",verdict="{verdict}",code="{code}",rule="{rule}"'] >= 1
    assert (await rig.metrics("robin_gateway_bytes_total"))['direction="up",tls="bridge"'] == 4
    assert await rig.metrics("robin_gateway_tunnels") == {'tls="bridge"': 0}
    assert (await rig.metrics("robin_gateway_exchange_seconds_count"))['op="connect",tls="bridge"'] == 1
    assert await rig.metrics("robin_gateway_ca_signing") == {'slot="a"': 1, 'slot="b"': 0}
    assert set(await rig.metrics("robin_gateway_ca_not_after_seconds")) == {'slot="a"', 'slot="b"'}
    assert await rig.metrics("robin_gateway_mode") == {'mode="enforce"': 1, 'mode="report"': 0}


async def test_encrypted_client_hellos_pass_only_where_the_settings_allow_them(rig: Rig, tmp_path: Path) -> None:  # E33
    hello = client_hello("b.test", ech=True)
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    client.writer.write(hello)
    async with asyncio.timeout(20):
        assert (await client.reader.readexactly(1))[0] == 22  # the origin's ServerHello
    await rig.close()
    async with running(tmp_path, [CLOSED], bridge=False) as strict:
        client = await strict.client()
        await client.connect(f"b.test:{strict.tls.port}")
        client.writer.write(hello)
        assert await client.rest() == bytes((21, 3, 1, 0, 2, 2, 49))
        assert strict.tls.octets == 0
        await strict.record("gateway.close", fault="ech_refused")


async def test_a_gateway_without_the_keys_of_an_issuer_is_not_ready_until_they_are_there(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    issuer = {"name": "cluster", "kind": "kubernetes", "issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    section = {"issuers": [{**issuer, "jwks": {"file": str(keys)}}]}
    listener = {"auth": "jwt", "issuers": ["cluster"]}
    async with running(tmp_path, [PLAIN], section=section, listener=listener, bridge=False, ready=False) as rig:
        status, body = await rig.page("/readyz")
        assert (status, "issuer_keys_unavailable" in json.loads(body)["reasons"]) == (503, True)
        assert (await rig.page("/livez"))[0] == 200
        keys.write_text(json.dumps(AUTHORITY.jwks()))
        await rig.robin.event("started")
        assert (await rig.page("/readyz"))[0] == 200


async def test_the_keys_of_an_issuer_are_never_fetched_from_this_machine_by_name_or_from_the_link(tmp_path: Path) -> None:
    names = {"keys.test": ["127.0.0.1"], "link.test": ["169.254.169.254", "fe80::1"]}
    common = {"kind": "oidc", "audiences": ["x"], "algorithms": ["ES256"]}
    issuers = [
        {**common, "name": f"i{at}", "issuer": f"https://i{at}", "jwks": {"url": url}}
        for at, url in enumerate(("http://keys.test:9/", "http://link.test/", "http://169.254.169.254/", "http://[fe80::1]/"))
    ]
    section = {"issuers": issuers, "admin": {"listen": "127.0.0.1:0"}}
    async with running(tmp_path, [PLAIN], section=section, answers=names, bridge=False, ready=False) as rig:

        async def tried() -> bool:
            return len(await rig.metrics("robin_gateway_jwks_fetches_total")) == len(issuers)

        async with asyncio.timeout(20):
            while not await tried():
                await asyncio.sleep(0.05)
        assert rig.dials == []


async def test_a_full_disk_refuses_every_request_and_sends_nothing_until_there_is_room(tmp_path: Path) -> None:  # E51
    (tmp_path / "g").mkdir()
    file = tmp_path / "audit.jsonl"
    section = {"audit": {"file": str(file)}, "timeouts": {"first_bytes": "1s"}}
    async with running(tmp_path / "g", [PLAIN, TCP | {"ports": [7]}, BRIDGED], section=section) as rig:
        url = f"http://b.test:{rig.plain.port}/"
        assert (await rig.get(url))[0] == 200
        pid, before = rig.robin.pid, rig.plain.octets
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size, limits[1]))  # the disk is full now: EFBIG
        for _ in range(3):
            assert code_of(await rig.get(url)) == (503, "audit_unavailable")
        client = await rig.client()
        assert code_of(await client.connect(f"a.test:{rig.tls.port}")) == (503, "audit_unavailable")
        assert (rig.plain.octets, rig.tls.octets) == (before, 0)
        assert (await rig.page("/readyz"))[0] == 503
        assert (await rig.page("/livez"))[0] == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        assert (await rig.get(url))[0] == 200
        assert (await rig.page("/readyz"))[0] == 200
        await rig.robin.stop()
    events = [json.loads(line)["event"] for line in file.read_bytes().splitlines()]
    assert "audit.lost" in events  # the records of the refusals themselves could not be kept, and that is said


async def test_a_standard_output_that_takes_nothing_refuses_every_request(tmp_path: Path) -> None:  # E51
    async with running(tmp_path, [PLAIN], bridge=False) as rig:
        config = rig.folder / "robin.yaml"
        document = json.loads(config.read_text())
        config.write_text(json.dumps(document))
        out, into = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "robin.cli.main", "gateway", "--config", str(config)), stdout=into, stderr=asyncio.subprocess.DEVNULL
        )
        os.close(into)
        try:
            reader = os.fdopen(out, "rb")
            listening = json.loads(await asyncio.to_thread(reader.readline))
            await asyncio.to_thread(reader.readline)
            reader.close()  # whoever collected the lines is gone
            host, _, port = listening["listen"][0].rpartition(":")
            seen = rig.plain.octets
            client = Client(*await asyncio.open_connection(host, int(port)))
            own = f"b.test:{rig.plain.port}"
            assert code_of(await client.ask(f"GET http://{own}/ HTTP/1.1", f"Host: {own}")) == (503, "audit_unavailable")
            client.writer.close()
            assert rig.plain.octets == seen
        finally:
            process.terminate()
            await process.wait()


async def test_secrets_of_a_request_are_in_no_record_line_metric_or_refusal(rig: Rig) -> None:  # E51
    marks = [f"marked{number:02d}" for number in range(7)]
    fields = [
        f"Authorization: Bearer {marks[0]}",
        f"Cookie: session={marks[1]}",
        f"Proxy-Authorization: Bearer {marks[2]}",
        f"X-Api-Key: {marks[3]}",
    ]
    texts = []
    for url, code in ((f"http://b.test:{rig.plain.port}/s?q={marks[4]}", 200), (f"http://evil.test/s?q={marks[5]}", 403)):
        client = await rig.client()
        authority = url.split("/")[2]
        answer = await client.ask(f"POST {url} HTTP/1.1", f"Host: {authority}", *fields, "Content-Length: 8", body=marks[6].encode())
        assert answer[0] == code
        texts.append("" if code == 200 else answer[2].decode() + str(answer[1]))
    await rig.record("gateway.close", fault="rule_default")
    texts += [line for _, line in rig.robin.lines]
    texts.append((await rig.page("/metrics"))[1].decode())
    assert not [mark for mark in marks for text in texts if mark in text]


async def test_a_limit_that_is_reached_is_counted(rig: Rig) -> None:
    await rig.close()
    own = f"b.test:{rig.tls.port}"
    for _ in range(3):
        assert (await (await rig.client()).connect(own))[0] == 200
    client = await rig.client()
    assert code_of(await client.connect(own)) == (429, "limit_tunnels")
    assert (await rig.metrics("robin_gateway_limit_hits_total"))['limit="tunnels"'] == 1


# what it costs


async def series(rig: Rig) -> set[str]:
    """Every series of the gateway's own, without its value."""
    _, body = await rig.page("/metrics")
    return {line.rsplit(" ", 1)[0] for line in body.decode().splitlines() if line.startswith("robin_")}


@pytest.mark.slow
async def test_ten_thousand_hosts_and_callers_add_no_series(tmp_path: Path) -> None:  # E52
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(AUTHORITY.jwks()))
    issuer = {"name": "corp", "kind": "oidc", "issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    section = {"issuers": [{**issuer, "jwks": {"file": str(keys)}}]}
    listener = {"auth": "jwt", "issuers": ["corp"]}
    now = int(time.time())

    def request(number: int, rig: Rig) -> bytes:
        """Every tenth to a host that a rule allows, and that is resolved and dialled."""
        claims = {"iss": AUTHORITY.issuer, "sub": f"user{number}", "aud": "robin-gateway", "exp": now + 3000, "iat": now}
        place = f"h{number}.many.test:{rig.plain.port}" if number % 10 == 0 else f"h{number}.test"
        token = AUTHORITY.sign(claims).decode()
        return f"GET http://{place}/p{number} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Bearer {token}\r\n\r\n".encode()

    many = {"name": "many", "hosts": ["*.many.test"], "ports": ["PLAIN"], "schemes": ["http"]}
    async with running(tmp_path, [many], section=section, listener=listener, bridge=False) as rig:
        rig.names.names |= {f"h{number}.many.test": ["127.0.0.1"] for number in range(0, 10_010, 10)}
        client, before = await rig.client(), set[str]()
        for start in range(0, 10_010, 10):
            client.writer.write(b"".join(request(number, rig) for number in range(start, start + 10)))
            assert [(await client.response())[0] for _ in range(10)] == [200, *[403] * 9]
            before = before or await series(rig)
        assert await series(rig) == before
        assert rig.plain.connections == 1001
        assert sum((await rig.metrics("robin_gateway_decisions_total")).values()) == 10_010


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


GIB = 1 << 30
PIECE = bytes(1 << 18)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["bridge", "passthrough"])
async def test_a_gibibyte_each_way_needs_no_memory(tmp_path: Path, kind: str) -> None:  # E48
    async with running(tmp_path, [BRIDGED, CLOSED]) as rig:
        host = "a.test" if kind == "bridge" else "b.test"
        own = f"{host}:{rig.tls.port}"
        rig.tls.source = GIB
        trust = rig.ca_file if kind == "bridge" else rig.pki.ca_file
        client = await rig.client()
        await client.connect(own)
        await client.start_tls(host, trust)
        assert (await client.ask("GET /warm HTTP/1.1", f"Host: {own}"))[0] == 200
        before = peak = resident_bytes(rig.robin.pid)

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, resident_bytes(rig.robin.pid))
                await asyncio.sleep(0.05)

        watching = asyncio.get_running_loop().create_task(watch())
        client.writer.write(f"PUT /up HTTP/1.1\r\nHost: {own}\r\nContent-Length: {GIB}\r\n\r\n".encode())
        for _ in range(GIB // len(PIECE)):
            client.writer.write(PIECE)
            await client.writer.drain()
        async with asyncio.timeout(300):
            assert (await client.response())[0] == 200
            client.writer.write(f"GET /down HTTP/1.1\r\nHost: {own}\r\n\r\n".encode())
            await client.reader.readuntil(b"\r\n\r\n")
            left = GIB
            while left:
                piece = await client.reader.read(min(left, 1 << 18))
                assert piece
                left -= len(piece)
        watching.cancel()
        assert peak - before < 16 << 20


class Pouring:
    """An origin that writes for ever, in a thread: `sent` octets have left it, into the buffer of its socket or further."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._context = context
        self._thread = threading.Thread(target=self._pour)

    def __enter__(self) -> "Pouring":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(20)

    def _pour(self) -> None:
        with suppress(OSError), self._context.wrap_socket(self._listener.accept()[0], server_side=True) as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
            while True:
                self.sent += peer.send(bytes(1 << 14))


def in_sockets(*ports: int) -> int:
    """The octets that wait in the buffers of connections with one of these ports, at either end."""
    waiting = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if {int(end.rpartition(":")[2], 16) for end in (local, remote)} & set(ports):
            waiting += sum(int(queue, 16) for queue in queues.split(":"))
    return waiting


def ask_and_read_nothing(gateway: str, own: str, trust: Path) -> ssl.SSLSocket:
    """A client that has read the first octet of an answer through the gateway, and with it no more than one record."""
    host, _, port = gateway.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
    client.sendall(f"CONNECT {own} HTTP/1.1\r\nHost: {own}\r\n\r\n".encode())
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    tls = ssl.create_default_context(cafile=str(trust)).wrap_socket(client, server_hostname=own.partition(":")[0])
    tls.sendall(f"GET / HTTP/1.1\r\nHost: {own}\r\n\r\n".encode())
    assert tls.recv(1) == b"H"
    return tls


@pytest.mark.parametrize("kind", ["bridge", "passthrough"])
async def test_a_client_that_does_not_read_stops_the_origin(tmp_path: Path, kind: str) -> None:  # E48
    pki = CertificateAuthority(tmp_path / "pki")
    host = "a.test" if kind == "bridge" else "b.test"
    with Pouring(pki.issue(host).server_context(alpn=("http/1.1",))) as origin:
        rules = [{**rule, "ports": ["POURING"]} for rule in (BRIDGED, CLOSED)]
        async with running(tmp_path, rules, pki=pki, ports={"POURING": origin.port}) as rig:
            trust = rig.ca_file if kind == "bridge" else rig.pki.ca_file
            client = await asyncio.to_thread(ask_and_read_nothing, rig.address, f"{host}:{origin.port}", trust)
            sent = -1
            async with asyncio.timeout(60):
                while origin.sent != sent:  # it has stopped once nothing more was sent within a while
                    sent = origin.sent
                    await asyncio.sleep(0.5)
            held = sent - in_sockets(origin.port, client.getsockname()[1])
            assert held < 256 << 10
            client.close()
