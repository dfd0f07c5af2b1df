"""`robin explain gateway` and the running policy are of one mind about every request, and explaining opens no socket (E17)."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robin.cli.explain_gateway import explain_request
from robin.cli.main import main
from robin.config.gateway_load import load_gateway
from robin.model.address import ResolvedAddress
from robin.model.caller import Caller, Evidence
from robin.model.faults import Fault
from robin.model.verdict import Denial, Permit
from robin.planes.gateway.policy import build_policy
from robin.planes.gateway.settings import GatewaySettings
from robin.policy.address_guard import AddressGuard
from robin.policy.gateway import ConnectPermit, GatewayPolicy
from robin.policy.patterns import NotCanonical
from robin.wire.http1 import RequestForms, parse_request

PROFILE = """\
id: demo
display_name: Demo
credentials: [{name: t, auth_style: bearer, token_grant: {grant_type: client_credentials, token_endpoint: "https://i.test/t", audience: a}}]
endpoints: [{host: '*.api.test', access: read-only}, {host: x.api.test, path: /v1/**}]
"""
SETTINGS = """\
version: 1
gateway:
  profiles: [demo.yaml]
  identities: {only: {source: jwtsvid, spiffe_socket: 'unix:///run/api.sock'}}
  providers: [{name: demo, profile: demo, callers: ['k8s:a/*'], permit: PERMIT}]
  bridge: {slots: {a: ca}}
  addresses: {hosts: {in.test: [10.0.0.7], near.test: [10.1.0.7], local.test: [127.0.0.1], b.test: [8.8.8.8, 10.0.0.7]}}
  policy:
    mode: MODE
    rules:
      - {name: paths, hosts: [a.test], methods: [GET, POST], paths: [/v1/**, '/x*y']}
      - {name: closed, hosts: ['*.open.test', b.test, in.test], upgrade: []}
      - {name: sockets, hosts: [ws.test], schemes: [http, https], upgrade: [websocket]}
      - {name: plain, hosts: ['**.open.test', b.test, local.test], schemes: [http], ports: [80, 8080]}
      - {name: near, hosts: [near.test, 10.1.0.8], schemes: [http, https], private: [10.1.0.0/16], callers: [local, 'k8s:a/b']}
      - {name: opaque, hosts: [db.test, '*.tcp.test'], schemes: [tcp], ports: [5432, 22]}
      - {name: never, effect: deny, hosts: ['*.open.test', b.test], schemes: [http, https], ports: [80, 443], methods: [DELETE]}
      - {name: nowhere, effect: deny, hosts: [evil.open.test], schemes: [http], ports: [80, 8080, 443]}
      - {name: watched, effect: deny, mode: report, hosts: ['**.open.test', unlisted.test], schemes: [https, http], ports: [443, 80]}
"""
HOSTS = """a.test A.Test. b.test in.test near.test 10.1.0.8 10.1.0.9 local.test ws.test db.test x.tcp.test one.open.test two.one.open.test
evil.open.test unlisted.test y.api.test x.api.test api.test 127.0.0.1 [::1] 169.254.169.254 8.8.8.8 127.1 0x7f.1 a..b single""".split()
PORTS = ["", ":80", ":443", ":8080", ":22", ":5432", ":0", ":65536"]
PATHS = "/ /v1/a /v1 /x/y /x1y /v1/../b /a%2fb //a /a;x /%zz /v1/%41".split()
METHODS = "GET POST DELETE HEAD OPTIONS".split()
CALLERS = ["local", "k8s:a/b", "k8s:a/c", "k8s:b/b", "spiffe://td/x"]
FORMS = RequestForms(connect=True, schemes=frozenset({b"http", b"https"}))
CONFIGURATIONS = [("enforce", "true"), ("enforce", "false"), ("report", "true"), ("report", "false")]
Ask = tuple[str, str, str, str]  # method, target, caller, upgrade


def write(folder: Path, mode: str, permit: str) -> Path:
    assert main(["ca", "init", "--out", str(folder / "ca")]) == 0
    (folder / "demo.yaml").write_text(PROFILE)
    file = folder / "robin.yaml"
    file.write_text(SETTINGS.replace("MODE", mode).replace("PERMIT", permit).replace("{a: ca}", f"{{a: {folder}/ca}}"))
    return file


def asks(count: int, seed: str) -> Iterator[Ask]:
    chance = random.Random(seed)
    for _ in range(count):
        host, port, caller = chance.choice(HOSTS), chance.choice(PORTS), chance.choice(CALLERS)
        if chance.random() < 0.4:
            yield "CONNECT", host + (port or ":443"), caller, ""
        else:
            target = f"{chance.choice(('http', 'https'))}://{host}{port}{chance.choice(PATHS)}"
            yield chance.choice(METHODS), target, caller, chance.choice(("", "", "", "websocket"))


def decide(settings: GatewaySettings, policy: GatewayPolicy, ask: Ask) -> dict[str, object]:
    """What the running gateway decides, and has in its record."""
    method, target, caller, upgrade = ask
    authority = target if method == "CONNECT" else target.split("/")[2]
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}"]
    if upgrade:
        lines += [f"Upgrade: {upgrade}", "Connection: upgrade"]
    try:
        head = parse_request("\r\n".join([*lines, "", ""]).encode(), target_bytes=8192, fields_max=64, forms=FORMS)
    except Fault:
        return {"verdict": "malformed"}
    verdict = policy.decide(head, Caller(id=caller, evidence=Evidence.LOOPBACK, listener="l"))
    if isinstance(verdict, Denial):
        if verdict.code in {"authority_invalid", "path_not_canonical"}:
            return {"verdict": "malformed"}
        return {"verdict": "deny", "code": verdict.code, "rule": verdict.rule, "would_deny": ""}
    assert isinstance(verdict, Permit)
    notes, origin = policy.notes(verdict.route), verdict.endpoint.origin
    found: dict[str, object] = {"verdict": "permit", "code": "", "rule": verdict.route.name or notes.denied_by}
    found |= {"would_deny": notes.would_deny, "credentials": len(verdict.route.grant.split())}
    if isinstance(verdict, ConnectPermit):
        found["tls"] = "plain" if verdict.tls is None else str(verdict.tls)
    hosts = (origin.host,) if ":" in origin.host or origin.host[-1:].isdigit() else settings.addresses.hosts.get(origin.host, ())
    guard = AddressGuard(unsafe_loopback=settings.addresses.unsafe_loopback)
    try:
        if hosts:
            guard.judge(verdict, [ResolvedAddress(host=host, port=origin.port) for host in hosts])
    except Fault as refused:
        found |= {"verdict": "deny", "code": refused.code, "credentials": 0}
    return found


def explain(settings: GatewaySettings, policy: GatewayPolicy, ask: Ask) -> dict[str, Any]:
    method, target, caller, upgrade = ask
    try:
        found = explain_request(settings, policy, method=method, target=target, caller=caller, upgrade=upgrade)
    except (NotCanonical, ValueError):
        return {"verdict": "malformed"}
    return {**found, "credentials": len(found["credentials"])}


@pytest.mark.parametrize(("mode", "permit"), CONFIGURATIONS)
def test_what_is_explained_is_what_is_decided(tmp_path: Path, mode: str, permit: str) -> None:
    settings, found = load_gateway(str(write(tmp_path, mode, permit)))
    assert settings is not None, found
    policy, outcomes = build_policy(settings), set()
    for ask in asks(2500, f"{mode}-{permit}"):
        decided, explained = decide(settings, policy, ask), explain(settings, policy, ask)
        assert {name: explained.get(name) for name in decided} == decided, ask
        outcomes.add((decided["verdict"], decided.get("code"), decided.get("would_deny"), decided.get("tls")))
    assert len(outcomes) > 8, outcomes


def test_explaining_opens_no_socket(tmp_path: Path) -> None:
    file = write(tmp_path, "report", "true")
    script = (
        "import json, sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, _: opened.append(event) if event.startswith('socket.') else None)\n"
        "from robin.cli.main import main\n"
        "codes = [main(['explain', 'gateway', '--config', sys.argv[1], '--caller', caller, method, target])\n"
        "         for method, target, caller, _ in json.loads(sys.argv[2])]\n"
        "print(json.dumps([codes, opened]))\n"
    )
    chosen = [ask for ask in asks(20, "sockets") if ":0" not in ask[1]]
    done = subprocess.run([sys.executable, "-c", script, str(file), json.dumps(chosen)], capture_output=True, text=True, check=True)
    codes, opened = json.loads(done.stdout.splitlines()[-1])
    assert (len(codes), 0 in codes, opened) == (len(chosen), True, [])
