"""Outlines: one for all heads that differ in plain values only, never for two that mean different things, and bounded."""

import pytest

from robin.model.faults import Fault
from robin.model.message import Framing
from robin.wire.http1 import parse_response
from robin.wire.outline import _requests, blanks_of, outline_request, outline_response

HOST = b"Host: localhost"


def test_heads_that_differ_in_plain_values_share_an_outline_and_their_blanks_differ() -> None:
    heads = [[HOST, b"Accept: a%d" % number, b"Content-Length: %d" % number, b"Cookie: %d" % number] for number in (1, 2)]
    first, second = (outline_request(head, 1) for head in heads)
    assert first is second
    assert (first.framing, first.length_at) == (Framing.LENGTH, 1)
    assert [blanks_of(head, first) for head in heads] == [[b"a1", b"1", b"1"], [b"a2", b"2", b"2"]]


@pytest.mark.parametrize(
    "other",
    [
        [b"Host: other", b"Accept: a"],
        [HOST, b"accept: a"],
        [b"Accept: a", HOST],
        [HOST, b"Accept: a", b"Accept: a"],
        [HOST, b"Connection: close", b"Accept: a"],
        [HOST, b"Connection: Accept", b"Accept: a"],
        [HOST, b"Transfer-Encoding: chunked", b"Accept: a"],
        [HOST, b"Origin: http://a", b"Accept: a"],
    ],
)
def test_heads_that_differ_in_anything_else_do_not(other: list[bytes]) -> None:
    assert outline_request([HOST, b"Accept: a"], 1) is not outline_request(other, 1)


def test_the_minor_version_decides_whether_a_connection_goes_on() -> None:
    assert outline_request([HOST], 1).keep_alive
    assert not outline_request([HOST], 0).keep_alive
    assert outline_response([], 1).keep_alive
    assert not outline_response([], 0).keep_alive


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "bad_host"),
        ([HOST, HOST], "bad_host"),
        ([HOST, b"Content-Length: 1", b"Content-Length: 1"], "bad_framing"),
        ([HOST, b"Content-Length: 1", b"Transfer-Encoding: chunked"], "bad_framing"),
        ([HOST, b"Content_Length: 1"], "bad_length"),
        ([HOST, b"Transfer_Encoding: chunked"], "bad_te"),
        ([HOST, b"Max-Forwards: 1", b"Max-Forwards: 1"], "bad_field"),
    ],
)
def test_a_refused_head_is_refused_each_time(lines: list[bytes], reason: str) -> None:
    for _ in range(2):
        with pytest.raises(Fault) as refused:
            outline_request(lines, 1)
        assert refused.value.detail.startswith(f"{reason}:")


def test_how_a_plain_line_is_written_does_not_count() -> None:
    lines = [HOST, b"Accept:a", b"Cookie: \tb: c \t", b"X-Empty:", b"Content-Length:5 "]
    outline = outline_request(lines, 1)
    assert outline is outline_request([HOST, b"Accept: a", b"Cookie: b", b"X-Empty: 1", b"Content-Length: 6"], 1)
    assert blanks_of(lines, outline) == [b"a", b"b: c", b"", b"5"]


def test_the_last_of_two_traceparents_counts() -> None:
    assert outline_request([HOST, b"traceparent: 1", b"Accept: a", b"traceparent: 2"], 1).trace_at == 2


def test_outlines_are_bounded_and_those_of_values_of_their_own_or_of_many_fields_are_not_kept() -> None:
    for number in range(600):
        outline_request([HOST, b"X-Kind-%d: 1" % number], 1)
    assert len(_requests[1]) <= 128
    for lines in ([HOST, b"Sec_WebSocket_Key: k"], [HOST, b"N" * 70 + b": v"], [HOST, *(b"A: %d" % number for number in range(70))]):
        assert outline_request(lines, 1) is not outline_request(lines, 1)


def test_an_outline_that_is_forgotten_has_no_form_any_more() -> None:
    outline = outline_request([HOST, b"X-Forgotten: 1"], 1)
    outline.form = "a form"
    for number in range(200):
        outline_request([HOST, b"X-Other-%d: 1" % number], 1)
    assert outline.form is None


def test_a_keep_alive_that_counts_down_is_one_outline_and_is_read_each_time() -> None:
    seen = set()
    for left in (99, 98):
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=%d, max=%d\r\nConnection: Keep-Alive\r\n\r\n" % (left % 7, left)
        head = parse_response(raw, method="GET", fields_max=9)
        assert head.idle_s == left % 7
        seen.add(id(head.outline))
    assert len(seen) == 1
    assert parse_response(b"HTTP/1.1 200 OK\r\nKeep-Alive:timeout=9\r\n\r\n", method="GET", fields_max=9).idle_s == 9
    assert parse_response(b"HTTP/1.1 200 OK\r\n\r\n", method="GET", fields_max=9).idle_s is None
