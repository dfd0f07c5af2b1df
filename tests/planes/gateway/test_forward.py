"""The forward proxy as a process: rules, Host, addresses, CONNECT with passthrough, tunnel and bridge, and the records (gateway.md 15)."""

import asyncio
import hashlib
import json
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from tests.planes.gateway.rig import Rig, running

from robin.telemetry.audit_verify import verify
from robin.testing.certificates import CertificateAuthority

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = [
    {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "paths": ["/ok/**"]},
    {"name": "closed", "hosts": ["b.test", "127.0.0.1", "pass.names.test"], "ports": ["TLS"]},
    {"name": "plain", "hosts": ["b.test", "w.test", "*.names.test"], "ports": ["PLAIN"], "schemes": ["http"]},
    {"name": "paths", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["http"], "paths": ["/a/**"]},
    {"name": "any80", "hosts": ["**", "localhost", "127.0.0.1", "0.0.0.0", "::1", "10.0.0.1"], "schemes": ["http"]},
    {
        "name": "watched",
        "effect": "deny",
        "mode": "report",
        "hosts": ["w.test"],
        "ports": ["PLAIN"],
        "schemes": ["http"],
        "paths": ["/watched"],
    },
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    answers = {"moving.names.test": [["127.0.0.1"]], "one.names.test": ["10.9.9.9"], "meta.example.test": ["169.254.169.254"]}
    section = {"timeouts": {"first_bytes": "700ms", "dns": "2s"}}
    async with running(tmp_path_factory.mktemp("gateway"), RULES, answers=answers, section=section, hosts={"w.test": ["127.0.0.1"]}) as rig:
        yield rig


def code_of(response: tuple[int, dict[str, list[str]], bytes]) -> tuple[int, str]:
    """Status and code of a refusal, which stands in Proxy-Status and in the problem body alike (E52)."""
    status, fields, body = response
    problem = json.loads(body)
    assert problem["type"] == f"urn:robin:fault:{problem['code']}"
    assert f'details="{problem["code"]}"' in fields["proxy-status"][0]
    assert fields["proxy-status"][0].startswith("robin-gateway; ")
    assert fields["cache-control"] == ["no-store"]
    return status, problem["code"]


async def test_an_absolute_http_target_reaches_its_origin_with_canonical_host_and_without_credentials(rig: Rig) -> None:
    url = f"http://B.Test.:{rig.plain.port}/x?q=1"
    status, _, body = await rig.get(url, "Authorization: Bearer marked", "Proxy-Authorization: Basic bWFya2Vk", "X-Forwarded-For: 1.2.3.4")
    assert status == 200
    assert body.startswith(b"GET /x?q=1 HTTP/1.1\r\nHost: b.test:%d\r\n" % rig.plain.port)
    assert b"\r\nVia: 1.1 robin-gateway\r\n" in body
    assert b"uthorization" not in body
    assert b"X-Forwarded" not in body


async def test_an_absolute_https_target_is_fetched_over_verified_tls(rig: Rig) -> None:  # E47
    status, _, body = await rig.get(f"https://a.test:{rig.tls.port}/ok/1")
    assert status == 200
    assert body.startswith(b"GET /ok/1 HTTP/1.1\r\n")


async def test_what_no_rule_allows_is_refused_before_its_name_is_resolved(rig: Rig) -> None:  # E11
    before = len(rig.names.asked)
    client = await rig.client()
    assert code_of(await client.connect("evil.names.test:22")) == (403, "rule_default")
    assert code_of(await client.connect("a.test:22")) == (403, "rule_default")
    assert code_of(await rig.get("https://8.8.8.8/")) == (403, "rule_default")
    assert len(rig.names.asked) == before


@pytest.mark.parametrize(
    "authority",
    [
        *"2130706433:80 0x7f.1:80 127.1:80 017700000001:80 [fe80::1%25eth0]:80 a..b:80 u@b.test:80 b.test:0 b.test:65536 :80".split(),
        "a" * 254 + ":80",
    ],
)
async def test_an_authority_that_others_may_read_as_another_is_malformed(rig: Rig, authority: str) -> None:  # E14
    client = await rig.client()
    status, _ = code_of(await client.connect(authority))
    assert status == 400
    assert (await rig.get(f"http://{authority}/"))[0] == 400


@pytest.mark.parametrize("path", ["/a/../b", "/a/%2e%2e/b", "/a%2fb", "/a\\b", "//a", "/a;x", "/%zz"])
async def test_a_path_that_servers_read_differently_is_refused_where_a_rule_has_paths(rig: Rig, path: str) -> None:  # E15
    assert code_of(await rig.get(f"http://a.test:{rig.plain.port}{path}")) == (400, "path_not_canonical")
    status, _, body = await rig.get(f"http://b.test:{rig.plain.port}{path}")
    assert status == 200
    assert body.split(b" ")[1] == path.encode()


async def test_a_host_that_is_not_the_target_is_misdirected_and_nothing_is_sent(rig: Rig) -> None:  # E25
    before = rig.plain.connections
    client = await rig.client()
    answer = await client.ask(f"GET http://a.test:{rig.plain.port}/a/x HTTP/1.1", "Host: b.test")
    assert code_of(answer) == (421, "authority_mismatch")
    client = await rig.client()
    assert code_of(await client.ask(f"CONNECT a.test:{rig.tls.port} HTTP/1.1", "Host: b.test")) == (421, "authority_mismatch")
    assert rig.plain.connections == before


async def test_origin_form_and_trace_are_not_for_a_forward_proxy(rig: Rig) -> None:  # E36
    client = await rig.client()
    assert code_of(await client.ask("GET / HTTP/1.1", "Host: a.test")) == (421, "misdirected")
    client = await rig.client()
    assert (await client.ask("TRACE http://b.test/ HTTP/1.1", "Host: b.test"))[0] == 405


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://0.0.0.0/", "http://10.0.0.1/", "http://meta.example.test/"]
)
async def test_an_address_that_is_never_reachable_is_refused_although_a_rule_allows_the_name(rig: Rig, url: str) -> None:  # E19, E20
    rig.names.names["localhost"] = ["127.0.0.1"]
    assert code_of(await rig.get(url)) == (403, "address_refused")
    client = await rig.client()
    assert code_of(await client.connect(url.split("/")[2] + ":80")) == (403, "address_refused")


