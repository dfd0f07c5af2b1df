"""Forwarding: strip first, inject after; nothing a caller writes brings back what must not travel, or takes away what Robin writes."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.permits import permit_to, route

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import HeldBody, RequiredField
from robin.model.origin import Origin
from robin.model.route import HeaderRules, Route
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.wire.forwarding import (
    DEFAULT_STRIP,
    Direction,
    OutboundRequest,
    forward_request,
    forward_response,
    forward_switch,
    forward_trailers,
    render,
    signing_fields,
)
from robin.wire.http1 import parse_request, parse_response
from robin.wire.shape import ParsedRequest

ORIGIN = Origin(scheme="https", host="broker.test", port=8443, authority=b"broker.test:8443")
PERMIT = permit_to(ORIGIN, route(required=RequiredField(name=b"x-guard", value=None)))
RULES = PERMIT.route.header_rules
OURS = {b"host", b"authorization", b"via", b"content-length", b"transfer-encoding", b"te", b"expect", b"connection", b"upgrade"}
NEVER = {
    *(name.encode() for name in DEFAULT_STRIP),
    *b"x-guard proxy-authorization forwarded x-real-ip proxy-connection keep-alive trailer proxy-authenticate http2-settings".split(),
}


def credential(token: bytes = b"t0ken") -> Credential:
    return Credential(fields=(Secret(b"Authorization: Bearer " + token + b"\r\n"),), note="forward", identity=None)


def outbound(head: ParsedRequest, permit: Permit = PERMIT, *, token: bytes = b"t0ken") -> OutboundRequest:
    return forward_request(head, permit, credential(token))


def request(*fields: bytes, line: bytes = b"GET /x HTTP/1.1") -> ParsedRequest:
    return parse_request(b"\r\n".join([line, b"Host: localhost", *fields]) + b"\r\n\r\n", target_bytes=1000, fields_max=100)


def sent(head: ParsedRequest, permit: Permit = PERMIT) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The request line, and the fields with canonical names, of what is forwarded."""
    out = outbound(head, permit)
    octets = render(out)
    assert octets.endswith(b"\r\n\r\n")
    return octets.partition(b"\r\n")[0], signing_fields(out)


def spellings(name: bytes) -> st.SearchStrategy[bytes]:
    """`name` in any case, with `_` for some `-`."""
    return st.tuples(
        *(
            st.sampled_from([name[at : at + 1].lower(), name[at : at + 1].upper()] + ([b"_"] if name[at] == 0x2D else []))
            for at in range(len(name))
        )
    ).map(b"".join)


HOSTILE = st.one_of(
    *map(spellings, sorted(NEVER)),
    *map(spellings, [b"Authorization", b"X-Forwarded-For", b"X-Forwarded-Anything", b"Via", b"TE"]),
    st.sampled_from([b"Accept", b"Cookie", b"X-A", b"X-B", b"X-a"]),
)
CONNECTION = st.lists(
    st.one_of(
        HOSTILE, st.sampled_from([b"close", b"keep-alive", b"host", b"authorization", b"via", b"content-length", b"transfer-encoding"])
    ),
    max_size=6,
).map(lambda options: b"Connection: " + b", ".join(options))


@given(st.lists(HOSTILE, max_size=10), st.lists(CONNECTION, max_size=2), st.booleans())
def test_no_dropped_field_goes_up_whatever_connection_says(names: list[bytes], connections: list[bytes], body: bool) -> None:
    head = request(
        *(name + b": caller" for name in names), *connections, *([b"Content-Length: 3"] if body else []), line=b"POST /x HTTP/1.1"
    )
    line, fields = sent(head)
    names_up = [name for name, _ in fields]
    assert line == b"POST /x HTTP/1.1"
    assert not NEVER & set(names_up)
    assert not any(name.startswith(b"x-forwarded-") for name in names_up)
    assert [value for name, value in fields if name == b"authorization"] == [b"Bearer t0ken"]
    assert [value for name, value in fields if name == b"host"] == [b"broker.test:8443"]
    assert [value for name, value in fields if name == b"content-length"] == ([b"3"] if body else [])
    (via,) = (value for name, value in fields if name == b"via")
    assert via.endswith(b"1.1 robin-00c0ffee")
    options = {option.strip().lower().replace(b"_", b"-") for option in b",".join(connections).replace(b"Connection:", b"").split(b",")}
    kept = [name.lower().replace(b"_", b"-") for name in names]
    kept = [name for name in kept if name not in NEVER | OURS | options and not name.startswith(b"x-forwarded-")]
    assert [name for name in names_up if name not in OURS] == kept


