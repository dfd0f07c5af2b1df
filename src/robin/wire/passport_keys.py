"""Public keys of passports: Ed25519 and P-256 from a JWK or raw bytes, their RFC 7638 name, and the verification of a signature."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from robin.wire.compact_jws import decode_base64url, encode_base64url

ED25519_NAMES: Final = frozenset({"EdDSA", "Ed25519"})
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class BadKey(ValueError):
    """A JWK that is no public Ed25519 or P-256 key."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublicKey:
    """One public key. `thumbprint` is its RFC 7638 name; `raw` the 32 octets of an Ed25519 key, empty for P-256."""

    thumbprint: str
    raw: bytes
    key: Ed25519PublicKey | ec.EllipticCurvePublicKey

    def fits(self, algorithm: str) -> bool:
        """Whether this key can verify signatures of a JOSE algorithm."""
        return algorithm in ED25519_NAMES if self.raw else algorithm == "ES256"

    def verifies(self, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is right: 64 octets, for P-256 r and s as JOSE and RFC 9421 write them."""
        if len(signature) != 64:
            return False
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, octets)
            else:
                r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
                self.key.verify(encode_dss_signature(r, s), octets, ec.ECDSA(SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return True


def from_raw(raw: bytes) -> PublicKey:
    """An Ed25519 key from its 32 octets. Raises BadKey."""
    return parse_public({"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(raw)})


def parse_public(jwk: Mapping[str, object]) -> PublicKey:
    """A public JWK. Raises BadKey for another key type, a private or symmetric member, a point off its curve."""
    if _PRIVATE_MEMBERS & jwk.keys():
        raise BadKey("a private member")
    kind, curve = jwk.get("kty"), jwk.get("crv")
    try:
        if (kind, curve) == ("OKP", "Ed25519"):
            raw = _coordinate(jwk, "x")
            return PublicKey(thumbprint=_thumbprint(jwk, ("crv", "kty", "x")), raw=raw, key=Ed25519PublicKey.from_public_bytes(raw))
        if (kind, curve) == ("EC", "P-256"):
            x, y = (int.from_bytes(_coordinate(jwk, name), "big") for name in ("x", "y"))
            key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            return PublicKey(thumbprint=_thumbprint(jwk, ("crv", "kty", "x", "y")), raw=b"", key=key)
    except ValueError:
        raise BadKey("not a key of its curve") from None
    raise BadKey("another key type")


def public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    """The public JWK of a private key."""
    return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(key.public_key().public_bytes_raw())}


def thumbprint_of(key: Ed25519PrivateKey) -> str:
    """The RFC 7638 name of the public half."""
    return _thumbprint(public_jwk(key), ("crv", "kty", "x"))


def _coordinate(jwk: Mapping[str, object], name: str) -> bytes:
    octets = decode_base64url(str(jwk.get(name, "")))
    if len(octets) != 32:
        raise BadKey("a coordinate of another length")
    return octets


def _thumbprint(jwk: Mapping[str, object], members: tuple[str, ...]) -> str:
    text = json.dumps({name: jwk[name] for name in members}, separators=(",", ":"), sort_keys=True)
    return encode_base64url(hashlib.sha256(text.encode()).digest())
