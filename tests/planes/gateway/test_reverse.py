"""Reverse routes at a real process: which route, whose request, what goes upstream, and what is refused (gateway.md section 9)."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.grants.proxied import Answering, token_reply
from tests.planes.gateway.rig import Client, Rig, code_of, running

from robin.cli.explain_reverse import explain_reverse
from robin.cli.main import main
from robin.config.gateway_load import load_gateway
from robin.planes.gateway.policy import build_policy
from robin.testing.authority import IdentityAuthority
from robin.testing.process import RobinProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY = IdentityAuthority()
ALL = [{"callers": ["k8s:demo/*"]}]
ROUTES: list[dict[str, Any]] = [
    {
        "name": "api",
        "path_prefix": "/api",
        "upstream": "https://a.test:TLS/base",
        "bypass_paths": ["/api/healthz", "/api/public/*"],
        "allow": [{"callers": ["k8s:demo/agent"], "methods": ["GET", "POST"], "paths": ["/api/v1/**"]}, {"callers": ["k8s:ops/*"]}],
    },
    {"name": "api-admin", "path_prefix": "/api/v1/admin", "upstream": "https://a.test:TLS", "allow": [{"callers": ["k8s:ops/*"]}]},
    {"name": "whole", "hosts": ["*.gw.test"], "upstream": "http://b.test:PLAIN", "unsafe_plaintext": True, "allow": ALL},
    {"name": "kept", "hosts": ["keep.gw.test"], "path_prefix": "/k", "strip_prefix": False, "upstream": "http://b.test:PLAIN",
     "unsafe_plaintext": True, "allow": [{"callers": ["*"]}]},
    {"name": "swap", "path_prefix": "/swap", "strip_prefix": False, "upstream": "https://a.test:TLS", "allow": ALL},
    {"name": "closed", "hosts": ["closed.test"], "upstream": "https://a.test:TLS"},
    *({"name": f"never-{at}", "hosts": [f"n{at}.test"], "upstream": upstream, "allow": [{"callers": ["*"]}]} for at, upstream in enumerate(
        ("https://169.254.169.254", "https://10.0.0.7", "https://in.test", "https://[::ffff:127.0.0.1]", "https://127.0.0.1:1",
         "https://link.test", "https://[64:ff9b::7f00:1]", "https://0.0.0.0", "https://224.0.0.1", "https://[2001:db8::1]",
         "https://100.64.0.1", "https://8.8.8.8", "https://here.test"))),
    {"name": "foreign", "hosts": ["foreign.test"], "upstream": "https://127.0.0.1:TLS/x", "allow": [{"callers": ["*"]}]},
]  # fmt: skip
PROFILE = """\
id: demo
display_name: Demo
credentials:
  - {name: token, placeholder: robin-placeholder,
     token_grant: {token_endpoint: "http://127.0.0.1:%(issuer)d/token", issuer: "https://issuer.example"}}
endpoints: [{host: a.test, port: %(tls)d, path: "/base/v1/**", access: read-only}]
"""
SWAP = """\
id: swap
display_name: Swap
credentials:
  - {name: token, token_grant: {grant_type: token_exchange, token_endpoint: "http://127.0.0.1:%(issuer)d/swap", client_auth: none,
     client_id: c, subject_token: {source: caller, header: Authorization}}}
endpoints: [{host: a.test, port: %(tls)d, path: "/swap/**"}]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issuer() -> AsyncIterator[Answering]:
    async with Answering(lambda _: token_reply("secret-token")) as issuer:
        yield issuer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory, issuer: Answering) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("reverse")
    (folder / "jwks.json").write_text(json.dumps(AUTHORITY.jwks()))
    (folder / "token").write_bytes(AUTHORITY.service_account_token(audience="https://issuer.example"))
    section = {
        "issuers": [
            {"name": "cluster", "kind": "kubernetes", "issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"],
             "algorithms": ["ES256"], "jwks": {"file": str(folder / "jwks.json")}}
        ],
        "routes": ROUTES,
        "addresses": {"hosts": {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"], "in.test": ["10.0.0.7"], "link.test": ["fe80::1"],
                                "here.test": [HERE]}, "deny": ["8.8.8.0/24"]},
        "identities": {"default": {"source": "file", "token_file": str(folder / "token"), "audience": "https://issuer.example"}},
        "profiles": ["demo.yaml", "swap.yaml"],
        "providers": [{"profile": "demo", "callers": ["k8s:demo/agent"]}, {"profile": "swap", "callers": ["k8s:demo/*"]}],
    }  # fmt: skip

    def prepare(tls: int) -> None:
        (folder / "demo.yaml").write_text(PROFILE % {"issuer": issuer.port, "tls": tls})
        (folder / "swap.yaml").write_text(SWAP % {"issuer": issuer.port, "tls": tls})

    listener = {"name": "front", "kind": "reverse", "auth": "jwt", "issuers": ["cluster"]}
    async with running(folder, [], listener=listener, section=section, bridge=False, prepare=prepare) as rig:
        yield rig


