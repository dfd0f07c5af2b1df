"""The one matcher: grammar, canonical form, match and rank (grants.md 3.1-3.3) as tables, and what must hold for any input."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config.public_suffixes import is_shared
from robin.policy.patterns import (
    ANY_METHOD,
    NotCanonical,
    PatternError,
    canonical_host,
    canonical_path,
    configured_host,
    is_address,
    parse_host_pattern,
    parse_methods,
    parse_path_pattern,
    parse_ports,
    rank,
)

HOSTS = """
API.Example.COM.            | api.example.com           | yes
api.example.com             | api.example.com.evil.test | no
bücher.example              | xn--bcher-kva.example     | yes
*.example.com               | a.example.com             | yes
*.example.com               | a.b.example.com           | no
*.example.com               | example.com               | no
**.example.com              | a.b.example.com           | yes
**.example.com              | a.example.com             | yes
**.example.com              | example.com               | no
**.example.com              | notexample.com            | no
api-*.example.com           | api-7.example.com         | yes
a*.example.com              | a.example.com             | yes
a*a.example.com             | a.example.com             | no
api-*v2.example.com         | api-1v2.example.com       | yes
api-*.example.com           | api-1.b.example.com       | no
10.1.2.3                    | 10.1.2.3                  | yes
[2001:DB8:0::1]             | 2001:db8::1               | yes
"""


@pytest.mark.parametrize("line", HOSTS.strip().splitlines())
def test_a_host_pattern_matches_whole_labels_of_the_canonical_name(line: str) -> None:
    pattern, host, expected = (cell.strip() for cell in line.split("|"))
    assert parse_host_pattern(pattern).matches(canonical_host(host)) == (expected == "yes")


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("**", "a.example", True),
        ("**", "localhost", False),
        ("**", "10.1.2.3", False),
        ("**", "2001:db8::1", False),
        ("*.com", "a.com", True),
        ("*.localhost", "a.localhost", True),
        ("localhost", "localhost", True),
    ],
)
def test_a_rule_may_be_broad_but_one_label_and_an_address_are_matched_exactly_only(pattern: str, host: str, matches: bool) -> None:
    assert parse_host_pattern(pattern, rule=True).matches(host) == matches


@pytest.mark.parametrize(
    "pattern",
    [
        *"** *.com **.com *.co.uk **.github.io *.amazonaws.com a*.svc.cluster.local *.run.app *.s3.eu-west-1.amazonaws.com".split(),
        *"*.foo.ck *.公司.cn *.herokuapp.com *.azurewebsites.net *.workers.dev *.storage.googleapis.com *.blob.core.windows.net".split(),
    ],
)
def test_a_profile_may_not_name_a_shared_suffix_and_a_rule_may(pattern: str) -> None:
    with pytest.raises(PatternError) as refused:
        parse_host_pattern(pattern, is_shared=is_shared)
    assert refused.value.code == "host_pattern_too_broad"
    parse_host_pattern(pattern, rule=True)


@pytest.mark.parametrize(
    "pattern",
    [
        *"* *. a.*.example *.*.example ***.example.com a*b*.example.com example.com/ example.com:443 a?.example.com".split(),
        *"[ab].example.com {a,b}.example.com a..b -a.example a-.example 0x7f.1 127.1 2130706433 017700000001 1.2.3.256".split(),
        *"01.2.3.4 *.0.0.1 [fe80::1%25eth0] fe80::1%eth0 ::g ü..example".split(),
        *("", "a b.example", "a" * 64 + ".example", ".".join(["a" * 50] * 6)),
    ],
)
def test_what_is_no_host_pattern_is_refused_for_rules_too(pattern: str) -> None:
    with pytest.raises(PatternError) as refused:
        parse_host_pattern(pattern, rule=True)
    assert refused.value.code == "pattern_invalid"


PATHS = """
            | /                | yes
