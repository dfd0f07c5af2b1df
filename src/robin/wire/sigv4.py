"""AWS Signature Version 4 as the last change to an outbound head: canonical request, string to sign, derived key, Authorization.

Signed are `host`, `content-type`, `content-md5` and every `x-amz-*`, and nothing else: a field that a proxy behind this one changes would
break the signature. S3 compares the path encoded once, every other service the normalised path with its segments encoded once more.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import HeldBody, OutboundRequest, canonical_name
from robin.model.secret import Secret
from robin.wire.forwarding import signing_fields

CONTENT_SHA256: Final = b"x-amz-content-sha256"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
OF_BODY: Final = "body"
OF_REQUEST: Final = "request"
S3_SERVICES: Final = frozenset({"s3", "s3-object-lambda", "s3-outposts", "s3express"})
WRITTEN: Final = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token")
"""The fields that a signature writes, whatever the caller has in them."""

_ALGORITHM: Final = b"AWS4-HMAC-SHA256"
_SIGNED: Final = frozenset({b"host", b"content-type", b"content-md5"})
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_SPACES: Final = re.compile(rb" {2,}")


def sign_request(
    outbound: OutboundRequest, held: HeldBody | None, credential: Credential, now: float, *, service: str, region: str, payload: str
) -> OutboundRequest:
    """The head with date and signature. `now` is the wall clock.

    `payload` is the value that stands for the body, or OF_BODY: the digest of the held body, or OF_REQUEST: what the caller announced in
    X-Amz-Content-Sha256. Raises Fault where that field is not forwarded. The fields of WRITTEN are not the caller's any more; the session
    token is among the secrets already.
    """
    keys = credential.signing
    assert keys is not None, "a route that signs has a credential with keys"
    start, announced = _without_payload_hash(outbound.start)
    if payload == OF_BODY:
        payload = EMPTY_SHA256 if held is None else held.sha256.hex()
    elif payload == OF_REQUEST:
        if announced is None:  # a hop-by-hop field, or one that is stripped here
            raise Fault("signing_mode_unsupported", "stripped: x-amz-content-sha256 is not forwarded, and so cannot be signed")
        payload = announced.decode("latin-1")
    date = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    lines = [b"X-Amz-Date: " + date.encode()]
    if service in S3_SERVICES or announced is not None or payload == UNSIGNED:
        lines.append(b"X-Amz-Content-Sha256: " + payload.encode("latin-1"))
    dated = outbound._replace(start=start).with_fields(*(Secret(line + b"\r\n") for line in lines))
    fields = _signed_fields(signing_fields(dated))
    names = b";".join(name for name, _ in fields)
    request = canonical_request(outbound.method, outbound.target, fields, names, payload, service)
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    to_sign = b"\n".join((_ALGORITHM, date.encode(), scope.encode(), hashlib.sha256(request).hexdigest().encode()))
    signature = hmac.new(_derive_key(keys.secret_access_key, date[:8], region, service), to_sign, hashlib.sha256).hexdigest()
    authorization = b"Authorization: %b Credential=%b/%b, SignedHeaders=%b, Signature=%b\r\n" % (
        _ALGORITHM,
        keys.access_key_id.encode("ascii"),
        scope.encode("ascii"),
        names,
        signature.encode("ascii"),
    )
    return dated.with_fields(Secret(authorization))


def canonical_request(method: str, target: bytes, fields: list[tuple[bytes, bytes]], names: bytes, payload: str, service: str) -> bytes:
    """Method, path, query, fields, their names and the payload's value, a line each."""
    path, _, query = target.partition(b"?")
    place = canonical_s3_path(path) if service in S3_SERVICES else canonical_path(path)
    listed = b"".join(b"%b:%b\n" % field for field in fields)
    return b"\n".join((method.encode("ascii"), place, canonical_query(query), listed, names, payload.encode("latin-1")))


def canonical_s3_path(path: bytes) -> bytes:
    """The path as sent, in the one spelling of its escapes: S3 neither normalises a path nor encodes it twice."""
    return b"".join(_recode(piece, keep=b"/") for piece in _pieces(path)) or b"/"


def canonical_path(path: bytes) -> bytes:
    """The path without dot segments and empty segments, and then encoded once more than it was sent."""
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(_encode(segment, keep=b""))
    ends = b"/" if segments and path.endswith(b"/") else b""
    return b"/" + b"/".join(segments) + ends


def canonical_query(query: bytes) -> bytes:
    """The parameters by encoded name, then value; a `+` is a space, as servers read it."""
    pairs = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.replace(b"+", b"%20").partition(b"=")
            pairs.append((_recode_all(name), _recode_all(value)))
    return b"&".join(b"%b=%b" % pair for pair in sorted(pairs))


def query_names(query: bytes) -> frozenset[bytes]:
    """The names of the parameters, decoded, in lower case."""
    names = (part.partition(b"=")[0].replace(b"+", b" ") for part in query.split(b"&"))
    return frozenset(_ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), name).lower() for name in names)


def _signed_fields(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those that are signed, by name; repeated ones are one field, with commas."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in _SIGNED or name.startswith(b"x-amz-"):
            found.setdefault(name, []).append(_SPACES.sub(b" ", value.strip()))
    return [(name, b",".join(found[name])) for name in sorted(found)]


def _without_payload_hash(start: bytes) -> tuple[bytes, bytes | None]:
    """The head without X-Amz-Content-Sha256, and its value; None where there was none."""
    kept, value = [], None
    for line in start.split(b"\r\n"):
        name, colon, rest = line.partition(b": ")
        if colon and canonical_name(name) == CONTENT_SHA256:
            value = rest
        else:
            kept.append(line)
    return (start, None) if value is None else (b"\r\n".join(kept), value)


def _derive_key(secret: Secret, day: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.reveal()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode("ascii"), hashlib.sha256).digest()
    return key


def _pieces(text: bytes) -> list[bytes]:
    """Escapes and what stands between them."""
    return re.findall(rb"%[0-9A-Fa-f]{2}|[^%]+|%", text)


def _recode(piece: bytes, *, keep: bytes) -> bytes:
    """One escape in its canonical spelling, or plain text with what must be encoded."""
    if len(piece) == 3 and (found := _ESCAPED.fullmatch(piece)) is not None:
        byte = int(found[1], 16)
        return bytes((byte,)) if byte in _UNRESERVED else b"%%%02X" % byte
    return _encode(piece, keep=keep)


def _recode_all(text: bytes) -> bytes:
    return b"".join(_recode(piece, keep=b"") for piece in _pieces(text))


def _encode(text: bytes, *, keep: bytes) -> bytes:
    return b"".join(bytes((byte,)) if byte in _UNRESERVED or byte in keep else b"%%%02X" % byte for byte in text)