def bearer(audience: str = "robin-gateway", namespace: str = "demo") -> str:
    return f"Authorization: Bearer {AUTHORITY.service_account_token(audience=audience, namespace=namespace).decode()}"


async def ask(rig: Rig, path: str, *lines: str, host: str = "gw.example", method: str = "GET") -> tuple[int, dict[str, list[str]], bytes]:
    client = await rig.client()
    return await client.ask(f"{method} {path} HTTP/1.1", f"Host: {host}", *lines)


async def test_a_caller_reaches_the_upstream_without_its_prefix_and_with_a_credential_that_it_never_sees(rig: Rig) -> None:  # E9
    token = bearer()
    more = ("X-Api-Key: mine", "Cookie: kept=1", "X-Forwarded-For: 1.2.3.4", "Proxy-Authorization: Bearer mine")
    status, _, body = await ask(rig, "/api/v1/users?page=2", token, *more)
    assert status == 200
    assert body.startswith(b"GET /base/v1/users?page=2 HTTP/1.1\r\nHost: a.test:%d\r\n" % rig.tls.port)
    assert b"Authorization: Bearer secret-token\r\n" in body
    assert b"Cookie: kept=1" in body
    assert not [mark for mark in (b"mine", b"1.2.3.4", token.encode()) if mark in body]
    record = await rig.record("gateway.decision", path="/api/v1/users")
    assert (record["op"], record["verdict"], record["route"], record["rule"], record["tls"]) == (
        "reverse", "permit", "api", "route:api", "originate")  # fmt: skip
    assert (record["host"], record["port"], record["caller"]["id"], record["grant"]["provider"]) == (
        "a.test", rig.tls.port, "k8s:demo/agent", "demo")  # fmt: skip
    assert (await rig.record("gateway.close", id=record["id"]))["status"] == 200
    status, _, body = await ask(rig, "/api/v1/users", token, method="POST")
    assert code_of((status, _, body)) == (403, "endpoint_closed")  # the profile allows reading alone


@pytest.mark.parametrize(
    ("path", "host", "sent"),
    [
        ("/api/v1/a", "gw.example", b"/base/v1/a"),
        ("/%61pi/v1/a%20b?x=//y", "other", b"/base/v1/a%20b?x=//y"),
        ("/any/path?q", "x.gw.test", b"/any/path?q"),
        ("/k/a", "KEEP.gw.test.", b"/k/a"),
        ("/k", "keep.gw.test:8080", b"/k"),
        ("/kk", "keep.gw.test", b"/kk"),  # not below /k: the route of all hosts of gw.test
    ],
)
async def test_the_longest_prefix_and_then_the_most_specific_host_select_the_route(rig: Rig, path: str, host: str, sent: bytes) -> None:
    status, _, body = await ask(rig, path, bearer(), host=host)
    assert (status, body.split(b" ")[1]) == (200, sent)
    assert AUTHORITY.issuer.encode() not in body
    assert b"uthorization: Bearer eyJ" not in body


