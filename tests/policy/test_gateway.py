"""The gateway's rules: default deny, deny before allow in any order, which rule says how, and what is bridged."""

import itertools
import random
from dataclasses import replace

import pytest

from robin.policy.callers import CallerPattern
from robin.policy.patterns import parse_host_pattern, parse_methods, parse_path_pattern
from robin.policy.rule_ties import find_ties, tied_host
from robin.policy.rules import Ask, Decision, Rule, RuleSet

HTTPS = {"https": frozenset({443})}


def rule(name: str, *hosts: str, allow: bool = True, paths: tuple[str, ...] = (), methods: tuple[str, ...] = (), **rest: object) -> Rule:
    return Rule(
        name=name,
        allow=allow,
        hosts=tuple(parse_host_pattern(host, rule=True) for host in hosts),
        paths=tuple(map(parse_path_pattern, paths)),
        methods=parse_methods(methods),
        **{"ports": HTTPS, **rest},  # type: ignore[arg-type]
    )


def ask(host: str, path: str = "/", method: str | None = "GET", caller: str = "local", **rest: object) -> Ask:
    return Ask(caller=caller, scheme="https", host=host, port=443, method=method, path=path, **rest)  # type: ignore[arg-type]


MIXED = [
    rule("wide", "**.example.com"),
    rule("narrow", "api.example.com", paths=("/v1/**",)),
    rule("no-admin", "**.example.com", allow=False, paths=("/admin/**",)),
    rule("no-delete", "api.example.com", allow=False, methods=("DELETE",)),
    rule("watched", "api.example.com", allow=False, report=True, paths=("/v1/watched",)),
    rule("other", "other.test"),
]


def test_a_deny_beats_every_allow_whatever_the_order_of_the_rules() -> None:  # E12
    asks = {
        ask("api.example.com", "/v1/x"): ("", "narrow", ""),
        ask("api.example.com", "/v2"): ("", "wide", ""),
        ask("api.example.com", "/admin/x"): ("rule_denied", "no-admin", ""),
        ask("api.example.com", "/v1/x", "DELETE"): ("rule_denied", "no-delete", ""),
        ask("api.example.com", "/v1/watched"): ("", "narrow", "rule_denied"),
        ask("example.com"): ("rule_default", None, ""),
        ask("evil.test"): ("rule_default", None, ""),
    }
    for order in itertools.permutations(MIXED):
        rules = RuleSet(order)
        for one, (code, name, would_deny) in asks.items():
            found = rules.decide(one)
            assert (found.code, found.rule and found.rule.name, found.would_deny) == (code, name, would_deny)


def test_a_connect_is_denied_only_by_rules_that_its_target_alone_decides() -> None:
    rules = RuleSet([*MIXED, rule("closed", "shut.example.com", allow=False)])
    assert rules.decide(ask("api.example.com", method=None)).code == ""
    assert rules.decide(ask("shut.example.com", method=None)).code == "rule_denied"


@pytest.mark.parametrize(
    ("host", "bridged"), [("api.example.com", True), ("other.test", False), ("www.example.com", True), ("deep.pass.example.org", False)]
)
def test_a_host_is_bridged_where_a_deny_or_its_most_specific_allow_needs_to_see_requests(host: str, bridged: bool) -> None:
    rules = RuleSet([*MIXED, rule("org", "**.example.org", paths=("/x",)), rule("pass", "*.pass.example.org")])
    assert rules.bridges(ask(host, method=None)) == bridged


def test_allows_of_one_rank_bridge_if_one_of_them_has_to_see_requests() -> None:
    rules = RuleSet([rule("a", "a.test"), rule("b", "a.test", methods=("GET",))])
    assert rules.bridges(ask("a.test", method=None))


def test_report_mode_lets_pass_what_would_be_denied_and_says_so() -> None:
    rules = RuleSet(MIXED, report=True)
    assert rules.decide(ask("evil.test")) == Decision(code="", rule=None, would_deny="rule_default")
    assert rules.decide(ask("api.example.com", "/admin/")).would_deny == "rule_denied"
    assert rules.decide(ask("evil.test", upgrade="websocket")).would_deny == "rule_default"
    assert rules.decide(ask("api.example.com", upgrade="websocket")).code == "upgrade_denied"  # what is no denial is not reported
    assert rules.decide(ask("api.example.com", "/admin/", upgrade="websocket")).code == "upgrade_denied"


