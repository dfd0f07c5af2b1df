"""A chunked body that Robin takes for whole is the same bytes to llhttp; what llhttp takes, Robin takes too or refuses for a reason."""

import contextlib

import httptools
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.fuzz_chunks import SEEDS, WORDS

from robin.wire.framing import ChunkedDecoder, FramingError

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class ByLlhttp:
    """What llhttp makes of a chunked body: its payload, and whether it ended."""

    def __init__(self, data: bytes) -> None:
        self.payload = b""
        self.done = False
        with contextlib.suppress(httptools.HttpParserError):
            httptools.HttpRequestParser(self).feed_data(HEAD + data)

    def on_body(self, piece: bytes) -> None:
        if not self.done:
            self.payload += piece

    def on_message_complete(self) -> None:
        self.done = True


def by_robin(data: bytes) -> tuple[bytes, bool, str]:
    """Payload, whether the body ended, and the reason word of a refusal."""
    decoder = ChunkedDecoder()
    try:
        pieces, used = decoder.decode(data)
        while decoder.eager:
            more, further = decoder.decode(data[used:])
            pieces, used = pieces + more, used + further
    except FramingError as error:
        return b"", False, str(error).partition(":")[0]
    return b"".join(pieces), decoder.done, ""


def check(data: bytes) -> None:
    """Compare the two."""
    payload, done, reason = by_robin(data)
    other = ByLlhttp(data)
    if done:
        assert other.done, f"llhttp does not see the end of {data!r}"
        assert other.payload == payload
    if other.done and not done:
        assert reason in {"bad_chunk", "bad_trailer", "chunk_overhead"}, f"Robin neither ends nor refuses {data!r}"


def test_the_chunked_bodies_of_the_corpus() -> None:
    assert len(SEEDS) > 30
    for data in SEEDS:
        check(data)


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=4)), max_size=10).map(b"".join))
def test_any_words_of_the_coding(data: bytes) -> None:
    check(data)


@given(st.sampled_from(SEEDS), st.integers(0, 200), st.sampled_from([b"", b"\r", b"\n", b" ", b"0", b";", b":", b"\x00", b"\xff"]))
def test_a_good_body_with_one_byte_wrong(data: bytes, at: int, byte: bytes) -> None:
    at %= len(data) + 1
    check(data[:at] + byte + data[at + 1 :])
    check(data[:at] + byte + data[at:])