/**         | /a/b             | yes
**          | /a/b             | yes
/           | /                | yes
/           | /a               | no
/x          | /x               | yes
/x          | /X               | no
/x          | /x/              | no
/x/**       | /x               | yes
/x/**       | /x/              | yes
/x/**       | /x/a/b           | yes
/x/**       | /xa              | no
/x/*        | /x/a             | yes
/x/*        | /x/a/b           | no
/x/*        | /x               | no
/**/y       | /y               | yes
/**/y       | /a/b/y           | yes
/**/y       | /a/b/yy          | no
/a/**/b/**  | /a/b             | yes
/a/**/b/**  | /a/x/b/y/z       | yes
/a/**/b/c/**/d | /a/b/b/c/d    | yes
/a/**/b/c/**/d | /a/b/x/c/d    | no
/a/**/a     | /a               | no
/r/*/pulls  | /r/robin/pulls   | yes
/r/p*l*s    | /r/pulls         | yes
/r/p*l*s    | /r/ps            | no
/r/a*a      | /r/a             | no
/%7euser    | /~user           | yes
"""


@pytest.mark.parametrize("line", PATHS.strip("\n").splitlines())
def test_a_path_pattern_matches_whole_segments(line: str) -> None:
    pattern, path, expected = (cell.strip() for cell in line.split("|"))
    assert parse_path_pattern(pattern).matches(canonical_path(path.encode())) == (expected == "yes")


@pytest.mark.parametrize(
    "pattern",
    ["x", "/a**", "/a/?", "/[a]", "/{a}", "//a", "/a//b", "/../a", "/%2e/a", "/a;b", "/a\\b", "/a#b", "/%zz", "/é", "/a b", "/%00"],
)
def test_a_path_pattern_that_no_request_can_have_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError) as refused:
        parse_path_pattern(pattern)
    assert refused.value.code == "pattern_invalid"


@pytest.mark.parametrize(
    "path",
    [
        *(b"/a/../b", b"/a/%2e%2e/b", b"/a/%2E./b", b"/.", b"/a/..", b"/a%2fb", b"/a%2Fb", b"/a\\b", b"/a%5cb", b"//a", b"/a//b", b"/a;x"),
        *(b"/%zz", b"/%", b"/%4", b"/a%00", b"/a\x01", b"/a\x7f", b"/a\xc3\xa9", b"/a b", b"a", b"", b"*"),
    ],
)
def test_a_path_that_servers_read_differently_has_no_canonical_form(path: bytes) -> None:
    with pytest.raises(NotCanonical):
        canonical_path(path)


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/%61%2D%7e", "/a-~"),
        (b"/%c3%a9", "/%C3%A9"),
        (b"/a/", "/a/"),
        (b"/...", "/..."),
        (b"/%252e%252e", "/%252e%252e"),
        (b"/a%3bb", "/a%3Bb"),
    ],
)
def test_unreserved_octets_are_decoded_and_other_escapes_get_upper_case(path: bytes, canonical: str) -> None:
    assert canonical_path(path) == canonical


def test_an_encoded_slash_is_part_of_its_segment_where_it_is_allowed() -> None:
    path = canonical_path(b"/a%2fb", allow_encoded_slash=True)
    assert path == "/a%2Fb"
    assert not parse_path_pattern("/a/b").matches(path)
    assert parse_path_pattern("/*").matches(path)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f.1",
        "127.1",
        "017700000001",
        "[fe80::1%25eth0]",
        "a..b",
        "a" * 254,
        "",
        ".",
        "a@b",
        "1.2.3.4.",
        "01.1.1.1",
        "a.0x",
    ],
)
def test_a_host_that_another_program_may_read_as_something_else_has_no_canonical_form(host: str) -> None:
    with pytest.raises(NotCanonical):
        canonical_host(host)


def test_methods_are_a_set_or_any() -> None:
    assert parse_methods([]) == parse_methods(["*"]) == ANY_METHOD
    assert ANY_METHOD.matches("GET")
    assert not parse_methods(["GET", "HEAD"]).matches("POST")
    for wrong in (["get"], ["GET", "*"], [""], ["GET "]):
        with pytest.raises(PatternError):
            parse_methods(wrong)


def test_ports_are_numbers_of_tcp_and_have_a_default() -> None:
    assert parse_ports([], default=[443]) == {443}
    for wrong in (0, 65536, -1):
        with pytest.raises(PatternError):
            parse_ports([wrong])


RANKED = [  # each is more specific than the next: host before path before method before override
    ("api.example.com", "/a/b", ["GET"], True),
    ("api.example.com", "/a/b", ["GET"], False),
    ("api.example.com", "/a/b", ["GET", "HEAD"], False),
    ("api.example.com", "/a/b", ["*"], False),
    ("api.example.com", "/a/bb*", ["GET"], False),
    ("api.example.com", "/a/b*", ["GET"], False),
    ("api.example.com", "/a/*c", ["GET"], False),
    ("api.example.com", "/a/*", ["GET"], False),
    ("api.example.com", "/a/**", ["GET"], False),
    ("api.example.com", "", ["GET"], False),
    ("*.api.example.com", "/a/b/c", ["GET"], False),
    ("api*.example.com", "/a/b/c", ["GET"], False),
    ("*.example.com", "/a/b/c", ["GET"], False),
    ("**.api.example.com", "/a/b/c", ["GET"], False),
    ("**.example.com", "/a/b/c", ["GET"], False),
    ("**", "/a/b/c", ["GET"], False),
]


def test_the_rank_is_host_then_path_then_method_then_override() -> None:
    ranks = [
        rank(parse_host_pattern(host, rule=True), parse_path_pattern(path), parse_methods(methods), override=override)
        for host, path, methods, override in RANKED
    ]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == len(ranks)


_paths = st.lists(st.sampled_from(["a", "b", "ab", "aab", "bb"]), min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
_path_patterns = st.lists(st.sampled_from(["a", "b", "*", "a*", "*b", "a*b", "*a*", "**"]), min_size=1, max_size=5).map(
    lambda parts: "/" + "/".join(parts)
)


def _as_regex(pattern: str) -> str:
    """The words of the grammar as a regular expression: an oracle that shares no code with the matcher."""
    return "".join("(?:/[^/]+)*" if segment == "**" else "/" + segment.replace("*", "[^/]*") for segment in pattern[1:].split("/"))


@given(_path_patterns, _paths)
def test_paths_match_as_a_regular_expression_of_the_grammar_says(pattern: str, path: str) -> None:
    assert parse_path_pattern(pattern).matches(path) == (re.fullmatch(_as_regex(pattern), path) is not None)


@given(st.text(max_size=40))
def test_the_canonical_form_of_a_host_is_its_own_canonical_form(text: str) -> None:
    try:
        host = configured_host(text)
    except PatternError:
        return
    assert canonical_host(host) == host
    assert parse_host_pattern(host).matches(host)
    assert not parse_host_pattern("**.example.com").matches(host) or not is_address(host)


@given(st.binary(max_size=40).map(lambda octets: b"/" + octets))
def test_the_canonical_form_of_a_path_is_its_own_canonical_form(path: bytes) -> None:
    try:
        canonical = canonical_path(path)
    except NotCanonical:
        return
    assert canonical_path(canonical.encode()) == canonical