@given(
    st.lists(st.builds(lambda name, value: name + b": " + value, HOSTILE, st.sampled_from([b"1", b"a, b", b"\xff"])), max_size=8),
    CONNECTION,
)
def test_what_goes_up_is_one_message_to_another_parser(fields: list[bytes], connection: bytes) -> None:
    octets = render(outbound(request(*fields, connection, b"Content-Length: 2")))
    server = h11.Connection(h11.SERVER)
    server.receive_data(octets + b"ok")
    assert isinstance(server.next_event(), h11.Request)
    assert isinstance(server.next_event(), h11.Data)
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)


def test_an_empty_via_of_the_caller_leaves_no_empty_element() -> None:
    assert [value for name, value in sent(request(b"Via: "))[1] if name == b"via"] == [b"1.1 robin-00c0ffee"]


def test_a_repeated_head_takes_the_new_credential_and_the_base_path_of_the_moment() -> None:
    head = request()
    first = render(outbound(head, token=b"one"))
    assert b"Bearer one\r\n" in first
    assert render(outbound(head, token=b"two")) == first.replace(b"Bearer one", b"Bearer two")
    assert render(outbound(head, permit_to(ORIGIN, base_path=b"/base"))).startswith(b"GET /base/x HTTP/1.1\r\n")


def test_a_signer_sees_the_whole_head_and_appends_its_fields_last() -> None:
    out = outbound(request(b"X-A: 1", b"Content-Length: 2", line=b"POST /x?y HTTP/1.1"), permit_to(ORIGIN, base_path=b"/base"))
    assert (out.method, out.target, out.authority) == ("POST", b"/base/x?y", b"broker.test:8443")
    assert signing_fields(out)[:3] == [(b"host", b"broker.test:8443"), (b"x-a", b"1"), (b"authorization", b"Bearer t0ken")]
    signed = out.with_fields(Secret(b"Signature-Input: s\r\n"), Secret(b"Signature: z\r\n"))
    assert b"\r\nAuthorization: Bearer t0ken\r\nSignature-Input: s\r\nSignature: z\r\nVia: " in render(signed)
    assert "t0ken" not in repr(signed)


def test_rules_are_those_of_the_route_though_heads_are_alike() -> None:
    head = request(b"Accept: a", b"X-Api-Key: k", b"X-Other: o", b"Impersonate-Uid: 1", b"Via: 1.1 a")

    def names(rules: HeaderRules) -> list[bytes]:
        return [name for name, _ in sent(head, permit_to(ORIGIN, Route(name="r", header_rules=rules)))[1]]

    assert names(RULES) == [b"host", b"accept", b"x-other", b"impersonate-uid", b"authorization", b"via"]
    allowed = HeaderRules(via=b"", allow=frozenset({b"accept", b"x-other", b"authorization"}), strip=frozenset({b"x-other"}))
    assert names(allowed) == [b"host", b"accept", b"authorization"]
    assert names(HeaderRules(via=b"", strip_prefixes=(b"impersonate-", b"x-"))) == [b"host", b"accept", b"authorization"]


def test_a_target_of_the_policy_replaces_the_callers() -> None:
    permit = Permit(route=PERMIT.route, endpoint=PERMIT.endpoint, target=b"/api?x=1", caller=PERMIT.caller)
    assert outbound(request(), permit).target == b"/api?x=1"
    assert render(outbound(request(), permit)).startswith(b"GET /api?x=1 HTTP/1.1\r\n")


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 9"])
def test_a_held_body_is_framed_by_its_length_and_expects_nothing(framing: bytes) -> None:
    head = request(framing, b"Expect: 100-continue", line=b"POST /x HTTP/1.1")
    fields = dict(signing_fields(forward_request(head, PERMIT, credential(), HeldBody(octets=bytes(9), sha256=b""))))
    assert fields[b"content-length"] == b"9"
    assert not {b"transfer-encoding", b"expect"} & set(fields)
    assert b"content-length" not in dict(signing_fields(forward_request(request(), PERMIT, credential(), HeldBody(octets=b"", sha256=b""))))


def test_an_upgrade_that_the_route_does_not_permit_is_not_forwarded() -> None:
    head = request(b"Connection: Upgrade", b"Upgrade: websocket")
    assert b"upgrade" not in dict(sent(head, permit_to(ORIGIN, route(upgrades=frozenset())))[1])


