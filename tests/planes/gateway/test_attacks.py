"""The holes known from other gateways, run as attacks on a real process: the items that gateway.md section 15 prints in bold.

Read it from top to bottom: each test is one attack and says what must not happen. "Nothing is dialled" is counted inside the gateway, by
Python's own audit event for every connect (`watched.py`), so it holds also for addresses that would not answer. The origins count every
connection and keep every head that they get; the name server counts every query. Other hostile input is in test_hostile_input.py; an
init container whose user does not match (E65) is attacked in tests/real/test_lockdown.py and tests/cluster/test_gateway_agents.py.
"""

import asyncio
import json
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from tests.grants.proxied import Answering, token_reply
from tests.planes.gateway.attacked import attacked, named, refused
from tests.planes.gateway.rig import Client, Rig, client_hello, code_of, running

from robin.cli.main import main
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority, Leaf
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with attacked(tmp_path_factory.mktemp("attacks")) as rig:
        yield rig


# E11 Default allow


@pytest.mark.parametrize("lines", [
    ("CONNECT evil.test:443 HTTP/1.1", "Host: evil.test:443"),
    ("CONNECT a.test:22 HTTP/1.1", "Host: a.test:22"),  # an https rule opens its port alone
    ("CONNECT 8.8.8.8:443 HTTP/1.1", "Host: 8.8.8.8:443"),  # a wildcard is no rule for an address
    ("GET http://evil.test/ HTTP/1.1", "Host: evil.test"),
    ("GET https://b.test/ HTTP/1.1", "Host: b.test"),
    ("GET http://single/ HTTP/1.1", "Host: single"),
])  # fmt: skip
async def test_what_no_rule_names_is_refused_before_its_name_is_resolved(rig: Rig, lines: Sequence[str]) -> None:
    def asked() -> int:
        return len([name for name, _ in rig.names.asked if name != "gateway.names.test."])  # that one it asks of its own accord

    queries = asked()
    assert await refused(rig, await rig.client(), *lines) == (403, "rule_default")
    assert asked() == queries


# E13 Exact versus glob


@pytest.mark.parametrize("host", ["deny.names.test", "DENY.Names.Test", "deny.names.test.", "Deny.names.TEST."])
async def test_no_spelling_of_a_host_gets_past_the_exact_entry_that_denies_it(rig: Rig, host: str) -> None:
    """A wildcard allows it, the exact name is denied: both must see the same host."""
    rig.names.names["deny.names.test"] = ["127.0.0.1"]
    for line, field in (
        (f"CONNECT {host}:443", f"{host}:443"),
        (f"GET http://{host}/", host),
        (f"GET http://{host}:80/", host),
        (f"GET https://{host}:{rig.plain.port}/", f"{host}:{rig.plain.port}"),
    ):
        assert await refused(rig, await rig.client(), f"{line} HTTP/1.1", f"Host: {field}") == (403, "rule_denied")


# E16 Auth in shadow mode


STATIC = """\
id: static
display_name: Static
credentials: [{name: key, auth_style: header, header_name: X-Key}]
endpoints: [{host: b.test, port: %d}]
"""


