"""The messages of `FetchJWTSVID` (SPIFFE Workload API section 6.2)."""

from dataclasses import dataclass
from typing import Final

from robin.model.secret import Secret
from robin.wire.protobuf import BadMessage, as_text, length_fields, render_bytes, render_text

FETCH_JWT_SVID: Final = "/SpiffeWorkloadAPI/FetchJWTSVID"
SECURITY_METADATA: Final = (b"workload.spiffe.io", b"true")  # SPIFFE Workload Endpoint section 3

_SVIDS_MAX: Final = 1000
_FIELDS_MAX: Final = 2000
_SVID_FIELDS_MAX: Final = 32  # SPIFFE knows three; together with _SVIDS_MAX a whole reply is read within some 60 ms


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
    named = render_text(2, request.spiffe_id) if request.spiffe_id else b""
    return b"".join(render_text(1, audience) for audience in request.audiences) + named


def parse_request(message: bytes) -> JwtSvidRequest:
    """JWTSVIDRequest; raises BadMessage."""
    audiences: list[str] = []
    spiffe_id = ""
    for number, value in length_fields(message, _FIELDS_MAX):
        if number == 1:
            audiences.append(as_text(value))
        elif number == 2:
            spiffe_id = as_text(value)
    return JwtSvidRequest(audiences=tuple(audiences), spiffe_id=spiffe_id)


def render_reply(svids: tuple[JwtSvid, ...]) -> bytes:
    """JWTSVIDResponse."""
    return b"".join(render_bytes(1, _render_svid(svid)) for svid in svids)


def parse_reply(message: Secret) -> tuple[JwtSvid, ...]:
    """The identities of a JWTSVIDResponse, in order; raises BadMessage."""
    svids: list[JwtSvid] = []
    for number, value in length_fields(message.reveal(), _FIELDS_MAX):
        if number == 1:
            if len(svids) == _SVIDS_MAX:
                raise BadMessage("too many identities")
            svids.append(_parse_svid(value))
    return tuple(svids)


def _render_svid(svid: JwtSvid) -> bytes:
    hint = render_text(3, svid.hint) if svid.hint else b""
    return render_text(1, svid.spiffe_id) + render_bytes(2, svid.svid.reveal()) + hint


def _parse_svid(message: bytes) -> JwtSvid:
    spiffe_id, svid, hint = "", b"", ""
    for number, value in length_fields(message, _SVID_FIELDS_MAX):
        if number == 1:
            spiffe_id = as_text(value)
        elif number == 2:
            svid = value
        elif number == 3:
            hint = as_text(value)
    return JwtSvid(spiffe_id=spiffe_id, svid=Secret(svid), hint=hint)
