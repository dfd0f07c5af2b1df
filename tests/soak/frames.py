"""WebSocket frames (RFC 6455 section 5), as little of them as an echo needs."""

import struct

from tests.soak.wire import Wire

BINARY, CLOSE = 2, 8
GOING_AWAY = 1001


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """One whole frame; `mask` is four bytes for a client, nothing for a server."""
    size = len(payload)
    masked = 0x80 if mask else 0
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, masked | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, masked | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, masked | 127, size)
    return head + mask + (apply_mask(payload, mask) if mask else payload)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """Mask or unmask."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


async def read_frame(wire: Wire) -> tuple[int, bytes]:
    """(opcode, payload unmasked) of the next frame."""
    first, second = await wire.read_exactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", await wire.read_exactly(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", await wire.read_exactly(8))
    mask = await wire.read_exactly(4) if second & 0x80 else b""
    payload = await wire.read_exactly(size)
    return first & 0x0F, apply_mask(payload, mask) if mask else payload