async def test_a_policy_that_only_reports_relaxes_nothing_but_its_rules(tmp_path: Path) -> None:
    foreign = CertificateAuthority(tmp_path / "foreign").issue("a.test", "b.test")
    (tmp_path / "g").mkdir()
    hosts = {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"], "in.test": ["10.0.0.7"]}
    section: dict[str, Any] = {"policy": {"mode": "report"}, "addresses": {"hosts": hosts}}
    roots = {"name": "roots", "hosts": ["b.test"], "methods": ["GET"], "upstream_ca_file": str(tmp_path / "foreign" / "ca.pem")}
    (tmp_path / "jwks.json").write_text(json.dumps(IdentityAuthority().jwks()))
    issuer = {"name": "i", "kind": "oidc", "issuer": "https://i", "audiences": ["a"], "algorithms": ["ES256"]}
    section["issuers"] = [{**issuer, "jwks": {"file": str(tmp_path / "jwks.json")}}]
    section["listeners"] = [
        {"name": "open", "listen": "127.0.0.1:0"},
        {"name": "known", "listen": "127.0.0.1:0", "auth": "jwt", "issuers": ["i"]},
    ]
    section["profiles"] = ["static.yaml"]
    section["providers"] = [{"profile": "static", "callers": ["local"], "permit": False, "files": {"key": str(tmp_path / "key")}}]
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_text("secret-key")

    def prepare(tls: int) -> None:
        (tmp_path / "g" / "static.yaml").write_text(STATIC % tls)

    rules, context = [{**roots, "ports": ["TLS"]}], foreign.server_context()
    async with running(tmp_path / "g", rules, section=section, origin_context=context, prepare=prepare) as rig:
        unlisted = f"a.test:{rig.plain.port}"
        assert (await rig.get(f"http://{unlisted}/shadow"))[0] == 200
        record = await rig.record("gateway.decision", path="/shadow")
        assert (record["verdict"], record["would_deny"], record["rule"]) == ("permit", "rule_default", "")
        asks = ("Connection: Upgrade", "Upgrade: websocket", "Authorization: Bearer mine")
        _, _, seen = await rig.get(f"http://{unlisted}/shadow", *asks)
        assert (b"Upgrade: websocket" in seen, b"mine" in seen) == (True, False)
        client = await rig.client()
        assert (await client.connect(unlisted))[0] == 200
        assert (await rig.metrics("robin_gateway_would_deny_total"))['rule=""'] == 3
        before = rig.dials
        rig.address, local = rig.listeners[1], rig.address
        assert code_of(await rig.get(f"http://{unlisted}/")) == (407, "caller_unauthenticated")
        rig.address = local
        for host in ("127.0.0.1:1", "in.test:80", "169.254.169.254:80"):
            assert code_of(await rig.get(f"http://{host}/")) == (403, "address_refused")
            client = await rig.client()
            assert code_of(await client.connect(host)) == (403, "address_refused")
        client = await rig.client()
        assert code_of(await client.ask(f"GET http://{unlisted}/ HTTP/1.1", "Host: b.test")) == (421, "authority_mismatch")
        assert rig.dials == before
        assert code_of(await rig.get(f"https://a.test:{rig.tls.port}/")) == (502, "upstream_certificate")
        refused = await rig.record("gateway.decision", code="upstream_certificate")
        assert (refused["verdict"], refused["would_deny"]) == ("failed", "rule_default")
        assert rig.tls.requests == []
        client = await rig.client()  # the roots are those of the rule that allows the host, to other methods
        host = f"b.test:{rig.tls.port}"
        status, _, seen = await client.ask(f"POST https://{host}/other HTTP/1.1", f"Host: {host}", "Content-Length: 0")
        assert (status, b"secret-key" in seen) == (200, False)  # it passes, without what its provider would write
        record = await rig.record("gateway.decision", path="/other")
        assert (record["verdict"], record["would_deny"], record["rule"]) == ("permit", "rule_default", "")
        status, _, seen = await rig.get(f"https://{host}/allowed")
        assert (status, b"X-Key: secret-key" in seen) == (200, True)
        assert await rig.metrics("robin_gateway_mode") == {'mode="enforce"': 0, 'mode="report"': 1}
        assert await rig.robin.event("policy_reports_only")


# E18 Silently ignored keys


@pytest.mark.parametrize(
    ("section", "place", "nearest"),
    [
        ({"policy": {"rules": [{"name": "r", "hosts": ["a.test"], "method": ["GET"]}]}}, "gateway.policy.rules[0]", "methods"),
        ({"policy": {"rules": [{"name": "r", "hosts": ["a.test"], "caller": ["local"]}]}}, "gateway.policy.rules[0]", "callers"),
        ({"addresses": {"denies": ["10.0.0.0/8"]}}, "gateway.addresses", "deny,"),
        ({"limits": {"tunnel": 1}}, "gateway.limits", "tunnels"),
        ({"audit": {"onfailure": "deny"}}, "gateway.audit", "on_failure"),
    ],
)
async def test_a_guard_whose_key_is_misspelt_does_not_start_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], section: dict[str, Any], place: str, nearest: str
) -> None:
    file = tmp_path / "robin.yaml"
    file.write_text(json.dumps({"version": 1, "gateway": section}))
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "--config", str(file)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "error: unknown_key: " in said
    assert f"is not a key of {place}. Fix: " in said
    assert f" {nearest}" in said.partition("Fix: ")[2]


# E20 Loopback SSRF: the gateway's own ports