async def test_each_connection_is_judged_by_the_one_answer_that_it_dials(rig: Rig) -> None:  # E21
    rig.names.names["rebind.names.test"] = [["127.0.0.1"], ["10.0.0.7"]]
    url = f"http://rebind.names.test:{rig.plain.port}/"
    client = await rig.client()
    status, _, _ = await client.ask(f"GET {url} HTTP/1.1", f"Host: rebind.names.test:{rig.plain.port}", "Connection: close")
    assert status == 200
    assert [kind for name, kind in rig.names.asked if name == "rebind.names.test."] in (["AAAA", "A"], ["A", "AAAA"])
    client = await rig.client()
    assert code_of(await client.connect(f"rebind.names.test:{rig.plain.port}")) == (403, "address_refused")


async def test_names_are_asked_for_absolutely_and_a_name_that_is_not_there_is_a_502(rig: Rig) -> None:
    assert code_of(await rig.get(f"http://gone.names.test:{rig.plain.port}/")) == (502, "dns_failed")
    assert {name for name, _ in rig.names.asked if name.startswith("gone")} == {"gone.names.test."}


async def test_a_bridge_serves_the_clients_requests_over_one_verified_connection(rig: Rig) -> None:  # E4, E30, E31, E50
    connections = rig.tls.connections
    client = await rig.client()
    assert (await client.connect(f"a.test:{rig.tls.port}"))[0] == 200
    tls = await client.start_tls("a.test", rig.ca_file)
    assert tls.getpeercert() is not None
    status, _, body = await client.ask(
        "GET /ok/bridge?secret=marked HTTP/1.1", f"Host: a.test:{rig.tls.port}", "Authorization: Bearer marked"
    )
    assert status == 200
    assert b"uthorization" not in body
    assert code_of(await client.ask("GET /other HTTP/1.1", f"Host: a.test:{rig.tls.port}")) == (403, "rule_default")
    assert rig.tls.connections == connections + 1
    client.writer.close()
    inner = await rig.record("gateway.decision", path="/ok/bridge")
    outer = await rig.record("gateway.close", id=inner["connect_id"])
    assert inner["tls"] == "bridge"
    assert outer["sni"] == "a.test"
    assert "marked" not in json.dumps(rig.records)  # E51


