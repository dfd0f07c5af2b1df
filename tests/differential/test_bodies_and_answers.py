"""Properties of bodies and answers: cut anywhere, padded anyhow, what Robin writes again is what two foreign parsers read (Q1, Q3).

Invariants: (1) a chunked body in any spelling and any cut decodes to its payload and its trailers; (2) h11 reads the same payload in what
goes on; (3) an answer that Robin brings down is one message, with the same status, fields and body, to h11 and to CPython's http.client.
"""

import io
from http.client import HTTPResponse

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.differential.test_one_message import canonical, names, ordinary, values

from robin.model.message import Framing
from robin.model.route import HeaderRules
from robin.wire.forwarding import forward_response
from robin.wire.framing import ChunkedDecoder, FramingError, chunk, last_chunk
from robin.wire.http1 import parse_response

payloads = st.lists(st.binary(min_size=1, max_size=60), max_size=8)
extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b;c, d"', b";a=b;c=d", b';a=""'])
trailers = st.lists(
    st.tuples(names.filter(lambda name: canonical(name) not in {b"content-length", b"transfer-encoding"}), values), max_size=5
)
spellings = st.tuples(st.integers(0, 6), st.booleans(), extensions)


def spelled(size: int, spelling: tuple[int, bool, bytes]) -> bytes:
    """One chunk line: leading zeros, upper or lower case, an extension."""
    zeros, upper, extension = spelling
    digits = b"%X" % size if upper else b"%x" % size
    return b"0" * zeros + digits + extension + b"\r\n"


def decode(raw: bytes, cuts: list[int]) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    """Payload, trailers and what is left, fed in pieces."""
    decoder, buffer, payload = ChunkedDecoder(), bytearray(), b""
    ends = sorted({cut % (len(raw) + 1) for cut in cuts} | {len(raw)})
    for start, end in zip([0, *ends], ends, strict=False):
        buffer += raw[start:end]
        while not decoder.done:
            pieces, used = decoder.decode(buffer)
            payload += b"".join(pieces)
            del buffer[:used]
            if not used:
                break
    assert decoder.done
    return payload, decoder.trailers, bytes(buffer)


@given(payloads, st.lists(spellings, min_size=9, max_size=9), trailers, st.lists(st.integers(0, 5000), max_size=12), st.binary(max_size=20))
def test_a_chunked_body_in_any_spelling_and_any_cut_is_its_payload(
    pieces: list[bytes], spelling: list[tuple[int, bool, bytes]], tail: list[tuple[bytes, bytes]], cuts: list[int], behind: bytes
) -> None:
    raw = b"".join(spelled(len(piece), how) + piece + b"\r\n" for piece, how in zip(pieces, spelling, strict=False))
    raw += spelled(0, spelling[-1]) + b"".join(b"%b: %b\r\n" % line for line in tail) + b"\r\n"
    payload, found, left = decode(raw + behind, cuts)
    assert payload == b"".join(pieces)
    assert found == tail
    assert left == behind


@given(payloads)
def test_what_is_chunked_again_is_the_same_payload_to_h11(pieces: list[bytes]) -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(map(chunk, pieces)) + last_chunk([]))
    assert isinstance(server.next_event(), h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert body == b"".join(pieces)


@given(payloads.filter(bool), st.integers(0, 400), st.sampled_from([b"\x00", b"\n", b" ", b"g", b"-"]))
def test_a_foreign_byte_in_the_framing_never_changes_the_length_of_a_whole_body(pieces: list[bytes], at: int, byte: bytes) -> None:
    raw = b"".join(map(chunk, pieces)) + last_chunk([])
    at %= len(raw)
    try:
        payload, _, _ = decode(raw[:at] + byte + raw[at:], [])
    except (FramingError, AssertionError):
        return
    assert len(payload) == len(b"".join(pieces)), "a byte was added, and the payload grew or shrank without notice"


statuses = st.sampled_from([200, 201, 204, 206, 226, 299, 301, 304, 400, 401, 404, 418, 429, 500, 503, 599])
reasons = st.sampled_from([b"", b"OK", b"Not Found", b"Caf\xe9 \t x"])
answer_fields = st.lists(st.tuples(names.filter(ordinary), values), max_size=10)


class _Unclosed(io.BytesIO):
    def close(self) -> None:
        pass


class _Stream:
    def __init__(self, raw: bytes) -> None:
        self.file = _Unclosed(raw)

    def makefile(self, _mode: str) -> io.BytesIO:
        return self.file


@given(statuses, reasons, answer_fields, st.sampled_from(["length", "chunked", "close"]), payloads, st.sampled_from(["GET", "HEAD"]))
def test_an_answer_brought_down_is_the_same_message_to_h11_and_to_http_client(
    status: int, reason: bytes, lines: list[tuple[bytes, bytes]], framing: str, pieces: list[bytes], method: str
) -> None:
    body = b"".join(pieces)
    framed = {"length": b"Content-Length: %d\r\n" % len(body), "chunked": b"Transfer-Encoding: chunked\r\n", "close": b""}[framing]
    raw = b"HTTP/1.1 %d %b\r\n" % (status, reason) + b"".join(b"%b: %b\r\n" % line for line in lines) + framed + b"\r\n"
    head = parse_response(raw, method=method, fields_max=1000)
    chunked = head.framing in {Framing.CHUNKED, Framing.CLOSE}
    sent = forward_response(head, rules=HeaderRules(via=b""), minor=1, keep_alive=True, chunked=chunked)
    if chunked:
        sent += b"".join(map(chunk, pieces)) + last_chunk([])
    elif head.framing == Framing.LENGTH:
        sent += body
    bodiless = method == "HEAD" or status in {204, 304}
    expected = b"" if bodiless else body
    ours = tuple((name.lower(), value) for name, value in lines)

    caller = h11.Connection(h11.CLIENT)
    caller.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    caller.send(h11.EndOfMessage())
    caller.receive_data(sent)
    event = caller.next_event()
    assert isinstance(event, h11.Response)
    assert (event.status_code, bytes(event.reason)) == (status, reason)
    assert tuple(line for line in event.headers if line[0] not in {b"content-length", b"transfer-encoding"}) == ours
    got = b""
    while isinstance(event := caller.next_event(), h11.Data):
        got += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (got, caller.trailing_data[0]) == (expected, b"")

    stream = _Stream(sent)
    other = HTTPResponse(stream, method=method)  # type: ignore[arg-type]
    other.begin()
    assert other.status == status
    assert other.read() == expected
    assert stream.file.read() == b""


@pytest.mark.parametrize("size", [1, 255, 256, 65535, 65536, 1 << 20])
def test_a_chunk_of_any_size_is_taken_apart_in_any_step(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    raw = chunk(payload[:size]) + last_chunk([])
    for step in (size // 3 + 1, 4096, 65536):
        found, _, left = decode(raw, list(range(0, len(raw), step)))
        assert (found, left) == (payload[:size], b"")
