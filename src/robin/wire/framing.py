"""Where a body ends: chunked coding taken apart and put together again, sans-I/O (RFC 9112 section 7.1).

Rules a reader must keep: what a chunk line costs beyond its data is bounded over the whole message (64 bytes a chunk and 16 KiB), so
endless zeros, extensions or one-byte chunks cannot hold memory; a flood of small chunks is decoded a little at a time, so that it does
not hold the loop either; extensions are dropped; trailers are kept apart, never merged.
"""

import re
from typing import Final

from robin.model.message import canonical_name
from robin.wire.fields import TOKEN, trailer_is_valid

_EXTENSIONS = re.compile(rb"(?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb'|"[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]*"))?)*')
_PLAIN_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_BREAK = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
_HEX: Final = b"0123456789ABCDEFabcdef"
_SIZE_MAX: Final = 2**63 - 1
_OVERHEAD_BYTES: Final = 16384
_OVERHEAD_PER_CHUNK: Final = 64
_TRAILER_BYTES: Final = 8192
_TRAILER_FIELDS: Final = 32
CHUNKS_A_TURN: Final = 1024  # about 1.5 ms

_FRAMING_NAMES: Final = frozenset({b"content-length", b"transfer-encoding"})  # refused in trailers, not dropped
LAST_CHUNK: Final = b"0\r\n\r\n"

Trailer = tuple[bytes, bytes]
"""Name as sent, and value without outer spaces and tabs."""


class FramingError(Exception):
    """The chunked coding is broken. The message starts with a reason word and holds no body bytes."""


class ChunkedDecoder:
    """Takes a chunked body apart. After `done`, `trailers` holds the trailer fields and what follows in the buffer is not ours.

    `eager`: it stopped for the sake of others, and what is left in the buffer can be decoded without more.
    """

    __slots__ = ("_chunks", "_need", "_overhead", "_phase", "_scanned", "done", "eager", "trailers")

    _LINE, _BODY, _END, _TRAILERS = range(4)

    def __init__(self) -> None:
        self.done = False
        self.eager = False
        self.trailers: list[Trailer] = []
        self._phase = self._LINE
        self._need = 0  # bytes of the present chunk still to come
        self._chunks = 0
        self._overhead = 0
        self._scanned = 0  # bytes of an unfinished line or trailer section that were looked at

    @property
    def between_chunks(self) -> bool:
        """Whether all that was taken so far are whole chunks."""
        return self._phase == self._LINE

    def decode(self, buffer: bytes | bytearray) -> tuple[list[bytes], int]:
        """Decode what `buffer` holds, CHUNKS_A_TURN at most: the payload pieces, and how many bytes of it were used.

        The rest must be shown again, with more unless `eager`. Raises FramingError.
        """
        self.eager = False
        pieces: list[bytes] = []
        at, end = 0, len(buffer)
        while at < end:
            if self._phase == self._BODY:
                stop = min(end, at + self._need)
                pieces.append(bytes(buffer[at:stop]))
                self._need -= stop - at
                at = stop
                if self._need:
                    break
                self._phase = self._END
            elif self._phase == self._END:
                if buffer[at : at + 2] != b"\r\n":
                    if end - at == 1 and buffer[at] == 0x0D:
                        break
                    raise FramingError("bad_chunk: chunk data must end in CRLF")
                at += 2
                self._phase = self._LINE
            elif self._phase == self._LINE:
                if len(pieces) >= CHUNKS_A_TURN:
                    self.eager = True
                    break
                used = self._read_line(buffer, at)
                if not used:
                    break
                at += used
            else:
                at += self._read_trailers(buffer, at)
                break
        return pieces, at

    def _read_line(self, buffer: bytes | bytearray, at: int) -> int:
        """The chunk line at `at`: how many bytes it took, 0 when it is not whole yet. Only bytes not seen before are looked at."""
        plain = _PLAIN_LINE.match(buffer, at)
        if plain is not None:
            size, used = int(plain[1], 16), plain.end() - at
        else:
            end = buffer.find(b"\r\n", at + max(0, self._scanned - 1))
            used = (len(buffer) if end < 0 else end + 2) - at
        if self._overhead + used > _OVERHEAD_PER_CHUNK * self._chunks + _OVERHEAD_BYTES:
            raise FramingError("chunk_overhead: chunk sizes, extensions and padding outweigh the data")
        if plain is None:
            if end < 0:
                self._judge_partial(buffer, at)
                self._scanned = used
                return 0
            size = _chunk_size(bytes(buffer[at:end]))
        if size > _SIZE_MAX:
            raise FramingError("bad_chunk: the chunk size exceeds 2^63-1")
        self._scanned = 0
        self._overhead += used
        self._chunks += 1
        self._need = size
        self._phase = self._BODY if size else self._TRAILERS
        return used

    def _judge_partial(self, buffer: bytes | bytearray, at: int) -> None:
        """An unfinished line that can not become a good one is refused now."""
        if buffer[at] not in _HEX or _BREAK.search(buffer, at + max(0, self._scanned - 1)):
            raise FramingError("bad_chunk: the chunk line is not valid")

    def _read_trailers(self, buffer: bytes | bytearray, at: int) -> int:
        """The trailer section at `at`, once it is whole."""
        if buffer[at : at + 2] == b"\r\n":
            self.done = True
            return 2
        fresh = at + max(0, self._scanned - 3)
        end = buffer.find(b"\r\n\r\n", fresh)
        used = (end + 4 if end >= 0 else len(buffer)) - at
        if used > _TRAILER_BYTES:
            raise FramingError("bad_trailer: the trailer section is too large")
        if end < 0:
            if _BREAK.search(buffer, fresh):
                raise FramingError("bad_trailer: a bare CR or LF in the trailer section")
            self._scanned = used
            return 0
        lines = bytes(buffer[at:end]).split(b"\r\n")
        if len(lines) > _TRAILER_FIELDS:
            raise FramingError("bad_trailer: too many trailer fields")
        for line in lines:
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            if not colon or not trailer_is_valid(name, value) or canonical_name(name) in _FRAMING_NAMES:
                raise FramingError("bad_trailer: a trailer line is not valid")
            self.trailers.append((name, value))
        self.done = True
        return used


def _chunk_size(line: bytes) -> int:
    """The size in a whole chunk line without its CRLF. Raises FramingError."""
    text, _, _ = line.partition(b";")
    digits = text.lstrip(b"0")
    if not text or len(digits) > 16 or text.strip(_HEX) or not _EXTENSIONS.fullmatch(line, len(text)):
        raise FramingError("bad_chunk: the chunk line is not valid")
    return int(digits or b"0", 16)


def chunk(payload: bytes) -> bytes:
    """`payload` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: list[Trailer]) -> bytes:
    """The last chunk and these trailer fields."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % trailer for trailer in trailers)
