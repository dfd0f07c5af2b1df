"""What a policy keeps of a permit changes no verdict: random requests through one policy, against a new policy for each of them."""

import random
from dataclasses import replace

from tests.policy.test_gateway import rule
from tests.policy.test_select import binding

from robin.model.caller import Caller, Connect, Evidence
from robin.model.route import HeaderRules, RouteDeadlines, TlsProfile
from robin.model.verdict import Denial, Permit, Verdict
from robin.policy.callers import CallerPattern
from robin.policy.gateway import GatewayPolicy, Rule, RuleSet
from robin.policy.patterns import parse_methods, parse_path_pattern
from robin.policy.providers import Providers
from robin.policy.select import AllowRule, Binding, DenyRule, EndpointRules
from robin.policy.signing import Signing
from robin.wire.head_parser import RequestParser
from robin.wire.http1 import RequestForms

HEADER_RULES, DEADLINES, TLS = HeaderRules(via=b"1.1 robin"), RouteDeadlines(), TlsProfile()
HOSTS = ("a.test", "b.test", "x.a.test", "10.0.0.1")
PATTERNS = ("a.test", "b.test", "*.a.test", "**.test", "**")
PATHS = ("/", "/v1/x", "/v1/%2e%2e/x", "/v1/a%2Fb", "/admin/x", "/v1/x?token=canary")
FIELDS = ("", "X-HTTP-Method-Override: DELETE\r\n", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "Authorization: Bearer canary\r\n")
FIELDS = (*FIELDS, "X-Note: placeholder-of-settings\r\n", "Via: 1.1 robin\r\n", "X-Subject: canary-of-caller\r\n")
FORMS = RequestForms(schemes=frozenset({b"http", b"https"}))


def random_rules(draw: random.Random) -> list[Rule]:
    return [
        rule(
            f"r{at}",
            *draw.sample(PATTERNS, 2),
            allow=draw.random() < 0.7,
            report=draw.random() < 0.2,
            paths=draw.choice([(), (), ("/v1/**",), ("/admin/*", "/")]),
            methods=draw.choice([(), (), ("GET",), ("GET", "POST")]),
            ports=draw.choice([{"http": frozenset({80})}, {"http": frozenset({80, 81}), "https": frozenset({443})}]),
            callers=draw.choice([(CallerPattern(text="*"),), (CallerPattern(text="k8s:a/*"),)]),
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
            binding(f"p{at}", draw.choice(("a.test", "b.test")), draw.choice(["", "/v1/**"]), callers=draw.choice(["*", "k8s:a/x"])),
            scheme=draw.choice(["http", "https"]),
            port=draw.choice([80, 443]),
            header=draw.choice(["Authorization", "X-Key"]),
            rules=draw.choice([EndpointRules(), closed]),
            placeholder=draw.choice(["", "", "placeholder-of-settings"]),
            subject_fields=draw.choice([frozenset(), frozenset({"x-subject"})]),
            signing=draw.choice([None, None, None, Signing(mode="sigv4", region="r", service="execute-api", limit_bytes=100)]),
            allowed_ips=draw.choice([(), ("10.0.0.0/8",)]),
        )
        for at in range(draw.randint(0, 3))
    ]


def random_request(draw: random.Random) -> tuple[bytes, Caller]:
    host, scheme = draw.choice(HOSTS), draw.choice(["http", "http", "https"])
    method, path = draw.choice(["GET", "GET", "POST", "DELETE"]), draw.choice(PATHS)
    if draw.random() < 0.1:
        method, path = "OPTIONS", "*"
    place = Connect(id="c", scheme=draw.choice(["http", "https"]), host=draw.choice(HOSTS), port=draw.choice([80, 443]))
    connect = place if draw.random() < 0.5 else None
    target = path if connect is not None or path == "*" else f"{scheme}://{host}{draw.choice(['', ':80', ':81'])}{path}"
    fields = "".join(draw.sample(FIELDS, draw.randint(0, 2)))
    length = draw.choice(["", "Content-Length: 3\r\n"]) if method == "POST" and "Upgrade" not in fields else ""
    name = connect.host if connect is not None else host
    raw = f"{method} {target} HTTP/1.1\r\nHost: {draw.choice([name, name, f'{name}:81'])}\r\n{fields}{length}\r\n"
    who = draw.choice(["k8s:a/x", "k8s:b/y", "open"])
    return raw.encode(), Caller(evidence=Evidence.JWT, listener="proxy", id=who, exposed=draw.random() < 0.3, connect=connect)


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
    return parts, rules, route.sign is None, policy.notes(route), verdict.endpoint, verdict.target, verdict.caller, subjects


def parser() -> RequestParser:
    return RequestParser(target_bytes=4096, fields_max=50, forms=FORMS)


def test_a_verdict_is_the_same_whatever_was_decided_before_it() -> None:
    draw = random.Random(120)
    kinds: dict[str, int] = {}
    for _ in range(30):
        rules, bindings, report = random_rules(draw), random_bindings(draw), draw.random() < 0.2
        policy, connection = build(rules, bindings, report=report), parser()
        asked = [random_request(draw) for _ in range(12)]
        for raw, caller in draw.choices(asked, k=40):  # of few requests many, some of them twice in a row with one caller
            for sender in (caller, replace(caller), caller):
                fresh = build(rules, bindings, report=report)
                verdict = policy.decide(connection.parse(raw), sender)
                assert said(verdict, policy) == said(fresh.decide(parser().parse(raw), sender), fresh), (raw, sender)
                kind = verdict.code if isinstance(verdict, Denial) else type(verdict).__name__
                kinds[kind] = kinds.get(kind, 0) + 1
        assert "canary" not in repr(vars_of(policy))
    codes = "Permit rule_default rule_denied authority_mismatch path_not_canonical placeholder_misused loop endpoint_closed upgrade_denied"
    assert kinds.keys() >= set(codes.split()), kinds


def vars_of(policy: GatewayPolicy) -> object:
    kept = policy._kept._kept
    return list(kept), list(kept.values())


def test_what_is_kept_is_bounded_and_a_denial_is_not() -> None:
    policy = build([rule("all", "**.test", paths=("/**",), ports={"http": frozenset({80})})], [], report=False)
    caller, connection = Caller(evidence=Evidence.LOOPBACK, listener="proxy", id="local"), parser()
    for number in range(1500):
        for host, path in (("a.test", f"/{number}"), (f"denied{number}.example", "/"), ("a.test", "/" + "long" * 200)):
            policy.decide(connection.parse(f"GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()), caller)
    keys = list(policy._kept._kept)
    assert 0 < len(keys) <= 1024
    assert {key[2] for key in keys} == {"a.test"}
    assert max(map(len, (key[5] for key in keys))) < 10
