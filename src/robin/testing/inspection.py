"""How the demonstration broker verifies a token: signature, issuer, audience and time, each refusal with its own reason; no leeway.

It takes ES256, ES384 and RS256 and knows keys only by `kid`. `alg` never chooses the key type: the key does (RFC 8725 section 3.1).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from joserfc import jwk, jws
from joserfc.errors import JoseError

_ALGORITHMS = ("ES256", "ES384", "RS256")


class TokenRefused(Exception):
    """`reason` is a stable word: malformed, algorithm, unknown_key, signature, issuer, audience, not_yet_valid, expired."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def inspect_token(token: bytes, *, jwks: Mapping[str, Any], issuer: str, audience: str, now: float) -> dict[str, Any]:
    """The claims of a token that is signed by one of `jwks`, from `issuer`, for `audience`, and valid at `now` (epoch seconds)."""
    parts = token.split(b".")
    if len(parts) != 3:
        raise TokenRefused("malformed")
    header, claims = _json_object(parts[0]), _json_object(parts[1])
    if header.get("alg") not in _ALGORITHMS:
        raise TokenRefused("algorithm")
    key = next((key for key in jwks["keys"] if key.get("kid") == header.get("kid") is not None), None)
    if key is None:
        raise TokenRefused("unknown_key")
    _decode(parts[2])
    if not _verifies(key, header["alg"], token):
        raise TokenRefused("signature")
    if claims.get("iss") != issuer:
        raise TokenRefused("issuer")
    audiences = claims.get("aud")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise TokenRefused("audience")
    if not isinstance(claims.get("exp"), int | float) or not isinstance(claims.get("nbf", 0), int | float):
        raise TokenRefused("malformed")
    if claims.get("nbf", 0) > now:
        raise TokenRefused("not_yet_valid")
    if claims["exp"] <= now:
        raise TokenRefused("expired")
    return claims


def _verifies(key: Mapping[str, Any], algorithm: str, token: bytes) -> bool:
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        jws.deserialize_compact(token, jwk.JWKRegistry.import_key(dict(key)), registry=registry)
    except (JoseError, ValueError, TypeError):
        return False
    return True


def _decode(part: bytes) -> bytes:
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise TokenRefused("malformed") from None


def _json_object(part: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(_decode(part))
    except (ValueError, RecursionError):
        raise TokenRefused("malformed") from None
    if not isinstance(parsed, dict):
        raise TokenRefused("malformed")
    return parsed
