"""How the demonstration broker verifies a token: signature, issuer, audience and time, each refusal with its own reason; no leeway.

It takes ES256, ES384 and RS256 and knows keys only by `kid`. `alg` never chooses the key type: the key does (RFC 8725 section 3.1).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

_CURVES: dict[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm, int]] = {
    "ES256": ("P-256", ec.SECP256R1(), hashes.SHA256(), 32),
    "ES384": ("P-384", ec.SECP384R1(), hashes.SHA384(), 48),
}


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
    if header.get("alg") not in {*_CURVES, "RS256"}:
        raise TokenRefused("algorithm")
    key = next((key for key in jwks["keys"] if key.get("kid") == header.get("kid") is not None), None)
    if key is None:
        raise TokenRefused("unknown_key")
    if not _verifies(key, header["alg"], parts[0] + b"." + parts[1], _decode(parts[2])):
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


def _verifies(key: Mapping[str, Any], algorithm: str, message: bytes, signature: bytes) -> bool:
    try:
        if key.get("kty") == "RSA" and algorithm == "RS256":
            rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key().verify(
                signature, message, padding.PKCS1v15(), hashes.SHA256()
            )
            return True
        if key.get("kty") != "EC" or algorithm not in _CURVES:
            return False
        name, curve, digest, size = _CURVES[algorithm]
        if key.get("crv") != name or len(signature) != 2 * size:
            return False
        encoded = encode_dss_signature(int.from_bytes(signature[:size]), int.from_bytes(signature[size:]))
        ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), curve).public_key().verify(encoded, message, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _number(text: str) -> int:
    return int.from_bytes(_decode(text.encode("ascii")))


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
