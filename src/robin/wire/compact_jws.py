"""Compact JWS (RFC 7515) from hostile peers, strictly: canonical base64url, JSON objects without duplicate members, within a size.

Parsing verifies nothing: `signing_input` and `signature` are for a key of `wire.passport_keys`. No message holds a byte of the token.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from robin.wire.strict_json import JsonObject, parse_json_object

TOKEN_BYTES: Final = 8192
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]*")


class NotCanonical(ValueError):
    """The text is not what its own encoding would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactToken:
    """One token, unverified. `signing_input` is what the signature covers."""

    header: JsonObject
    claims: JsonObject
    signing_input: bytes
    signature: bytes


def encode_base64url(octets: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def decode_base64url(text: str, *, canonical: bool = True) -> bytes:
    """The octets of base64url without padding (RFC 7515 section 2), by default in its one canonical spelling. Raises NotCanonical.

    `canonical` False: bits behind the end may be anything, as in a token that was cut short.
    """
    if _SEGMENT.fullmatch(text) is None:
        raise NotCanonical
    try:
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise NotCanonical from None
    if canonical and encode_base64url(octets) != text:  # bits behind the end that are not zero
        raise NotCanonical
    return octets


def parse_compact(text: str, *, limit_bytes: int = TOKEN_BYTES) -> CompactToken:
    """The parts of a token. Raises ValueError for anything but one canonical token."""
    if len(text) > limit_bytes:
        raise ValueError("the token is too long")
    segments = text.split(".")
    if len(segments) != 3 or not all(segments):
        raise ValueError("the token is not three segments")
    header, claims = (parse_json_object(decode_base64url(segment)) for segment in segments[:2])
    signing_input = f"{segments[0]}.{segments[1]}".encode("ascii")
    return CompactToken(header=header, claims=claims, signing_input=signing_input, signature=decode_base64url(segments[2]))


def render_compact(header: Mapping[str, object], claims: Mapping[str, object], sign: Callable[[bytes], bytes]) -> str:
    """A token: members in their order, no spaces."""
    parts = (json.dumps(part, separators=(",", ":"), ensure_ascii=False).encode() for part in (header, claims))
    signing_input = ".".join(encode_base64url(part) for part in parts)
    return f"{signing_input}.{encode_base64url(sign(signing_input.encode('ascii')))}"
