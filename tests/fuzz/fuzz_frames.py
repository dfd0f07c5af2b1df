"""Invariant: WebSocket frames cut anywhere are followed alike, and a boundary is where the plain grammar says that a frame ends."""

from tests.fuzz.parts import pieces_of

from robin.wire.websocket import FrameTracker

SEEDS = (
    b"\x81\x05hello\x88\x02\x03\xe9",
    b"\x82\xfe\x00\x80\x01\x02\x03\x04" + b"x" * 128,
    b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x03abc\x89\x00\x8a\x80\x00\x00\x00\x00",
    b"\x01\x01a\x80\x01b",
)
WORDS = (b"\x00", b"\x7e\x00\x01", b"\x7f" + b"\x00" * 7 + b"\x01", b"\x88\x00", b"\x89\x00", b"\x80", b"\xff" * 8)


def _boundary(data: bytes) -> bool:
    """Whether `data` ends exactly where a frame ends (RFC 6455 section 5.2)."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            return False
        short, masked = data[at + 1] & 0x7F, data[at + 1] >> 7
        more = {126: 2, 127: 8}.get(short, 0)
        length = int.from_bytes(data[at + 2 : at + 2 + more], "big") if more else short
        at += 2 + more + 4 * masked + length
        if at > len(data) or length >= 1 << 63:
            return False
    return True


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    whole = FrameTracker()
    whole.feed(data)
    assert whole.at_boundary is _boundary(data)
    for cut in (1, 2, 5, len(data) // 2, sum(data)):
        tracker = FrameTracker()
        for piece in pieces_of(data, cut):
            assert tracker.feed(piece) == len(piece)
        assert (tracker.at_boundary, tracker.closed) == (whole.at_boundary, whole.closed)
