"""Plain values from the settings become a policy and a rewriting."""

from robin.model.caller import Caller, Evidence
from robin.model.message import RequiredField
from robin.model.origin import Origin, UpstreamUrl
from robin.model.verdict import Denial, Permit, Verdict
from robin.planes.sidecar.build import build_policy
from robin.wire.forwarding import Rewriting
from robin.wire.http1 import parse_request

UPSTREAM = UpstreamUrl(origin=Origin(scheme="https", host="broker.test", port=443, authority=b"broker.test"), base_path=b"/v1")
CALLER = Caller(evidence=Evidence.LOOPBACK, listener="127.0.0.1:4000")
ANY, YES = RequiredField(name=b"x-robin", value=None), RequiredField(name=b"x-robin", value=b"yes")


def decide(*fields: str, hosts=("localhost",), origins=(), required=None, any_host: bool = False) -> Verdict:
    policy = build_policy(UPSTREAM, hosts=hosts, origins=origins, required=required, pseudonym="robin-0a1b2c3d", any_host=any_host)
    raw = "\r\n".join(["GET / HTTP/1.1", *fields, "", ""]).encode("latin-1")
    return policy.decide(parse_request(raw, target_bytes=100, fields_max=20), CALLER)


def code(verdict: Verdict) -> str:
    return verdict.code if isinstance(verdict, Denial) else "permit"


def test_a_permit_names_the_upstream_and_the_grant():
    assert decide("Host: localhost:4000") == Permit(origin=UPSTREAM.origin, base_path=b"/v1", grant="forward")


def test_hosts_are_compared_without_case_and_port_and_none_is_no_guard():
    assert code(decide("Host: LOCALHOST:1")) == "permit"
    assert code(decide("Host: broker.test")) == "host_not_allowed"
    assert code(decide("Host: broker.test", hosts=None)) == "permit"
    assert code(decide("Host: [::1]:4000", hosts=("[::1]",))) == "permit"


def test_origins_are_exact():
    assert code(decide("Host: localhost", "Origin: https://app.test")) == "origin_refused"
    assert code(decide("Host: localhost", "Origin: https://app.test", origins=("https://app.test",))) == "permit"


def test_a_required_header_with_and_without_a_value():
    assert code(decide("Host: localhost", required=ANY)) == "required_header_missing"
    assert code(decide("Host: localhost", "X_Robin: whatever", required=ANY)) == "permit"
    assert code(decide("Host: localhost", "X-Robin: no", required=YES)) == "required_header_missing"
    assert code(decide("Host: localhost", "X-Robin: yes", required=YES)) == "permit"


def test_our_own_name_in_via_is_a_loop():
    assert code(decide("Host: localhost", "Via: 1.1 other, 1.1 robin-0a1b2c3d")) == "loop"
    assert code(decide("Host: localhost", "Via: 1.1 robin-ffffffff")) == "permit"


def test_the_switch_turns_only_the_browser_guards_off():
    assert code(decide("Host: evil.test", "Origin: https://evil.test", any_host=True)) == "permit"
    assert code(decide("Host: evil.test", "Via: 1.1 robin-0a1b2c3d", any_host=True)) == "loop"
    assert code(decide("Host: evil.test", required=ANY, any_host=True)) == "required_header_missing"


def test_the_required_header_and_the_strip_list_are_dropped():
    rewriting = Rewriting.build(strip=("X_Api_Key",), required=YES, pseudonym="robin-0a1b2c3d")
    assert (rewriting.drops, rewriting.via) == ({b"x-api-key", b"x-robin"}, b"1.1 robin-0a1b2c3d")