async def test_the_gateway_never_dials_itself(rig: Rig) -> None:
    own = {int(address.rpartition(":")[2]) for address in rig.listeners}
    assert len(own) == 3
    here = socket.gethostbyname(socket.gethostname())
    hosts = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.8.8.8"]
    rig.names.names["localhost"] = ["127.0.0.1", "::1"]
    rig.names.names["here.names.test"] = [here]
    for port in own:
        for host in hosts:
            _, code = await refused(rig, await rig.client(), f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}")
            assert code == "rule_default"  # no rule of these tests opens such a port
    for host in (*hosts, "here.names.test", "gateway.names.test"):
        for line in (f"CONNECT {host}:80 HTTP/1.1", f"GET http://{host}:80/ HTTP/1.1"):
            assert await refused(rig, await rig.client(), line, f"Host: {host}:80") == (403, "address_refused")


async def test_a_rule_for_every_name_and_port_does_not_open_the_gateways_own_ports(tmp_path: Path) -> None:
    """The worst rule that can be written, and a listener for probes that the whole network reaches."""
    here = socket.gethostbyname(socket.gethostname())
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    admin, probes = (holder.getsockname()[1] for holder in holders)
    for holder in holders:
        holder.close()
    hosts = ["127.0.0.1", "::1", "0.0.0.0", "localhost", "::ffff:127.0.0.1", here]
    rules = [{"name": "wide", "hosts": ["**", *dict.fromkeys(hosts)], "schemes": ["tcp"], "ports": [admin, probes]}]
    section = {"admin": {"listen": f"127.0.0.1:{admin}", "probes": f"0.0.0.0:{probes}"}}
    answers = {"x.test": ["127.0.0.1"], "localhost": ["127.0.0.1"], "here.test": [here]}
    async with running(tmp_path, rules, section=section, answers=answers, bridge=False) as rig:
        for host in (*map(named, hosts), "x.test", "here.test"):
            for port in (admin, probes):
                line = f"CONNECT {host}:{port} HTTP/1.1"
                assert await refused(rig, await rig.client(), line, f"Host: {host}:{port}") == (403, "address_refused")


# E21 DNS rebinding


async def test_a_name_is_asked_once_for_a_connection_and_what_was_judged_is_dialled(rig: Rig) -> None:
    name = "rebind.names.test"
    rig.names.names[name] = [["127.0.0.1"], ["10.0.0.7"]]  # the first answer passes, every later one must not
    host = f"{name}:{rig.plain.port}"
    client, before = await rig.client(), rig.dials
    assert (await client.ask(f"GET http://{host}/ HTTP/1.1", f"Host: {host}", "Connection: close"))[0] == 200
    assert rig.dials == [*before, ("127.0.0.1", rig.plain.port)]
    assert sorted(kind for asked, kind in rig.names.asked if asked == f"{name}.") == ["A", "AAAA"]
    assert await refused(rig, await rig.client(), f"CONNECT {host} HTTP/1.1", f"Host: {host}") == (403, "address_refused")


async def test_a_name_that_moves_while_its_bridge_is_open_is_judged_again(rig: Rig) -> None:
    name = "rebind.bridged.test"
    rig.names.names[name] = [["127.0.0.1"], ["169.254.169.254"]]
    host = f"{name}:{rig.tls.port}"
    client = await rig.client()
    assert (await client.connect(host))[0] == 200
    await client.start_tls(name, rig.ca_file)
    rig.tls.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    try:
        assert (await client.ask("GET /1 HTTP/1.1", f"Host: {host}"))[0] == 200
    finally:
        rig.tls.answer = b"HTTP/1.1 200 OK\r\n"
    assert await refused(rig, client, "GET /2 HTTP/1.1", f"Host: {host}") == (403, "address_refused")


async def test_of_a_mixed_answer_only_the_permitted_address_is_dialled(rig: Rig) -> None:
    rig.names.names["mixed.names.test"] = ["10.0.0.7", "127.0.0.1", "169.254.169.254"]
    host = f"mixed.names.test:{rig.plain.port}"
    before = rig.dials
    assert (await rig.get(f"http://{host}/mixed"))[0] == 200
    assert rig.dials == [*before, ("127.0.0.1", rig.plain.port)]
    record = await rig.record("gateway.decision", path="/mixed")
    assert {**record["addresses"], "refused": sorted(record["addresses"]["refused"])} == {
        "count": 3,
        "refused": ["metadata", "private"],
        "chosen": "127.0.0.1",
    }


