"""The routes of reverse listeners: which one has a path, what is sent, and that nothing gets round one of them."""

import itertools
import random
from dataclasses import replace

import pytest

from robin.model.caller import Caller, Evidence
from robin.model.origin import Origin
from robin.model.route import HeaderRules, RouteDeadlines, TlsProfile
from robin.model.verdict import Denial, Permit
from robin.policy.callers import CallerPattern
from robin.policy.patterns import ANY_METHOD, ANY_PATH, parse_host_pattern, parse_path_pattern
from robin.policy.providers import Providers
from robin.policy.reverse import Allow, Found, ReversePolicy, ReverseRoute, find_route_ties
from robin.policy.select import Binding, EndpointRules
from robin.policy.signing import Signing
from robin.wire.http1 import parse_request

ORIGIN = Origin(scheme="https", host="up.test", port=443, authority=b"up.test")
EVERYONE = (Allow(callers=(CallerPattern(text="*"),), methods=ANY_METHOD),)
CALLER = Caller(evidence=Evidence.JWT, listener="front", id="k8s:demo/agent")


def route(name: str, prefix: str = "", *hosts: str, **rest: object) -> ReverseRoute:
    patterns = tuple(parse_host_pattern(host, rule=True) for host in hosts)
    return ReverseRoute(name=name, prefix=prefix, hosts=patterns, **{"origin": ORIGIN, "allow": EVERYONE, **rest})  # type: ignore[arg-type]


def policy(*routes: ReverseRoute, report: bool = False, bindings: tuple[Binding, ...] = ()) -> ReversePolicy:
    return ReversePolicy(
        routes,
        name="gw",
        header_rules=HeaderRules(via=b"1.1 gw"),
        deadlines=RouteDeadlines(),
        tls=TlsProfile(),
        generation=7,
        providers=Providers(bindings),
        report=report,
    )


def binding(**rest: object) -> Binding:
    common = {"provider": "p", "credential": "c", "index": 0, "callers": frozenset({"*"}), "scheme": "https", "port": 443, "grant": "g"}
    place = {"host": parse_host_pattern("up.test"), "path": ANY_PATH, "methods": ANY_METHOD, "override": False}
    return Binding(**{**common, **place, "header": "Authorization", "prefix": "Bearer", **rest})  # type: ignore[arg-type]


def decide(
    of: ReversePolicy, target: str, host: str = "gw.test", caller: Caller = CALLER, method: str = "GET", fields: str = ""
) -> Permit | Denial:
    head = parse_request(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode(), target_bytes=1000, fields_max=10)
    verdict = of.decide(head, caller)
    assert isinstance(verdict, Permit | Denial)
    return verdict


@pytest.mark.parametrize(
    ("prefix", "strip", "base", "target", "sent"),
    [
        ("/x", True, b"", "/x", b"/"),
        ("/x", True, b"", "/x?q", b"/?q"),
        ("/x", True, b"", "/x/", b"/"),
        ("/x", True, b"/b", "/x/y/", b"/b/y/"),
        ("/x/y", True, b"", "/x/%79/z%2Ez?/x/y", b"/z%2Ez?/x/y"),
        ("/x", False, b"/b", "/x/y", b"/b/x/y"),
        ("/x", False, b"", "/x/y", None),
        ("", True, b"/b", "/", b"/b/"),
        ("", True, b"", "/a//b/..;/%zz", None),  # no route looks at paths: the upstream's own affair
    ],
)
def test_what_is_sent_are_the_bytes_behind_the_prefix(prefix: str, strip: bool, base: bytes, target: str, sent: bytes | None) -> None:
    verdict = decide(policy(route("r", prefix, strip=strip, base=base)), target)
    assert isinstance(verdict, Permit)
    assert (verdict.target, verdict.endpoint.generation, verdict.route.name) == (sent, 7, "route:r")


def test_a_path_that_is_read_in_two_ways_is_refused_whichever_route_it_would_have() -> None:
    of = policy(route("all", strip=False), route("admin", "/admin", strip=False, allow=()))
    for target in ("/x/../admin", "/x/%2e%2e/admin", "/admin%2fx", "//admin", "/x/..%2fadmin", "/x/%252e%252e/admin", "/x\\..\\admin"):
        verdict = decide(of, target)
        assert isinstance(verdict, Denial)
        assert verdict.code == "path_not_canonical", target
    for target in ("/admin", "/admin/x", "/%61dmin/x"):
        verdict = decide(of, target)
        assert isinstance(verdict, Denial)
        assert verdict.code == "rule_default", target
    assert isinstance(decide(of, "/administrators"), Permit)


LOCAL = Caller(evidence=Evidence.LOOPBACK, listener="front", id="local")
UNIX = Caller(evidence=Evidence.UNIX_PEER, listener="front", id="unix:7", uid=7)
MTLS = Caller(evidence=Evidence.MTLS, listener="front", id="cn:x")


