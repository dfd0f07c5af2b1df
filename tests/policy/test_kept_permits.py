"""What a policy keeps of a permit changes no verdict: random requests through one policy, against a new policy for each of them."""

import random
from dataclasses import replace
from typing import Any

import pytest
from tests.policy.test_gateway import rule
from tests.policy.test_select import binding

from robin.model.caller import Caller, Connect, Evidence
from robin.model.route import HeaderRules, RouteDeadlines, TlsProfile
from robin.model.verdict import Denial, Permit, Verdict
from robin.policy.callers import CallerPattern
from robin.policy.gateway import ConnectPermit, GatewayPolicy
from robin.policy.patterns import parse_methods, parse_path_pattern
from robin.policy.providers import Providers
from robin.policy.rules import Rule, RuleSet
from robin.policy.select import AllowRule, Binding, DenyRule, EndpointRules
from robin.policy.signing import Signing
from robin.wire.head_parser import RequestParser
from robin.wire.http1 import RequestForms

HEADER_RULES, DEADLINES, TLS = HeaderRules(via=b"1.1 robin"), RouteDeadlines(), TlsProfile()
HOSTS = ("a.test", "a.test", "a.test", "b.test", "x.a.test", "10.0.0.1")
PATTERNS = ("a.test", "b.test", "*.a.test", "**.test", "**")
PATHS = ("/", "/v1/x", "/v1/%2e%2e/x", "/v1/a%2Fb", "/admin/x", "/v1/x?token=canary")
FIELDS = ("", "X-HTTP-Method-Override: DELETE\r\n", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "Authorization: Bearer canary\r\n")
FIELDS = (*FIELDS, "X-Note: placeholder-of-settings\r\n", "Via: 1.1 robin\r\n", "X-Subject: canary-of-caller\r\n")
FORMS = RequestForms(connect=True, schemes=frozenset({b"http", b"https"}))


def random_rules(draw: random.Random) -> list[Rule]:
    everything = rule("all", "**", ports={"http": frozenset({80}), "https": frozenset({443})})
    return [everything] * draw.choice([0, 1, 1]) + [
        rule(
            f"r{at}",
            *draw.sample(PATTERNS, 2),
            allow=draw.random() < 0.9,
            report=draw.random() < 0.2,
            paths=draw.choice([(), (), ("/v1/**",), ("/admin/*", "/")]),
            methods=draw.choice([(), (), ("GET",), ("GET", "POST")]),
            ports={"http": frozenset({80, *draw.sample((81, 443), 1)}), "https": frozenset({443})},
            callers=(CallerPattern(text=draw.choice(["*", "*", "k8s:a/*"])),),
            upgrades=draw.choice([frozenset(), frozenset({"websocket"})]),
            encoded_slash=draw.random() < 0.5,
            private=draw.choice([(), ("10.0.0.0/8",)]),
            ca_file=draw.choice([None, "/ca"]),
        )
        for at in range(draw.randint(1, 6))
    ]


def random_bindings(draw: random.Random) -> list[Binding]:
    closed = EndpointRules(
        allow=draw.choice([None, (AllowRule(methods=parse_methods(()), path=parse_path_pattern("/v1/**")),)]),
        deny=draw.choice([(), (DenyRule(methods=parse_methods(("POST",)), path="/v1/*"),)]),
    )
    return [
        replace(
            binding(
                f"p{at}",
                draw.choice(HOSTS[:4]),
                draw.choice(["", "", "", "/v1/**"]),
                callers=draw.choice(["*", "k8s:a/x"]),
            ),
            **draw.choice([{"scheme": "http", "port": 80}, {"scheme": "https", "port": 443}]),  # type: ignore[arg-type]
            header=draw.choice(["Authorization", "X-Key"]),
            rules=draw.choice([EndpointRules(), EndpointRules(), closed]),
            placeholder=draw.choice(["", "", "", "", "placeholder-of-settings"]),
            subject_fields=draw.choice([frozenset(), frozenset({"x-subject"})]),
            signing=draw.choice([None, None, None, Signing(mode="sigv4", region="r", service="execute-api", limit_bytes=100)]),
            allowed_ips=draw.choice([(), ("10.0.0.0/8",)]),
        )
        for at in range(draw.choice([0, 4, 5]))
    ]


