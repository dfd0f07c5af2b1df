"""Chunked coding: what was put together comes apart the same, however it is cut; what it costs beyond its data is bounded."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.wire.framing import CHUNKS_A_TURN, ChunkedDecoder, FramingError, Trailer, chunk, last_chunk

TRAILERS = st.lists(
    st.tuples(st.sampled_from([b"X-A", b"X-b"]), st.sampled_from([b"", b"1", b"a:b"])),
    max_size=3,
)


def decode(octets: bytes, cuts: list[int]) -> tuple[bytes, list[Trailer], bytes, bool]:
    """Payload, trailers, what is left over, and whether the body is whole; `octets` arrive cut at `cuts`."""
    decoder, held, payload = ChunkedDecoder(), bytearray(), b""
    edges = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
    for start, stop in pairwise(edges):
        held += octets[start:stop]
        if not decoder.done:
            pieces, used = decoder.decode(held)
            payload += b"".join(pieces)
            del held[:used]
            assert not decoder.eager
    return payload, decoder.trailers, bytes(held), decoder.done


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    TRAILERS,
    st.binary(max_size=20),
    st.lists(st.integers(0, 10**6), max_size=12),
)
def test_chunks_and_trailers_come_back_whatever_the_cuts(
    payloads: list[bytes], trailers: list[Trailer], behind: bytes, cuts: list[int]
) -> None:
    octets = b"".join(map(chunk, payloads)) + last_chunk(trailers) + behind
    payload, found, left, done = decode(octets, cuts)
    assert done
    assert payload == b"".join(payloads)
    assert found == trailers
    assert left == behind


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4), st.data())
def test_a_body_that_is_cut_short_is_never_done(payloads: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(map(chunk, payloads)) + last_chunk([])
    end = data.draw(st.integers(0, len(octets) - 1))
    payload, _, _, done = decode(octets[:end], list(range(end)))
    assert not done
    assert b"".join(payloads).startswith(payload)


def test_a_flood_of_small_chunks_is_decoded_a_little_at_a_time() -> None:
    decoder, held, payload, turns = ChunkedDecoder(), bytearray(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"), b"", 0
    while not decoder.done:
        pieces, used = decoder.decode(held)
        assert len(pieces) <= CHUNKS_A_TURN
        assert used, "a turn that brings nothing would be the last"
        del held[:used]
        assert decoder.eager is (not decoder.done)
        payload += b"".join(pieces)
        turns += 1
    assert (payload, turns) == (b"x" * 5000, -(-5000 // CHUNKS_A_TURN))


PARTS = st.sampled_from(
    [b"0", b"1", b"5", b"a", b";", b"=", b'"', b"\r\n", b"\r", b"\n", b"x", b"hello", b"0\r\n", b"A: 1", b"\r\n\r\n", b"\x00"]
)


@given(st.lists(PARTS, max_size=12).map(b"".join), st.lists(st.integers(0, 60), max_size=8))
def test_any_bytes_are_judged_the_same_however_they_are_cut(octets: bytes, cuts: list[int]) -> None:
    def verdict(at: list[int]) -> object:
        try:
            payload, trailers, left, done = decode(octets, at)
        except FramingError:
            return "refused"
        return payload, trailers, left if done else b"", done

    assert verdict(cuts) == verdict([])


@pytest.mark.parametrize("line", [b"5;a=b", b'5;a="q;r"', b"05", b"000000000000000000005", b"5;a;b=c"])
def test_extensions_and_leading_zeros_are_read_and_dropped(line: bytes) -> None:
    assert decode(line + b"\r\nhello\r\n0\r\n\r\n", []) == (b"hello", [], b"", True)


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"0x5\r\n",
        b"+5\r\n",
        b"5 \r\n",
        b"5\n",
        b'5;a="q;\r\n',
        b"5;\r\n",
        b"5_0\r\n",
        b"8000000000000000\r\n",
        b"10000000000000000\r\n",
        b"5\r\nhelloX",
        b"5\r\nhello\n0\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nTransfer_Encoding: chunked\r\n\r\n",
        b"0\r\n folded: 1\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: 1\n\r\n",
    ],
)
def test_a_broken_body_is_refused_in_one_piece_and_byte_by_byte(octets: bytes) -> None:
    for cuts in ([], list(range(len(octets)))):
        with pytest.raises(FramingError):
            decode(octets, cuts)


@pytest.mark.parametrize("flood", [b"0" * 17000, b"1;" + b"a" * 17000, b"1\r\nx\r\n0\r\nA: " + b"v" * 9000])
def test_a_line_without_end_is_refused_before_much_of_it_is_held(flood: bytes) -> None:
    with pytest.raises(FramingError, match=r"^(chunk_overhead|bad_trailer)"):
        decode(flood, list(range(0, len(flood), 100)))


def test_thirty_two_trailers_pass_and_one_more_does_not() -> None:
    lines = [(b"X-%d" % number, b"v") for number in range(33)]
    assert len(decode(last_chunk(lines[:32]), [])[1]) == 32
    with pytest.raises(FramingError, match="too many"):
        decode(last_chunk(lines), [])


def test_a_refusal_holds_no_body_bytes() -> None:
    with pytest.raises(FramingError) as refusal:
        decode(b"5\r\nhellocanary\r\n", [])
    assert "canary" not in str(refusal.value)