# E25 Host confusion


@pytest.mark.parametrize("host", ["b.test", "a.test:80", "a.test@b.test", "a.test, b.test", "A.TEST.evil.test"])
async def test_a_host_that_is_not_the_target_is_misdirected(rig: Rig, host: str) -> None:
    target = f"a.test:{rig.plain.port}"
    status, _ = await refused(rig, await rig.client(), f"GET http://{target}/a/x HTTP/1.1", f"Host: {host}")
    assert status in {400, 421}
    status, _ = await refused(rig, await rig.client(), f"CONNECT a.test:{rig.tls.port} HTTP/1.1", f"Host: {host}")
    assert status in {400, 421}


async def test_inside_a_bridge_host_and_target_are_those_of_its_connect(rig: Rig) -> None:
    own = f"a.test:{rig.tls.port}"
    for lines, code in (
        (("GET /ok/x HTTP/1.1", "Host: b.test"), (421, "authority_mismatch")),
        (("GET /ok/x HTTP/1.1", f"Host: b.test:{rig.tls.port}"), (421, "authority_mismatch")),
        (("GET /ok/x HTTP/1.1", f"Host: {own}", f"Host: b.test:{rig.tls.port}"), (400, "bad_request")),
        ((f"GET https://b.test:{rig.tls.port}/ok/x HTTP/1.1", f"Host: {own}"), (421, "authority_mismatch")),
        ((f"GET http://{own}/ok/x HTTP/1.1", f"Host: {own}"), (421, "authority_mismatch")),
        ((f"CONNECT {own} HTTP/1.1", f"Host: {own}"), (405, "method_refused")),
        (("TRACE /ok/x HTTP/1.1", f"Host: {own}"), (405, "method_refused")),
        (("GET /other HTTP/1.1", f"Host: {own}"), (403, "rule_default")),
        (("GET /ok/../other HTTP/1.1", f"Host: {own}"), (400, "path_not_canonical")),
    ):
        client = await rig.client()
        await client.connect(own)
        await client.start_tls("a.test", rig.ca_file)
        seen = len(rig.tls.requests)
        assert code_of(await client.ask(*lines)) == code
        assert len(rig.tls.requests) == seen


# E26 SNI spoofing


@pytest.mark.parametrize(
    ("host", "name"),
    [("a.test", "b.test"), ("b.test", "a.test"), ("b.test", ""), ("a.test", ""), ("b.test", "127.0.0.1"), ("a.test", "a.test.evil.test")],
)
async def test_a_server_name_that_is_not_the_target_ends_with_an_alert_and_nothing_is_sent(rig: Rig, host: str, name: str) -> None:
    before = rig.tls.octets
    client = await rig.client()
    await client.connect(f"{host}:{rig.tls.port}")
    client.writer.write(client_hello(name))
    assert await client.rest() == bytes((21, 3, 1, 0, 2, 2, 112))
    assert rig.tls.octets == before
    await rig.record("gateway.close", fault="sni_mismatch" if name and name != "127.0.0.1" else "sni_missing")


# E28 Agent-triggered skip