PARTS: dict[str, tuple[object, ...]] = {
    "host": HOSTS,
    "scheme": ("http", "http", "https"),
    "port": ("", "", "", ":80", ":81"),
    "method": ("GET", "GET", "POST", "DELETE"),
    "path": ("/v1/x", "/", *PATHS),
    "field": ("", FIELDS[-1], FIELDS[-1], *FIELDS),
    "inside": (False, True),
    "named": ("", "", "", "", "", "", ":81"),
    "length": ("", "Content-Length: 3\r\n"),
    "who": ("k8s:a/x", "k8s:a/x", "k8s:a/x", "k8s:b/y", "open"),
    "exposed": (False, False, False, False, True),
}


def request_of(parts: dict[str, object]) -> tuple[bytes, Caller]:
    """A head, absolute-form or inside of a CONNECT, and its caller."""
    host, scheme, port = parts["host"], str(parts["scheme"]), str(parts["port"])
    number = int(port[1:]) if port else {"http": 80, "https": 443}[scheme]
    connect = Connect(id="c", scheme=scheme, host=str(host), port=number) if parts["inside"] else None
    target = parts["path"] if connect is not None else f"{scheme}://{host}{port}{parts['path']}"
    length = parts["length"] if parts["method"] == "POST" and "Upgrade" not in str(parts["field"]) else ""
    raw = f"{parts['method']} {target} HTTP/1.1\r\nHost: {host}{parts['named'] or port}\r\n{parts['field']}{length}\r\n"
    caller = Caller(evidence=Evidence.JWT, listener="proxy", id=str(parts["who"]), exposed=bool(parts["exposed"]), connect=connect)
    return raw.encode(), caller


def neighbours(draw: random.Random) -> list[tuple[bytes, Caller]]:
    """One request, and others that differ from it in one part or two."""
    one = {name: draw.choice(values) for name, values in PARTS.items()}
    others = [one | {name: draw.choice(PARTS[name]) for name in draw.sample(sorted(PARTS), 2)} for _ in range(12)]
    return [request_of(parts) for parts in (one, *others)]


def build(rules: list[Rule], bindings: list[Binding], *, report: bool) -> GatewayPolicy:
    return GatewayPolicy(
        RuleSet(rules, report=report), name="robin", header_rules=HEADER_RULES, deadlines=DEADLINES, tls=TLS, providers=Providers(bindings)
    )


def said(verdict: Verdict, policy: GatewayPolicy) -> object:
    """All that follows from a verdict: header rules are compared by identity, and so they are spelled out."""
    if not isinstance(verdict, Permit):
        return verdict
    route = verdict.route
    parts = [getattr(route, name) for name in route.__slots__ if name not in {"header_rules", "sign"}]
    rules = [getattr(route.header_rules, name) for name in route.header_rules.__slots__]
    subjects = [(name, secret.reveal()) for name, secret in verdict.subjects]
    inside = (verdict.tls, verdict.http) if isinstance(verdict, ConnectPermit) else None
    return parts, rules, route.sign is None, policy.notes(route), verdict.endpoint, verdict.target, verdict.caller, subjects, inside


def parser() -> RequestParser:
    return RequestParser(target_bytes=4096, fields_max=50, forms=FORMS)


def test_a_verdict_is_the_same_whatever_was_decided_before_it() -> None:
    draw = random.Random(120)
    kinds: dict[str, int] = {}
    for _ in range(60):
        rules, bindings, report = random_rules(draw), random_bindings(draw), draw.random() < 0.2
        policy, connection = build(rules, bindings, report=report), parser()
        asked = []
        for raw, caller in neighbours(draw):
            fresh = build(rules, bindings, report=report)
            asked.append((raw, caller, said(fresh.decide(parser().parse(raw), caller), fresh)))
        for raw, caller, expected in draw.choices(asked, k=30):
            for sender in (caller, caller, replace(caller)):  # a head that repeats, of the same caller and of an equal one
                verdict = policy.decide(connection.parse(raw), sender)
                assert said(verdict, policy) == expected, (raw, sender)
                kind = verdict.code if isinstance(verdict, Denial) else type(verdict).__name__
                kinds[kind] = kinds.get(kind, 0) + 1
        assert "canary" not in repr(vars_of(policy))
    codes = "Permit rule_default rule_denied authority_mismatch path_not_canonical placeholder_misused loop endpoint_closed upgrade_denied"
    assert kinds.keys() >= set(codes.split()), kinds


