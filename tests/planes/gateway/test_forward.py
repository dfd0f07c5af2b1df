"""The forward proxy as a process: rules, Host, addresses, CONNECT with passthrough, tunnel and bridge, and the records (gateway.md 15)."""

import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.planes.gateway.rig import Client, Rig, code_of, running

from robin.telemetry.audit_chain import key_id_of
from robin.telemetry.audit_verify import verify

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


@pytest.mark.parametrize("path", ["/a/../b", "/a/%2e%2e/b", "/a%2fb", "/a\\b", "//a", "/a;x", "/%zz"])
async def test_a_path_that_servers_read_differently_is_refused_where_a_rule_has_paths(rig: Rig, path: str) -> None:  # E15
    assert code_of(await rig.get(f"http://a.test:{rig.plain.port}{path}")) == (400, "path_not_canonical")
    status, _, body = await rig.get(f"http://b.test:{rig.plain.port}{path}")
    assert status == 200
    assert body.split(b" ")[1] == path.encode()


async def test_origin_form_and_trace_are_not_for_a_forward_proxy(rig: Rig) -> None:  # E36
    client = await rig.client()
    assert code_of(await client.ask("GET / HTTP/1.1", "Host: a.test")) == (421, "misdirected")
    client = await rig.client()
    assert (await client.ask("TRACE http://b.test/ HTTP/1.1", "Host: b.test"))[0] == 405


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
    assert rig.tls.connections <= connections + 1
    client.writer.close()
    inner = await rig.record("gateway.decision", path="/ok/bridge")
    outer = await rig.record("gateway.close", id=inner["connect_id"])
    assert inner["tls"] == "bridge"
    assert outer["sni"] == "a.test"
    assert "marked" not in json.dumps(rig.records)  # E51


async def test_a_bridge_goes_over_an_idle_verified_connection_to_the_same_endpoint_and_to_no_other(tmp_path: Path) -> None:
    rules = [{"name": host, "hosts": [f"{host}.test"], "ports": ["TLS"], "paths": ["/ok/*"]} for host in "ab"]
    async with running(tmp_path / "g", rules) as rig:

        async def bridge(host: str, path: str) -> Client:
            client = await rig.client()
            assert (await client.connect(f"{host}:{rig.tls.port}"))[0] == 200
            await client.start_tls(host, rig.ca_file)
            assert (await client.ask(f"GET {path} HTTP/1.1", f"Host: {host}:{rig.tls.port}"))[0] == 200
            return client

        seen, closes = [], []
        for path, host in (("/ok/1", "a.test"), ("/ok/2", "a.test"), ("/ok/3", "b.test")):
            (await bridge(host, path)).writer.close()
            inner = await rig.record("gateway.decision", path=path)
            closes.append((await rig.record("gateway.close", id=inner["connect_id"]))["upstream"])
            seen.append(rig.tls.connections)
        assert seen == [1, 1, 2]
        assert [one["reused"] for one in closes] == [False, True, False]
        assert closes[0]["cert_sha256"] is not None
        assert closes[0]["cert_sha256"] == closes[1]["cert_sha256"]
        outer = [await rig.client() for _ in range(2)]
        for client in outer:  # one has the idle connection, so that the other gets one of its own
            assert (await client.connect(f"a.test:{rig.tls.port}"))[0] == 200
        assert rig.tls.connections == 3


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


async def test_a_client_that_offers_only_h2_to_a_bridge_is_refused(rig: Rig) -> None:  # E34, first version
    client = await rig.client()
    await client.connect(f"a.test:{rig.tls.port}")
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        await client.start_tls("a.test", rig.ca_file, alpn=("h2",))
    await rig.record("gateway.close", fault="alpn_refused")


async def test_a_deny_that_reports_lets_the_request_pass_and_is_recorded(rig: Rig) -> None:  # E12
    assert (await rig.get(f"http://w.test:{rig.plain.port}/watched"))[0] == 200
    record = await rig.record("gateway.decision", path="/watched")
    assert (record["verdict"], record["would_deny"]) == ("permit", "rule_denied")
    assert (await rig.metrics("robin_gateway_would_deny_total"))['rule="watched"'] >= 1


async def test_our_own_name_in_via_is_a_loop(rig: Rig) -> None:  # E56
    assert code_of(await rig.get(f"http://b.test:{rig.plain.port}/", "Via: 1.1 other, 1.1 robin-gateway")) == (502, "loop")


async def test_a_connect_of_http_1_0_needs_no_host_and_no_other_request_goes_without(rig: Rig) -> None:  # Python 3.11's http.client
    client = await rig.client()
    assert (await client.ask(f"CONNECT b.test:{rig.tls.port} HTTP/1.0"))[0] == 200
    await client.start_tls("b.test", rig.pki.ca_file)
    assert (await client.ask("GET / HTTP/1.1", "Host: b.test"))[0] == 200
    twice = ["CONNECT b.test:1 HTTP/1.0", "Host: b.test", "Host: b.test"]
    for lines in ([f"CONNECT b.test:{rig.tls.port} HTTP/1.1"], ["GET http://b.test/ HTTP/1.0"], twice):
        client = await rig.client()
        assert (await client.ask(*lines))[0] == 400
    client = await rig.client()
    assert code_of(await client.ask(f"CONNECT b.test:{rig.tls.port} HTTP/1.0", "Host: a.test"))[0] == 421


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
    entries = [entry for entry in rig.robin.events if "prev" in entry]
    assert all(later["prev"] == earlier["hash"] for earlier, later in pairwise(entries))
    assert {entry["event"] for entry in entries} == {"audit.open", "audit.checkpoint", "gateway.decision", "gateway.close"}


# other settings, other processes


async def test_records_go_to_a_chained_file_that_is_verified(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    file = tmp_path / "audit.jsonl"
    rules = [{"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]}]
    key = Ed25519PrivateKey.generate()
    (tmp_path / "checkpoints.pem").touch(mode=0o600)
    (tmp_path / "checkpoints.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def made_it(signature: bytes, message: bytes) -> bool:
        key.public_key().verify(signature, message)
        return True

    section = {"audit": {"file": str(file), "checkpoint_key_file": str(tmp_path / "checkpoints.pem"), "checkpoint_every": 1}}
    async with running(tmp_path / "g", rules, section=section, bridge=False) as rig:
        assert (await rig.get(f"http://b.test:{rig.plain.port}/"))[0] == 200
        await rig.robin.stop()
    with file.open("rb") as opened:
        chain, found = verify([("audit.jsonl", opened)], {key_id_of(key.public_key().public_bytes_raw()): made_it})
    assert found is None
    assert chain.ended
    records = [json.loads(line) for line in file.read_bytes().splitlines() if b'"gateway.' in line]
    assert [one["event"] for one in records] == ["gateway.decision", "gateway.close"]
    assert 0 <= records[1]["ttfb_ms"] <= records[1]["duration_ms"]