async def reject(client: Client, context: ssl.SSLContext) -> None:
    """As programs do that do not trust the CA: with an alert, which asyncio would not send."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.test")
    verified = False
    while not verified:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            client.writer.write(outgoing.read())
            incoming.write(await client.reader.read(65536))
        except ssl.SSLCertVerificationError:
            verified = True
    client.writer.write(outgoing.read())
    await client.rest()


async def test_clients_that_abort_their_handshake_leave_nothing_for_the_next_one(tmp_path: Path) -> None:
    authority = IdentityAuthority()
    (tmp_path / "jwks.json").write_text(json.dumps(authority.jwks()))
    issuer = {"name": "cluster", "kind": "kubernetes", "issuer": authority.issuer, "audiences": ["robin-gateway"]}
    section = {"issuers": [{**issuer, "algorithms": ["ES256"], "jwks": {"file": str(tmp_path / "jwks.json")}}]}
    rules = [{"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "paths": ["/ok/**"]}]
    async with running(tmp_path, rules, section=section, listener={"auth": "jwt", "issuers": ["cluster"]}) as rig:
        own, tokens = (
            f"a.test:{rig.tls.port}",
            {name: authority.service_account_token(audience="robin-gateway", account=name) for name in "xy"},
        )

        async def connected(name: str) -> Client:
            client = await rig.client()
            assert (await client.connect(own, f"Proxy-Authorization: Bearer {tokens[name].decode()}"))[0] == 200
            return client

        hello = client_hello("a.test")
        for turn in range(100):  # every second one sees the leaf and refuses it, the others leave somewhere in their first flight
            client = await connected("x")
            if turn % 2 == 0:
                await reject(client, rig.pki.client_context())
            else:
                client.writer.write(hello[: turn * len(hello) // 100])
                client.writer.transport.abort()
        lines = [one for one in rig.robin.events if one.get("event") == "tls_client_rejected"]
        assert (lines[0]["caller"], lines[0]["alert"]) == ("k8s:demo/x", "tlsv1_alert_unknown_ca")
        bridge = x509.load_pem_x509_certificate(rig.ca_file.read_bytes())
        assert {str(one["ca_sha256"]) for one in lines} == {bridge.fingerprint(SHA256()).hex()}
        assert "ca.crt" in str(lines[0]["detail"])
        for name in ("x", "y", "x", "y"):
            client = await connected(name)
            leaf = (await client.start_tls("a.test", rig.ca_file)).getpeercert(binary_form=True)
            assert leaf is not None
            x509.load_der_x509_certificate(leaf).verify_directly_issued_by(bridge)
            assert (await client.ask(f"GET /ok/{name} HTTP/1.1", f"Host: {own}"))[0] == 200
            assert code_of(await client.ask("GET /other HTTP/1.1", f"Host: {own}")) == (403, "rule_default")
        assert [head.split(b" ")[1] for head in rig.tls.requests] == [b"/ok/x", b"/ok/y"] * 2


# E29 Fail-open on an upstream fault


@pytest.mark.parametrize("fault", ["expired", "wrong name", "unknown CA", "self-signed", "TLS 1.1", "TLS 1.2"])
async def test_a_fault_of_the_origins_tls_is_a_502_and_never_a_tunnel(tmp_path: Path, fault: str) -> None:
    pki = CertificateAuthority(tmp_path / "g" / "pki")
    other = CertificateAuthority(tmp_path / "other")
    leaf: Leaf = {
        "expired": lambda: pki.issue("a.test", ends_in_s=-60),
        "wrong name": lambda: pki.issue("b.test"),
        "unknown CA": lambda: other.issue("a.test"),
        "self-signed": other.self_signed,
        "TLS 1.1": lambda: pki.issue("a.test"),
        "TLS 1.2": lambda: pki.issue("a.test"),
    }[fault]()
    rules = [{"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"}]
    old = {"TLS 1.1": ssl.TLSVersion.TLSv1_1, "TLS 1.2": ssl.TLSVersion.TLSv1_2}.get(fault)
    context = leaf.server_context() if old is None else leaf.server_context(minimum=old, maximum=old)
    section = {"upstream_tls": {"min_version": "1.3"}} if fault == "TLS 1.2" else {}
    async with running(tmp_path / "g", rules, pki=pki, origin_context=context, section=section) as rig:
        code = "upstream_certificate" if old is None else "upstream_tls"
        client = await rig.client()
        assert code_of(await client.connect(f"a.test:{rig.tls.port}")) == (502, code)
        assert code_of(await rig.get(f"https://a.test:{rig.tls.port}/")) == (502, code)
        assert rig.tls.requests == []
        record = await rig.record("gateway.decision", op="connect")
        assert (record["verdict"], record["code"]) == ("failed", code)


# E30 Probe traffic


async def test_the_origin_gets_the_clients_requests_and_one_connection_and_nothing_else(rig: Rig) -> None:
    connections, requests = rig.tls.connections, len(rig.tls.requests)
    client = await rig.client()
    await client.connect(f"a.test:{rig.tls.port}")
    await client.start_tls("a.test", rig.ca_file)
    for path in ("/ok/1", "/ok/2"):
        assert (await client.ask(f"GET {path} HTTP/1.1", f"Host: a.test:{rig.tls.port}"))[0] == 200
    assert rig.tls.connections <= connections + 1
    assert [head.split(b" ")[1] for head in rig.tls.requests[requests:]] == [b"/ok/1", b"/ok/2"]


# E35 Clients that say nothing


async def test_a_silent_client_is_closed_and_one_that_drips_too(rig: Rig) -> None:
    silent = await rig.client()
    await silent.connect(f"b.test:{rig.tls.port}")
    assert await silent.rest() == b""
    slow = await rig.client()
    await slow.connect(f"b.test:{rig.tls.port}")
    hello = client_hello("b.test")
    ended = asyncio.get_running_loop().create_task(slow.rest())
    for octet in hello[:-1]:
        if ended.done():
            break
        slow.writer.write(bytes((octet,)))
        await asyncio.wait((ended,), timeout=0.05)
    assert await ended in {b"", bytes((21, 3, 1, 0, 2, 2, 50))}  # the time is that of the whole ClientHello, not of each octet
    await rig.record("gateway.close", fault="client_hello_invalid")


# E35 Server-first deadlock


async def test_a_server_that_speaks_first_is_heard_by_a_client_that_is_silent(tmp_path: Path) -> None:
    async with running(tmp_path, [{"name": "smtp", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["tcp"]}], bridge=False) as rig:
        rig.plain.banner, took, loop = b"220 hello\r\n", list[float](), asyncio.get_running_loop()
        while not took or took[-1] >= 0.2:  # a machine that is busy with something else may need several tries
            assert len(took) < 10, took
            client, began = await rig.client(), loop.time()
            await client.connect(f"a.test:{rig.plain.port}")
            async with asyncio.timeout(20):
                assert await client.reader.readexactly(11) == b"220 hello\r\n"
            took.append(loop.time() - began)
        client.writer.write(b"X" * 70001)  # more than any buffer on the way
        client.writer.write_eof()
        assert await client.rest() == b""
        closed = await rig.record("gateway.close", bytes_down=11, bytes_up=70001)
        assert closed["reason"] in {"client_closed", "upstream_closed"}


# E40 Confused deputy, E42 Scope mixing

PROFILE = """\
id: demo
display_name: Demo
credentials:
  - {name: token, token_grant: {token_endpoint: "http://127.0.0.1:%(issuer)d/token", issuer: "https://issuer.example",
     audience: one, scopes: [read], audience_overrides: [{host: a.test, path: /write/**, audience: one, scopes: [write]}]}}
endpoints:
  - {host: a.test, port: %(tls)d, path: "/read/**"}
  - {host: a.test, port: %(tls)d, path: "/write/**"}
"""


async def test_a_credential_is_spent_for_its_caller_alone_and_in_its_scope_alone(tmp_path: Path) -> None:
    """Two agents of one gateway; one of them has a provider. The other asks for the same, with every field that might make it the first."""
    authority = IdentityAuthority()
    issuer = Answering(lambda asked: token_reply("secret-write" if b"scope=write" in asked.body else "secret-read"))
    (tmp_path / "jwks.json").write_text(json.dumps(authority.jwks()))
    (tmp_path / "token").write_bytes(authority.service_account_token(audience="https://issuer.example"))
    cluster = {"name": "cluster", "kind": "kubernetes", "issuer": authority.issuer, "audiences": ["robin-gateway"]}
    section = {
        "issuers": [{**cluster, "algorithms": ["ES256"], "jwks": {"file": str(tmp_path / "jwks.json")}}],
        "identities": {"own": {"source": "file", "token_file": str(tmp_path / "token"), "audience": "https://issuer.example"}},
        "profiles": ["demo.yaml"],
        "providers": [{"profile": "demo", "callers": ["k8s:demo/agent"]}],
    }
    rules = [{"name": "all", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"}]

    def prepare(tls: int) -> None:
        (tmp_path / "demo.yaml").write_text(PROFILE % {"issuer": issuer.port, "tls": tls})

    def bearer(name: str) -> str:
        token = authority.service_account_token(audience="robin-gateway", namespace="demo", account=name)
        return f"Proxy-Authorization: Bearer {token.decode()}"

    listener = {"auth": "jwt", "issuers": ["cluster"]}
    async with issuer, running(tmp_path, rules, section=section, listener=listener, prepare=prepare) as rig:
        own, forged = f"a.test:{rig.tls.port}", ("X-Caller: k8s:demo/agent", "Forwarded: for=agent", "Authorization: Bearer secret-read")
        for url in (f"https://{own}/read/1", f"https://{own}/write/1"):
            assert code_of(await rig.get(url, *forged)) == (407, "caller_unauthenticated")
            status, _, body = await rig.get(url, bearer("other"), *forged)
            assert (status, b"secret" in body, b"uthorization" in body) == (200, False, False)
        client = await rig.client()
        assert (await client.connect(own, bearer("other")))[0] == 200
        await client.start_tls("a.test", rig.ca_file)
        inside = ("Host: " + own, bearer("agent"))  # the caller is that of the CONNECT
        assert b"secret" not in (await client.ask("GET /read/1 HTTP/1.1", *inside))[2]
        assert issuer.seen == []
        client = await rig.client()
        await client.connect(own, bearer("agent"))
        await client.start_tls("a.test", rig.ca_file)
        for path, token in (("/read/1", b"secret-read"), ("/write/1", b"secret-write"), ("/read/2", b"secret-read"), ("/else", b"")):
            body = (await client.ask(f"GET {path} HTTP/1.1", f"Host: {own}"))[2]
            assert (body.count(b"secret-"), token in body) == (int(bool(token)), True)
        assert len(issuer.seen) == 2


@pytest.mark.parametrize("callers", ["open", "*"])
async def test_a_credential_that_a_caller_without_a_name_would_reach_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], callers: str
) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    (tmp_path / "demo.yaml").write_text(PROFILE % {"issuer": 1, "tls": 443})
    section = {
        "listeners": [{"name": "open", "listen": "0.0.0.0:8081", "unsafe_open": True}],
        "identities": {"own": {"source": "file", "token_file": "/t", "audience": "https://issuer.example"}},
        "profiles": ["demo.yaml"],
        "providers": [{"profile": "demo", "callers": [callers]}],
        "bridge": {"slots": {"a": str(tmp_path / "ca")}},
    }
    (tmp_path / "robin.yaml").write_text(json.dumps({"version": 1, "gateway": section}))
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "--config", str(tmp_path / "robin.yaml")])
    assert ended.value.code == 2
    assert "provider_needs_identity" in capsys.readouterr().err


# E44 WebSocket stripped

WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")


async def test_a_handshake_travels_whole_or_not_at_all(rig: Rig) -> None:
    """Without its fields it would be another request, which no rule was asked about."""
    for host in (f"b.test:{rig.plain.port}", f"a.test:{rig.plain.port}"):
        seen = len(rig.plain.requests)
        assert code_of(await rig.get(f"http://{host}/a/socket", *WEBSOCKET)) == (403, "upgrade_denied")
        assert len(rig.plain.requests) == seen
    status, _, head = await rig.get(f"http://ws.test:{rig.plain.port}/socket", *WEBSOCKET)
    assert status == 200  # this origin does not switch
    assert [line in head for line in map(str.encode, WEBSOCKET[1:])] == [True] * 3
    assert b"\r\nConnection: upgrade\r\n" in head.replace(b"Upgrade\r\n", b"upgrade\r\n")


# E46 Trailers

TRAILERS = b"X-Sum: 7\r\nX-Unannounced: 8\r\n"


async def test_trailers_cross_a_bridge_and_no_field_that_decides_anything_comes_in_with_them(tmp_path: Path) -> None:
    pki = CertificateAuthority(tmp_path / "pki")
    answer = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" + TRAILERS
    origin = Answering(lambda _: answer + b"Set-Cookie: no=1\r\n\r\n", tls=pki.issue("a.test").server_context(alpn=("http/1.1",)))
    rules = [{"name": "all", "hosts": ["a.test"], "ports": ["TRAILERS"], "tls": "bridge"}]
    async with origin, running(tmp_path, rules, pki=pki, ports={"TRAILERS": origin.port}) as rig:
        client = await rig.client()
        await client.connect(f"a.test:{origin.port}")
        await client.start_tls("a.test", rig.ca_file)
        head = f"POST / HTTP/1.1\r\nHost: a.test:{origin.port}\r\nTE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n"
        hostile = b"Authorization: Bearer mine\r\nHost: b.test\r\nCookie: no=1\r\n"
        client.writer.write(head.encode() + b"3\r\nabc\r\n0\r\nX-Up: 1\r\n" + hostile + b"X-Also: 2\r\n\r\n")
        async with asyncio.timeout(20):
            await client.reader.readuntil(b"\r\n2\r\nhi\r\n0\r\n")
            assert await client.reader.readuntil(b"\r\n\r\n") == TRAILERS + b"\r\n"
        (request,) = origin.seen
        assert (request.body, request.trailers, request.values(b"TE")) == (b"abc", ((b"X-Up", b"1"), (b"X-Also", b"2")), [b"trailers"])


# E50 Invisible tunnels


async def test_every_connect_has_one_decision_and_one_close_and_its_requests_name_it(rig: Rig) -> None:
    await rig.close()
    own = f"a.test:{rig.tls.port}"
    client = await rig.client()
    await client.connect(own)
    await client.start_tls("a.test", rig.ca_file)
    status, _, body = await client.ask("POST /ok/count HTTP/1.1", f"Host: {own}", "Content-Length: 11", body=b"hello world")
    assert status == 200
    client.writer.close()
    inner = await rig.record("gateway.close", id=(await rig.record("gateway.decision", path="/ok/count"))["id"])
    outer = await rig.record("gateway.close", id=inner["connect_id"])
    assert (inner["bytes_up"], inner["bytes_down"]) == (outer["bytes_up"], outer["bytes_down"]) == (11, len(body))
    assert len(str(outer["upstream"]["cert_sha256"])) == 64
    kinds = [(one["id"], one["event"]) for one in rig.records]
    assert len(kinds) == len(set(kinds))  # never two of one kind
    connects = {one["id"] for one in rig.records if one.get("op") == "connect"}
    for one in rig.records:
        assert one["connect_id"] is None or one["connect_id"] in connects


# E53 Phantom reload


async def test_a_reload_that_cannot_be_whole_changes_nothing(tmp_path: Path) -> None:
    """Half of it would be a rule without the listener that was to guard it."""
    async with running(tmp_path, [{"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]}], bridge=False) as rig:
        file = rig.folder / "robin.yaml"
        document = json.loads(file.read_text())
        document["gateway"]["policy"]["rules"][0]["hosts"] = ["a.test"]
        document["gateway"]["listeners"][0] |= {"name": "guarded", "auth": "unix", "listen": f"unix:{tmp_path}/s", "uids": [0]}
        for text, keys in ((json.dumps(document), ["gateway.listeners"]), ("version: 1\ngateway: [", [])):
            file.write_text(text)
            rig.robin.send_signal(signal.SIGHUP)
            await eventually(lambda keys=keys: keys in [one.get("keys") for one in rig.robin.events], what="the refusal")
            assert (await rig.get(f"http://b.test:{rig.plain.port}/"))[0] == 200
            assert code_of(await rig.get(f"http://a.test:{rig.plain.port}/")) == (403, "rule_default")
            shown = json.loads((await rig.page("/status/gateway"))[1])
            assert (shown["generation"], shown["refused_keys"]) == (1, keys)
        # More than the two where the watch of the file saw a change before the signal came.
        assert (await rig.metrics("robin_config_reload_total"))['result="refused"'] >= 2
        assert not (tmp_path / "s").exists()


# E55 Cut tunnels


async def test_a_drain_serves_on_then_cuts_what_is_left_and_writes_every_record(tmp_path: Path) -> None:
    rules = [{"name": "tcp", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["tcp"]}]
    async with running(tmp_path, rules, section={"drain": {"min": "2s", "max": "4s"}}) as rig:
        tunnels = [await rig.client() for _ in range(20)]
        for client in tunnels:
            assert (await client.connect(f"a.test:{rig.plain.port}"))[0] == 200
        rig.robin.send_signal(signal.SIGTERM)
        await rig.robin.event("draining")
        assert (await rig.page("/readyz"))[0] == 503
        late = await rig.client()
        assert (await late.connect(f"a.test:{rig.plain.port}"))[0] == 200
        for client in tunnels[:5]:
            client.writer.write_eof()  # these end by themselves in time
        assert await rig.robin.returned() == 4
        closed = [one for one in rig.records if one["event"] == "gateway.close"]
        assert len(closed) == 21
        assert sorted({one["reason"] for one in closed}) in (["client_closed", "drain"], ["client_closed", "drain", "upstream_closed"])
        assert [one["reason"] for one in closed].count("drain") == 16