async def test_inside_a_bridge_host_method_and_target_are_those_of_the_connect(rig: Rig) -> None:  # E25, E36
    for lines, code in (
        (("GET /ok/x HTTP/1.1", "Host: b.test"), (421, "authority_mismatch")),
        ((f"GET https://b.test:{rig.tls.port}/ok/x HTTP/1.1", f"Host: a.test:{rig.tls.port}"), (421, "authority_mismatch")),
        ((f"CONNECT a.test:{rig.tls.port} HTTP/1.1", f"Host: a.test:{rig.tls.port}"), (405, "method_refused")),
    ):
        requests = len(rig.tls.requests)
        client = await rig.client()
        await client.connect(f"a.test:{rig.tls.port}")
        await client.start_tls("a.test", rig.ca_file)
        assert code_of(await client.ask(*lines)) == code
        assert len(rig.tls.requests) == requests


async def test_a_host_without_rules_about_requests_shows_its_own_certificate(rig: Rig) -> None:  # E33, E50
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    tls = await client.start_tls("b.test", rig.pki.ca_file)
    shown = tls.getpeercert(binary_form=True)
    leaf = (rig.folder / "pki" / "leaf-1.pem").read_text()
    assert shown is not None
    assert hashlib.sha256(shown).digest() == hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf)).digest()
    status, _, body = await client.ask("GET /x HTTP/1.1", "Host: anything")
    assert status == 200
    assert b"Via" not in body
    client.writer.close()
    decision = await rig.record("gateway.decision", op="connect", host="b.test", tls="passthrough", scheme="https")
    closed = await rig.record("gateway.close", id=decision["id"])
    assert closed["bytes_up"] > 200
    assert closed["bytes_down"] > 500


@pytest.mark.parametrize(
    ("host", "name"), [("a.test", "b.test"), ("b.test", "a.test"), ("b.test", ""), ("a.test", ""), ("b.test", "127.0.0.1")]
)
async def test_a_server_name_that_is_not_the_target_ends_with_an_alert_and_nothing_is_sent(rig: Rig, host: str, name: str) -> None:  # E26
    before = rig.tls.octets
    client = await rig.client()
    await client.connect(f"{host}:{rig.tls.port}")
    hello = client_hello(name)
    client.writer.write(hello)
    assert await client.rest() == bytes((21, 3, 1, 0, 2, 2, 112))
    assert rig.tls.octets == before
    await rig.record("gateway.close", fault="sni_mismatch" if name and name != "127.0.0.1" else "sni_missing")


async def test_a_client_hello_in_single_octets_is_read_like_a_whole_one(rig: Rig) -> None:  # E27
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    for octet in client_hello("b.test"):
        client.writer.write(bytes((octet,)))
        await client.writer.drain()
    async with asyncio.timeout(20):
        assert (await client.reader.readexactly(1))[0] == 22  # the origin's ServerHello


async def test_silence_and_a_client_hello_beyond_16_kib_end_the_connection(rig: Rig) -> None:  # E27, E35
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    assert await client.rest() == b""
    await rig.record("gateway.close", fault="client_hello_invalid")
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    client.writer.write(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(16400))
    assert (await client.rest())[:1] == b"\x15"


