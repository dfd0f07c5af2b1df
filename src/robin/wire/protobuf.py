"""The protobuf encoding by hand, as far as the Workload API needs it: a few fields do not need a library.

Unknown fields are skipped, of a repeated scalar the last counts, a known field of another wire type is an unknown one. Varints, lengths,
field numbers and the number of fields are bounded before they are believed; groups are refused.
"""

from collections.abc import Iterator
from typing import Final

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_LIMIT_BYTES: Final = 10


class BadMessage(ValueError):
    """Bytes that are not the message they should be."""


def length_fields(message: bytes, most: int) -> Iterator[tuple[int, bytes]]:
    """Every length-delimited field, as (number, bytes); the others are checked and skipped. `most`: fields of any kind."""
    at = count = 0
    while at < len(message):
        count += 1
        if count > most:
            raise BadMessage("too many fields")
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise BadMessage("bad field number")
        if kind == _LENGTH:
            size, at = _read_varint(message, at)
            if size > len(message) - at:
                raise BadMessage("a field is longer than its message")
            yield number, message[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
            if at > len(message):
                raise BadMessage("a field is longer than its message")
        else:
            raise BadMessage("bad wire type")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends: at most ten bytes and 64 bits."""
    value = 0
    for place in range(_VARINT_LIMIT_BYTES):
        if at >= len(message):
            raise BadMessage("a varint is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
    raise BadMessage("a varint is too long")


def as_text(value: bytes) -> str:
    """A string field; raises BadMessage."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadMessage("a text is not UTF-8") from None


def _render_varint(value: int) -> bytes:
    rendered = bytearray()
    while value >= 0x80:
        rendered.append(value & 0x7F | 0x80)
        value >>= 7
    rendered.append(value)
    return bytes(rendered)


def render_bytes(number: int, value: bytes) -> bytes:
    """One length-delimited field."""
    return _render_varint(number << 3 | _LENGTH) + _render_varint(len(value)) + value


def render_text(number: int, text: str) -> bytes:
    """One string field."""
    return render_bytes(number, text.encode("utf-8"))