@pytest.mark.parametrize(
    ("caller", "host", "fields", "code"),
    [
        (LOCAL, "localhost:8080", "", ""),
        (LOCAL, "LOCALHOST.", "", ""),
        (LOCAL, "127.0.0.1:8080", "Sec-Fetch-Site: same-origin\r\n", ""),
        (LOCAL, "127.8.9.1", "", ""),
        (LOCAL, "[::1]:8080", "Sec-Fetch-Site: none\r\n", ""),
        (LOCAL, "attacker.example:8080", "", "host_not_allowed"),
        (LOCAL, "localhost.attacker.example", "", "host_not_allowed"),
        (LOCAL, "[::ffff:127.0.0.1]", "", "host_not_allowed"),
        (LOCAL, "0.0.0.0", "", "host_not_allowed"),
        (LOCAL, "10.0.0.1", "", "host_not_allowed"),
        (LOCAL, "named.test", "", ""),  # a route lists it
        (LOCAL, "wild.test", "", "host_not_allowed"),  # `**` lists nothing
        (LOCAL, "named.test", "Origin: http://named.test\r\n", "origin_refused"),
        (LOCAL, "localhost", "Origin: https://attacker.example\r\n", "origin_refused"),
        (LOCAL, "localhost", "Origin: null\r\n", "origin_refused"),
        (LOCAL, "localhost", "Sec-Fetch-Site: cross-site\r\n", "origin_refused"),
        (LOCAL, "localhost", "Sec-Fetch-Site: same-site\r\n", "origin_refused"),
        (UNIX, "any.thing", "", ""),  # no page and no name leads to a Unix socket
        (UNIX, "localhost", "Origin: null\r\n", "origin_refused"),
        (MTLS, "any.thing", "", ""),  # the certificate of the listener has the name
        (MTLS, "localhost", "Sec-Fetch-Site: cross-site\r\n", "origin_refused"),
        (CALLER, "any.thing", "Origin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n", ""),  # no page has its token
    ],
)
def test_no_page_of_a_browser_uses_what_a_caller_may_that_the_connection_alone_names(
    caller: Caller, host: str, fields: str, code: str
) -> None:
    patterns = [CallerPattern(text=text) for text in ("*", "local")]
    allow = (Allow(callers=tuple(patterns), methods=ANY_METHOD),)
    named, wild = route("named", "", "named.test", allow=allow), route("wild", "/w", "**", allow=allow)
    verdict = decide(policy(route("any", allow=allow), named, wild), "/w/x" if host == "wild.test" else "/", host, caller, fields=fields)
    assert (verdict.code if isinstance(verdict, Denial) else "") == code


@pytest.mark.parametrize(("host", "kept"), [("gw.test", False), ("other.test", True)])
def test_fields_that_name_another_path_or_method_stay_behind_where_any_route_of_the_host_looks(host: str, kept: bool) -> None:
    of = policy(route("all"), route("admin", "/admin", "gw.test", strip=False, allow=()))
    verdict = decide(of, "/", host, fields="X-Original-URL: /admin/x\r\n")
    assert isinstance(verdict, Permit)
    assert (b"x-original-url" not in verdict.route.header_rules.strip) == kept


@pytest.mark.parametrize(
    ("path", "bypasses"),
    [("/a/x", True), ("/a/", False), ("/a/x%252Fadmin", False), ("/a/%25", False), ("/a/%41", True), ("/b/", True), ("/b", False)],
)
def test_a_path_needs_no_caller_only_where_servers_read_one_segment_in_it(path: str, bypasses: bool) -> None:
    found = policy(route("r", bypass=(parse_path_pattern("/a/*"), parse_path_pattern("/b/")))).find_path("gw.test", path.encode())
    assert isinstance(found, Found)
    assert found.bypass == bypasses


def test_fields_of_the_credentials_at_the_upstream_come_from_no_caller_without_them() -> None:
    swap = binding(header="X-Svc", callers=frozenset({"k8s:demo/*"}), subject_fields=frozenset({"x-user-token"}), also=("X-Also",))
    elsewhere = binding(header="X-Else", host=parse_host_pattern("else.test"), callers=frozenset({"k8s:ops/*"}))
    of = policy(route("r", bypass=(parse_path_pattern("/open"),)), bindings=(swap, elsewhere))
    callers = [replace(CALLER, id=name) for name in ("anonymous", "k8s:ops/x", "k8s:x/y", "k8s:demo/agent")]
    for caller, path in zip(callers, ("/open", "/x", "/x", "/x"), strict=True):
        verdict = decide(of, path, caller=caller)
        assert isinstance(verdict, Permit)
        assert {b"x-svc", b"x-also", b"x-user-token"} <= verdict.route.header_rules.strip
        assert verdict.route.grant == ("g" if caller.id == "k8s:demo/agent" else "")


