"""Shapes: a head that matches a pattern says exactly what the parser would have made of it, and what the parser refuses matches none."""

import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.corpus.load import REQUESTS, RESPONSES
from tests.fuzz.parts import PERMIT, outbound_head

from robin.model.faults import Fault
from robin.model.route import HeaderRules
from robin.wire.forwarding import forward_response
from robin.wire.head_parser import RequestParser, ResponseParser
from robin.wire.http1 import parse_request, parse_response
from robin.wire.shape import HeadShape, ParsedRequest, ParsedResponse, ShapeStore

RULES = PERMIT.route.header_rules
LIMITS = {"target_bytes": 200, "fields_max": 20}
OFTEN = 130  # more than a pattern of so few fields needs

REQUEST_KINDS = [
    b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\nAccept: a\r\nAuthorization: Bearer x\r\ntraceparent: 00-a\r\nX-Request-Id: 1\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-Api-Key: k\r\nContent-Type: t\r\nExpect: 100-continue\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: close, X-A\r\nX-A: 1\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nX-O: o\r\nVia: 1.0 a\r\nCookie: a=b; c=d\r\nX%b.c*|^$+: 50%d\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nOrigin: http://a\r\n\r\n",
    b"OPTIONS /x HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 7\r\nConnection: x\r\nconnection: close\r\n\r\n",
]
RESPONSE_KINDS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: now\r\nX-Request-Id: 1\r\nServer: s\r\n\r\n",
    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nSet-Cookie: a=b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: 1\r\nServer: 50%d\r\nVia: %b\r\nKeep-Alive: timeout=5, max=9\r\nX-B: 2\r\n\r\n",
    b"HTTP/1.0 304 Not Modified\r\nETag: x\r\nContent-Length: 9\r\nUpgrade: h2\r\n\r\n",
]


def facts(head: ParsedRequest | ParsedResponse) -> list[object]:
    """All that a head says, and what would be forwarded."""
    slots = [slot for kind in type(head).__mro__ for slot in getattr(kind, "__slots__", ()) if slot not in {"shape", "forwarded"}]
    said = [(slot, getattr(head, slot)) for slot in slots]
    if isinstance(head, ParsedRequest):
        return [*said, outbound_head(head)]
    return [*said, *(forward_response(head, rules=RULES, minor=minor, keep_alive=True, chunked=False) for minor in (0, 1))]


def verdict(read: Callable[[], ParsedRequest | ParsedResponse]) -> object:
    try:
        return facts(read())
    except Fault as fault:
        return fault.code  # the text may differ: the parser may name another of two defects


def request_parser(raw: bytes) -> RequestParser:
    """One that has the pattern of the shape of `raw`, if there is one."""
    parser = RequestParser(**LIMITS)
    for _ in range(OFTEN):
        verdict(lambda: parse_request(raw, **LIMITS))
    verdict(lambda: parser.parse(raw.replace(b" HTTP/1.", b"? HTTP/1.")))  # no repetition of what comes next
    return parser


def response_parser(raw: bytes) -> ResponseParser:
    parser = ResponseParser()
    for _ in range(OFTEN):
        verdict(lambda: parse_response(raw, method="GET", fields_max=20))
    verdict(lambda: parser.parse(raw, method="POST", fields_max=20))
    return parser


