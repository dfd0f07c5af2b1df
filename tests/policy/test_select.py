"""Selection of bindings: G10, G12, G15, G16 of grants.md, and the witness of two that are ambiguous."""

import random
import re
from dataclasses import replace
from itertools import pairwise, product

import pytest

from robin.policy.callers import CallerPattern, callers_meet
from robin.policy.overlap import covers_path, find_overlaps, is_ambiguous, witness_host, witness_path
from robin.policy.patterns import parse_host_pattern, parse_methods, parse_path_pattern
from robin.policy.select import Binding, BoundRequest, DenyRule, EndpointRules, Selector


def binding(
    provider: str, host: str, path: str = "", methods: tuple[str, ...] = (), *, callers: str = "*", header: str = "Authorization"
) -> Binding:
    return Binding(
        provider=provider,
        credential="t",
        index=0,
        callers=frozenset(callers.split()),
        scheme="https",
        host=parse_host_pattern(host),
        port=443,
        path=parse_path_pattern(path),
        methods=parse_methods(methods),
        override=False,
        header=header,
        prefix="",
        grant=provider,
    )


def request(host: str, path: str = "/", method: str = "GET", callers: str = "* local") -> BoundRequest:
    return BoundRequest(callers=frozenset(callers.split()), scheme="https", host=host, port=443, method=method, path=path)


def winner(bindings: list[Binding], asked: BoundRequest) -> str:
    return " ".join(one.provider for one in Selector(bindings).select(asked).bindings)


@pytest.mark.parametrize("path", ["/**", "/v1/users"])
def test_g10_an_exact_host_wins_over_a_wildcard_host_with_any_path(path: str) -> None:
    assert winner(
        [binding("wild", "*.example.com", path), binding("exact", "api.example.com")], request("api.example.com", "/v1/users")
    ) == ("exact")


def test_g15_listed_methods_win_and_the_others_go_to_the_other_binding() -> None:
    both = [binding("any", "a.example"), binding("get", "a.example", methods=("GET",))]
    assert (winner(both, request("a.example")), winner(both, request("a.example", method="POST"))) == ("get", "any")


def test_g6_and_g19_each_header_takes_its_best_binding_and_an_unlisted_caller_none() -> None:
    both = [binding("one", "a.example", callers="app"), binding("two", "a.example", header="X-Api-Key", callers="app")]
    assert winner(both, request("a.example", callers="app *")) == "one two"
    assert winner(both, request("a.example", callers="other *")) == ""
    assert Selector(both).fields_of(frozenset({"app", "*"})) == {"authorization", "x-api-key"}
    assert Selector(both).fields_of(frozenset({"other", "*"})) == frozenset()


def test_the_rules_of_an_endpoint_refuse_a_request_and_never_move_it_to_another_binding() -> None:
    closed = replace(binding("exact", "a.example", "/x"), rules=EndpointRules(deny=(DenyRule(methods=parse_methods(()), path="/*"),)))
    selection = Selector([binding("any", "a.example"), closed]).select(request("a.example", "/x"))
    assert (selection.bindings, selection.refusal.partition(":")[0]) == ((closed,), "deny_rule")


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("", "/v1", True),
        ("/v1/**", "/v1", True),
        ("/v1/**", "/v10", False),
        ("/a/*b", "/a/c*", True),
        ("/x/**/y", "/**/z/y", True),
        ("/*/b", "/a/*", True),
        ("/" + "a/" * 400 + "*", "/**/b", True),
        ("/a/*", "/a/b/c", False),
    ],
)
def test_a_witness_is_a_path_that_both_patterns_match(one: str, other: str, found: bool) -> None:
    first, second = parse_path_pattern(one), parse_path_pattern(other)
    path = witness_path(first, second)
    assert (path is not None) is found
    assert path is None or (first.matches(path) and second.matches(path))