def test_response_rules_strip_and_allow() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nA: 1\r\nServer: s\r\nX_B: 2\r\nContent-Length: 0\r\n\r\n", method="GET", fields_max=9)
    for rules, kept in (
        (HeaderRules(via=b"", strip_response=frozenset({b"server"})), b"A: 1\r\nX_B: 2\r\n"),
        (HeaderRules(via=b"", allow_response=frozenset({b"x-b", b"connection"})), b"X_B: 2\r\n"),
    ):
        octets = forward_response(head, rules=rules, minor=1, keep_alive=True, chunked=False)
        assert octets == b"HTTP/1.1 200 OK\r\n" + kept + b"Content-Length: 0\r\n\r\n"


@pytest.mark.parametrize("target", [b"/../x", b"/a/./b", b"/%2e%2E/x", b"/a/.%2e", b"/.", b"/a/..?q"])
def test_a_dot_segment_under_a_base_path_is_400_and_without_one_goes_on_unchanged(target: bytes) -> None:
    line = b"GET %b HTTP/1.1" % target
    with pytest.raises(Fault) as refused:
        sent(request(line=line), permit_to(ORIGIN, base_path=b"/base"))
    assert (refused.value.code, refused.value.detail.split(":")[0]) == ("bad_request", "dot_segment")
    assert sent(request(line=line))[0] == line


CLIMBS = [
    b"/..;/x",  # Tomcat and Jetty take path parameters off before they normalise
    b"/..;a=b/x",
    b"/a/.%2e;x",
    b"/..%3b/x",
    b"/..%2fx",  # nginx decodes, then normalises
    b"/a%2f..%2fx",
    b"/a%2F%2e%2e",
    b"/..\\x",  # IIS and browsers take a backslash for a slash
    b"/a\\..\\x",
    b"/..%5cx",
    b"/%2e%2e%5Cx",
    b"/%2e%2e%2f",
    b"/a%5c..%5c",
    b"/%252e%252e/x",  # two servers in a row decode twice
    b"/..%252fx",
    b"/..%25255cx",
    b"/..%00/x",  # what is C inside ends there
    b"/..%3fx",
    b"/..%23x",
]


@pytest.mark.parametrize("target", CLIMBS)
def test_what_common_servers_take_for_a_dot_segment_is_one_under_a_base_path(target: bytes) -> None:
    line = b"GET %b HTTP/1.1" % target
    with pytest.raises(Fault) as refused:
        sent(request(line=line), permit_to(ORIGIN, base_path=b"/base"))
    assert (refused.value.code, refused.value.detail.split(":")[0]) == ("bad_request", "dot_segment")
    assert sent(request(line=line))[0] == line


@pytest.mark.parametrize(
    "target",
    [
        b"/a%2fb",
        b"/group%2F..name",
        b"/a;b=..",
        b"/v1;..x/a",
        b"/..a;/x",
        b"/%252f",
        b"/x.%2f",
        b"/a%5cb",
        b"/.%2ehidden",
        b"/x?a=%2f..%2f",
    ],
)
def test_encoded_separators_and_path_parameters_without_a_dot_segment_pass_under_a_base_path(target: bytes) -> None:
    line, _ = sent(request(line=b"GET %b HTTP/1.1" % target), permit_to(ORIGIN, base_path=b"/base"))
    assert line == b"GET /base%b HTTP/1.1" % target


@pytest.mark.parametrize("target", [b"/a..b", b"/...", b"/.well-known", b"/x?y=/../z", b"/%2e%2e%2e"])
def test_dots_that_are_no_segment_pass_under_a_base_path(target: bytes) -> None:
    line, _ = sent(request(line=b"GET %b HTTP/1.1" % target), permit_to(ORIGIN, base_path=b"/base"))
    assert line == b"GET /base%b HTTP/1.1" % target


@pytest.mark.parametrize(("said", "goes"), [(b"5", b"4"), (b"010", b"9"), (b"0", b"0"), (b"x", b"x"), (b"-1", b"-1")])
def test_max_forwards_counts_one_hop_on_options_alone(said: bytes, goes: bytes) -> None:
    field = b"Max-Forwards: " + said
    assert (b"max-forwards", goes) in sent(request(field, line=b"OPTIONS /x HTTP/1.1"))[1]
    assert (b"max-forwards", said) in sent(request(field))[1]


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ((b"Transfer-Encoding: chunked",), {b"transfer-encoding": b"chunked"}),
        ((b"Content-Length: 007", b"Expect: 100-continue"), {b"content-length": b"7", b"expect": b"100-continue"}),
        ((b"Content-Length: 0",), {b"content-length": b"0"}),
        ((b"TE: gzip, trailers",), {b"te": b"trailers"}),
        ((), {}),
    ],
)
def test_framing_is_made_anew(fields: tuple[bytes, ...], added: dict[bytes, bytes]) -> None:
    _, up = sent(request(*fields, line=b"POST /x HTTP/1.1"))
    assert {name: value for name, value in up if name not in {b"host", b"authorization", b"via"}} == added