def test_an_encoded_slash_passes_only_where_the_endpoint_of_a_provider_takes_it() -> None:
    takes = binding(path=parse_path_pattern("/v1/**"), rules=EndpointRules(allow_encoded_slash=True))
    routes = (route("git", "/git"), route("other", "/other", origin=Origin(scheme="https", host="o.test", port=443, authority=b"o.test")))
    verdict = decide(policy(routes[0], bindings=(takes,)), "/git/v1/a%2Fb")
    assert isinstance(verdict, Permit)
    assert (verdict.target, verdict.route.grant) == (b"/v1/a%2Fb", "g")
    for of in (policy(routes[0]), policy(*routes, bindings=(takes,)), policy(route("git", "/git", bypass=(parse_path_pattern("/git/h"),)),
                                                                             bindings=(takes,))):  # fmt: skip
        assert isinstance(decide(of, "/git/v1/a%2Fb"), Denial)


def test_a_credential_is_for_the_path_that_is_sent_and_never_for_one_without_a_caller_or_one_that_would_be_denied() -> None:  # E41
    bound = binding(path=parse_path_pattern("/base/v1/*"), allowed_ips=("10.0.0.0/8",))
    of = policy(route("r", "/x", base=b"/base", bypass=(parse_path_pattern("/x/v1/open"),), private=("192.168.0.0/16",)), bindings=(bound,))
    verdict = decide(of, "/x/v1/a")
    assert isinstance(verdict, Permit)
    assert (verdict.route.grant, verdict.endpoint.private) == ("g", ("192.168.0.0/16", "10.0.0.0/8"))
    verdict = decide(of, "/x/v2/a")
    assert isinstance(verdict, Permit)
    assert verdict.route.grant == ""
    anonymous = Caller(evidence=Evidence.OPEN, listener="front", id="anonymous")
    verdict = decide(of, "/x/v1/open", caller=anonymous)
    assert isinstance(verdict, Permit)
    assert (verdict.route.grant, verdict.endpoint.private) == ("", ("192.168.0.0/16",))
    refused = decide(of, "/x/v1/a", caller=anonymous)  # a reload took the bypass away
    assert isinstance(refused, Denial)
    assert refused.code == "caller_unauthenticated"
    verdict = decide(policy(route("r", "/x", base=b"/base", allow=()), report=True, bindings=(bound,)), "/x/v1/a")
    assert isinstance(verdict, Permit)
    assert (verdict.route.grant, verdict.endpoint.private) == ("", ())
    of = policy(route("r", "/x", allow=()), report=True)
    verdict = decide(of, "/x/v1/a")
    assert isinstance(verdict, Permit)
    notes = of.notes(verdict.route)
    assert notes is not None
    assert (notes.would_deny, notes.denied_by, notes.route) == ("rule_default", "route:r", "r")


def test_a_request_is_signed_for_the_upstream_or_refused_where_it_cannot_be() -> None:
    signing = Signing(mode="sigv4", service="dynamodb", region="us-east-1", limit_bytes=10)
    of = policy(route("r", "/x"), bindings=(binding(signing=signing),))
    verdict = decide(of, "/x/a")
    assert isinstance(verdict, Permit)
    assert (verdict.route.sign is not None, verdict.target) == (True, b"/a")
    head = parse_request(b"POST /x/a HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 11\r\n\r\n", target_bytes=99, fields_max=9)
    refused = of.decide(head, CALLER)
    assert isinstance(refused, Denial)
    assert (refused.code, refused.rule) == ("signing_body_too_large", "route:r")


def test_the_route_of_a_path_does_not_depend_on_the_order_and_without_ties_it_is_one() -> None:
    draw = random.Random(9)
    hosts = [(), ("a.test",), ("*.test",), ("**.test",), ("b*.test", "a.test"), ("*b.test",)]
    for _ in range(300):
        routes = [route(f"r{at}", draw.choice(["", "/x", "/x/y", "/z"]), *draw.choice(hosts)) for at in range(4)]
        tied = list(find_route_ties(routes))
        places = list(itertools.product(("a.test", "b.test", "bb.test", "c.b.test", "other"), (b"/x/y/z", b"/x", b"/xy", b"/z/")))
        for one, other, host in tied:
            assert one.host_rank(host or "any.other") == other.host_rank(host or "any.other") or len(one.hosts) > 1
        if tied:
            continue
        policies = [policy(*order) for order in itertools.permutations(routes)]
        for host, path in places:
            assert len({_name(of.find_path(host, path)) for of in policies}) == 1


def _name(found: Found | Denial) -> str:
    return found.route.name if isinstance(found, Found) else found.code
