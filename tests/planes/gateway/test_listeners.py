"""Listeners with TLS and client certificates, listeners that others reach, and what is bound (gateway.md sections 3 and 4)."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.descriptors import listening
from tests.planes.gateway.rig import Client, Rig, code_of, running

from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority, Leaf
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY = IdentityAuthority()
ID = "spiffe://robin.test/ns/demo/sa/agent"
RULES = [
    {"name": "spiffe", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"], "callers": ["spiffe://robin.test/ns/**", "cn:agent"]},
    {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge", "callers": ["*", "open"]},
]
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """The CA of the callers, which is neither that of the origins nor that of the bridge."""
    return CertificateAuthority(tmp_path_factory.mktemp("clients"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory, clients: CertificateAuthority) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("listeners")
    own = CertificateAuthority(folder / "own").issue("127.0.0.1")
    tls = {"cert_file": str(own.certificate_file), "key_file": str(own.key_file)}
    mtls = {"ca_file": str(clients.ca_file), "trust_domains": ["robin.test"]}
    listeners = [
        {"name": "spiffe", "listen": "127.0.0.1:0", "auth": "mtls", "mtls": mtls, "tls": tls},
        {
            "name": "named",
            "listen": "127.0.0.1:0",
            "auth": "mtls",
            "mtls": {**mtls, "accept_cn": True},
            "tls": {"minted_names": ["gw.test"]},
        },
        {"name": "plain", "listen": "127.0.0.1:0", "tls": {"minted_names": ["gw.test", "127.0.0.1"]}},
    ]
    async with running(folder, RULES, section={"listeners": listeners}) as rig:
        yield rig


async def connected(rig: Rig, listener: int, leaf: Leaf | None, *, trust: Path, name: str) -> Client:
    """A client of a TLS listener, with this certificate."""
    context = ssl.create_default_context(cafile=str(trust))
    if leaf is not None:
        context.load_cert_chain(leaf.certificate_file, leaf.key_file)
    host, _, port = rig.listeners[listener].rpartition(":")
    client = Client(*await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name))
    rig.clients.append(client)
    return client


async def served(rig: Rig, leaf: Leaf | None, *, named: bool = False, token: str = "x") -> int | str:
    """The status of a request with this certificate, or "closed"."""
    trust = rig.ca_file if named else rig.folder / "own" / "ca.pem"
    try:
        client = await connected(rig, int(named), leaf, trust=trust, name="gw.test" if named else "127.0.0.1")
        own = f"b.test:{rig.plain.port}"
        return (await client.ask(f"GET http://{own}/ HTTP/1.1", f"Host: {own}", f"Proxy-Authorization: Bearer {token}"))[0]
    except (OSError, asyncio.IncompleteReadError):
        return "closed"


async def test_a_client_certificate_names_the_caller(rig: Rig, clients: CertificateAuthority) -> None:  # E6
    assert await served(rig, clients.issue(ID, usages=CLIENT)) == 200
    record = await rig.record("gateway.decision", rule="spiffe")
    assert record["caller"] == {"id": ID, "evidence": "mtls", "issuer": "", "pod": "", "addr": "127.0.0.1"}
    assert await served(rig, clients.issue(ID, "agent.test"), named=True) == 200  # other names beside the one URI do no harm
    assert await served(rig, clients.issue("agent.test", common_name="agent"), named=True) == 200
    assert (await rig.record("gateway.decision", caller={**record["caller"], "id": "cn:agent"}))["verdict"] == "permit"
    assert await served(rig, clients.issue("agent.test", common_name="other"), named=True) == 403


async def test_a_client_certificate_that_names_no_caller_ends_the_connection_unread(
    rig: Rig, clients: CertificateAuthority, tmp_path: Path
) -> None:  # E6
    foreign = CertificateAuthority(tmp_path / "foreign")
    refused = {
        "no certificate": None,
        "two URIs": clients.issue(ID, "spiffe://robin.test/ns/demo/sa/other"),
        "another URI beside it": clients.issue(ID, "https://robin.test/x"),
        "foreign trust domain": clients.issue("spiffe://other.test/ns/demo/sa/agent"),
        "a trust domain that begins like ours": clients.issue("spiffe://robin.test.evil.test/ns/demo/sa/agent"),
        "no workload": clients.issue("spiffe://robin.test"),
        "dot segment": clients.issue("spiffe://robin.test/ns/../sa/agent"),
        "escape": clients.issue("spiffe://robin.test/ns/%61"),
        "userinfo": clients.issue("spiffe://u@robin.test/ns/x"),
        "port": clients.issue("spiffe://robin.test:443/ns/x"),
        "upper case": clients.issue("SPIFFE://robin.test/ns/x"),
        "for servers only": clients.issue(ID, usages=SERVER),
        "for no purpose": clients.issue(ID, usages=()),
        "expired": clients.issue(ID, ends_in_s=-60),
        "not yet valid": clients.issue(ID, starts_in_s=600, ends_in_s=3600),
        "unknown CA": foreign.issue(ID),
        "common name alone": clients.issue(common_name="agent"),
    }

    def denied() -> int:
        return sum(one.get("fault") == "peer_denied" for one in rig.records)

    before, seen = denied(), rig.plain.connections
    for why, leaf in refused.items():
        assert await served(rig, leaf) == "closed", why
    assert await served(rig, clients.issue(ID, usages=SERVER, common_name="agent"), named=True) == "closed"
    assert await served(rig, clients.issue("spiffe://other.test/x", common_name="agent"), named=True) == "closed"  # no way round by the CN
    assert await served(rig, clients.issue(common_name="two words"), named=True) == "closed"
    assert rig.plain.connections == seen
    await eventually(lambda: denied() >= before + len(refused) + 3)
    assert denied() == before + len(refused) + 3  # one each


async def test_the_token_in_a_request_does_not_replace_a_client_certificate(rig: Rig) -> None:
    token = AUTHORITY.service_account_token(audience="robin-gateway").decode()
    assert await served(rig, None, token=token) == "closed"


async def test_after_a_client_certificate_has_expired_its_connection_serves_no_more(rig: Rig, clients: CertificateAuthority) -> None:  # E5
    ends_at = time.time() + 2
    leaf = clients.issue(ID, ends_in_s=2)
    client = await connected(rig, 0, leaf, trust=rig.folder / "own" / "ca.pem", name="127.0.0.1")
    own = f"b.test:{rig.plain.port}"
    answers = [await client.ask(f"GET http://{own}/ HTTP/1.1", f"Host: {own}")]
    while answers[-1][1].get("connection") != ["close"]:
        assert time.time() < ends_at + 20
        try:
            answers.append(await client.ask(f"GET http://{own}/ HTTP/1.1", f"Host: {own}"))
        except (OSError, asyncio.IncompleteReadError):
            break  # it had expired before this request arrived
        await asyncio.sleep(0.05)
    assert time.time() >= ends_at - 1
    assert answers[0][0] == 200


async def test_a_listener_can_show_a_leaf_of_the_bridges_ca_and_a_bridge_runs_inside_of_it(rig: Rig) -> None:
    client = await connected(rig, 2, None, trust=rig.ca_file, name="gw.test")
    shown = client.writer.get_extra_info("peercert")
    assert [value for _, value in shown["subjectAltName"]] == ["gw.test", "127.0.0.1"]
    own = f"a.test:{rig.tls.port}"
    assert (await client.connect(own))[0] == 200
    tls = TlsInTls(client, rig.ca_file, "a.test")
    assert (await tls.ask(f"GET /inside HTTP/1.1\r\nHost: {own}\r\n\r\n")).startswith(b"HTTP/1.1 200")
    record = await rig.record("gateway.decision", path="/inside")
    assert record["tls"] == "bridge"


class TlsInTls:
    """TLS inside of the TLS of a client, on memory BIOs: asyncio cannot nest it."""

    def __init__(self, client: Client, ca_file: Path, name: str) -> None:
        self._client = client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(ca_file))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def ask(self, head: str) -> bytes:
        """Send a head, and return the first bytes of what comes."""
        async with asyncio.timeout(20):
            await self._until(self._tls.do_handshake)
            self._tls.write(head.encode())
            return bytes(await self._until(self._tls.read))

    async def _until(self, step):  # type: ignore[no-untyped-def]
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._client.writer.write(self._outgoing.read())
                self._incoming.write(await self._client.reader.read(65536))
            finally:
                self._client.writer.write(self._outgoing.read())


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 53))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


async def test_on_a_listener_in_cleartext_that_others_reach_https_targets_are_refused(tmp_path: Path) -> None:  # E47
    here = own_address()
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(AUTHORITY.jwks()))
    issuer = {"name": "cluster", "kind": "kubernetes", "issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    jwt = {"listen": f"{here}:0", "auth": "jwt", "issuers": ["cluster"]}
    listeners = [
        {"name": "bare", "listen": f"{here}:0", "unsafe_open": True},
        {"name": "token", **jwt, "unsafe_plaintext": True},
        {"name": "private", **jwt, "tls": {"minted_names": ["gw.test"]}},
    ]
    section = {"listeners": listeners, "issuers": [{**issuer, "jwks": {"file": str(keys)}}]}
    token = f"Proxy-Authorization: Bearer {AUTHORITY.service_account_token(audience='robin-gateway').decode()}"
    async with running(tmp_path, RULES, section=section) as rig:
        url, own = f"https://a.test:{rig.tls.port}", f"a.test:{rig.tls.port}"
        for listener in rig.listeners[:2]:
            rig.address = listener
            assert code_of(await rig.get(f"{url}/x", token)) == (400, "scheme_unsupported")
            client = await rig.client()
            assert (await client.connect(own, token))[0] == 200  # CONNECT is as it is everywhere
        assert rig.tls.requests == []
        client = await connected(rig, 2, None, trust=rig.ca_file, name="gw.test")
        assert (await client.ask(f"GET {url}/x HTTP/1.1", f"Host: {own}", token))[0] == 200
        assert {one["caller"]["id"] for one in rig.records} == {"open", "k8s:demo/agent"}


async def test_without_listeners_the_proxy_and_the_admin_listener_are_on_loopback_and_nothing_else_is_bound(tmp_path: Path) -> None:  # E1
    async with running(tmp_path, [], bridge=False) as rig:
        bound = listening(rig.robin.pid)
        assert bound == {("0100007F", int(address.rpartition(":")[2])) for address in rig.listeners}
        assert len(bound) == 2
        client = await rig.client()  # and without rules nothing is reached, nor asked for: E11
        for answer in (await rig.get(f"http://b.test:{rig.plain.port}/"), await client.connect("evil.test:443")):
            assert code_of(answer) == (403, "rule_default")
        assert (rig.names.asked, rig.dials) == ([], [])