def test_a_connect_is_judged_the_same_whatever_was_decided_before_it() -> None:
    draw = random.Random(121)
    kinds: dict[str, int] = {}
    for _ in range(60):
        bindings, report, tcp = random_bindings(draw), draw.random() < 0.2, {"tcp": frozenset({443, 5432})}
        rules = [replace(one, allow=draw.random() < 0.7, ports=draw.choice([one.ports, one.ports | tcp])) for one in random_rules(draw)]
        policy = build(rules, bindings, report=report)
        targets = [f"{host}:{port}" for host in ("a.test", "b.test", "x.a.test", "10.0.0.1") for port in (80, 81, 443, 5432)]
        for target in draw.choices(targets, k=60):
            named, who = draw.choice([target, target, target, "a.test:443"]), draw.choice(["k8s:a/x", "k8s:b/y"])
            caller = Caller(evidence=Evidence.JWT, listener="proxy", id=who, expires_at=draw.random())
            head = parser().parse(f"CONNECT {target} HTTP/1.1\r\nHost: {named}\r\n\r\n".encode())
            fresh = build(rules, bindings, report=report)
            verdict = policy.decide(head, caller)
            assert said(verdict, policy) == said(fresh.decide(head, caller), fresh), (target, named, caller)
            kind = verdict.code if isinstance(verdict, Denial) else str(verdict.tls) if isinstance(verdict, ConnectPermit) else ""
            kinds[kind] = kinds.get(kind, 0) + 1
    assert kinds.keys() == {"None", "tcp", "bridge", "passthrough", "rule_default", "rule_denied", "authority_mismatch"}, kinds


def vars_of(policy: GatewayPolicy) -> object:
    kept = policy._kept._kept
    return list(kept), list(kept.values())


def test_what_is_kept_is_bounded_and_a_denial_is_not() -> None:
    policy = build([rule("all", "**.test", paths=("/**",), ports={"http": frozenset({80})})], [], report=False)
    caller, connection = Caller(evidence=Evidence.LOOPBACK, listener="proxy", id="local"), parser()
    for number in range(1100):
        for host, path in (("a.test", f"/{number}"), (f"denied{number}.example", "/"), ("a.test", "/" + "long" * 200)):
            policy.decide(connection.parse(f"GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()), caller)
        for host in (f"x{number}.test", f"denied{number}.example"):
            policy.decide(connection.parse(f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n".encode()), caller)
    connects = list(policy._kept_connects._kept)
    assert 0 < len(connects) <= 1024
    assert all(key[2].endswith(".test") for key in connects)
    keys = list(policy._kept._kept)
    assert 0 < len(keys) <= 1024
    assert {key[2] for key in keys} == {"a.test"}
    assert max(map(len, (key[5] for key in keys))) < 10


SIGNING = Signing(mode="sigv4", region="r", service="execute-api", limit_bytes=100)


@pytest.mark.parametrize(
    ("parts", "fields"),
    [
        ({"placeholder": "placeholder-of-settings"}, ("", "X-Note: placeholder-of-settings\r\n")),
        ({"signing": SIGNING}, ("Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "")),
        ({"subject_fields": frozenset({"x-subject"})}, ("X-Subject: one\r\n", "X-Subject: other\r\n", "")),
    ],
)
def test_what_depends_on_more_than_the_key_is_judged_for_each_request(parts: dict[str, Any], fields: tuple[str, ...]) -> None:
    rules, bound = [rule("all", "**", ports={"http": frozenset({80})})], replace(binding("p", "a.test"), scheme="http", port=80, **parts)
    policy, caller, connection = (
        build(rules, [bound], report=False),
        Caller(evidence=Evidence.LOOPBACK, listener="proxy", id="local"),
        parser(),
    )
    expected = []
    for one in (*fields, *fields):
        raw = f"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{one}\r\n".encode()
        fresh = build(rules, [bound], report=False)
        expected.append(said(fresh.decide(parser().parse(raw), caller), fresh))
        assert said(policy.decide(connection.parse(raw), caller), policy) == expected[-1]
    assert expected[0] != expected[1]
