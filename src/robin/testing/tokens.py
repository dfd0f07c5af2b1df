"""Well-formed tokens without a valid signature, for tests of code that does not verify signatures."""

import base64
import json
import os
from typing import Any

_SIGNATURE_BYTES = {"ES256": 64, "ES384": 96, "ES512": 132, "EdDSA": 64}


def encode_segment(text: bytes) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def make_token(
    *,
    expires_at: float,
    audience: str | list[str] = "broker.example",
    subject: str = "spiffe://example.org/app",
    algorithm: str = "ES256",
    signature_bytes: int | None = None,
    header: dict[str, Any] | None = None,
    claims: dict[str, Any] | None = None,
) -> bytes:
    """A compact JWT; `header` and `claims` add to or replace what the other arguments say. No two are alike."""
    head = {"alg": algorithm, "typ": "JWT", **(header or {})}
    body = {"exp": expires_at, "aud": audience, "sub": subject, **(claims or {})}
    size = signature_bytes if signature_bytes is not None else _SIGNATURE_BYTES.get(algorithm, 256)
    return b".".join(encode_segment(part) for part in (json.dumps(head).encode(), json.dumps(body).encode(), os.urandom(size)))