@pytest.fixture(name="parses")
def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads that llhttp was asked about."""
    parsed: list[bytes] = []

    def note(parse: Callable[..., Any]) -> Callable[..., Any]:
        def noted(raw: bytes, **limits: Any) -> Any:
            parsed.append(raw)
            return parse(raw, **limits)

        return noted

    monkeypatch.setattr("robin.wire.head_parser.parse_request", note(parse_request))
    monkeypatch.setattr("robin.wire.head_parser.parse_response", note(parse_response))
    return parsed


def test_heads_in_which_only_values_differ_are_matched_after_a_while(parses: list[bytes]) -> None:
    requests, responses = RequestParser(**LIMITS), ResponseParser()
    for number in range(400):
        raw = REQUEST_KINDS[number % 2].replace(b"/v1/x", b"/v1/%d" % number).replace(b"Id: 1", b"Id: %d" % number)
        assert requests.parse(raw).target == b"/v1/%d" % number
        answer = RESPONSE_KINDS[0].replace(b"Length: 3", b"Length: %d" % number)
        assert responses.parse(answer, method="GET", fields_max=20).length == number
    assert len(parses) < 3 * OFTEN
    parses.clear()
    assert requests.parse(raw.replace(b"Type: t", b"Type: u")).method == "POST"
    assert parses == []


def test_heads_of_several_kinds_that_alternate_on_a_connection_are_matched_too(parses: list[bytes]) -> None:
    parser = RequestParser(**LIMITS)
    kinds = [b"GET /%%d HTTP/1.1\r\nHost: localhost\r\nX-Kind-%d: 1\r\n\r\n" % kind for kind in range(4)]
    for number in range(4 * OFTEN):
        parser.parse(kinds[number % 4] % number)
    parses.clear()
    for number in range(8):
        assert parser.parse(kinds[number % 4] % number).values(b"x-kind-%d" % (number % 4)) == [b"1"]
    assert parses == []


def test_a_head_that_repeats_is_parsed_once_unless_it_is_long(parses: list[bytes]) -> None:
    requests, responses = RequestParser(**LIMITS), ResponseParser()
    heads = {id(requests.parse(REQUEST_KINDS[0].replace(b"Accept", b"Repeats"))) for _ in range(5)}
    raw = RESPONSE_KINDS[0].replace(b"Server", b"Repeats")
    answers = [responses.parse(raw, method=method, fields_max=20) for method in ("GET", "GET", "HEAD", "HEAD", "GET")]
    assert len(heads) == 1
    assert [answer.framing for answer in answers] == [1, 1, 0, 0, 1]
    assert len(parses) == 1 + 3
    long = REQUEST_KINDS[0].replace(b"Accept: a", b"Repeats: %b" % (b"v" * 5000))
    assert requests.parse(long) is not requests.parse(long)


def test_interim_responses_and_switches_are_always_parsed(parses: list[bytes]) -> None:
    parser = ResponseParser()
    for number in range(2 * OFTEN):
        parser.parse(b"HTTP/1.1 103 Early Hints\r\nLink: %d\r\n\r\n" % number, method="GET", fields_max=20)
    assert len(parses) == 2 * OFTEN


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.id)
def test_the_corpus_of_requests_is_judged_alike_with_patterns_at_hand(case: Any) -> None:
    raw = case.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert verdict(lambda: request_parser(raw).parse(raw)) == verdict(lambda: parse_request(raw, **LIMITS))


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.id)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_corpus_of_responses_is_judged_alike_with_patterns_at_hand(case: Any, method: str) -> None:
    raw = case.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    seen = verdict(lambda: response_parser(raw).parse(raw, method=method, fields_max=20))
    assert seen == verdict(lambda: parse_response(raw, method=method, fields_max=20))


HOSTILE = st.one_of(
    st.sampled_from(
        [b"\r", b"\n", b"\x00", b"\t", b" ", b"\x7f", b"\xff", b"\x0b", b"\x85", b"\xa0", b"", b"#", b"?", b"%", b":", b"_", b"007"]
    ),
    st.sampled_from([b"\r\n", b"\r\nHost: b", b"\r\nContent-Length: 1", b"\r\n folded", b"9" * 19, b"9" * 30, b"+1", b"1,1", b"%b", b"%%"]),
    st.sampled_from([b"Host", b"a, b", b"x@y", b"chunked", b"gzip, chunked", b"close", b"upgrade", b"h2c", b"100-continue", b"trailers"]),
    st.binary(max_size=6),
)


def change(raw: bytes, data: st.DataObject) -> bytes:
    """Put something hostile in place of a few bytes, perhaps twice; mostly where a value stands, so that a pattern is asked."""
    for _ in range(data.draw(st.integers(0, 2))):
        starts = [at for at in range(len(raw) - 4) if raw[at - 2 : at] == b": "]
        at = data.draw(st.one_of(st.sampled_from(starts), st.integers(0, len(raw) - 4)))
        raw = raw[:at] + data.draw(HOSTILE) + raw[at + data.draw(st.integers(0, 9)) :]
    return raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


SUSPECTS = [bytes([code]) for code in (*range(0x21), *b"#%,:;?@_05AZaz", 0x7F, 0x80, 0x85, 0xA0, 0xFF)]


def variants(raw: bytes) -> Iterator[bytes]:
    """`raw` with one suspect byte in each place, once instead of the byte there and once before it."""
    for at in range(len(raw) - 4):
        for byte in SUSPECTS:
            for rest in (raw[at + 1 :], raw[at:]):
                yield (raw[:at] + byte + rest).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize("raw", REQUEST_KINDS)
def test_any_byte_anywhere_in_a_request_is_judged_as_the_parser_judges_it(raw: bytes) -> None:
    parser = request_parser(raw)
    shape = parser.parse(raw).shape
    assert shape.match is not None
    for changed in variants(raw):
        if shape.match(changed) is not None:  # what does not match goes to the parser anyway
            assert verdict(lambda: parser.parse(changed)) == verdict(lambda: parse_request(changed, **LIMITS)), changed  # noqa: B023


@pytest.mark.parametrize("raw", RESPONSE_KINDS)
def test_any_byte_anywhere_in_a_response_is_judged_as_the_parser_judges_it(raw: bytes) -> None:
    parser = response_parser(raw)
    shape = parser.parse(raw, method="GET", fields_max=20).shape
    assert shape.match is not None
    for changed in variants(raw):
        if shape.match(changed) is not None:
            seen = verdict(lambda: parser.parse(changed, method="GET", fields_max=20))  # noqa: B023
            assert seen == verdict(lambda: parse_response(changed, method="GET", fields_max=20)), changed  # noqa: B023


@settings(deadline=None)  # a busy machine is no finding
@given(st.sampled_from(REQUEST_KINDS), st.data())
def test_a_changed_request_is_judged_as_the_parser_judges_it(raw: bytes, data: st.DataObject) -> None:
    changed = change(raw, data)
    assert verdict(lambda: request_parser(raw).parse(changed)) == verdict(lambda: parse_request(changed, **LIMITS))


@settings(deadline=None)  # a busy machine is no finding
@given(st.sampled_from(RESPONSE_KINDS), st.sampled_from(["GET", "HEAD"]), st.data())
def test_a_changed_response_is_judged_as_the_parser_judges_it(raw: bytes, method: str, data: st.DataObject) -> None:
    changed = change(raw, data)
    seen = verdict(lambda: response_parser(raw).parse(changed, method=method, fields_max=20))
    assert seen == verdict(lambda: parse_response(changed, method=method, fields_max=20))


def test_limits_hold_for_what_matches() -> None:
    for line, code in ((b"POST /" + b"x" * 200, "target_too_long"), (b"POSTER /", "method_unknown")):
        with pytest.raises(Fault) as refused:
            request_parser(REQUEST_KINDS[1]).parse(REQUEST_KINDS[1].replace(b"POST /v1/x", line))
        assert refused.value.code == code


START = rb"(a)(b)(c)\r\n"


def section(kind: int, fields: int = 1) -> bytes:
    return b"\r\n".join(b"X-%d-%d: v" % (kind, place) for place in range(fields))


def compiled(store: ShapeStore, kind: int, fields: int = 1) -> HeadShape:
    for _ in range(1000):
        shape, _ = store.parse_fields(section(kind, fields))
        if shape.match is not None:
            return shape
    raise AssertionError("no pattern")


@pytest.mark.parametrize("fields", [1, 8, 60])
def test_a_pattern_is_compiled_only_after_more_heads_than_it_costs(fields: int) -> None:
    store = ShapeStore(START)
    shapes = [store.parse_fields(section(0, fields))[0] for _ in range(64 + 4 * fields - 1)]
    assert all(shape is shapes[0] for shape in shapes)
    assert shapes[0].match is None
    assert compiled(store, 0, fields) is shapes[0]


def test_shapes_are_bounded_and_one_that_is_forgotten_has_no_pattern_any_more() -> None:
    store = ShapeStore(START)
    shape = compiled(store, 0)
    assert store.parse_fields(b"X-0-0:other")[0] is shape
    for kind in range(1, 300):
        store.parse_fields(section(kind))
    assert shape.match is None
    assert store.parse_fields(section(0))[0] is not shape
    assert store.parse_fields(section(299))[0] is store.parse_fields(section(299))[0]


@pytest.mark.parametrize("lines", [b"N" * 1025 + b": v", section(0, 65)])
def test_a_head_with_long_or_many_names_gets_a_shape_of_its_own_each_time(lines: bytes) -> None:
    store = ShapeStore(START)
    assert store.parse_fields(lines)[0] is not store.parse_fields(lines)[0]


def test_templates_are_bounded_however_connection_varies() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: o-%d\r\nA: 1\r\n\r\n"
    heads = [parse_request(raw % number, **LIMITS) for number in range(100)]
    for head in heads:
        outbound_head(head)
    assert 0 < len(heads[0].shape.templates) <= 16


def test_a_long_connection_field_is_not_kept_with_its_template() -> None:
    options = b",".join(b"o-%d" % number for number in range(100))
    head = parse_request(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: %b\r\nB: 1\r\nO-7: 1\r\n\r\n" % options, **LIMITS)
    for _ in range(2):
        assert b"O-7" not in outbound_head(head)
    assert head.shape.templates == {}


def test_a_connection_keeps_next_to_nothing_of_large_heads_that_differ() -> None:
    parser = RequestParser(target_bytes=200, fields_max=100)
    tracemalloc.start()
    try:
        for number in range(16):
            name = b"x-%d-%%d-%b: 1\r\n" % (number, b"n" * 600)
            fields = b"".join(name % field for field in range(90))
            parser.parse(b"%b / HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % ((b"GET", b"PUT", b"POST", b"HEAD")[number % 4], fields))
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_a_pattern_that_is_forgotten_is_in_no_cache() -> None:
    store = ShapeStore(START)
    pattern = weakref.ref(compiled(store, 0).match.__self__)  # type: ignore[union-attr]
    for kind in range(1, 300):
        store.parse_fields(section(kind))
    assert pattern() is None


def test_nothing_that_is_kept_of_a_head_holds_a_value() -> None:
    canary = b"canary-0123456789"
    raw = REQUEST_KINDS[0].replace(b"Bearer x", canary).replace(b"/v1/x", b"/" + canary).replace(b"localhost", canary)
    head = request_parser(raw).parse(raw.replace(b"Id: 1", b"Id: 2"))
    outbound_head(head)
    assert head.shape.match is not None
    kept = [getattr(head.shape, slot) for slot in HeadShape.__slots__ if slot != "match"]
    assert "canary" not in repr([kept, head.shape.match.__self__.pattern])  # type: ignore[attr-defined]


def test_a_head_that_does_not_match_is_known_for_that_at_once() -> None:
    lines = b"".join(b"X-Long-%d: %%b\r\n" % number for number in range(8))
    start = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    parser = request_parser(start + lines % ((b"v",) * 8) + b"\r\n")
    value = b"a" + b"\t " * 50_000
    near = start + lines % ((value + b"b",) * 8) + b"\r\n"
    shape = parser.parse(near).shape
    assert shape.match is not None
    began = time.process_time()
    assert shape.match(near) is not None
    matches_s = time.process_time() - began
    began = time.process_time()
    assert shape.match(near.replace(b"b\r\n\r\n", b"\r\n\r\n")) is None
    assert shape.match(near.replace(b"X-Long-7", b"X-Short7")) is None
    assert time.process_time() - began < 4 * matches_s + 0.01


def test_templates_are_kept_for_each_set_of_rules() -> None:
    response = parse_response(RESPONSE_KINDS[0], method="GET", fields_max=20)
    for rules in (RULES, HeaderRules(via=b"", strip_response=frozenset({b"server"})), RULES):
        octets = forward_response(response, rules=rules, minor=1, keep_alive=True, chunked=False)
        assert (b"Server: s" in octets) is (rules is RULES)
