"""What becomes of a request that will be signed (AWS Signature Version 4): which value stands for its body, or why it is refused. Pure.

The value is decided by the head alone, before anything is contacted. A body that its client has signed in chunks, and a URL that its client
has signed, are refused: both were made with keys that are not those of the credential.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final

from robin.model.message import Framing, RequestHead
from robin.model.route import Held, Route
from robin.wire.sigv4 import CONTENT_SHA256, EMPTY_SHA256, OF_BODY, OF_REQUEST, S3_SERVICES, UNSIGNED, query_names, sign_request

SIGNING_MODES: Final = ("sigv4", "sigv4:body", "sigv4:no_body")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{64}")
_STREAMED: Final = frozenset({UNSIGNED.encode(), b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"})
_SIGNED_URL: Final = frozenset({b"x-amz-signature", b"x-amz-credential", b"x-amz-security-token", b"awsaccesskeyid"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """How the requests of one binding are signed. `limit_bytes`: the largest body that is held to be digested."""

    mode: str
    service: str
    region: str
    limit_bytes: int


class Payload(StrEnum):
    """Which value stands for the body."""

    BODY = OF_BODY  # the digest of the body, which is held
    REQUEST = OF_REQUEST  # what the client announced
    EMPTY = EMPTY_SHA256
    UNSIGNED = UNSIGNED


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRefusal:
    """Why a request is not signed: a public code, and a sentence that begins with a reason word."""

    code: str
    detail: str


def plan_payload(head: RequestHead, signing: Signing, scheme: str) -> Payload | SigningRefusal:
    """Return what stands for the body of this request, or why it is refused."""
    if not _SIGNED_URL.isdisjoint(query_names(head.target.partition(b"?")[2])):
        return SigningRefusal(
            code="caller_credential_refused", detail="signed_url: the URL carries a credential of its own; send it without"
        )
    announced = head.values(CONTENT_SHA256)
    if any(value.startswith(b"STREAMING-") for value in announced) and (signing.mode != "sigv4" or announced[0] not in _STREAMED):
        return _unsupported("chunked: the client signs its body in chunks; let it send a plain or an unsigned one")
    if signing.mode == "sigv4:no_body":
        return Payload.UNSIGNED
    if signing.mode == "sigv4" and announced:
        return _announced(announced, scheme, hop_by_hop=CONTENT_SHA256 in head.connection_options)
    if head.framing != Framing.CHUNKED and head.length <= signing.limit_bytes:
        return Payload.BODY if head.length else Payload.EMPTY
    if signing.mode == "sigv4:body" and head.framing == Framing.CHUNKED:
        return Payload.BODY  # refused where it turns out to be too large
    if signing.mode == "sigv4" and signing.service in S3_SERVICES and scheme == "https":
        return Payload.UNSIGNED
    text = "too_large: a body beyond signing_max_body_bytes, or of unknown length, cannot be digested"
    return SigningRefusal(code="signing_body_too_large", detail=f"{text}; let the client send x-amz-content-sha256")


def _announced(values: list[bytes], scheme: str, *, hop_by_hop: bool) -> Payload | SigningRefusal:
    if len(values) != 1 or hop_by_hop:
        return _unsupported("repeated: x-amz-content-sha256 is there more than once, or for this hop only")
    if _HEX.fullmatch(values[0]) is not None:
        return Payload.REQUEST
    if values[0] not in _STREAMED:
        return _unsupported("unknown: x-amz-content-sha256 is neither a digest nor UNSIGNED-PAYLOAD")
    if scheme != "https":
        return _unsupported("plaintext: an unsigned body travels over TLS only")
    return Payload.REQUEST


def _unsupported(detail: str) -> SigningRefusal:
    return SigningRefusal(code="signing_mode_unsupported", detail=detail)


def signing_route(route: Route, signing: Signing, payload: Payload) -> Route:
    """The route of a request that is signed so; the body is held where its digest stands for it."""
    sign = partial(sign_request, service=signing.service, region=signing.region, payload=payload.value)
    body = Held(limit_bytes=signing.limit_bytes, too_large="signing_body_too_large") if payload is Payload.BODY else route.body
    return replace(route, sign=sign, body=body)