def test_an_upgrade_goes_up_as_the_only_connection_option() -> None:
    _, up = sent(request(b"Connection: Upgrade, X-A", b"Upgrade: WebSocket", b"X-A: 1"))
    assert [(name, value) for name, value in up if name in {b"connection", b"upgrade", b"x-a"}] == [
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
    ]


def answered(
    *fields: bytes, line: bytes = b"HTTP/1.1 200 OK", minor: int = 1, keep_alive: bool = True, chunked: bool = False
) -> list[bytes]:
    head = parse_response(b"\r\n".join([line, *fields]) + b"\r\n\r\n", method="GET", fields_max=100)
    octets = forward_response(head, rules=RULES, minor=minor, keep_alive=keep_alive, chunked=chunked)
    assert octets.endswith(b"\r\n\r\n")
    return octets[:-4].split(b"\r\n")


def test_an_answer_loses_its_hop_by_hop_fields_and_those_that_connection_names_and_keeps_the_order_of_the_rest() -> None:
    down = answered(
        b"B: 2", b"Connection: x-gone, Keep-Alive", b"X-Gone: 1", b"Keep-Alive: timeout=5", b"a: 1", b"B: 3", b"Content-Length: 5"
    )
    assert down == [b"HTTP/1.1 200 OK", b"B: 2", b"a: 1", b"B: 3", b"Content-Length: 5"]


@pytest.mark.parametrize(
    ("minor", "keep_alive", "said"),
    [(1, True, []), (1, False, [b"Connection: close"]), (0, True, [b"Connection: keep-alive"]), (0, False, [b"Connection: close"])],
)
def test_the_caller_is_told_what_its_version_does_not_assume(minor: int, keep_alive: bool, said: list[bytes]) -> None:
    assert answered(b"Content-Length: 0", minor=minor, keep_alive=keep_alive)[2:] == said


def test_an_answer_is_never_framed_twice() -> None:
    assert answered(b"Transfer-Encoding: chunked", chunked=True)[1:] == [b"Transfer-Encoding: chunked"]
    assert answered(b"Transfer-Encoding: chunked", minor=0, keep_alive=False)[1:] == [b"Connection: close"]
    assert answered(b"Content-Length: 5", line=b"HTTP/1.1 204 No Content")[1:] == []
    assert answered(b"Content-Length: 5", line=b"HTTP/1.1 304 Not Modified")[1:] == [b"Content-Length: 5"]
    assert answered(b"Link: x", line=b"HTTP/1.1 103 Early Hints", keep_alive=False)[1:] == [b"Link: x"]


def test_one_answer_is_rendered_for_each_caller_as_that_one_needs_it() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", method="GET", fields_max=9)
    shapes = [(1, True, False), (0, True, False), (1, False, False), (1, True, False)]
    rendered = [forward_response(head, rules=RULES, minor=minor, keep_alive=keep, chunked=chunked) for minor, keep, chunked in shapes]
    assert rendered[0] == rendered[3]
    assert len(set(rendered)) == 3


def test_a_switch_goes_down_with_its_own_connection_fields_only() -> None:
    head = parse_response(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, x-a\r\nX-A: 1\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: z\r\n\r\n",
        method="GET",
        fields_max=9,
    )
    assert forward_switch(head, RULES) == (
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: z\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


def test_trailers_that_frame_route_authenticate_or_set_cookies_end_here() -> None:
    names = [
        *sorted(NEVER),
        b"Host",
        b"Authorization",
        b"Cookie",
        b"Set_Cookie",
        b"Content-Type",
        b"Proxy-X",
        b"Connection",
        b"Upgrade",
        b"TE",
    ]
    trailers = [(name, b"x") for name in [*names, b"X-Sum", b"grpc-status", b"X-Forwarded-For"]]
    for direction in Direction:
        assert forward_trailers(trailers, frozenset(), RULES, direction) == [(b"X-Sum", b"x"), (b"grpc-status", b"x")]


def test_trailers_obey_connection_and_the_lists_of_their_direction() -> None:
    trailers = [(name, b"x") for name in (b"X-Sum", b"X-Hop", b"x_hop", b"X-Up")]
    rules = HeaderRules(via=b"", allow=frozenset({b"x-up"}), strip_response=frozenset({b"x-up"}))
    assert forward_trailers(trailers, frozenset({b"x-hop"}), rules, Direction.UPSTREAM) == [(b"X-Up", b"x")]
    assert forward_trailers(trailers, frozenset({b"x-hop"}), rules, Direction.DOWNSTREAM) == [(b"X-Sum", b"x")]
