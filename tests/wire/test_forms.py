"""Forms: a head that fits one says exactly what the parser would have made of it, and what the parser refuses fits none."""

import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.corpus.load import REQUESTS, RESPONSES
from tests.fuzz.parts import CREDENTIAL, PERMIT

from robin.model.faults import Fault
from robin.model.message import Outline, RequestHead, RequestOutline, ResponseHead
from robin.wire.forms import RequestForms, ResponseForms, print_request
from robin.wire.forwarding import forward_request, forward_response
from robin.wire.http1 import parse_request, parse_response

LIMITS = {"target_bytes": 200, "fields_max": 20}
OFTEN = 80  # more than a form of so few fields needs

REQUEST_KINDS = [
    b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\nAccept: a\r\nAuthorization: Bearer x\r\ntraceparent: 00-a\r\nX-Request-Id: 1\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-Api-Key: k\r\nContent-Type: t\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: close, X-A\r\nX-A: 1\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nX-Odd:tight\r\nX-Empty:\r\nVia: 1.0 a\r\nCookie: a=b; c=d\r\n\r\n",
]
RESPONSE_KINDS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: now\r\nX-Request-Id: 1\r\nServer: s\r\n\r\n",
    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nSet-Cookie: a=b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: 1\r\nServer:50%d\r\nVia: %b\r\nKeep-Alive: timeout=5, max=9\r\nDate: 5%\r\nX-B: 2\r\n\r\n",
    b"HTTP/1.0 304 Not Modified\r\nETag: x\r\nContent-Length: 9\r\nWarning:odd \r\n\r\n",
]


def told(head: RequestHead | ResponseHead) -> list[object]:
    """All that a head says, and what would go on."""
    out: list[object] = []
    for part in (head.outline, head):
        skipped = {"outline", "plan", "form", "uses", "fields", "forwarded", "layout"}
        if isinstance(head, ResponseHead):
            skipped |= {"blanks"}  # of a form they are others; what they make of the head is compared below
        slots = [slot for kind in type(part).__mro__ for slot in getattr(kind, "__slots__", ())]
        out += [(slot, getattr(part, slot)) for slot in slots if slot not in skipped]
    out.append([(field.name, field.value, field.line) for field in head.outline.fields])
    if isinstance(head, RequestHead):
        out.append(forward_request(head, PERMIT, CREDENTIAL))
    else:
        out += [forward_response(head, minor=minor, keep_alive=True, chunked=False) for minor in (0, 1)]
    return out


def verdict(read: Callable[[], RequestHead | ResponseHead]) -> object:
    try:
        return told(read())
    except Fault as fault:
        return fault.code  # how it is told may differ: the parser may name another of two defects


def request_forms() -> RequestForms:
    forms = RequestForms()
    for raw in REQUEST_KINDS:
        for _ in range(OFTEN):
            parse_and_learn(forms, raw)
    return forms


def parse_and_learn(forms: RequestForms | ResponseForms, raw: bytes) -> None:
    """Read `raw` as if it were no repetition."""
    forms._raw = b""
    if isinstance(forms, RequestForms):
        forms.read(raw, **LIMITS)
    else:
        forms.read(raw, method="GET", fields_max=20)


def response_forms() -> ResponseForms:
    forms = ResponseForms()
    for raw in RESPONSE_KINDS:
        for _ in range(OFTEN):
            parse_and_learn(forms, raw)
    return forms


