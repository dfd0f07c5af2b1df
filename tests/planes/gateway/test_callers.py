"""Who calls: tokens in Proxy-Authorization, and peers of a Unix socket, at a real process (gateway.md section 4)."""

import asyncio
import base64
import hmac
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.grants.proxied import Answering, reply
from tests.planes.gateway.rig import Client, Rig, code_of, running

from robin.testing.authority import IdentityAuthority, base64url
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY = IdentityAuthority()
FETCHED = {name: IdentityAuthority(issuer=f"https://{name}.test") for name in ("rotating", "quiet")}
KEYS: dict[bytes, object] = {f"/{name}".encode(): one.jwks() for name, one in FETCHED.items()}
"""What the URL of each key set serves."""
SERVER = Answering(lambda request: reply(200, json.dumps(KEYS[request.target]).encode(), b"Content-Type: application/json"))
RULES = [
    {
        "name": "agents",
        "hosts": ["b.test", "named.test"],
        "ports": ["PLAIN"],
        "schemes": ["http"],
        "callers": ["k8s:demo/*", "spiffe://robin.test/ns/**"],
    },
    {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge", "upgrade": ["websocket"]},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("callers")
    keys = folder / "jwks.json"
    keys.write_text(json.dumps(AUTHORITY.jwks()))
    common = {"issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"], "jwks": {"file": str(keys)}}
    section = {
        "issuers": [
            {"name": "cluster", "kind": "kubernetes", **common},
            {"name": "mesh", "kind": "spiffe", "trust_domain": "robin.test", **common, "audiences": ["mesh"]},
            {"name": "none", "kind": "oidc", **common, "issuer": "https://none.test", "jwks": {"file": str(folder / "absent.json")}},
        ]
    }
    listener = {"listen": "127.0.0.1:0", "auth": "jwt", "issuers": ["cluster", "mesh", "none", "rotating", "quiet"]}
    section["listeners"] = [{"name": "proxy", **listener}, {"name": "front", "kind": "reverse", **listener}]
    section["routes"] = [{"name": "front", "upstream": "http://b.test:PLAIN", "unsafe_plaintext": True, "allow": [{"callers": ["*"]}]}]
    await SERVER.start()
    for name, wait in (("rotating", "1s"), ("quiet", "1h")):
        jwks = {"url": f"{SERVER.url}/{name}", "min_refetch": wait}
        section["issuers"].append({"name": name, "kind": "oidc", **common, "issuer": f"https://{name}.test", "jwks": jwks})
    async with running(folder, RULES, section=section, ready=False) as rig:
        yield rig


def bearer(token: bytes) -> str:
    return f"Proxy-Authorization: Bearer {token.decode()}"


async def test_without_a_credential_both_forms_get_a_407_with_both_challenges_and_nothing_is_contacted(rig: Rig) -> None:  # E2
    rig.names.names["named.test"] = ["127.0.0.1"]
    own = f"named.test:{rig.plain.port}"  # a name that is resolved for a caller
    for turn in range(2):
        client, before = await rig.client(), [port for _, port in rig.dials if port != SERVER.port]
        for answer in (await rig.get(f"http://{own}/"), await client.connect(own)):
            assert code_of(answer) == (407, "caller_unauthenticated")
            assert answer[1]["proxy-authenticate"] == ['Bearer realm="robin-gateway"', 'Basic realm="robin-gateway"']
        assert len(rig.names.asked) == 2 * turn
        assert [port for _, port in rig.dials if port != SERVER.port] == before
        assert rig.plain.connections == turn
        if turn == 0:
            assert (await rig.get(f"http://{own}/", bearer(AUTHORITY.service_account_token(audience="robin-gateway"))))[0] == 200


def _claims(now: int | None = None, **changes: object) -> dict[str, object]:
    now = now or int(time.time())
    claims: dict[str, object] = {
        "iss": AUTHORITY.issuer,
        "sub": "system:serviceaccount:demo:agent",
        "aud": ["robin-gateway"],
        "exp": now + 300,
        "iat": now,
        "kubernetes.io": {"namespace": "demo", "serviceaccount": {"name": "agent"}},
    }
    claims |= changes
    return {name: value for name, value in claims.items() if value is not None}


def _public_pem() -> bytes:
    """The public key of the issuer: what a verifier that lets the token choose would take for the secret of HS256."""
    (jwk,) = AUTHORITY.jwks()["keys"]
    x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "=="), "big") for name in "xy")
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _of_length(length: int) -> bytes:
    """A token that is good but for its length."""
    for pad in range(length):
        if len(token := AUTHORITY.sign(_claims(pad="x" * (length * 3 // 4 - 700 + pad)))) >= length:
            assert len(token) == length
            return token
    raise AssertionError("no such length")


def _bad_tokens(now: int) -> dict[str, bytes]:
    """Each is bad at `now`, and at the edges of `exp`, `nbf` and the lifetime it is bad by one second."""
    good = AUTHORITY.sign(_claims(now))
    head, body, _ = good.split(b".")
    unsigned = base64url(b'{"alg":"none"}').encode() + b"." + body + b"."
    kid = json.loads(base64.urlsafe_b64decode(head + b"=="))["kid"]
    start = base64url(json.dumps({"alg": "HS256", "kid": kid}).encode()).encode() + b"." + body
    hs256 = start + b"." + base64url(hmac.digest(_public_pem(), start, "sha256")).encode()
    return {
        "signature": head + b"." + body + b"." + IdentityAuthority().sign(_claims(now)).split(b".")[2],
        "none": unsigned,
        "hs256": hs256,
        "iss": AUTHORITY.sign(_claims(now, iss="https://other.test")),
        "aud": AUTHORITY.sign(_claims(now, aud="other")),
        "no exp": AUTHORITY.sign(_claims(now, exp=None)),
        "expired": AUTHORITY.sign(_claims(now, exp=now - 31, iat=now - 100)),
        "not yet": AUTHORITY.sign(_claims(now, nbf=now + 31)),
        "long life": AUTHORITY.sign(_claims(now, exp=now + 86401)),
        "crit": AUTHORITY.sign(_claims(now), header={"alg": "ES256", "kid": kid, "crit": ["x"], "x": 1}),
        "namespace": AUTHORITY.sign(_claims(now, **{"kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "agent"}}})),
        "no namespace": AUTHORITY.sign(_claims(now, **{"kubernetes.io": None})),
        "foreign domain": AUTHORITY.sign(_claims(now, aud="mesh", sub="spiffe://other.test/ns/x")),
        "not a token": b"not-a-token-of-any-issuer",
        "large": _of_length(16385),
    }


_NAMES = tuple(_bad_tokens(1))


@pytest.mark.parametrize("name", _NAMES)
async def test_a_token_that_is_not_accepted_gets_a_407_or_401_and_appears_nowhere(rig: Rig, name: str) -> None:  # E3
    front, dialled = rig.listeners[1], rig.dials
    while True:
        now = int(time.time())
        token = _bad_tokens(now)[name]
        answer = await rig.get(f"http://b.test:{rig.plain.port}/", bearer(token))
        reverse = Client(*await asyncio.open_connection(*front.rsplit(":", 1)))
        inward = await reverse.ask("GET / HTTP/1.1", "Host: b.test", bearer(token).removeprefix("Proxy-"))
        reverse.writer.close()
        if time.time() < now + 1:  # a second later `nbf` is over
            break
    assert (code_of(answer), code_of(inward)) == ((407, "caller_token_invalid"), (401, "caller_token_invalid"))
    assert rig.dials == dialled
    written = "\n".join(line for _, line in rig.robin.lines) + str((answer, inward))
    assert not [part for part in token.split(b".") if part and part.decode() in written]


@pytest.mark.parametrize(
    "claims", [{"exp": -29, "iat": -100}, {"nbf": 30}, {"exp": 86400}, {}], ids=["expired", "not yet", "long life", "large"]
)
async def test_a_token_at_the_edge_is_accepted(rig: Rig, claims: dict[str, int]) -> None:  # E3
    while True:
        now = int(time.time())
        token = AUTHORITY.sign(_claims(now, **{name: now + value for name, value in claims.items()})) if claims else _of_length(16384)
        status, _, _ = await rig.get(f"http://b.test:{rig.plain.port}/", bearer(token))
        if time.time() < now + 1:  # a second later `exp` is over
            break
    assert status == 200


async def test_bearer_and_basic_give_one_caller_and_no_other_user_name_does(rig: Rig) -> None:  # E4
    token = AUTHORITY.service_account_token(audience="robin-gateway")
    pair = base64.b64encode(b"jwt:" + token).decode()
    url = f"http://b.test:{rig.plain.port}"
    assert (await rig.get(f"{url}/bearer", bearer(token)))[0] == 200
    status, _, body = await rig.get(f"{url}/basic", f"Proxy-Authorization: Basic {pair}")
    assert status == 200
    assert b"uthorization" not in body
    for path in ("/bearer", "/basic"):
        record = await rig.record("gateway.decision", path=path)
        assert (record["caller"]["id"], record["caller"]["pod"], record["caller"]["issuer"]) == ("k8s:demo/agent", "agent-0", "cluster")
    other = base64.b64encode(b"x:" + token).decode()
    assert code_of(await rig.get(url + "/", f"Proxy-Authorization: Basic {other}")) == (407, "caller_token_invalid")


async def test_a_websocket_handshake_has_no_token_for_the_gateway_and_needs_a_rule_that_lists_it(rig: Rig) -> None:  # E4, E44
    token = AUTHORITY.service_account_token(audience="robin-gateway")
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    own = f"b.test:{rig.plain.port}"
    client = await rig.client()
    refused = await client.ask(f"GET http://{own}/ws HTTP/1.1", f"Host: {own}", *upgrade, bearer(token))
    assert code_of(refused) == (403, "upgrade_denied")
    record = await rig.record("gateway.decision", code="upgrade_denied")
    assert record["op"] == "upgrade"
    own = f"a.test:{rig.tls.port}"
    client = await rig.client()
    assert (await client.connect(own, bearer(token)))[0] == 200
    await client.start_tls("a.test", rig.ca_file)
    status, _, body = await client.ask("GET /ws HTTP/1.1", f"Host: {own}", *upgrade, bearer(token), "Authorization: Bearer x")
    assert status == 200  # an origin that does not switch
    assert b"Upgrade: websocket" in body
    assert b"uthorization" not in body
    assert (await rig.record("gateway.decision", path="/ws", host="a.test"))["op"] == "upgrade"


async def test_a_spiffe_id_is_a_caller_and_rules_know_it_by_a_pattern(rig: Rig) -> None:
    url = f"http://b.test:{rig.plain.port}"
    assert (await rig.get(f"{url}/svid", bearer(AUTHORITY.jwt_svid(audience="mesh"))))[0] == 200
    record = await rig.record("gateway.decision", path="/svid")
    assert record["caller"]["id"] == "spiffe://robin.test/ns/demo/sa/agent"
    other = AUTHORITY.jwt_svid(audience="mesh", path="/other/sa")
    assert code_of(await rig.get(url + "/", bearer(other))) == (403, "rule_default")
    prod = AUTHORITY.service_account_token(audience="robin-gateway", namespace="prod")
    assert code_of(await rig.get(url + "/", bearer(prod))) == (403, "rule_default")


async def test_an_issuer_without_keys_is_a_503(rig: Rig) -> None:  # E8, in part
    token = AUTHORITY.sign(_claims(iss="https://none.test"))
    assert code_of(await rig.get(f"http://b.test:{rig.plain.port}/", bearer(token))) == (503, "issuer_keys_unavailable")


async def test_a_token_that_expires_in_a_bridge_ends_it_after_the_running_exchange(rig: Rig) -> None:  # E5
    ends_at = int(time.time()) + 4
    token = AUTHORITY.sign(_claims(exp=ends_at - 30, iat=ends_at - 100))  # 30 s is the leeway
    client = await rig.client()
    assert (await client.connect(f"a.test:{rig.tls.port}", bearer(token)))[0] == 200
    await client.start_tls("a.test", rig.ca_file)
    status, fields, _ = await client.ask("GET /first HTTP/1.1", f"Host: a.test:{rig.tls.port}")
    assert (status, fields.get("connection")) == (200, None)
    rig.tls.gate = asyncio.Event()
    for path in ("last", "unread"):
        client.writer.write(f"GET /{path} HTTP/1.1\r\nHost: a.test:{rig.tls.port}\r\n\r\n".encode())
    await eventually(lambda: time.time() > ends_at + 0.1)
    rig.tls.gate.set()
    rig.tls.gate = None
    status, fields, _ = await client.response()
    assert (status, fields["connection"]) == (200, ["close"])
    assert await client.rest() == b""
    assert [head.split(b" ")[1] for head in rig.tls.requests[-2:]] == [b"/first", b"/last"]
    client = await rig.client()
    assert code_of(await client.connect(f"a.test:{rig.tls.port}", bearer(token))) == (407, "caller_token_invalid")


async def test_a_unix_peer_that_is_not_listed_is_closed_unread_and_one_that_is_has_its_uid_as_id(tmp_path: Path) -> None:  # E6
    rules = [{"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]}]
    sockets = {"ours": [os.getuid()], "others": [4242]}
    listeners = [{"name": name, "listen": f"unix:{tmp_path}/{name}", "auth": "unix", "uids": uids} for name, uids in sockets.items()]
    async with running(tmp_path, rules, section={"listeners": listeners}, bridge=False) as rig:
        client = await rig.client()
        status, _, _ = await client.ask(f"GET http://b.test:{rig.plain.port}/u HTTP/1.1", f"Host: b.test:{rig.plain.port}")
        assert status == 200
        assert (await rig.record("gateway.decision", path="/u"))["caller"]["id"] == f"unix:{os.getuid()}"
        rig.address = f"unix:{tmp_path}/others"
        client = await rig.client()
        assert await client.rest() == b""
        assert (await rig.record("gateway.decision", code="peer_denied"))["why"] == "uid"
        await rig.record("gateway.close", fault="peer_denied")


async def test_keys_are_fetched_anew_for_an_unknown_one_but_not_for_each_and_outlast_their_url(rig: Rig) -> None:  # E8
    async def code(name: str) -> tuple[int, str]:
        token = FETCHED[name].sign(_claims(iss=FETCHED[name].issuer))
        return code_of(await rig.get(f"http://b.test:{rig.plain.port}/", bearer(token)))

    accepted = (403, "rule_default")  # a caller that is known, and that no rule has
    assert (await code("rotating"), await code("quiet")) == (accepted, accepted)
    FETCHED["rotating"].rotate_key()
    KEYS[b"/rotating"] = FETCHED["rotating"].jwks()
    async with asyncio.timeout(20):
        while (found := await code("rotating")) != accepted:  # at most one fetch a second
            assert found == (407, "caller_token_invalid")
            await asyncio.sleep(0.1)
    for _ in range(100):
        FETCHED["quiet"].rotate_key()
        assert await code("quiet") == (407, "caller_token_invalid")
    assert [one.target for one in SERVER.seen].count(b"/quiet") == 1
    await SERVER.close()
    assert await code("rotating") == accepted