def test_g16_run_time_explanation_and_brute_force_agree_and_no_accepted_set_has_two_equal_ranks() -> None:
    draw = random.Random(20)
    hosts = ["a.example.com", "b.example.com", "*.example.com", "**.example.com", "a*.example.com", "*b.x.example.com", "b.x.example.com"]
    paths = ["", "/v1", "/v1/**", "/v1/*", "/*/a", "/v1/a", "/**/a", "/v1/*/c"]
    methods = [(), ("GET",), ("GET", "POST"), ("POST",)]
    asked_hosts = ["a.example.com", "b.example.com", "ab.example.com", "b.x.example.com", "c.d.example.com"]
    asked_paths = ["/", "/v1", "/v1/", "/v1/a", "/x/a", "/v1/b/c", "/v10"]
    accepted = 0
    for _ in range(10_000):
        bindings = [
            binding(
                f"p{at}", draw.choice(hosts), draw.choice(paths), draw.choice(methods), callers=draw.choice(["*", "app", "other"]),
                header=draw.choice(["Authorization", "X-Api-Key"]),
            )
            for at in range(draw.randint(1, 4))
        ]  # fmt: skip
        asked = request(
            draw.choice(asked_hosts), draw.choice(asked_paths), draw.choice(["GET", "POST", "PUT"]), draw.choice(["app *", "*"])
        )
        refused = any(map(is_ambiguous, find_overlaps(bindings)))
        matching = [one for one in bindings if not one.mismatch(asked)]
        best: dict[str, list[Binding]] = {}
        for one in matching:
            best.setdefault(one.field, []).append(one)
        tops = {field: [one for one in found if one.rank == max(other.rank for other in found)] for field, found in best.items()}
        if any(len(found) > 1 for found in tops.values()):
            assert refused, "two equal ranks match one request, and the set was accepted"
        if refused:
            continue
        accepted += 1
        selector = Selector(bindings)
        expected = [tops[field][0] for field in sorted(tops)]
        assert list(selector.select(asked).bindings) == expected
        explained = [one.binding for one in selector.explain(asked) if one.reason == "wins"]
        assert sorted(explained, key=lambda one: one.field) == expected
    assert accepted > 3000


def test_a_witness_host_and_an_inner_path_are_found_for_every_pair_that_has_one() -> None:
    draw = random.Random(3)
    segments = ["a", "b", "*", "**", "a*", "*b"]
    paths = ["/".join(["", *(draw.choice(segments) for _ in range(draw.randint(1, 3)))]) for _ in range(300)]
    requests = ["/a", "/b", "/a/b", "/b/a", "/ab", "/a/a/b", "/ab/b", "/b/b/a/b", "/a/", "/ab/ab"]
    for one, other in pairwise(paths):
        first, second = parse_path_pattern(one), parse_path_pattern(other)
        shared = [path for path in requests if first.matches(path) and second.matches(path)]
        assert not shared or witness_path(first, second) is not None, (one, other, shared)
        if covers_path(first, second):
            assert all(first.matches(path) for path in requests if second.matches(path)), (one, other)
    assert witness_host(parse_host_pattern("*.a.co"), parse_host_pattern("p*q.a.co")) == "pq.a.co"
    assert witness_host(parse_host_pattern("*.a.co"), parse_host_pattern("**.b.a.co")) == ""


def test_overlaps_are_found_among_thousands_of_bindings() -> None:
    many = [binding(f"p{at}", f"h{at}.example.com", f"/a{at}/**") for at in range(4000)]
    found = [(one.first.provider, one.second.provider) for one in find_overlaps([*many, binding("again", "h7.example.com")])]
    assert found == [("p7", "again")]  # compared pair by pair they took minutes
    found = [(one.first.provider, one.second.provider) for one in find_overlaps([binding("wide", "*.example.com"), *many[:3]])]
    assert found == [("p0", "wide"), ("p1", "wide"), ("p2", "wide")]


def test_a_deny_path_matches_as_its_stars_say_and_a_long_path_does_not_make_it_try_every_place() -> None:
    draw = random.Random(5)
    anything = parse_methods(())
    for _ in range(3000):
        pattern = "/" + "".join(draw.choice("ab/**") for _ in range(draw.randint(0, 6)))
        path = "/" + "".join(draw.choice("ab/") for _ in range(draw.randint(0, 7)))
        expected = re.fullmatch(".*".join(map(re.escape, re.split(r"\*+", pattern))), path) is not None
        assert DenyRule(methods=anything, path=pattern).matches("GET", path) is expected, (pattern, path)
    assert not DenyRule(methods=anything, path="/*/a/*/a/*/a/*/b").matches("GET", "/a" * 16_000)  # it never ended when it went back


def test_two_patterns_of_callers_meet_if_one_caller_matches_both() -> None:
    texts = ["*", "open", "local", "unix:1000"]
    tails = ("", "/b", "/*", "/b/c", "/*/c", "/**", "/b/**", "/*/**", "/b/c/**")
    texts += [first + tail for first in ("k8s:a", "spiffe://d") for tail in tails]
    ids = ["open", "local", "unix:1000", *(f"k8s:a{tail}" for tail in ("", "/b", "/c", "/b/c", "/x/c", "/b/c/d")), "spiffe://d/b/c"]
    for one, other in product(texts, texts):
        both = [caller for caller in ids if CallerPattern(text=one).matches(caller) and CallerPattern(text=other).matches(caller)]
        assert not both or callers_meet(one, other), (one, other, both)
    assert not callers_meet("open", "*")
    assert not callers_meet("k8s:a/**", "k8s:a")
    assert not callers_meet("k8s:a/b", "k8s:a/b/c")
    assert not callers_meet("k8s:a/*", "spiffe://d/b")