@pytest.fixture(name="parses")
def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads that the parser was asked for."""
    parsed: list[bytes] = []

    def note(parse: Callable[..., Any]) -> Callable[..., Any]:
        def noted(raw: bytes, **limits: Any) -> Any:
            parsed.append(raw)
            return parse(raw, **limits)

        return noted

    monkeypatch.setattr("robin.wire.forms.parse_request", note(parse_request))
    monkeypatch.setattr("robin.wire.forms.parse_response", note(parse_response))
    return parsed


def test_heads_in_which_only_values_differ_are_parsed_no_more_after_a_while(parses: list[bytes]) -> None:
    requests, responses = RequestForms(), ResponseForms()
    for number in range(200):
        raw = REQUEST_KINDS[number % 2].replace(b"/v1/x", b"/v1/%d" % number).replace(b"Id: 1", b"Id: %d" % number)
        assert requests.read(raw, **LIMITS).target == b"/v1/%d" % number
        answer = RESPONSE_KINDS[0].replace(b"Length: 3", b"Length: %d" % number)
        assert responses.read(answer, method="GET", fields_max=20).length == number
    assert len(parses) < 250
    parses.clear()
    assert requests.read(raw.replace(b"Type: t", b"Type: u"), **LIMITS).method == "POST"
    assert parses == []


def test_a_head_that_repeats_is_read_once(parses: list[bytes]) -> None:
    requests, responses = RequestForms(), ResponseForms()
    heads = {id(requests.read(REQUEST_KINDS[0].replace(b"Accept", b"Repeats"), **LIMITS)) for _ in range(5)}
    answer = RESPONSE_KINDS[0].replace(b"Server", b"Repeats")
    answers = [responses.read(answer, method=method, fields_max=20) for method in ("GET", "GET", "HEAD", "HEAD", "GET")]
    assert len(heads) == 1
    assert [answer.framing for answer in answers] == [1, 1, 0, 0, 1]
    assert len(parses) == 1 + 3


def test_a_connection_keeps_few_forms_and_a_long_head_gets_none(parses: list[bytes]) -> None:
    forms = RequestForms()
    for number in range(12):
        raw = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Kind-%d: 1\r\n\r\n" % number
        for _ in range(OFTEN):
            parse_and_learn(forms, raw)
    assert len(forms._known) == 4
    parses.clear()
    long = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: %b\r\n\r\n" % (b"v" * 5000)
    for _ in range(OFTEN + 5):
        parse_and_learn(forms, long)
    assert len(parses) == OFTEN + 5


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 1\r\n\r\n",
    ],
)
def test_what_asks_for_more_than_fields_is_always_parsed(parses: list[bytes], raw: bytes) -> None:
    forms = RequestForms()
    for _ in range(2 * OFTEN):
        parse_and_learn(forms, raw)
    assert len(parses) == 2 * OFTEN


def test_an_interim_answer_gets_no_form(parses: list[bytes]) -> None:
    forms = ResponseForms()
    for _ in range(2 * OFTEN):
        parse_and_learn(forms, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")
    assert len(parses) == 2 * OFTEN


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.id)
def test_the_corpus_of_requests_is_judged_alike_with_forms_at_hand(case: Any) -> None:
    raw = case.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    forms = request_forms()
    assert verdict(lambda: forms.read(raw, **LIMITS)) == verdict(lambda: parse_request(raw, **LIMITS))
    for _ in range(OFTEN):  # and once it has, perhaps, a form of its own
        forms._raw = b""
        verdict(lambda: forms.read(raw, **LIMITS))
    assert verdict(lambda: forms.read(raw, **LIMITS)) == verdict(lambda: parse_request(raw, **LIMITS))


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.id)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_corpus_of_answers_is_judged_alike_with_forms_at_hand(case: Any, method: str) -> None:
    raw = case.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    forms = response_forms()
    for _ in range(OFTEN):
        forms._raw = b""
        seen = verdict(lambda: forms.read(raw, method=method, fields_max=20))
        assert seen == verdict(lambda: parse_response(raw, method=method, fields_max=20))


HOSTILE = st.one_of(
    st.sampled_from(
        [b"\r", b"\n", b"\x00", b"\t", b" ", b"\x7f", b"\xff", b"\x0b", b"\x85", b"\xa0", b"", b"#", b"?", b"%", b":", b"_", b"007"]
    ),
    st.sampled_from([b"\r\n", b"\r\nHost: b", b"\r\nContent-Length: 1", b"\r\n folded", b"9" * 19, b"9" * 30, b"+1", b"1,1", b"%b", b"%%"]),
    st.binary(max_size=6),
)


@given(st.sampled_from(REQUEST_KINDS), st.data())
@example(REQUEST_KINDS[0], None)
def test_a_changed_request_is_told_as_the_parser_tells_it(raw: bytes, data: Any) -> None:
    forms = request_forms()
    changed = raw if data is None else change(raw, data)
    changed = changed.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    forms._raw = b""
    assert verdict(lambda: forms.read(changed, **LIMITS)) == verdict(lambda: parse_request(changed, **LIMITS))


@given(st.sampled_from(RESPONSE_KINDS), st.sampled_from(["GET", "HEAD"]), st.data())
def test_a_changed_answer_is_told_as_the_parser_tells_it(raw: bytes, method: str, data: Any) -> None:
    forms = response_forms()
    changed = change(raw, data).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    forms._raw = b""
    seen = verdict(lambda: forms.read(changed, method=method, fields_max=20))
    assert seen == verdict(lambda: parse_response(changed, method=method, fields_max=20))


def change(raw: bytes, data: Any) -> bytes:
    """Put something hostile in place of a few bytes, perhaps twice."""
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(raw) - 4))
        raw = raw[:at] + data.draw(HOSTILE) + raw[at + data.draw(st.integers(0, 3)) :]
    return raw


def test_a_line_without_a_name_never_gets_a_blank() -> None:
    """No caller of the forms passes on such an empty line; if one did, the form must still not take what the parser refuses."""
    forms = ResponseForms()
    for _ in range(OFTEN):
        parse_and_learn(forms, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\r\n")
    with pytest.raises(Fault):
        forms.read(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n: 1\r\n\r\n", method="GET", fields_max=20)


def test_limits_hold_for_what_fits_a_form() -> None:
    forms = request_forms()
    with pytest.raises(Fault) as refused:
        forms.read(REQUEST_KINDS[0].replace(b"/v1/x", b"/" + b"x" * 200), **LIMITS)
    assert refused.value.code == "target_too_long"
    with pytest.raises(Fault) as refused:
        forms.read(REQUEST_KINDS[0].replace(b"GET", b"BREW"), **LIMITS)
    assert refused.value.code == "method_unknown"


def heads_of(kind: int, fields: int, uses: int) -> list[bytes]:
    """Heads of one outline, of `fields` fields."""
    lines = b"".join(b"X-%d-%d-%d: v\r\n" % (fields, kind, place) for place in range(fields))
    return [b"GET /%d HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (number, lines) for number in range(uses)]


@pytest.mark.parametrize("fields", [1, 8, 30, 60])
def test_a_form_is_printed_only_after_more_heads_than_it_costs(monkeypatch: pytest.MonkeyPatch, fields: int) -> None:
    printed: list[bytes] = []
    monkeypatch.setattr("robin.wire.forms.print_request", lambda raw, *_: printed.append(raw))
    forms = RequestForms()
    for raw in heads_of(0, fields, 32 + 4 * fields):
        forms.read(raw, target_bytes=200, fields_max=100)
    assert printed == []
    for raw in heads_of(0, fields, 32 + 4 * fields):
        forms.read(raw, target_bytes=200, fields_max=100)
    assert printed != []


def test_connections_keep_alive_no_outline_but_that_of_their_last_head() -> None:
    connections = [RequestForms() for _ in range(60)]
    first = connections[0].read(heads_of(0, 1, 1)[0], **LIMITS)
    for kind, forms in enumerate(connections):
        for more in range(4):
            for raw in heads_of(kind * 4 + more, 1, OFTEN):
                forms.read(raw, **LIMITS)
    alive = {id(outline): outline for forms in connections for _, known in forms._known if (outline := known()) is not None}
    assert 0 < sum(outline.form is not None for outline in alive.values()) <= 128
    assert len(alive) <= 128 + len(connections)
    assert first.outline.form is None


def test_a_form_that_is_forgotten_is_gone() -> None:
    forms = RequestForms()
    for raw in heads_of(7, 2, OFTEN):
        forms.read(raw, **LIMITS)
    outline = forms._known[0][1]()
    assert outline is not None
    form = weakref.ref(outline.form)
    for kind in range(200):
        forms.read(heads_of(1000 + kind, 2, 1)[0], **LIMITS)
    assert form() is None


def test_a_head_that_fits_no_form_is_known_for_that_at_once() -> None:
    lines = b"".join(b"X-Long-%d: %%b\r\n" % number for number in range(8))
    outline = RequestForms().read(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines % ((b"v",) * 8) + b"\r\n", **LIMITS).outline
    form = print_request(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines % ((b"v",) * 8) + b"\r\n", outline)
    blank = b"a" + b"\t " * 50_000
    near = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines % ((blank + b"b",) * 8) + b"\r\n"
    began = time.process_time()
    assert form.fullmatch(near) is not None
    fits_s = time.process_time() - began
    began = time.process_time()
    assert form.fullmatch(near.replace(b"b\r\n\r\n", b"\r\n\r\n")) is None
    assert form.fullmatch(near.replace(b"X-Long-7", b"X-Short7")) is None
    assert time.process_time() - began < 4 * fits_s + 0.01


def test_no_form_and_no_outline_holds_the_value_of_a_plain_field() -> None:
    forms = RequestForms()
    canary = b"canary-0123456789"
    raw = REQUEST_KINDS[0].replace(b"Bearer x", canary).replace(b"Id: 1", b"Id: " + canary).replace(b"/v1/x", b"/" + canary)
    for number in range(OFTEN):
        forms.read(raw.replace(b"Accept: a", b"Accept:%d" % number).replace(b"X-Request-Id: ", b"X-Request-Id:"), **LIMITS)
    forms.read(REQUEST_KINDS[0], **LIMITS)
    (outline,) = (known() for _, known in forms._known)
    assert outline is not None
    assert canary not in outline.form.pattern
    assert canary not in repr([(slot, getattr(outline, slot, None)) for slot in (*Outline.__slots__, *RequestOutline.__slots__)]).encode()
