"""The guards: who may use the identity; silence denies, and nothing but the listed Hosts gets a Permit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.permits import route

from robin.model.caller import Caller, Evidence
from robin.model.message import RequestHead, RequiredField
from robin.model.origin import Origin
from robin.model.route import Endpoint
from robin.model.verdict import Denial, LocalResponse, Permit, Verdict
from robin.policy.guards import SidecarPolicy, host_name
from robin.wire.http1 import parse_request

ORIGIN = Origin(scheme="https", host="broker.test", port=443, authority=b"broker.test")
ROUTE = route(base_path=b"/v1")
CALLER = Caller(evidence=Evidence.LOOPBACK, listener="127.0.0.1:4000")
HOSTS = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


def policy(
    *,
    hosts: frozenset[bytes] | None = HOSTS,
    origins: frozenset[bytes] = frozenset(),
    required: RequiredField | None = None,
    any_host: bool = False,
) -> SidecarPolicy:
    return SidecarPolicy(
        ROUTE, Endpoint(origin=ORIGIN), hosts=hosts, origins=origins, required=required, pseudonym="robin-00c0ffee", any_host=any_host
    )


def request(*fields: bytes, host: bytes = b"localhost", target: bytes = b"/") -> RequestHead:
    head = b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: " + host, *fields])
    return parse_request(head + b"\r\n\r\n", target_bytes=1000, fields_max=100)


def code(verdict: Verdict) -> str:
    return verdict.code if isinstance(verdict, Denial) else "permitted"


NAMES = st.one_of(
    st.sampled_from(
        ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "localhost.", "localhost.evil.test", "evil-localhost", "127.0.0.10", "[::11]"]
    ),
    st.from_regex(r"[a-z0-9._~-]{1,30}", fullmatch=True),
)
AUTHORITIES = st.tuples(NAMES, st.one_of(st.just(""), st.integers(0, 65535).map(":{}".format)))


@given(st.lists(AUTHORITIES, min_size=1, max_size=8))
def test_no_permit_when_the_host_is_not_listed_whatever_came_before(authorities: list[tuple[str, str]]) -> None:
    guards = policy()  # one for all, since it remembers the last Host that it let pass
    for name, port in authorities:
        verdict = guards.decide(request(host=(name + port).encode()), CALLER)
        assert code(verdict) == ("permitted" if name.lower().encode() in HOSTS else "host_not_allowed")


@given(AUTHORITIES, st.sampled_from([b"Origin: null", b"Sec-Fetch-Site: none", b"X-Guard: s", b"Via: 1.1 x", b"A: 1"]))
def test_no_other_field_makes_up_for_a_host_that_is_not_listed(authority: tuple[str, str], field: bytes) -> None:
    guards = policy(hosts=frozenset({b"only.test"}), required=RequiredField(name=b"x-guard", value=b"s"), origins=frozenset({b"null"}))
    assert code(guards.decide(request(field, host="".join(authority).encode()), CALLER)) == "host_not_allowed"


def test_a_permit_leads_to_the_upstream_of_the_settings_and_nowhere_else() -> None:
    verdict = policy().decide(request(b"X-Upstream: http://evil.test"), CALLER)
    assert isinstance(verdict, Permit)
    assert (verdict.endpoint.origin, verdict.route, verdict.target, verdict.caller) == (ORIGIN, ROUTE, None, CALLER)


def test_the_authority_of_an_absolute_target_is_what_is_judged() -> None:
    assert code(policy().decide(request(host=b"evil.test", target=b"http://localhost/x"), CALLER)) == "permitted"
    assert code(policy().decide(request(host=b"localhost", target=b"http://evil.test/x"), CALLER)) == "host_not_allowed"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((b"Origin: http://localhost",), "origin_refused"),
        ((b"Origin: null",), "origin_refused"),
        ((b"Origin: https://app.test",), "permitted"),
        ((b"Origin: https://app.test", b"Origin: https://app.test"), "origin_refused"),
        ((b"Origin: https://APP.test",), "origin_refused"),
        ((b"Origin: https://app.test:8443",), "origin_refused"),
        ((b"Origin: https://app.test", b"Sec-Fetch-Site: cross-site"), "permitted"),
        ((b"Sec-Fetch-Site: cross-site",), "origin_refused"),
        ((b"Sec-Fetch-Site: same-site",), "origin_refused"),
        ((b"Sec-Fetch-Site: surprise",), "origin_refused"),
        ((b"Sec-Fetch-Site:",), "origin_refused"),
        ((b"Sec_Fetch_Site: cross-site",), "origin_refused"),
        ((b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: none"), "origin_refused"),
        ((b"Sec-Fetch-Site: None",), "permitted"),
        ((b"Sec-Fetch-Site: same-origin",), "permitted"),
    ],
)
def test_a_browser_page_needs_its_origin_on_the_list(fields: tuple[bytes, ...], expected: str) -> None:
    assert code(policy(origins=frozenset({b"https://app.test"})).decide(request(*fields), CALLER)) == expected


@pytest.mark.parametrize(
    ("value", "fields", "expected"),
    [
        (None, (), "required_header_missing"),
        (None, (b"X-Guard:",), "permitted"),
        (None, (b"x_guard: anything",), "permitted"),
        (b"s3", (b"X-Guard: anything",), "required_header_missing"),
        (b"s3", (b"X-Guard: s3",), "permitted"),
        (b"s3", (b"X-Guard: s33",), "required_header_missing"),
        (b"s3", (b"X-Guard: S3",), "required_header_missing"),
        (b"s3", (b"X-Guard-Too: s3",), "required_header_missing"),
    ],
)
def test_the_required_field_must_be_there_and_right(value: bytes | None, fields: tuple[bytes, ...], expected: str) -> None:
    required = RequiredField(name=b"x-guard", value=value)
    assert code(policy(required=required).decide(request(*fields), CALLER)) == expected
    assert code(policy(required=required, any_host=True).decide(request(*fields), CALLER)) == expected


@pytest.mark.parametrize("via", [b"1.1 robin-00c0ffee", b"1.1 a, 1.1 robin-00c0ffee (x), 1.0 b"])
@pytest.mark.parametrize("any_host", [True, False])
def test_our_own_name_in_via_is_a_loop_even_where_any_host_may_come(via: bytes, any_host: bool) -> None:
    assert code(policy(any_host=any_host).decide(request(b"Via: " + via), CALLER)) == "loop"


def test_another_robin_in_via_is_none() -> None:
    assert code(policy().decide(request(b"Via: 1.1 robin-0decaf00"), CALLER)) == "permitted"


def test_without_a_host_list_every_host_passes_but_browser_pages_do_not() -> None:
    guards = policy(hosts=None)
    assert code(guards.decide(request(host=b"anything"), CALLER)) == "permitted"
    assert code(guards.decide(request(b"Origin: http://anything", host=b"anything"), CALLER)) == "origin_refused"


def test_the_unsafe_switch_turns_the_browser_guards_off() -> None:
    guards = policy(any_host=True)
    assert (
        code(guards.decide(request(b"Origin: http://evil.test", b"Sec-Fetch-Site: cross-site", host=b"evil.test"), CALLER)) == "permitted"
    )


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (b"LocalHost:80", b"localhost"),
        (b"a.b", b"a.b"),
        (b"[::1]", b"[::1]"),
        (b"[FE80::1]:80", b"[fe80::1]"),
        (b"127.0.0.1:1", b"127.0.0.1"),
    ],
)
def test_a_host_is_compared_by_its_name_without_port_and_case(authority: bytes, name: bytes) -> None:
    assert host_name(authority) == name


def test_no_denial_quotes_what_the_caller_wrote() -> None:
    guards = policy(required=RequiredField(name=b"x-guard", value=b"canary-wanted"))
    for head in (request(host=b"canary"), request(b"Origin: canary"), request(b"Sec-Fetch-Site: canary"), request(b"X-Guard: canary")):
        verdict = guards.decide(head, CALLER)
        assert isinstance(verdict, Denial)
        assert "canary" not in verdict.detail


def test_each_caller_gets_a_permit_of_its_own() -> None:
    guards, other = policy(), Caller(evidence=Evidence.UNIX_PEER, listener="unix:/run/r.sock", uid=7)
    permits = [guards.decide(request(), caller) for caller in (CALLER, other, CALLER)]
    assert [permit.caller for permit in permits if isinstance(permit, Permit)] == [CALLER, other, CALLER]


@pytest.mark.parametrize("target", [b"*", b"/"])
def test_options_that_may_travel_no_further_are_answered_here(target: bytes) -> None:
    raw = b"OPTIONS %b HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 0\r\n\r\n" % target
    verdict = policy().decide(parse_request(raw, target_bytes=100, fields_max=20), CALLER)
    assert isinstance(verdict, LocalResponse)
    assert (verdict.status, verdict.fields) == (204, b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n")
