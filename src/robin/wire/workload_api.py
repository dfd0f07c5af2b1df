"""The messages of `FetchJWTSVID` (SPIFFE Workload API section 6.2), written and read by hand: four fields do not need a protobuf library.

Reading follows the protobuf encoding: unknown fields are skipped, of a repeated scalar the last counts, a known field of another wire type
is an unknown one. Varints, lengths, field numbers and the number of fields are bounded before they are believed; groups are refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from robin.model.secret import Secret

FETCH_JWT_SVID: Final = "/SpiffeWorkloadAPI/FetchJWTSVID"
SECURITY_METADATA: Final = (b"workload.spiffe.io", b"true")  # SPIFFE Workload Endpoint section 3

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_LIMIT_BYTES: Final = 10
_SVIDS_MAX: Final = 1000
_FIELDS_MAX: Final = 2000
_SVID_FIELDS_MAX: Final = 32  # SPIFFE knows three; together with _SVIDS_MAX a whole reply is read within some 60 ms


class BadMessage(ValueError):
    """Bytes that are not the message they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvidRequest:
    """The request of a workload: the audiences, and one SPIFFE ID (empty: all that it may have)."""

    audiences: tuple[str, ...]
    spiffe_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """One identity of a reply. `svid` is the token, unchecked."""

    spiffe_id: str
    svid: Secret
    hint: str = ""


def render_request(request: JwtSvidRequest) -> bytes:
    """JWTSVIDRequest."""
    named = _render_text(2, request.spiffe_id) if request.spiffe_id else b""
    return b"".join(_render_text(1, audience) for audience in request.audiences) + named


def parse_request(message: bytes) -> JwtSvidRequest:
    """JWTSVIDRequest; raises BadMessage."""
    audiences: list[str] = []
    spiffe_id = ""
    for number, value in _length_fields(message, _FIELDS_MAX):
        if number == 1:
            audiences.append(_text(value))
        elif number == 2:
            spiffe_id = _text(value)
    return JwtSvidRequest(audiences=tuple(audiences), spiffe_id=spiffe_id)


def render_reply(svids: tuple[JwtSvid, ...]) -> bytes:
    """JWTSVIDResponse."""
    return b"".join(_render_bytes(1, _render_svid(svid)) for svid in svids)


def parse_reply(message: Secret) -> tuple[JwtSvid, ...]:
    """The identities of a JWTSVIDResponse, in order; raises BadMessage."""
    svids: list[JwtSvid] = []
    for number, value in _length_fields(message.reveal(), _FIELDS_MAX):
        if number == 1:
            if len(svids) == _SVIDS_MAX:
                raise BadMessage("too many identities")
            svids.append(_parse_svid(value))
    return tuple(svids)


def _render_svid(svid: JwtSvid) -> bytes:
    hint = _render_text(3, svid.hint) if svid.hint else b""
    return _render_text(1, svid.spiffe_id) + _render_bytes(2, svid.svid.reveal()) + hint


def _parse_svid(message: bytes) -> JwtSvid:
    spiffe_id, svid, hint = "", b"", ""
    for number, value in _length_fields(message, _SVID_FIELDS_MAX):
        if number == 1:
            spiffe_id = _text(value)
        elif number == 2:
            svid = value
        elif number == 3:
            hint = _text(value)
    return JwtSvid(spiffe_id=spiffe_id, svid=Secret(svid), hint=hint)


def _length_fields(message: bytes, most: int) -> Iterator[tuple[int, bytes]]:
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


def _text(value: bytes) -> str:
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


def _render_bytes(number: int, value: bytes) -> bytes:
    return _render_varint(number << 3 | _LENGTH) + _render_varint(len(value)) + value


def _render_text(number: int, text: str) -> bytes:
    return _render_bytes(number, text.encode("utf-8"))