def test_what_only_passes_in_report_mode_is_treated_as_the_most_specific_allow_of_its_place_says() -> None:
    wide = rule("wide", "*.test", methods=("GET",), private=("10.0.0.0/8",))
    narrow = rule("narrow", "a.test", methods=("GET",), private=("10.1.0.0/16",), ca_file="/ca")
    paths = rule("paths", "a.test", paths=("/v1/**",))
    other = rule("other", "c.test", methods=("GET",), callers=(CallerPattern(text="k8s:a/b"),), private=("10.0.0.0/8",))
    deny = rule("deny", "*.test", methods=("DELETE",), allow=False)
    rules = RuleSet([wide, narrow, other, paths, deny], report=True)
    for asked, denial, expected in (
        (ask("a.test", method="POST"), "rule_default", narrow),
        (ask("a.test", method="DELETE"), "rule_denied", narrow),
        (ask("b.test", method="POST"), "rule_default", wide),
        (ask("c.test", method="POST"), "rule_default", wide),  # that of another caller is none of this one
        (ask("evil.example"), "rule_default", None),
        (replace(ask("a.test", method="POST"), port=444), "rule_default", None),
        (replace(ask("a.test", method="POST"), scheme="http"), "rule_default", None),
    ):
        found = rules.decide(asked)
        assert (found.code, found.rule, found.would_deny, found.treated_as) == ("", None, denial, expected), asked
    assert rules.decide(ask("a.test")).treated_as is narrow
    assert RuleSet([narrow]).decide(ask("a.test", method="POST")) == Decision(code="rule_default", rule=None)


def test_ties_are_found_among_many_rules_as_by_comparing_each_pair() -> None:
    draw = random.Random(4)
    hosts = ["a.test", "b.test", "*.test", "a*.test", "*b.test", "**.test", "*.a.test", "**.a.test", "**"]
    paths = ["/x", "/y", "/*", "/x/*", "/y/*", "/x/**", "/y/**", "/**", "/x*", "/*x", "/x/*/z", "/x/y*"]
    for _ in range(400):
        rules = [
            rule(
                f"r{at}",
                *draw.sample(hosts, 2),
                tls=draw.choice(["auto", "bridge"]),
                paths=tuple(draw.sample(paths, draw.choice([0, 1, 2]))),
                methods=draw.choice([(), (), ("GET",), ("PUT",)]),
            )
            for at in range(4)
        ]
        pairs = [(one, other) for one, other in itertools.combinations(rules, 2) if one.tls != other.tls]
        expected = {(one.name, other.name) for one, other in pairs if one.methods.rank == other.methods.rank and tied_host(one, other)}
        assert {(one.name, other.name) for one, other, _ in find_ties(rules)} == expected
        for one, other, host in find_ties(rules):
            assert one.host_rank(host) == other.host_rank(host) or len(one.hosts) > 1
            assert not one.why_not(ask(host, method=None))
            assert not other.why_not(ask(host, method=None))
    many = [rule(f"r{at}", f"h{at}.test", tls="bridge" if at % 2 else "auto") for at in range(20_000)]
    assert list(find_ties(many)) == []  # compared pair by pair they took an hour
    assert RuleSet(many).decide(ask("h7.test")).rule is many[7]
    many = [rule(f"r{at}", "a.test", paths=(f"/{at}/**",), upgrades=frozenset({"websocket"} if at % 2 else ())) for at in range(2_000)]
    assert list(find_ties(many)) == []  # on one host too


def test_the_rules_that_are_looked_at_for_a_host_are_those_that_have_it_each_once() -> None:
    draw = random.Random(5)
    patterns = (
        "a.example.com b.example.com *.example.com **.example.com a*.example.com *.a.example.com ** localhost 10.0.0.1 **.com".split()
    )
    hosts = "a.example.com b.a.example.com example.com c.b.a.example.com x.com com localhost 10.0.0.1 ab.example.com ::1".split()
    for _ in range(300):
        rules = [rule(f"r{at}", *draw.sample(patterns, draw.randint(1, 4)), paths=("/x",)) for at in range(draw.randint(1, 8))]
        for host in hosts:
            found = RuleSet(rules).path_readers(host, 443)
            assert sorted(one.name for one in found) == sorted(one.name for one in rules if one.has_host(host)), host


def test_an_upgrade_needs_a_rule_that_lists_it() -> None:
    plain, switching = rule("plain", "a.test"), rule("ws", "*.test", upgrades=frozenset({"websocket"}))
    assert RuleSet([plain]).decide(ask("a.test", upgrade="websocket")).code == "upgrade_denied"
    found = RuleSet([plain, switching]).decide(ask("a.test", upgrade="websocket"))
    assert (found.code, found.rule) == ("", switching)


@pytest.mark.parametrize(
    ("pattern", "caller", "matches"),
    [
        ("*", "local", True),
        ("*", "unix:7", True),
        ("*", "open", False),
        ("open", "open", True),
        ("**", "open", False),
        ("k8s:demo/*", "k8s:demo/agent", True),
        ("k8s:demo/*", "k8s:demo2/agent", False),
        ("k8s:demo/*", "k8s:demo/a/b", False),
        ("spiffe://td/ns/**", "spiffe://td/ns/a/b", True),
        ("spiffe://td/ns/**", "spiffe://td/ns", False),
        ("spiffe://td/**", "spiffe://td2/a", False),
        ("spiffe://td/*/x", "spiffe://td/a/x", True),
        ("spiffe://td/*/x", "spiffe://td//x", False),
    ],
)
def test_a_caller_pattern_matches_whole_segments(pattern: str, caller: str, matches: bool) -> None:
    assert CallerPattern(text=pattern).matches(caller) == matches
