"""Invariant: any bytes as a request head are a Fault of section 7, or strict grammar that goes on as one message h11 reads alike."""

# ruff: noqa: E501, PT017 - a table of words; a check asserts on what was raised, outside of pytest too

from tests.corpus.load import REQUESTS
from tests.differential.readers import read_with_h11, read_with_stdlib
from tests.fuzz.parts import REQUEST_HEAD, outbound_head

from robin.model.faults import Fault
from robin.model.message import Framing
from robin.wire.framing import last_chunk
from robin.wire.http1 import parse_request

CODES = {
    "bad_request",
    "target_too_long",
    "expectation_failed",
    "head_too_large",
    "method_refused",
    "method_unknown",
    "version_not_supported",
}
SEEDS = tuple(case.raw for case in REQUESTS if len(case.raw) < 2000)
WORDS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\x00", b"\x0b", b"\x85", b"\xa0", b"\xff", b":", b",", b";", b"HTTP/1.1", b"HTTP/1.0",
    b"GET ", b"POST ", b"OPTIONS * ", b"Host: localhost\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked",
    b"content_length: 1\r\n", b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"http://", b"@", b"#", b"%2e",
    b"Authorization: x\r\n", b"Max-Forwards: 0\r\n", b"TE: trailers\r\n", b"Via: 1.1 a\r\n", b"9223372036854775807", b"[::1]:80",
)  # fmt: skip


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    raw = b"".join((data + b"\r\n\r\n").partition(b"\r\n\r\n")[:2])  # a head is cut at its first empty line
    try:
        head = parse_request(raw, target_bytes=16384, fields_max=100)
    except Fault as fault:
        assert fault.code in CODES, fault.code
        assert fault.detail.isascii()
        return
    assert REQUEST_HEAD.fullmatch(raw), "accepted what is not strict grammar"
    assert head.host
    sent = outbound_head(head)
    assert sent == outbound_head(head)
    assert sent == outbound_head(parse_request(raw, target_bytes=16384, fields_max=100))
    if head.framing == Framing.CHUNKED:
        sent += last_chunk([])
    elif head.framing == Framing.LENGTH:
        assert 0 <= head.length < 1 << 63
        if head.length > 1 << 16:
            return
        sent += b"b" * head.length
    if head.target == b"*" or head.upgrade is not None:
        return
    reading = read_with_h11(sent)
    assert (reading.method, reading.target) == (head.method.encode(), head.target)
    names = [name for name, _ in reading.fields]
    assert names.count(b"authorization") == names.count(b"host") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    other = read_with_stdlib(sent)
    assert (other.method, other.target, other.fields, other.body) == (reading.method, reading.target, reading.fields, reading.body)