def own_address() -> str:
    """An address of this machine that is not loopback; 0.0.0.0 where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("8.8.8.8", 53))  # sends nothing
        return str(probe.getsockname()[0])


HERE = own_address()
CLASSES = ("metadata private private embedded loopback link_local embedded unspecified multicast reserved cgnat denied").split()
CLASSES.append("unspecified" if HERE == "0.0.0.0" else "self")
REFUSED = [
    ("GET", "/api/v1/x", "gw.example", None, 401, "caller_unauthenticated"),
    ("GET", "/api/v1/x", "gw.example", "other", 401, "caller_token_invalid"),
    ("GET", "/api/v1/x", "gw.example", "basic", 401, "caller_token_invalid"),
    ("GET", "/api/v1/x", "gw.example", "twice", 401, "caller_token_invalid"),
    ("GET", "/api/v1/x", "gw.example", "proxy", 401, "caller_unauthenticated"),
    ("GET", "/api/healthz/../v1/x", "gw.example", None, 400, "path_not_canonical"),
    ("GET", "/api/public/%2e%2e/v1/x", "gw.example", None, 400, "path_not_canonical"),
    ("GET", "/api/public/%252e%252e/v1/x", "gw.example", None, 400, "path_not_canonical"),
    ("GET", "/api/public/..%2fv1", "gw.example", None, 400, "path_not_canonical"),
    ("GET", "/api/public/a;/x", "gw.example", None, 400, "path_not_canonical"),
    ("GET", "//api/healthz", "gw.example", None, 400, "path_not_canonical"),
    ("GET", "/api/public/a/b", "gw.example", None, 401, "caller_unauthenticated"),  # `/*` is one segment
    ("GET", "/api/public/", "gw.example", None, 401, "caller_unauthenticated"),  # and that one has characters
    ("GET", "/api/public/x%252Fv1", "gw.example", None, 401, "caller_unauthenticated"),
    ("GET", "/api/healthz2", "gw.example", None, 401, "caller_unauthenticated"),
    ("GET", "/api/healthz/", "gw.example", None, 401, "caller_unauthenticated"),
    ("DELETE", "/api/v1/x", "gw.example", "good", 403, "rule_default"),
    ("GET", "/api/v2/x", "gw.example", "good", 403, "rule_default"),
    ("GET", "/api/v1/admin/x", "gw.example", "good", 403, "rule_default"),  # the longer prefix has it
    ("GET", "/", "closed.test", "good", 403, "rule_default"),
    ("GET", "/api/v1/x?key=robin-placeholder", "gw.example", "good", 403, "placeholder_misused"),
    ("GET", "/k/x?key=robin-placeholder", "keep.gw.test", "good", 403, "placeholder_misused"),
    ("GET", "/other", "gw.example", None, 404, "route_unknown"),
    ("GET", "/apix", "gw.example", "good", 404, "route_unknown"),
    ("OPTIONS", "*", "gw.example", "good", 404, "route_unknown"),
    ("GET", "/metrics", "gw.example", None, 404, "route_unknown"),  # E56
    ("GET", "/", "0x7f.1", "good", 400, "authority_invalid"),
    ("GET", "http://gw.example/api/v1/x", "gw.example", "good", 421, "misdirected"),
    ("GET", "https://gw.example/api/v1/x", "gw.example", "good", 421, "misdirected"),
    ("CONNECT", "gw.example:443", "gw.example:443", "good", 421, "misdirected"),
    *(("GET", "/", f"n{at}.test", "good", 403, "address_refused") for at in range(13)),  # E19
    ("GET", "/", "foreign.test", "good", 200, ""),  # the certificate has this address
]


@pytest.mark.parametrize(("method", "path", "host", "token", "status", "code"), REFUSED)
async def test_what_is_refused_has_its_code_everywhere_and_sends_nothing(
    rig: Rig, issuer: Answering, method: str, path: str, host: str, token: str | None, status: int, code: str
) -> None:
    good = bearer()
    lines = {None: [], "good": [good], "other": [bearer("other")], "basic": ["Authorization: Basic and0Ong="], "twice": [good, good],
             "proxy": [f"Proxy-{good}"]}[token]  # fmt: skip
    before = rig.tls.octets, rig.plain.octets, len(rig.dials), len(rig.records)
    answer = await ask(rig, path, *lines, host=host, method=method)
    if not code:
        assert answer[0] == status
        return
    assert code_of(answer) == (status, code)
    assert (rig.tls.octets, rig.plain.octets, len(rig.dials)) == before[:3]
    wanted = {"caller_unauthenticated": ['Bearer realm="robin-gateway"'],
              "caller_token_invalid": ['Bearer realm="robin-gateway", error="invalid_token"']}.get(code)  # fmt: skip
    assert answer[1].get("www-authenticate") == wanted
    assert "proxy-authenticate" not in answer[1]
    problem = json.loads(answer[2])
    records = [one for one in rig.records[before[3] :] if one["id"] == problem["request_id"]]
    while len(records) < 2:
        await rig.record("gateway.close", id=problem["request_id"])
        records = [one for one in rig.records[before[3] :] if one["id"] == problem["request_id"]]
    decision, close = records
    assert (decision["verdict"], decision["code"], close["fault"], close["status"]) == ("deny", code, code, status)
    assert decision["op"] == ("connect" if method == "CONNECT" else "reverse")
    if code in {"rule_default", "caller_unauthenticated", "address_refused"}:
        assert decision["route"]
    if host[:1] == "n":
        assert (decision["why"], decision["addresses"]["refused"] or [decision["why"]]) == (CLASSES[int(host[1:-5])], [decision["why"]])


async def test_a_bypassed_path_needs_no_caller_and_gets_no_credential_even_where_a_token_is_sent(rig: Rig, issuer: Answering) -> None:
    for path in ("/api/healthz", "/api/public/x"):  # E9, E41
        for lines in ((), (bearer(),), ("Authorization: Bearer nonsense",)):
            status, _, body = await ask(rig, path, *lines)
            assert (status, b"uthorization" in body) == (200, False)
    record = await rig.record("gateway.decision", path="/api/public/x")
    assert (record["caller"]["id"], record["route"], record["grant"]) == ("anonymous", "api", None)


async def test_the_token_of_the_caller_is_exchanged_once_it_is_verified_and_is_not_forwarded(rig: Rig, issuer: Answering) -> None:
    token, before = bearer(), len(issuer.seen)
    status, _, body = await ask(rig, "/swap/1", token)
    assert (status, body.count(b"Authorization: Bearer secret-token"), token.encode() in body) == (200, 1, False)
    (asked,) = issuer.seen[before:]
    form = dict(urllib.parse.parse_qsl(asked.body.decode()))
    assert (asked.target, f"Authorization: Bearer {form['subject_token']}") == (b"/swap", token)
    assert code_of(await ask(rig, "/swap/1", bearer("other"))) == (401, "caller_token_invalid")
    assert len(issuer.seen) == before + 1


async def test_no_field_of_a_request_selects_the_caller_of_a_route(rig: Rig) -> None:  # E7
    more = ("X-Forwarded-Client-Cert: By=spiffe://x", "Forwarded: for=1", "X-Remote-User: k8s:ops/root", "Via: 1.1 k8s:ops/root")
    assert (await ask(rig, "/api/v1/who", bearer(), *more))[0] == 200
    assert (await rig.record("gateway.decision", path="/api/v1/who"))["caller"]["id"] == "k8s:demo/agent"


async def test_our_own_name_in_via_is_a_loop_on_a_route_too(rig: Rig) -> None:  # E56
    assert code_of(await ask(rig, "/api/v1/x", bearer(), "Via: 1.1 robin-gateway")) == (502, "loop")


async def test_fields_that_name_another_method_or_path_stay_behind(rig: Rig) -> None:
    fields = ("X-HTTP-Method-Override: DELETE", "X-Original-URL: /hidden")
    for path, host in (("/api/v1/x", "gw.example"), ("/any", "keep.gw.test")):  # the latter has a route with a prefix beside its own
        status, _, body = await ask(rig, path, bearer(), *fields, host=host)
        assert (status, b"DELETE" in body, b"hidden" in body) == (200, False, False)


async def test_metrics_count_a_route_and_a_caller_that_is_not_accepted(rig: Rig) -> None:
    assert (await ask(rig, "/api/v1/m", bearer()))[0] == 200
    assert (await ask(rig, "/api/v1/m"))[0] == 401
    decisions = await rig.metrics("robin_gateway_decisions_total")
    assert decisions[f'listener="{rig.address}",op="reverse",verdict="permit",code="",rule="route:api"'] >= 1
    failures = await rig.metrics("robin_gateway_auth_failures_total")
    assert failures[f'listener="{rig.address}",reason="no_credential"'] >= 1


async def test_explain_and_the_gateway_agree_about_routes(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:  # E17
    config = str(rig.folder / "robin.yaml")

    def explain(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["explain", "gateway", "--config", config, "--reverse", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    settings, _ = load_gateway(config)
    assert settings is not None
    routes = build_policy(settings).reverse
    assert routes is not None
    callers = {"good": "k8s:demo/agent", None: ""}
    for method, path, host, token, _, code in REFUSED:
        if token not in callers or not path.startswith("/") or host == "0x7f.1" or code in ("address_refused", "placeholder_misused"):
            continue  # explain is given neither addresses nor fields and queries
        found, *_ = explain_reverse(routes, method=method, target=f"http://{host}{path}", caller=callers[token], upgrade="")
        assert found["code"] == code, (method, host, path)
    assert [
        explain(*words)[0]
        for words in (
            ("GET", "http://gw.example/api/v1/a;b", "--caller", ""),
            ("GET", "http://gw.example/other"),
            ("GET", "http://gw.example/api/healthz"),
        )
    ] == [5, 4, 0]
    _, found = explain("GET", "http://gw.example/api/v1/users", "--caller", "k8s:demo/agent")
    assert (found["route"], found["host"], found["path"], found["credentials"][0]["binding"]) == (
        "api", "a.test", "/base/v1/users", "demo/token#0")  # fmt: skip
    assert [one["why_not"] for one in found["routes"][:3]] == ["", "path", "host"]
    assert explain("GET", "http://gw.example/api/healthz", "--caller", "")[1]["credentials"] == []


async def test_the_real_sidecar_uses_the_gateway_as_its_broker(rig: Rig, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_bytes(AUTHORITY.service_account_token(audience="robin-gateway"))
    settings = {
        "ROBIN_UPSTREAM_URL": f"http://{rig.address}/api",
        "ROBIN_LISTEN_ADDR": "127.0.0.1:0",
        "ROBIN_ADMIN_ADDR": "off",
        "ROBIN_TOKEN_FILE": str(token),
    }
    async with RobinProcess("sidecar", settings=settings) as sidecar:
        host, _, port = (await sidecar.event("listening"))["listen"][0].rpartition(":")
        await sidecar.event("started")
        client = Client(*await asyncio.open_connection(host, int(port)))
        status, _, body = await client.ask("GET /v1/chain HTTP/1.1", "Host: localhost", "Authorization: Bearer mine")
        assert status == 200
        assert body.startswith(b"GET /base/v1/chain HTTP/1.1")
        assert b"Authorization: Bearer secret-token" in body
        assert re.search(rb"Via: 1.1 robin-[0-9a-f]+, 1.1 robin-gateway", body)
        assert b"mine" not in body
        record = await rig.record("gateway.decision", path="/api/v1/chain")
        assert (record["caller"]["id"], record["route"]) == ("k8s:demo/agent", "api")
        token.write_bytes(AUTHORITY.service_account_token(audience="elsewhere"))

        async def answered() -> tuple[int, str]:
            answer = await client.ask("GET /v1/chain HTTP/1.1", "Host: localhost")
            return answer[0], json.loads(answer[2])["code"] if answer[0] != 200 else ""

        async with asyncio.timeout(20):
            while (found := await answered()) == (200, ""):
                await asyncio.sleep(0.1)
        client.writer.close()
        assert found == (401, "caller_token_invalid")  # the gateway's refusal passes through the sidecar


async def test_a_reload_changes_routes_and_takes_a_bypass_away(rig: Rig) -> None:  # last: it ends with another file
    file = rig.folder / "robin.yaml"
    text = json.loads(file.read_text())
    text["gateway"]["routes"][0]["bypass_paths"] = []
    file.write_text(json.dumps(text))
    rig.robin.send_signal(signal.SIGHUP)
    await rig.robin.event("config_loaded")
    assert code_of(await ask(rig, "/api/healthz")) == (401, "caller_unauthenticated")
    assert (await ask(rig, "/api/v1/x", bearer()))[0] == 200