async def test_plaintext_behind_a_connect_to_a_tls_host_is_closed(rig: Rig) -> None:  # E36
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    client.writer.write(b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
    assert await client.rest() == b""
    await rig.record("gateway.close", fault="not_tls")


async def test_plain_requests_inside_a_connect_are_judged_one_by_one(rig: Rig) -> None:  # E36
    client = await rig.client()
    assert (await client.connect(f"a.test:{rig.plain.port}"))[0] == 200
    status, _, _ = await client.ask("GET /a/1 HTTP/1.1", f"Host: a.test:{rig.plain.port}")
    assert status == 200
    assert code_of(await client.ask("GET /b HTTP/1.1", f"Host: a.test:{rig.plain.port}")) == (403, "rule_default")


async def test_a_client_that_offers_only_h2_to_a_bridge_is_refused(rig: Rig) -> None:  # E34, first version
    client = await rig.client()
    await client.connect(f"a.test:{rig.tls.port}")
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        await client.start_tls("a.test", rig.ca_file, alpn=("h2",))
    await rig.record("gateway.close", fault="alpn_refused")


async def test_a_client_that_rejects_the_leaf_leaves_nothing_for_the_next_one(rig: Rig) -> None:  # E28
    for _ in range(10):
        client = await rig.client()
        await client.connect(f"a.test:{rig.tls.port}")
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.start_tls("a.test", rig.pki.ca_file)
    entry = await rig.robin.event("tls_client_rejected")
    assert len(entry["ca_sha256"]) == 64
    client = await rig.client()
    await client.connect(f"a.test:{rig.tls.port}")
    await client.start_tls("a.test", rig.ca_file)


async def test_headers_do_not_select_the_caller(rig: Rig) -> None:  # E7
    await rig.get(
        f"http://b.test:{rig.plain.port}/who", "X-Forwarded-For: 9.9.9.9", "Forwarded: for=root", "User-Agent: root", "X-Caller: root"
    )
    record = await rig.record("gateway.decision", path="/who")
    assert record["caller"] == {"id": "local", "evidence": "loopback", "issuer": "", "pod": "", "addr": "127.0.0.1"}


async def test_a_deny_that_reports_lets_the_request_pass_and_is_recorded(rig: Rig) -> None:  # E12
    assert (await rig.get(f"http://w.test:{rig.plain.port}/watched"))[0] == 200
    record = await rig.record("gateway.decision", path="/watched")
    assert (record["verdict"], record["would_deny"]) == ("permit", "rule_denied")


async def test_our_own_name_in_via_is_a_loop(rig: Rig) -> None:  # E56
    assert code_of(await rig.get(f"http://b.test:{rig.plain.port}/", "Via: 1.1 other, 1.1 robin-gateway")) == (502, "loop")


async def test_a_redirect_goes_to_the_client(rig: Rig) -> None:  # E41
    rig.plain.answer = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://b.test/\r\n"
    try:
        status, fields, _ = await rig.get(f"http://b.test:{rig.plain.port}/r")
    finally:
        rig.plain.answer = b"HTTP/1.1 200 OK\r\n"
    assert (status, fields["location"]) == (307, ["http://b.test/"])


async def test_every_record_is_in_one_verifiable_chain(rig: Rig) -> None:
    await rig.get(f"http://b.test:{rig.plain.port}/chain")
    await rig.record("gateway.close", status=200)
    entries = rig.records
    assert all(later["prev"] == earlier["hash"] for earlier, later in pairwise(entries))
    assert {entry["event"] for entry in entries} == {"gateway.decision", "gateway.close"}


def client_hello(name: str) -> bytes:
    """The first flight of a client, as OpenSSL writes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name or None)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


# other settings, other processes


async def test_a_tcp_rule_is_an_opaque_tunnel_in_which_the_server_may_speak_first(tmp_path: Path) -> None:  # E35, E50
    async with running(tmp_path, [{"name": "smtp", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["tcp"]}], bridge=False) as rig:
        rig.plain.banner = b"220 hello\r\n"
        client = await rig.client()
        await client.connect(f"a.test:{rig.plain.port}")
        async with asyncio.timeout(20):
            assert await client.reader.readexactly(11) == b"220 hello\r\n"
        client.writer.write_eof()
        assert await client.rest() == b""
        closed = await rig.record("gateway.close", bytes_down=11, bytes_up=0)
        assert closed["reason"] == "client_closed"


async def test_a_fault_of_the_origins_certificate_is_a_502_and_never_a_tunnel(tmp_path: Path) -> None:  # E29
    foreign = CertificateAuthority(tmp_path / "foreign")
    (tmp_path / "g").mkdir()
    rules = [{"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"}]
    async with running(tmp_path / "g", rules, leaf=foreign.issue("a.test")) as rig:
        client = await rig.client()
        assert code_of(await client.connect(f"a.test:{rig.tls.port}")) == (502, "upstream_certificate")
        assert rig.tls.requests == []
        assert code_of(await rig.get(f"https://a.test:{rig.tls.port}/")) == (502, "upstream_certificate")


async def test_a_drain_refuses_nothing_at_first_then_cuts_tunnels_and_writes_their_records(tmp_path: Path) -> None:  # E55
    rules = [{"name": "tcp", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["tcp"]}]
    async with running(tmp_path, rules, bridge=False, section={"drain": {"min": "500ms", "max": "1s"}}) as rig:
        clients = [await rig.client() for _ in range(5)]
        for client in clients:
            assert (await client.connect(f"a.test:{rig.plain.port}"))[0] == 200
        rig.robin.send_signal(signal.SIGTERM)
        await rig.robin.event("draining")
        late = await rig.client()
        assert (await late.connect(f"a.test:{rig.plain.port}"))[0] == 200
        assert await rig.robin.returned() == 4
        closed = [one for one in rig.records if one["event"] == "gateway.close"]
        assert [one["reason"] for one in closed] == ["drain"] * 6


async def test_records_go_to_a_chained_file_that_is_verified(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    file = tmp_path / "audit.jsonl"
    rules = [{"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]}]
    async with running(tmp_path / "g", rules, section={"audit": {"file": str(file)}}, bridge=False) as rig:
        assert (await rig.get(f"http://b.test:{rig.plain.port}/"))[0] == 200
        await rig.robin.stop()
    with file.open("rb") as opened:
        chain, found = verify([("audit.jsonl", opened)], {})
    assert found is None
    assert chain.ended
    events = [json.loads(line)["event"] for line in file.read_bytes().splitlines() if b"gateway." in line]
    assert events == ["gateway.decision", "gateway.close"]


async def test_the_default_listener_is_on_loopback_only(tmp_path: Path) -> None:  # E1
    async with running(tmp_path, [], bridge=False) as rig:
        assert rig.address.startswith("127.0.0.1:")
        port = int(rig.address.rpartition(":")[2])
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((socket.gethostbyname(socket.gethostname()), port)) != 0 or socket.gethostbyname(
                socket.gethostname()
            ).startswith("127.")
        assert code_of(await rig.get("http://b.test/")) == (403, "rule_default")


async def test_a_caller_at_its_limit_of_tunnels_gets_a_429(tmp_path: Path) -> None:  # E49
    rules = [{"name": "tcp", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["tcp"]}]
    async with running(tmp_path, rules, bridge=False, section={"limits": {"tunnels_per_caller": 1}}) as rig:
        first, second = await rig.client(), await rig.client()
        await first.connect(f"a.test:{rig.plain.port}")
        answer = await second.connect(f"a.test:{rig.plain.port}")
        assert code_of(answer) == (429, "limit_tunnels")
        assert answer[1]["retry-after"] == ["1"]
