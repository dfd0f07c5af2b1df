"""Heads: what llhttp lets through and we refuse (spec section 5), and what a good head means."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead, ResponseHead
from robin.wire.http1 import METHODS, REVERSE_PROXY, RequestForms, find_bad_byte, parse_request, parse_response


def request(
    line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes | None = b"Host: localhost", forms: RequestForms = REVERSE_PROXY
) -> RequestHead:
    lines = [line, *([] if host is None else [host]), *fields]
    return parse_request(b"\r\n".join(lines) + b"\r\n\r\n", target_bytes=100, fields_max=10, forms=forms)


def response(line: bytes = b"HTTP/1.1 200 OK", *fields: bytes, method: str = "GET") -> ResponseHead:
    return parse_response(b"\r\n".join([line, *fields]) + b"\r\n\r\n", method=method, fields_max=10)


def refusal(*parts: bytes, **options: Any) -> Fault:
    with pytest.raises(Fault) as refused:
        request(*parts, **options)
    return refused.value


def test_a_plain_request_says_what_was_written() -> None:
    head = request(b"POST /v1/x?y=1 HTTP/1.1", b"Content-Length: 005", b"traceparent: 00-a", b"TE: gzip, Trailers")
    assert (head.method, head.target, head.path, head.minor) == ("POST", b"/v1/x?y=1", b"/v1/x", 1)
    assert (head.framing, head.length, head.host) == (Framing.LENGTH, 5, b"localhost")
    assert (head.traceparent, head.accepts_trailers, head.keep_alive) == (b"00-a", True, True)


@pytest.mark.parametrize("method", sorted(METHODS.values()))
def test_every_registered_method_is_read_by_the_parser(method: str) -> None:
    assert request(b"%b /x HTTP/1.1" % method.encode()).method == method


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET  / HTTP/1.1", "bad_request"),
        (b"GET /\tHTTP/1.1", "bad_request"),
        (b"GET / HTTP/1.1 ", "bad_request"),
        (b"GET /", "bad_request"),
        (b"GET / HTTP/0.9", "bad_request"),
        (b"GET / HTTP/1.10", "bad_request"),
        (b"GET / http/1.1", "bad_request"),
        (b"GET /\xff HTTP/1.1", "bad_request"),
        (b"GET /#a HTTP/1.1", "bad_request"),
        (b"GET * HTTP/1.1", "bad_request"),
        (b"GET x HTTP/1.1", "bad_request"),
        (b"GET https://localhost/ HTTP/1.1", "bad_request"),
        (b"GET http://user@localhost/ HTTP/1.1", "bad_request"),
        (b"GET http:// HTTP/1.1", "bad_request"),
        (b"GET / HTTP/2.0", "version_not_supported"),
        (b"GET / HTTP/1.2", "version_not_supported"),
        (b"GET / RTSP/1.0", "version_not_supported"),
        (b"get / HTTP/1.1", "method_unknown"),
        (b"BREW / HTTP/1.1", "method_unknown"),
        (b"CONNECT localhost:1 HTTP/1.1", "method_refused"),
        (b"TRACE / HTTP/1.1", "method_refused"),
        (b"PRI * HTTP/2.0", "version_not_supported"),
        (b"GET /" + b"a" * 100 + b" HTTP/1.1", "target_too_long"),
    ],
)
def test_a_bad_request_line_is_refused_by_its_code(line: bytes, code: str) -> None:
    assert refusal(line).code == code


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: 9223372036854775808",
        b"Content_Length: 5",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: ,chunked",
        b"Transfer-Encoding: identity",
        b"Transfer_Encoding: chunked",
        b"Name : x",
        b"N\xc3\xa4me: x",
        b": x",
        b"no colon",
        b" folded: x",
        b"A: \x00",
        b"A: \x0b",
        b"A: x\ny",
        b"A: x\ry",
    ],
)
def test_a_bad_field_is_400(field: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1", field).code == "bad_request"


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
        (b"Content-Length: 5", b"Content-Length: 5"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Content_Length: 5", b"Content-Length: 5"),
        (b"Content_Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer_Encoding: chunked", b"Content-Length: 5"),
        (b"Max-Forwards: 1", b"Max-Forwards: 1"),
        (b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 1"),
    ],
)
def test_fields_that_are_good_alone_are_refused_together(fields: tuple[bytes, ...]) -> None:
    assert refusal(b"GET / HTTP/1.1", *fields).code == "bad_request"


@pytest.mark.parametrize("host", [None, b"Host:", b"Host: a,b", b"Host: u@a", b"Host: a:99999", b"Host: a\r\nHost: a", b"H_st: a"])
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"GET / HTTP/1.0"])
def test_exactly_one_valid_host_is_required_of_both_versions(line: bytes, host: bytes | None) -> None:
    assert refusal(line, host=host).detail.startswith("bad_host")


def test_an_absolute_target_is_taken_apart_and_host_is_kept_beside_it() -> None:
    head = request(b"GET HTTP://127.0.0.1:4000?q HTTP/1.1")
    assert (head.target_scheme, head.target_authority, head.host) == (b"http", b"127.0.0.1:4000", b"localhost")
    assert (head.target, head.path) == (b"/?q", b"/")
    assert request(b"OPTIONS http://localhost HTTP/1.1").target == b"*"
    assert request(b"GET / HTTP/1.1").target_authority is None


FORWARD_PROXY = RequestForms(connect=True, schemes=frozenset({b"http", b"https"}))


def test_a_listener_may_take_connect_and_https_targets() -> None:
    head = request(b"CONNECT api.test:443 HTTP/1.1", forms=FORWARD_PROXY)
    assert (head.method, head.target_authority, head.target_scheme, head.path) == ("CONNECT", b"api.test:443", None, b"")
    assert request(b"CONNECT [::1]:443 HTTP/1.1", forms=FORWARD_PROXY).target_authority == b"[::1]:443"
    head = request(b"GET https://api.test/x HTTP/1.1", forms=FORWARD_PROXY)
    assert (head.target_scheme, head.target_authority, head.target) == (b"https", b"api.test", b"/x")


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b"CONNECT api.test HTTP/1.1", ()),
        (b"CONNECT api.\xff:443 HTTP/1.1", ()),
        (b"CONNECT [::1] HTTP/1.1", ()),
        (b"CONNECT /x HTTP/1.1", ()),
        (b"CONNECT http://api.test:443 HTTP/1.1", ()),
        (b"CONNECT api.test:443 HTTP/1.1", (b"Content-Length: 1",)),
        (b"GET api.test:443 HTTP/1.1", ()),
        (b"GET ftp://api.test/ HTTP/1.1", ()),
    ],
)
def test_other_targets_are_refused_there_too(line: bytes, fields: tuple[bytes, ...]) -> None:
    assert refusal(line, *fields, forms=FORWARD_PROXY).code == "bad_request"


def test_trace_is_refused_whatever_a_listener_takes() -> None:
    assert refusal(b"TRACE / HTTP/1.1", forms=FORWARD_PROXY).code == "method_refused"


def test_chunked_needs_http_1_1() -> None:
    assert request(b"POST / HTTP/1.1", b"Transfer-Encoding: Chunked").framing == Framing.CHUNKED
    assert refusal(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked").code == "bad_request"


@pytest.mark.parametrize(
    ("line", "field", "goes_on"),
    [
        (b"GET / HTTP/1.1", b"Connection: x, Close", False),
        (b"GET / HTTP/1.0", b"Connection: Keep-Alive", True),
        (b"GET / HTTP/1.0", b"Connection: keep-alive, close", False),
        (b"GET / HTTP/1.1", b"Proxy-Connection: close", True),
    ],
)
def test_connection_alone_decides_whether_it_goes_on(line: bytes, field: bytes, goes_on: bool) -> None:
    assert request(line, field).keep_alive is goes_on


def test_an_expectation_counts_only_on_1_1_with_a_body() -> None:
    asked = b"Expect: 100-Continue"
    assert request(b"POST / HTTP/1.1", asked, b"Content-Length: 1").expects_continue
    assert not request(b"POST / HTTP/1.1", asked, b"Content-Length: 0").expects_continue
    assert not request(b"POST / HTTP/1.0", asked, b"Content-Length: 1").expects_continue
    assert refusal(b"POST / HTTP/1.1", b"Expect: 200-ok").code == "expectation_failed"


@pytest.mark.parametrize(
    ("line", "fields", "upgrade"),
    [
        (b"GET / HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: WebSocket"), b"websocket"),
        (b"GET / HTTP/1.0", (b"Connection: Upgrade", b"Upgrade: websocket"), None),
        (b"POST / HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: SPDY/3.1"), b"spdy/3.1"),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket",), None),
        (b"GET / HTTP/1.1", (b"Proxy-Connection: Upgrade", b"Upgrade: websocket"), None),
        (b"GET / HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: websocket, x"), None),
        (b"GET / HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: websocket"), None),
        (b"POST / HTTP/1.1", (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 9"), None),
    ],
)
def test_an_upgrade_is_kept_only_where_a_switch_is_possible(line: bytes, fields: tuple[bytes, ...], upgrade: bytes | None) -> None:
    assert request(line, *fields).upgrade == upgrade


def test_a_repeated_browser_field_counts_as_foreign() -> None:
    assert request(b"GET / HTTP/1.1", b"Origin: http://a", b"Origin: http://a").origin == b"null"
    assert request(b"GET / HTTP/1.1", b"Sec-Fetch-Site: none", b"Sec_Fetch_Site: none").fetch_site == b"cross-site"


def test_several_via_lines_are_one_list() -> None:
    assert request(b"GET / HTTP/1.1", b"Via: 1.1 a", b"VIA: 1.0 b").via == b"1.1 a, 1.0 b"


def test_ten_fields_pass_and_one_more_is_431() -> None:
    assert len(request(b"GET / HTTP/1.1", *[b"A: 1"] * 9).names) == 10
    assert refusal(b"GET / HTTP/1.1", *[b"A: 1"] * 10).code == "head_too_large"


@given(st.sampled_from([b"authorization", b"A", b"Content-Length"]), st.binary(min_size=1, max_size=20).map(bytes.hex))
def test_no_refusal_quotes_a_value(name: bytes, value: str) -> None:
    canary = b"canary-" + value.encode()
    for field in (name + b": " + canary + b"\x00", name + b" : " + canary, name + b"\x01: " + canary):
        assert "canary" not in repr(refusal(b"GET / HTTP/1.1", field).args)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_head_or_a_fault(octets: bytes) -> None:
    for parse in (
        lambda raw: parse_request(raw, target_bytes=100, fields_max=10),
        lambda raw: parse_response(raw, method="GET", fields_max=10),
    ):
        for raw in (
            octets + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n" + octets + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + octets + b"\r\n\r\n",
        ):
            try:
                head = parse(raw)
            except Fault:
                continue
            assert not any(set(value) & set(b"\r\n\x00") for value in head.field_values)
            assert len(head.names) == len(head.field_values)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b"HTTP/2.0 200 OK", ()),
        (b"RTSP/1.0 200 OK", ()),
        (b"HTTP/1.1 099 X", ()),
        (b"HTTP/1.1 600 X", ()),
        (b"HTTP/1.1 200 a\x01b", ()),
        (b"\r\nHTTP/1.1 200 OK", ()),
        (b"HTTP/1.1 200 OK", (b"Content-Length: x",)),
        (b"HTTP/1.1 200 OK", (b"Content-Length: 5", b"Content-Length: 5")),
        (b"HTTP/1.1 200 OK", (b"Content-Length: 5", b"Transfer-Encoding: chunked")),
        (b"HTTP/1.1 200 OK", (b"Transfer-Encoding: gzip, chunked",)),
        (b"HTTP/1.0 200 OK", (b"Transfer-Encoding: chunked",)),
        (b"HTTP/1.1 200 OK", (b"A: x\ry",)),
        (b"HTTP/1.1 200 OK", (b"A: 1",) * 11),
    ],
)
def test_a_bad_answer_is_a_fault_of_the_upstream(line: bytes, fields: tuple[bytes, ...]) -> None:
    with pytest.raises(Fault) as refused:
        response(line, *fields)
    assert refused.value.code == "upstream_protocol"


@pytest.mark.parametrize(
    ("line", "field", "method", "framing", "length"),
    [
        (b"HTTP/1.1 200 OK", b"Content-Length: 5", "GET", Framing.LENGTH, 5),
        (b"HTTP/1.1 200 OK", b"Content-Length: 5", "HEAD", Framing.NONE, 5),
        (b"HTTP/1.1 304 Not Modified", b"Content-Length: 5", "GET", Framing.NONE, 5),
        (b"HTTP/1.1 204 No Content", b"A: 1", "GET", Framing.NONE, -1),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", "GET", Framing.CHUNKED, -1),
        (b"HTTP/1.1 200 OK", b"A: 1", "GET", Framing.CLOSE, -1),
        (b"HTTP/1.1 103 Early Hints", b"Link: x", "GET", Framing.NONE, -1),
    ],
)
def test_the_method_and_the_status_decide_whether_a_body_follows(line: bytes, field: bytes, method: str, framing: int, length: int) -> None:
    head = response(line, field, method=method)
    assert (head.framing, head.length) == (framing, length)


def test_a_body_that_ends_with_the_connection_ends_the_connection() -> None:
    assert response(b"HTTP/1.1 200 OK", b"Connection: keep-alive").keep_alive is False
    assert response(b"HTTP/1.1 200 OK", b"Content-Length: 0").keep_alive is True


def test_a_reason_may_be_missing_and_may_hold_any_text() -> None:
    assert response(b"HTTP/1.1 200").reason == b""
    assert response(b"HTTP/1.1 200 Tr\xe8s bien").reason == b"Tr\xe8s bien"


def test_a_bare_101_is_read_as_a_switch_that_names_nothing() -> None:
    head = response(b"HTTP/1.1 101 Switching Protocols")
    assert (head.status, head.upgrade) == (101, None)


def test_a_switch_to_two_protocols_names_none_that_could_have_been_asked_for() -> None:
    head = response(b"HTTP/1.1 101 X", b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: websocket")
    assert head.upgrade == b","


@pytest.mark.parametrize(
    ("partial", "bad"),
    [(b"GET / HTTP/1.1\r\nA: 1\r", False), (b"a\r\r", True), (b"a\nb", True), (b"\x00", True), (b"a\tb\xff", False), (b"\x7f", True)],
)
def test_a_bad_byte_is_found_before_the_head_ends(partial: bytes, bad: bool) -> None:
    assert find_bad_byte(partial, 0) is bad
    assert find_bad_byte(bytearray(partial), 0) is bad


def test_values_keep_inner_space_and_lose_outer_space_and_tab() -> None:
    head = request(b"GET / HTTP/1.1", b"X_A:tight", b"x-a: \ta: b\t c \t", b"X-A:", b"Traceparent: 1", b"traceparent: 2")
    assert head.values(b"x-a") == [b"tight", b"a: b\t c", b""]
    assert head.traceparent == b"2"


def test_the_announced_idle_time_is_that_of_the_last_keep_alive() -> None:
    assert response(b"HTTP/1.1 200 OK", b"Keep-Alive:timeout=9, max=3").idle_s == 9
    assert response(b"HTTP/1.1 200 OK").idle_s is None
