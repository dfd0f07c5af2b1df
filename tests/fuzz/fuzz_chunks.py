"""Invariant: a chunked body cut anywhere decodes as in one piece and as by the plain grammar; what goes on is what h11 reads."""

# ruff: noqa: E501 - a table of words; a check asserts on what was raised, outside of pytest too

import re

import h11
from tests.corpus.requests_body import CHUNKED, CHUNKS, TRAILERS
from tests.fuzz.parts import FIELD_LINE, TOKEN, pieces_of

from robin.wire.framing import ChunkedDecoder, FramingError, chunk, last_chunk

SEEDS = tuple(case.raw[len(CHUNKED) :] for case in CHUNKS + TRAILERS if case.raw.startswith(CHUNKED) and len(case.raw) < 4000)
WORDS = (
    b"\r\n", b"\n", b"\r", b"0\r\n\r\n", b"0\r\n", b"1\r\nx\r\n", b"5\r\nhello\r\n", b";a=b", b';a="b;c"', b" ", b"\t", b"\x00", b"0x1", b"+1",
    b"ffffffffffffffff\r\n", b"7fffffffffffffff\r\n", b"X: 1\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"0000000000",
)  # fmt: skip

_EXTENSION = rb"(?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb'|"[\t !#-\[\]-~\x80-\xff]*"))?)*'
_LINE = re.compile(rb"0*([0-9A-Fa-f]{0,16})" + _EXTENSION + rb"\r\n")
_NO_TRAILERS = re.compile(rb"\r\n")
_TRAILERS = re.compile(FIELD_LINE + rb"{1,32}\r\n")

Outcome = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], int]
BROKEN: Outcome = ("broken", b"", (), 0)


def decoded(pieces: list[bytes]) -> Outcome:
    """What Robin makes of the pieces: broken, more or done; payload; trailers; how many bytes it took."""
    decoder, buffer, payload, taken = ChunkedDecoder(), bytearray(), b"", 0
    try:
        for piece in pieces:
            buffer += piece
            while not decoder.done:
                found, used = decoder.decode(buffer)
                payload += b"".join(found)
                taken += used
                del buffer[:used]
                if not used:
                    break
    except FramingError:
        return BROKEN
    return ("done" if decoder.done else "more", payload, tuple(decoder.trailers), taken)


def by_the_grammar(data: bytes) -> Outcome | None:
    """The plain reading of a whole body; None where it is not a whole good one."""
    at, payload = 0, b""
    while line := _LINE.match(data, at):
        if not data[at : at + 1].strip(b";\r"):
            return None
        at, size = line.end(), int(line[1] or b"0", 16)
        if size == 0:
            break
        payload += data[at : at + size]
        at += size + 2
        if data[at - 2 : at] != b"\r\n":
            return None
    else:
        return None
    end = _NO_TRAILERS.match(data, at) or _TRAILERS.match(data, at)
    if end is None or end.end() - at > 8192 or re.search(rb"(?i)^(?:content[-_]length|transfer[-_]encoding):", end[0], re.MULTILINE):
        return None
    lines = [line.partition(b":") for line in end[0].split(b"\r\n")[:-2]]
    return ("done", payload, tuple((name, value.strip(b" \t")) for name, _, value in lines), end.end())


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    whole = decoded([data])
    for cut in (1, 2, 3, len(data) // 2, len(data) - 1, sum(data)):
        assert decoded(pieces_of(data, cut)) == whole, f"cut at {cut % (len(data) + 1)}"
    assert decoded([data[at : at + 1] for at in range(len(data))]) == whole if len(data) < 600 else True
    plain = by_the_grammar(data)
    if whole[0] == "done":
        assert plain == whole, "accepted what the grammar does not say so"
        _check_sent(whole[1], whole[2])
    elif plain is not None:
        overhead = plain[3] - len(plain[1])
        assert overhead > 16384 // 2, "refused a good body that is no flood"


def _check_sent(payload: bytes, trailers: tuple[tuple[bytes, bytes], ...]) -> None:
    """Chunked again, h11 reads the same payload and the same trailers."""
    sent = (chunk(payload) if payload else b"") + last_chunk([])
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
    assert isinstance(server.next_event(), h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage), event
    assert body == payload
    assert all(b"\r" not in value and b"\n" not in value for _, value in trailers)
