"""Invariant: any bytes as a response head are the Fault `upstream_protocol`, or strict grammar that h11 reads and frames alike."""

# ruff: noqa: E501, PT017 - a table of words; a check asserts on what was raised, outside of pytest too

import h11
from tests.corpus.load import RESPONSES
from tests.fuzz.parts import PERMIT, STATUS_HEAD

from robin.model.faults import Fault
from robin.model.message import Framing
from robin.wire.forwarding import forward_response
from robin.wire.framing import last_chunk
from robin.wire.http1 import parse_response
from robin.wire.shape import ParsedResponse

SEEDS = tuple(case.raw for case in RESPONSES if 0 < len(case.raw) < 2000)
WORDS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\x00", b"\x0b", b"\xff", b":", b",", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 ", b"HTTP/2.0 ",
    b"100", b"101", b"204", b"304", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"chunked",
    b"Connection: close\r\n", b"Connection: upgrade, x\r\n", b"Upgrade: websocket\r\n", b"Keep-Alive: timeout=5\r\n", b"9223372036854775808",
)  # fmt: skip


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`; every method reads it."""
    raw = b"".join((data + b"\r\n\r\n").partition(b"\r\n\r\n")[:2])  # a head is cut at its first empty line
    for method in ("GET", "HEAD"):
        try:
            head = parse_response(raw, method=method, fields_max=1000)
        except Fault as fault:
            assert fault.code == "upstream_protocol", fault.code
            assert fault.detail.isascii()
            continue
        assert STATUS_HEAD.fullmatch(raw), "accepted what is not strict grammar"
        assert 100 <= head.status <= 599
        if head.status != 101:
            _check_sent(head, method)


def _check_sent(head: ParsedResponse, method: str) -> None:
    chunked = head.framing in {Framing.CHUNKED, Framing.CLOSE}
    sent = forward_response(head, rules=PERMIT.route.header_rules, minor=1, keep_alive=True, chunked=chunked)
    caller = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    caller.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    caller.send(h11.EndOfMessage())
    caller.receive_data(sent)
    event = caller.next_event()
    assert isinstance(event, h11.InformationalResponse if head.status < 200 else h11.Response), event
    assert event.status_code == head.status
    names = [name for name, _ in event.headers]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    if head.status < 200:
        assert caller.next_event() is h11.NEED_DATA
    elif head.framing == Framing.LENGTH:
        assert 0 <= head.length < 1 << 63
        follows = caller.next_event()
        assert isinstance(follows, h11.EndOfMessage) if head.length == 0 else follows is h11.NEED_DATA
    else:
        if chunked:
            caller.receive_data(last_chunk([]))
        assert isinstance(caller.next_event(), h11.EndOfMessage)
