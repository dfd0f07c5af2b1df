"""The holes of other gateways, run as attacks on a real process (gateway.md section 15, the items in bold, and their neighbours).

Read it from top to bottom: each test is one attack and says what must not happen. "Nothing is dialled" is counted inside the gateway, by
Python's own audit event for every connect (`watched.py`), so it holds also for addresses that would not answer. The origins count every
connection and keep every head that they get; the name server counts every query.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.planes.gateway.rig import Client, Rig, client_hello, code_of, running

from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority, Leaf

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEVER = {
    "10.0.0.7": "private",
    "172.16.0.1": "private",
    "192.168.1.1": "private",
    "fc00::1": "private",
    "100.64.0.1": "cgnat",
    "127.0.0.1": "loopback",
    "127.8.8.8": "loopback",
    "::1": "loopback",
    "0.0.0.0": "unspecified",
    "::": "unspecified",
    "169.254.0.1": "link_local",
    "fe80::1": "link_local",
    "169.254.169.254": "metadata",
    "168.63.129.16": "metadata",
    "fd00:ec2::254": "metadata",
    "224.0.0.1": "multicast",
    "198.18.0.1": "reserved",
    "240.0.0.1": "reserved",
    "2001:db8::1": "reserved",
    "::ffff:10.0.0.1": "embedded",
    "::ffff:127.0.0.1": "embedded",
    "64:ff9b::7f00:1": "embedded",
    "2002:7f00:1::": "embedded",
    "2001:0:7f00:1::": "embedded",
    "2606::5efe:7f00:1": "embedded",
}
"""An address of each class of section 7 that no rule of these tests can reach."""

NAMES = {address: f"n{at}.names.test" for at, address in enumerate(NEVER)}
BRIDGED = {address: f"n{at}.bridged.test" for at, address in enumerate(NEVER)}

RULES = [
    {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "paths": ["/ok/**"]},
    {"name": "closed", "hosts": ["b.test"], "ports": ["TLS"]},
    {"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]},
    {"name": "paths", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["http"], "paths": ["/a/**"]},
    {"name": "names", "hosts": ["*.names.test", "localhost"], "schemes": ["https", "http"], "ports": [80, 443, "PLAIN", "TLS"]},
    {"name": "bridged-names", "hosts": ["*.bridged.test"], "tls": "bridge", "ports": [443, "TLS"]},
    {"name": "literals", "hosts": list(NEVER), "schemes": ["https", "http"], "ports": [80, 443, "PLAIN", "TLS"]},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("attacks")
    answers = {name: [address] for names in (NAMES, BRIDGED) for address, name in names.items()}
    section = {
        "timeouts": {"first_bytes": "700ms", "tls": "1s", "head": "1s", "dns": "2s"},
        "addresses": {"self_names": ["gateway.names.test"]},
        "admin": {"probes": "127.0.0.1:0"},
        "limits": {"connections_per_caller": 0},  # all tests are one caller, and some of its connections stay open
    }
    pki = CertificateAuthority(folder / "pki")
    leaf = pki.issue("a.test", "b.test", "rebind.bridged.test", "127.0.0.1")
    answers["gateway.names.test"] = ["8.8.8.8"]
    async with running(folder, RULES, answers=answers, section=section, pki=pki, leaf=leaf) as rig:
        yield rig


async def refused(rig: Rig, client: Client, *lines: str) -> tuple[int, str]:
    """Status and code of a refusal, during which nothing was dialled."""
    before = rig.dials
    answer = code_of(await client.ask(*lines))
    assert rig.dials == before
    return answer


def named(address: str) -> str:
    return f"[{address}]" if ":" in address else address


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


# E14 Spellings of addresses that some program reads as another


@pytest.mark.parametrize(
    "host",
    [
        *"2130706433 0x7f.1 0x7f000001 127.1 127.0.0.1. 0177.0.0.1 017700000001 1.2.3.4.5 [fe80::1%25eth0] [fe80::1%eth0] [::1 ::1".split(),
        *"[::1]x [127.0.0.1] [v1.x] a..b .a a_-.b- u@b.test u:p@b.test b.test%00 %62.test b%2etest bücher.test １２７.0.0.1".split(),
        "",
        "a" * 254,
    ],
)
async def test_a_host_that_others_may_read_as_another_is_malformed(rig: Rig, host: str) -> None:
    for lines in (
        (f"CONNECT {host}:443 HTTP/1.1", f"Host: {host}:443"),
        (f"GET http://{host}/ HTTP/1.1", f"Host: {host}"),
        (f"GET http://b.test:{rig.plain.port}/ HTTP/1.1", f"Host: {host}"),
    ):
        status, _ = await refused(rig, await rig.client(), *(line.encode().decode("latin-1") for line in lines))
        assert status in {400, 421}


@pytest.mark.parametrize("port", ["0", "65536", "99999999999999999999", "+443", "-1", "443 ", "0x1bb", ""])
async def test_a_port_that_is_none_is_malformed(rig: Rig, port: str) -> None:
    status, _ = await refused(rig, await rig.client(), f"CONNECT b.test:{port} HTTP/1.1", f"Host: b.test:{port}")
    assert status == 400


# E15 Paths that servers read in more than one way


@pytest.mark.parametrize(
    "path",
    [*"/a/../b /a/%2e%2e/b /a/.%2E/b /a/%2e /a%2fb /a%5cb /a\\b //a /a//b /a;x /a%3bx/../b /a%00 /a%0d%0a /%zz /%4 /a%".split(), "/ä"],
)
async def test_a_path_that_servers_read_differently_is_refused_where_a_rule_has_paths(rig: Rig, path: str) -> None:
    origin = f"a.test:{rig.plain.port}"
    status, code = await refused(
        rig, await rig.client(), f"GET http://{origin}{path} HTTP/1.1".encode().decode("latin-1"), f"Host: {origin}"
    )
    assert (status, code) in {(400, "path_not_canonical"), (400, "bad_request"), (403, "rule_default")}
    assert code != "rule_default" or path == "/a%3bx/../b"


# E16 Auth in shadow mode


async def test_a_field_that_names_another_method_or_path_is_not_forwarded_where_rules_look_at_them(rig: Rig) -> None:
    fields = ("X-HTTP-Method-Override: DELETE", "X_Http_Method: DELETE", "X-Original-URL: /secret", "X-Rewrite-URL: /secret")
    looked_at = await rig.get(f"http://a.test:{rig.plain.port}/a/x", *fields)
    assert (looked_at[0], b"DELETE" in looked_at[2], b"secret" in looked_at[2]) == (200, False, False)
    open_to_all = await rig.get(f"http://b.test:{rig.plain.port}/a/x", *fields)
    assert (open_to_all[0], open_to_all[2].count(b"DELETE"), open_to_all[2].count(b"secret")) == (200, 2, 2)


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
    async with running(tmp_path / "g", [{**roots, "ports": ["TLS"]}], section=section, origin_context=foreign.server_context()) as rig:
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
        assert (await client.ask(f"POST https://{host}/other HTTP/1.1", f"Host: {host}", "Content-Length: 0"))[0] == 200
        record = await rig.record("gateway.decision", path="/other")
        assert (record["verdict"], record["would_deny"], record["rule"]) == ("permit", "rule_default", "")
        assert await rig.metrics("robin_gateway_mode") == {'mode="enforce"': 0, 'mode="report"': 1}
        assert await rig.robin.event("policy_reports_only")


# E19, E23 The address guard, by every way to an address


@pytest.mark.parametrize("address", NEVER)
async def test_an_address_that_is_never_reachable_is_not_dialled_by_any_way(rig: Rig, address: str) -> None:
    for host in (named(address), NAMES[address]):
        for line in (f"CONNECT {host}:443", f"GET http://{host}/", f"GET https://{host}/"):
            authority = f"{host}:443" if line.startswith("CONNECT") else host
            assert await refused(rig, await rig.client(), f"{line} HTTP/1.1", f"Host: {authority}") == (403, "address_refused")
    host = BRIDGED[address]
    answer = await refused(rig, await rig.client(), f"CONNECT {host}:443 HTTP/1.1", f"Host: {host}:443")
    assert answer == (403, "address_refused")
    record = await rig.record("gateway.decision", host=host)
    assert record["verdict"] == "deny"
    assert record["why"] in {NEVER[address], "self"}  # this machine has some of them


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


async def test_the_search_list_and_the_hosts_file_are_not_asked(rig: Rig) -> None:  # E24
    refused = await rig.get("http://gone.names.test/")
    assert code_of(refused) == (502, "dns_failed")
    assert "`addresses.hosts`" in json.loads(refused[2])["detail"]
    assert {asked for asked, _ in rig.names.asked if asked.startswith("gone")} == {"gone.names.test."}


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


# E27 ClientHellos of hostile form


async def test_a_client_hello_in_single_octets_is_read_like_a_whole_one(rig: Rig) -> None:
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    for octet in client_hello("b.test"):
        client.writer.write(bytes((octet,)))
        await client.writer.drain()
    async with asyncio.timeout(20):
        assert (await client.reader.readexactly(1))[0] == 22  # the origin's ServerHello


@pytest.mark.parametrize("spread", [1, 3, 100])
async def test_a_client_hello_over_many_records_is_read_like_a_whole_one(rig: Rig, spread: int) -> None:
    hello = client_hello("a.test" if spread == 3 else "b.test", padding=1400)  # as long as one with a hybrid key share
    body, at = hello[5:], max(1, (len(hello) - 5) // spread)
    records = b"".join(
        b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in (body[i : i + at] for i in range(0, len(body), at))
    )
    client = await rig.client()
    await client.connect(f"{'a' if spread == 3 else 'b'}.test:{rig.tls.port}")
    client.writer.write(records)
    async with asyncio.timeout(20):
        assert (await client.reader.readexactly(1))[0] == 22
    for wrong in (b"\x16\x03\x01\x00\x00", b"\x17\x03\x03\x00\x01x"):  # an empty record, another record within it
        client = await rig.client()
        await client.connect(f"b.test:{rig.tls.port}")
        client.writer.write(records[: 5 + at] + wrong if spread > 1 else wrong)
        assert (await client.rest())[:1] in {b"\x15", b""}


async def test_a_client_hello_beyond_16_kib_ends_the_connection(rig: Rig) -> None:
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    client.writer.write(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(16400))
    assert (await client.rest())[:1] == b"\x15"
    await rig.record("gateway.close", fault="client_hello_invalid")


# E28 Agent-triggered skip, and a cache that one caller poisons for another


async def test_clients_that_abort_their_handshake_leave_nothing_for_the_next_one(rig: Rig) -> None:
    async def reject() -> None:
        """As programs do that do not trust the CA: with an alert, which asyncio would not send."""
        client = await rig.client()
        await client.connect(f"a.test:{rig.tls.port}")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = rig.pki.client_context().wrap_bio(incoming, outgoing, server_hostname="a.test")
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

    def lines() -> list[dict[str, object]]:
        return [one for one in rig.robin.events if one.get("event") == "tls_client_rejected"]

    for turn in range(100):
        client = await rig.client()
        await client.connect(f"a.test:{rig.tls.port}")
        client.writer.write(client_hello("a.test")[: turn * 5])
        client.writer.transport.abort()
    rejected = 0
    while not any(one["alert"] == "tlsv1_alert_unknown_ca" for one in lines()):
        await reject()
        rejected += 1
        assert rejected < 1000
    line = next(one for one in lines() if one["alert"] == "tlsv1_alert_unknown_ca")
    assert line["caller"] == "local"
    assert len(str(line["ca_sha256"])) == 64
    assert "ca.crt" in str(line["detail"])
    for _ in range(2):
        client = await rig.client()
        await client.connect(f"a.test:{rig.tls.port}")
        tls = await client.start_tls("a.test", rig.ca_file)
        shown = tls.getpeercert()
        assert shown is not None
        assert shown["subjectAltName"] == (("DNS", "a.test"),)


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
async def test_a_host_costs_one_signature_however_often_it_is_bridged(rig: Rig, count: int) -> None:  # E32
    async def bridged() -> None:
        client = await rig.client()
        await client.connect(f"a.test:{rig.tls.port}")
        await client.start_tls("a.test", rig.ca_file)
        client.writer.transport.abort()

    await bridged()
    (minted,) = (await rig.metrics("robin_gateway_leaf_mints_total")).values()
    for _ in range(count):
        await bridged()
    assert list((await rig.metrics("robin_gateway_leaf_mints_total")).values()) == [minted]
    assert next(iter((await rig.metrics("robin_gateway_leaf_cache_hits_total")).values())) >= count


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
    assert rig.tls.connections == connections + 1
    assert [head.split(b" ")[1] for head in rig.tls.requests[requests:]] == [b"/ok/1", b"/ok/2"]


# E35, E36 What is not what the rule says


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


async def test_a_client_that_stalls_in_its_handshake_or_its_head_is_cut(rig: Rig) -> None:
    client = await rig.client()
    await client.connect(f"a.test:{rig.tls.port}")
    client.writer.write(client_hello("a.test"))  # and never a Finished
    await client.rest()
    await rig.record("gateway.close", fault="tls_client_rejected")
    client = await rig.client()
    client.writer.write(b"CONNECT a.test:443 HTTP/1.1\r\nHost: ")
    assert code_of(await client.response()) == (408, "request_timeout")


async def test_plaintext_behind_a_connect_is_served_only_where_http_is_allowed(rig: Rig) -> None:
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    client.writer.write(b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
    assert await client.rest() == b""
    await rig.record("gateway.close", fault="not_tls")
    client = await rig.client()
    own = f"a.test:{rig.plain.port}"
    assert (await client.connect(own))[0] == 200
    assert (await client.ask("GET /a/1 HTTP/1.1", f"Host: {own}"))[0] == 200
    assert code_of(await client.ask("GET /b HTTP/1.1", f"Host: {own}")) == (403, "rule_default")
    client = await rig.client()
    await client.connect(own)
    client.writer.write(client_hello("a.test"))  # TLS where only http is allowed
    assert await client.rest() == b""
    await rig.record("gateway.close", fault="not_http")


# Request smuggling


async def test_bytes_behind_a_connect_that_is_refused_are_never_a_request(rig: Rig) -> None:
    """A client may send the bytes of its tunnel before it has seen the refusal, and another program may choose those bytes."""
    inner = f"GET http://b.test:{rig.plain.port}/smuggled HTTP/1.1\r\nHost: b.test:{rig.plain.port}\r\n\r\n"
    client = await rig.client()
    client.writer.write(f"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n{inner}".encode())
    status, fields, _ = await client.response()
    assert (status, fields["connection"]) == (403, ["close"])
    client.writer.write(inner.encode())
    assert await client.rest() == b""
    assert not [head for head in rig.plain.requests if b"/smuggled" in head]


@pytest.mark.parametrize("fields", [
    ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ("Content-Length: 5", "Content-Length: 6"),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding : chunked",),
    ("Content-Length: +5",),
    ("X: y\r\n folded",),
    ("Host: b.test",),
])  # fmt: skip
async def test_a_message_of_doubtful_length_is_refused_in_every_form(rig: Rig, fields: Sequence[str]) -> None:
    own, bridged = f"b.test:{rig.plain.port}", f"a.test:{rig.tls.port}"
    assert (await refused(rig, await rig.client(), f"POST http://{own}/ HTTP/1.1", f"Host: {own}", *fields))[0] == 400
    assert (await refused(rig, await rig.client(), f"CONNECT {own} HTTP/1.1", f"Host: {own}", *fields))[0] == 400
    client = await rig.client()
    await client.connect(bridged)
    await client.start_tls("a.test", rig.ca_file)
    seen = len(rig.tls.requests)
    assert code_of(await client.ask("POST /ok/x HTTP/1.1", f"Host: {bridged}", *fields))[0] == 400
    assert len(rig.tls.requests) == seen


async def test_a_connect_has_no_body(rig: Rig) -> None:
    own = f"b.test:{rig.tls.port}"
    for field in ("Content-Length: 5", "Transfer-Encoding: chunked"):
        assert (await refused(rig, await rig.client(), f"CONNECT {own} HTTP/1.1", f"Host: {own}", field))[0] == 400


# E7 Who the caller is, E50 what is recorded


async def test_no_field_of_a_request_selects_the_caller(rig: Rig) -> None:
    forged = ["X-Forwarded-For: 9.9.9.9", "Forwarded: for=root", "User-Agent: root", "X-Caller: root", "From: root", "Via: 1.1 root"]
    url = f"http://b.test:{rig.plain.port}/who"
    assert (await rig.get(url, *forged, "Proxy-Authorization: Bearer x", "X-Client-Cert: root"))[0] == 200
    record = await rig.record("gateway.decision", path="/who")
    assert record["caller"] == {"id": "local", "evidence": "loopback", "issuer": "", "pod": "", "addr": "127.0.0.1"}


async def test_what_a_request_holds_cannot_write_a_line_of_the_log(rig: Rig) -> None:
    for path in ("/%0d%0a{%22event%22:%22forged%22}", '/"},{"event":"forged"}', "/\\u000a{}", "/\x1b[2J", "/ä\u2028"):
        await rig.get(f"http://b.test:{rig.plain.port}{path}".encode().decode("latin-1"), 'X: "}\t{"event":"forged"}')
    assert (await rig.get(f"http://b.test:{rig.plain.port}/last"))[0] == 200
    await rig.record("gateway.decision", path="/last")
    lines = [line for stream, line in rig.robin.lines if stream == "stdout"]
    assert all(line.isascii() and line.isprintable() and json.loads(line)["event"] != "forged" for line in lines)


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


async def test_a_refusal_has_its_code_in_the_response_and_in_its_one_record(rig: Rig) -> None:  # E52
    status, fields, body = await rig.get("http://evil.test/refused")
    problem = json.loads(body)
    record = await rig.record("gateway.decision", id=problem["request_id"])
    assert (status, record["code"], record["verdict"]) == (403, problem["code"], "deny")
    assert fields["proxy-status"] == ['robin-gateway; error=http_request_denied; details="rule_default"']
    assert (await rig.record("gateway.close", id=problem["request_id"]))["fault"] == problem["code"]
