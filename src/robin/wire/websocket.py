"""WebSocket as far as a tunnel needs it: the accept value, where one frame ends, and a Close frame (RFC 6455)."""

import base64
import hashlib
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_GOING_AWAY: Final = b"\x03\xe9"  # 1001


def accept_value(key: bytes) -> bytes:
    """What Sec-WebSocket-Accept must say to this Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def close_frame(mask: bytes | None) -> bytes:
    """A Close frame with status 1001 (going away); towards an origin it is masked with these four bytes."""
    if mask is None:
        return b"\x88\x02" + _GOING_AWAY
    return b"\x88\x82" + mask + bytes(byte ^ mask[at] for at, byte in enumerate(_GOING_AWAY))


class FrameTracker:
    """Follows one direction's frames by their headers only, so that a frame of our own can go in at a boundary."""

    __slots__ = ("_head", "_skip", "closed")

    def __init__(self) -> None:
        self._head = b""  # the bytes of a frame header that has not arrived whole
        self._skip = 0  # bytes of the present frame still to come
        self.closed = False  # a Close frame has passed: nothing may follow it

    @property
    def at_boundary(self) -> bool:
        """Whether everything fed so far ends exactly at the end of a frame."""
        return not self._head and not self._skip

    def feed(self, passed: bytes | bytearray, *, stop_at_boundary: bool = False) -> int:
        """Follow `passed`; how many bytes of it were taken: all, or up to the first frame boundary where that is asked for."""
        at, end = 0, len(passed)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
            else:
                held = len(self._head)
                head = self._head + passed[at : at + 14 - held]
                size, length = _frame_size(head)
                if not size:
                    self._head = bytes(head)
                    return end
                self._head = b""
                self.closed = self.closed or head[0] & 0x0F == 8
                at += size - held
                self._skip = length
            if stop_at_boundary and not self._skip:
                return at
        return end


def _frame_size(head: bytes | bytearray) -> tuple[int, int]:
    """Header size and payload length of the frame that `head` starts; (0, 0) while the header is not whole (RFC 6455 5.2)."""
    if len(head) < 2:
        return 0, 0
    length = head[1] & 0x7F
    size = 2 if length < 126 else (4 if length == 126 else 10)
    mask = 4 if head[1] & 0x80 else 0
    if len(head) < size + mask:
        return 0, 0
    if length >= 126:
        length = int.from_bytes(head[2:size], "big")
    return size + mask, length
