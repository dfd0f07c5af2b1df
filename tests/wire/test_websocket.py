"""WebSocket frames: the tracker knows each boundary however the stream is cut, and our own frames are whole ones (RFC 6455)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.wire.websocket import FrameTracker, accept_value, close_frame


def frame(opcode: int, payload: bytes, mask: bytes | None, *, fin: bool = True, wide: int = 0) -> bytes:
    """One frame; `wide` asks for a longer length than needed: the tracker judges nothing, it follows."""
    size = len(payload)
    short, more = (
        (size, b"")
        if size < 126 and not wide
        else ((126, size.to_bytes(2, "big")) if wide < 2 and size < 65536 else (127, size.to_bytes(8, "big")))
    )
    head = bytes([opcode | (0x80 if fin else 0), short | (0x80 if mask else 0)])
    return head + more + (mask or b"") + payload


FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from([0, 1, 2, 9, 10]),
        st.one_of(st.binary(max_size=12), st.sampled_from([125, 126, 127, 300, 66000]).map(bytes)),
        st.one_of(st.none(), st.binary(min_size=4, max_size=4)),
        fin=st.booleans(),
        wide=st.integers(0, 2),
    ),
    min_size=1,
    max_size=6,
)


@given(FRAMES, st.lists(st.integers(0, 10**6), max_size=20))
def test_every_boundary_is_found_for_any_fragmentation(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frames)
    boundaries = {0}
    for one in frames:
        boundaries.add(max(boundaries) + len(one))
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts), *(edge + 1 for edge in boundaries if edge < len(stream))})
    tracker = FrameTracker()
    for start, stop in pairwise(edges):
        assert tracker.at_boundary is (start in boundaries)
        assert tracker.feed(stream[start:stop]) == stop - start
    assert tracker.at_boundary
    assert not tracker.closed


@given(FRAMES, st.data())
def test_asked_to_stop_it_takes_no_byte_beyond_the_present_frame(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cut = data.draw(st.integers(0, len(frames[0]) - 1))
    tracker = FrameTracker()
    tracker.feed(stream[:cut])
    assert tracker.feed(stream[cut:], stop_at_boundary=True) == len(frames[0]) - cut
    assert tracker.at_boundary


def test_a_close_frame_that_passed_is_remembered() -> None:
    tracker = FrameTracker()
    tracker.feed(frame(1, b"hello", None) + frame(8, b"\x03\xe8", b"abcd")[:3])
    assert not tracker.closed
    tracker.feed(frame(8, b"\x03\xe8", b"abcd")[3:] + frame(9, b"", None))
    assert tracker.closed


def test_a_length_of_64_bits_is_followed_without_holding_it() -> None:
    tracker = FrameTracker()
    tracker.feed(b"\x82\x7f" + (1 << 62).to_bytes(8, "big"))
    for _ in range(100):
        tracker.feed(b"x" * 65536)
    assert not tracker.at_boundary


@pytest.mark.parametrize("mask", [None, b"\x01\x02\x03\x04", b"\x00\x00\x00\x00"])
def test_our_close_frame_says_1001_masked_or_not_and_ends_at_a_boundary(mask: bytes | None) -> None:
    octets = close_frame(mask)
    tracker = FrameTracker()
    tracker.feed(octets)
    assert tracker.closed
    assert tracker.at_boundary
    payload = octets[-2:] if mask is None else bytes(byte ^ mask[at] for at, byte in enumerate(octets[-2:]))
    assert int.from_bytes(payload, "big") == 1001
    assert bool(octets[1] & 0x80) is (mask is not None)


def test_the_accept_value_is_that_of_the_rfc() -> None:
    assert accept_value(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 1.3
