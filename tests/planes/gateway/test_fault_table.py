"""Every code of the gateway, provoked at one real process: status, Proxy-Status, body, record, and nothing sent (E52).

A code has a row here, or a test of its own where it needs another gateway; tests/docs/test_named_in_tests.py finds one that has neither.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.planes.gateway.rig import Client, Rig, client_hello, code_of, running, wall_now

from robin.model.faults import FAULTS
from robin.planes.gateway.new_authority import make_authority
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.server import black_hole, hold_port
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY = IdentityAuthority()
Response = tuple[int, dict[str, list[str]], bytes]
Provoke = Callable[[Rig], Awaitable[Response | None]]
RULES = [
    {"name": "paths", "hosts": ["a.test"], "schemes": ["http"], "ports": ["PLAIN"], "paths": ["/a", "/a/**"]},
    {"name": "bridge", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge", "upgrade": []},
    {"name": "pass", "hosts": ["b.test"], "ports": ["TLS"]},
    {"name": "plain", "hosts": ["b.test", "127.0.0.1"], "schemes": ["http"], "ports": ["PLAIN", 1, "TLS"]},
    {"name": "tcp", "hosts": ["c.test"], "schemes": ["tcp"], "ports": ["PLAIN"], "callers": ["local"]},
    {"name": "never", "effect": "deny", "hosts": ["b.test"], "schemes": ["http"], "ports": ["PLAIN"], "methods": ["DELETE"]},
    {"name": "places", "hosts": ["link.test", "gone.test", "outside.other", "silent.test"], "ports": [443, "TLS"], "tls": "bridge"},
    {"name": "mints", "hosts": ["*.mint.test"], "ports": ["TLS"], "tls": "bridge"},
    {"name": "dead", "hosts": ["dead.test", "hole.test", "nowhere.test"], "schemes": ["http"], "ports": ["DEAD"]},
    {"name": "wrong-name", "hosts": ["wrong.test", "clear.test"], "ports": ["TLS", "PLAIN"], "tls": "bridge"},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "jwks.json").write_text(json.dumps(AUTHORITY.jwks()))
    common = {"kind": "oidc", "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    jwt = {"auth": "jwt", "issuers": ["here", "gone"]}
    with hold_port("127.0.0.1", 0) as dead:  # bound, and not listening
        section = {
            "listeners": [{"name": "local", "listen": "127.0.0.1:0"}, {"name": "jwt", "listen": "127.0.0.1:0", **jwt}],
            "issuers": [
                {"name": "here", "issuer": AUTHORITY.issuer, "jwks": {"file": str(folder / "jwks.json")}, **common},
                {"name": "gone", "issuer": "https://gone.test", "jwks": {"file": str(folder / "none.json")}, **common},
            ],
            "limits": {"tunnels_per_caller": 4, "mints_per_second": 1},
            "timeouts": {"first_bytes": "1s", "dns": "1500ms", "connect": "1500ms", "response_head": "1s"},
            "addresses": {
                "hosts": {"link.test": ["169.254.0.9"], "hole.test": ["127.0.0.3"], "nowhere.test": [BROADCAST]}
                | {f"{name}.test": ["127.0.0.1"] for name in ["a", "b", "c", "wrong", "clear", "dead", *MINTED]},
            },
        }  # fmt: skip
        port = dead.getsockname()[1]
        pki = CertificateAuthority(folder / "pki")
        leaf = pki.issue("a.test", "b.test", "127.0.0.1", *(f"{name}.test" for name in MINTED))

        def constrain(_: int) -> None:
            certificate, key = make_authority("robin-bridge-ca-test", days=30, permit_dns=["test"], now=wall_now())
            (folder / "ca" / "tls.crt").write_bytes(certificate)
            (folder / "ca" / "tls.key").write_bytes(key)

        with black_hole("127.0.0.3", port):
            places = [f"127.0.0.3:{port}", f"{BROADCAST}:{port}"]
            async with running(
                folder, RULES, section=section, ready=False, ports={"DEAD": port}, loopback=places, leaf=leaf, pki=pki, prepare=constrain
            ) as rig:
                rig.dead = port  # type: ignore[attr-defined]
                rig.names.silent.add("silent.test.")
                yield rig


def get(url: str, *lines: str, listener: int = 0, method: str = "GET", host: str | None = None) -> Provoke:
    async def ask(rig: Rig) -> Response:
        rig.address = rig.listeners[listener]
        place = url.replace("PLAIN", str(rig.plain.port)).replace("TLS", str(rig.tls.port)).replace("DEAD", str(getattr(rig, "dead", 0)))
        client = await rig.client()
        return await client.ask(f"{method} {place} HTTP/1.1", f"Host: {host or place.split('/')[2]}", *lines)

    return ask


def connect(authority: str, after: Callable[[Rig], bytes] | None = None, *lines: str) -> Provoke:
    """A CONNECT; with `after`, what follows its 200, and then there is no response."""

    async def ask(rig: Rig) -> Response | None:
        rig.address = rig.listeners[0]
        client = await rig.client()
        place = authority.replace("PLAIN", str(rig.plain.port)).replace("TLS", str(rig.tls.port))
        response = await client.connect(place, *lines)
        if after is None:
            return response
        assert response[0] == 200, response
        client.writer.write(after(rig))
        await client.rest()
        return None

    return ask


async def too_many(rig: Rig) -> Response:
    rig.address = rig.listeners[0]
    held: list[Client] = []
    for _ in range(4):
        held.append(await rig.client())
        assert (await held[-1].connect(f"c.test:{rig.plain.port}"))[0] == 200
    try:
        return await (await rig.client()).connect(f"c.test:{rig.plain.port}")
    finally:
        for client in held:
            client.writer.transport.abort()


async def mint_many(rig: Rig) -> None:
    """Leaves for two hosts at once, of which one caller has one in a second; again with others where the clock went on between them."""
    rig.address = rig.listeners[0]

    async def bridged(name: str) -> bool:
        """Whether the client got a ServerHello. It sends its own with the CONNECT, so that no pause of this machine comes between."""
        client, place = await rig.client(), f"{name}.test:{rig.tls.port}"
        client.writer.write(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode() + client_hello(f"{name}.test"))
        assert (await client.response())[0] == 200
        octets = await client.reader.read(1)
        client.writer.transport.abort()
        return octets != b""

    for at in range(0, len(MINTED), 2):
        if not all(await asyncio.gather(*map(bridged, MINTED[at : at + 2]))):
            return


async def no_tls(rig: Rig) -> Response | None:
    """The origin behind a bridge does not speak TLS."""
    rig.plain.banner = b"220 ready\r\n"
    try:
        return await connect("clear.test:PLAIN")(rig)
    finally:
        rig.plain.banner = b""


def answering(octets: bytes, provoke: Provoke) -> Provoke:
    """The origin in cleartext answers with these octets and nothing else."""

    async def ask(rig: Rig) -> Response | None:
        before, rig.plain.answer = rig.plain.answer, octets
        rig.plain.gate = None if octets else asyncio.Event()
        try:
            return await provoke(rig)
        finally:
            rig.plain.answer = before
            if rig.plain.gate is not None:
                rig.plain.gate.set()
            rig.plain.gate = None

    return ask


BROADCAST = "127.255.255.255"
"""To which no TCP connection has a route."""
MINTED = [f"m{at}.mint" for at in range(12)]
BEARER = "Proxy-Authorization: Bearer "
WEBSOCKET = ("Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
GONE = AUTHORITY.sign({"iss": "https://gone.test", "aud": "robin-gateway", "sub": "x", "exp": 1 << 33}).decode()
ROWS: list[tuple[str, Provoke]] = [
    ("authority_invalid", get("http://0x7f.1/")),
    ("path_not_canonical", get("http://a.test:PLAIN/a/../b")),
    ("authority_mismatch", get("http://b.test:PLAIN/", host="a.test")),
    ("misdirected", get("/x", host="b.test")),
    ("caller_unauthenticated", get("http://b.test:PLAIN/", listener=1)),
    ("caller_token_invalid", get("http://b.test:PLAIN/", BEARER + "x", listener=1)),
    ("issuer_keys_unavailable", get("http://b.test:PLAIN/", BEARER + GONE, listener=1)),
    ("rule_default", get("http://a.test:PLAIN/b")),
    ("rule_denied", get("http://b.test:PLAIN/", method="DELETE")),
    ("upgrade_denied", get("http://b.test:PLAIN/", *WEBSOCKET)),
    ("address_refused", connect("link.test:443")),
    ("limit_tunnels", too_many),
    ("sni_mismatch", connect("b.test:TLS", lambda _: client_hello("a.test"))),
    ("sni_missing", connect("b.test:TLS", lambda _: client_hello(""))),
    ("ech_refused", connect("b.test:TLS", lambda _: client_hello("b.test", ech=True))),
    ("alpn_refused", connect("a.test:TLS", lambda _: client_hello("a.test", padding=400).replace(b"\x08http/1.1", b"\x08http/2.0"))),
    ("not_tls", connect("a.test:TLS", lambda _: b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")),
    ("not_http", connect("b.test:PLAIN", lambda _: b"\x00\x01 no request\r\n" + b"x" * 64)),
    ("client_hello_invalid", connect("b.test:TLS", lambda _: b"\x16\x03\x01\x00\x00")),
    ("method_refused", get("http://b.test:PLAIN/", method="TRACE")),
    ("loop", get("http://b.test:PLAIN/", "Via: 1.1 robin-gateway")),
    ("dns_failed", connect("gone.test:443")),
    ("connect_refused", get("http://dead.test:DEAD/")),
    ("upstream_certificate", connect("wrong.test:TLS")),
    ("upstream_tls", no_tls),
    ("dns_timeout", connect("silent.test:443")),
    ("connect_timeout", get("http://hole.test:DEAD/")),
    ("unroutable", get("http://nowhere.test:DEAD/")),
    ("bridge_unavailable", connect("outside.other:443")),
    ("limit_mints", mint_many),
]  # fmt: skip
SENT: list[tuple[str, Provoke]] = [
    ("upstream_protocol", answering(b"HTTP/1.1 20 what\r\n", get("http://b.test:PLAIN/"))),
    ("response_timeout", answering(b"", get("http://b.test:PLAIN/"))),
    ("upstream_closed", answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", get("http://b.test:TLS/"))),
]
"""Those that come of what the origin does, so that it has seen the request."""
FAILED = frozenset(
    "issuer_keys_unavailable dns_failed connect_refused upstream_certificate upstream_tls "
    "dns_timeout connect_timeout unroutable bridge_unavailable".split()
)
"""Those that nothing denied: the request was permitted or could not be judged, and could not be sent."""


@pytest.mark.parametrize(("code", "provoke"), [*ROWS, *SENT], ids=[code for code, _ in [*ROWS, *SENT]])
async def test_e52_a_code_has_its_status_its_fields_its_body_and_its_record_and_nothing_is_sent(
    rig: Rig, code: str, provoke: Provoke
) -> None:
    kind = FAULTS[code]

    def closes() -> list[dict[str, Any]]:
        return [one for one in rig.records if one["event"] == "gateway.close" and one["fault"] == code]

    def decisions() -> list[dict[str, Any]]:
        return [one for one in rig.records if one["event"] == "gateway.decision" and one["code"] == code]

    sent, before, decided = rig.tls.octets + rig.plain.octets, len(closes()), len(decisions())
    response = await provoke(rig)
    if response is not None:
        assert code_of(response) == (kind.status, code)
        status, fields, body = response
        assert fields["proxy-status"] == [f'robin-gateway; error={kind.error}; details="{code}"'] or code == "upstream_tls"
        assert fields["content-type"] == ["application/problem+json"]
        problem = json.loads(body)
        retry = "never" if kind.retry_after_s is None else "after"
        expected = {"title": kind.title, "status": status, "source": str(kind.source)}
        assert problem.items() >= expected.items()
        assert problem["retry"] == retry or kind.source == "upstream", problem
        assert ("retry-after" in fields) == (retry == "after")
        assert problem["request_id"]
    await eventually(lambda: len(closes()) > before, what=f"the record of {code}")
    close, *others = closes()[before:]
    assert not others or code == "limit_mints", "of two hosts one is refused, or both where another had its leaf within the same second"
    assert close["status"] == (200 if response is None else kind.status)
    if response is not None and code not in {one for one, _ in SENT}:
        (decision,) = decisions()[decided:]
        assert decision["verdict"] == ("failed" if code in FAILED else "deny")
    if code not in {one for one, _ in SENT}:
        assert rig.tls.octets + rig.plain.octets == sent
