"""Whatever Robin's wire accepts and writes again, two foreign parsers read as the same single message (Q1); properties at wire level.

Invariants: (1) parse then forward then parse keeps method, target, end-to-end fields and framing; (2) h11 and CPython's http modules read
exactly one message in what goes out; (3) what Robin refuses or accepts never depends on case or order of unrelated fields.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.corpus.cases import Forwarded, RequestCase
from tests.corpus.load import REQUESTS
from tests.differential.outbound import credential, split_message
from tests.differential.readers import NotOneMessage, read_with_h11, read_with_stdlib
from tests.permits import permit_to, route
from tests.rows import every_row

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import Framing, RequiredField
from robin.model.origin import Origin
from robin.wire.forwarding import DEFAULT_STRIP, forward_request, render
from robin.wire.framing import ChunkedDecoder, chunk, last_chunk
from robin.wire.http1 import parse_request

ORIGIN = Origin(scheme="https", host="broker.example", port=443, authority=b"broker.example")
PERMIT = permit_to(ORIGIN, route(required=RequiredField(name=b"x-guard", value=None), pseudonym="robin-0011aabb"))
CREDENTIAL: Credential = credential(b"token.of.ours")
TCHAR = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

names = st.text(TCHAR, min_size=1, max_size=20).map(lambda text: text.encode())
value_bytes = st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09])
values = st.lists(value_bytes, max_size=40).map(lambda codes: bytes(codes).strip(b" \t"))
target_bytes = st.sampled_from([code for code in range(0x21, 0x7F) if code != 0x23])
targets = st.lists(target_bytes, max_size=60).map(lambda codes: b"/" + bytes(codes))
SPECIAL = (
    b"host content-length transfer-encoding connection upgrade expect te trailer keep-alive proxy-connection via authorization "
    b"proxy-authorization forwarded x-real-ip proxy-authenticate http2-settings x-guard origin sec-fetch-site max-forwards"
).split() + [name.encode() for name in DEFAULT_STRIP]


def canonical(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


def ordinary(name: bytes) -> bool:
    return canonical(name) not in SPECIAL and not canonical(name).startswith(b"x-forwarded-")


fields = st.lists(st.tuples(names.filter(ordinary), values), max_size=12)
bodies = st.one_of(
    st.none(), st.binary(max_size=300).map(lambda body: ("length", [body])),
    st.lists(st.binary(min_size=1, max_size=80), max_size=6).map(lambda pieces: ("chunked", pieces)),
)  # fmt: skip


def forward(raw: bytes) -> bytes:
    """What Robin's wire makes of one whole request."""
    head_bytes, rest = split_message(raw)
    head = parse_request(head_bytes, target_bytes=16384, fields_max=100)
    outbound = render(forward_request(head, PERMIT, CREDENTIAL))
    if head.framing is Framing.CHUNKED:
        decoder = ChunkedDecoder()
        pieces, used = decoder.decode(rest)
        while decoder.eager:
            more, further = decoder.decode(rest[used:])
            pieces, used = pieces + more, used + further
        assert decoder.done
        assert used == len(rest)
        return outbound + b"".join(chunk(piece) for piece in pieces if piece) + last_chunk(decoder.trailers)
    return outbound + rest[: head.length]


@given(st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD"]), targets, fields, bodies)
def test_a_forwarded_request_is_one_message_and_the_same_one_to_foreign_parsers(
    method: bytes, target: bytes, lines: list[tuple[bytes, bytes]], body: tuple[str, list[bytes]] | None
) -> None:
    raw = method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines)
    payload = b"".join(body[1]) if body else b""
    if body is None:
        raw += b"\r\n"
    elif body[0] == "length":
        raw += b"Content-Length: %d\r\n\r\n" % len(payload) + payload
    else:
        raw += b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunk(piece) for piece in body[1]) + last_chunk([])
    sent = forward(raw)
    by_h11, by_stdlib = read_with_h11(sent), read_with_stdlib(sent)
    assert (by_h11.method, by_h11.target, by_h11.body) == (method, target, payload)
    assert (by_stdlib.method, by_stdlib.target, by_stdlib.body) == (method, target, payload)
    expected = tuple((name.lower(), value) for name, value in lines)
    framing = {b"host", b"authorization", b"via", b"content-length", b"transfer-encoding"}
    assert tuple(line for line in by_h11.fields if line[0] not in framing) == expected
    assert tuple(line for line in by_stdlib.fields if line[0] not in framing) == expected
    assert [value for name, value in by_h11.fields if name == b"authorization"] == [b"Bearer token.of.ours"]


@given(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_no_secret_field_survives_in_any_spelling(chosen: list[bytes], draw: object) -> None:
    def spelled(name: bytes) -> bytes:
        text = "".join(draw.choice([char.upper(), char.lower()]) for char in name.decode())  # type: ignore[attr-defined]
        return "".join(draw.choice("-_") if char == "-" else char for char in text).encode()  # type: ignore[attr-defined]

    secret = [name for name in chosen if name not in FRAMES]
    lines = b"".join(spelled(name) + b": canary\r\n" for name in secret)
    sent = forward(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
    assert b"canary" not in sent


FRAMES = {*b"host content-length transfer-encoding connection expect via te upgrade origin sec-fetch-site max-forwards".split()}


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_fault_or_read_as_one_message(noise: bytes) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + noise + b"\r\n\r\n"
    end = raw.find(b"\r\n\r\n") + 4
    try:
        head = parse_request(raw[:end], target_bytes=16384, fields_max=100)
    except Fault:
        return
    sent = render(forward_request(head, PERMIT, CREDENTIAL))
    if head.framing is Framing.NONE:
        assert read_with_h11(sent).target == b"/"
        assert read_with_stdlib(sent).target == b"/"
    assert sent.count(b"Bearer ") - noise.count(b"Bearer ") <= 1


def wire_cases() -> list[RequestCase]:
    """Cases that are exactly one forwarded message on base `/`."""
    return [
        case
        for case in REQUESTS
        if len(case.verdicts) == 1 and isinstance(case.verdicts[0], Forwarded) and not case.base and not case.raw.startswith(b"\r\n")
    ]


def test_every_forwarded_case_is_the_same_single_message_to_h11_and_to_the_standard_library() -> None:
    with every_row() as row:
        for case in wire_cases():
            with row(case.id):
                verdict = case.verdicts[0]
                assert isinstance(verdict, Forwarded)
                sent = forward(case.raw)
                by_h11, by_stdlib = read_with_h11(sent), read_with_stdlib(sent)
                assert (by_h11.method, by_h11.target, by_h11.body) == (by_stdlib.method, by_stdlib.target, by_stdlib.body)
                assert by_h11.fields == by_stdlib.fields
                assert (by_h11.method, by_h11.body) == (verdict.method, verdict.body)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    ],
)
def test_the_oracles_notice_what_is_not_one_message(raw: bytes) -> None:
    with pytest.raises((NotOneMessage, Exception)):
        read_with_h11(raw)
    with pytest.raises((NotOneMessage, Exception)):
        read_with_stdlib(raw)
