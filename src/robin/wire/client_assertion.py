"""Client assertions that are signed here (RFC 7523 section 3, `private_key_jwt`): private keys from PEM or JWK, and the signed JWT."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from robin.model.secret import Secret
from robin.wire.compact_jws import decode_base64url, encode_base64url, render_compact
from robin.wire.strict_json import parse_json_object

KEY_BYTES_MAX: Final = 32768
_RSA_BITS: Final = range(2048, 8193)
_BEFORE_S: Final = 5
_LIFE_S: Final = 60


class BadAssertionKey(ValueError):
    """A file that holds no key for assertions. The message holds nothing of the file."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssertionKey:
    """One private key. `kid` is that of the JWK, else the RFC 7638 thumbprint; `sign` returns a JOSE signature of `algorithm`."""

    algorithm: str
    kid: str
    sign: Callable[[bytes], bytes]

    def __repr__(self) -> str:
        return f"AssertionKey({self.algorithm}, hidden)"


def parse_key(content: Secret) -> AssertionKey:
    """An RSA key of 2048 bits or more (RS256) or a P-256 key (ES256), in PEM without a passphrase or as a JWK. Raises BadAssertionKey."""
    octets = content.reveal()
    if len(octets) > KEY_BYTES_MAX:
        raise BadAssertionKey("the file is too large")
    try:
        if octets.lstrip()[:1] == b"{":
            members = parse_json_object(octets)
            kid = members.get("kid")
            return _of_key(_from_jwk(members), kid if isinstance(kid, str) and 0 < len(kid) <= 256 else "")
        return _of_key(load_pem_private_key(octets, password=None), "")
    except BadAssertionKey:
        raise
    except (ValueError, TypeError, KeyError, ArithmeticError, UnsupportedAlgorithm):  # a passphrase is a TypeError
        raise BadAssertionKey("it is neither a private key in PEM without a passphrase nor a private JWK") from None


def _of_key(key: object, kid: str) -> AssertionKey:
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size not in _RSA_BITS:
            raise BadAssertionKey("an RSA key has 2048 to 8192 bits")
        public = key.public_key().public_numbers()
        names = {"e": _encode(public.e), "kty": "RSA", "n": _encode(public.n)}

        def sign_rsa(octets: bytes) -> bytes:
            return key.sign(octets, padding.PKCS1v15(), SHA256())

        return AssertionKey(algorithm="RS256", kid=kid or _thumbprint(names), sign=sign_rsa)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        point = key.public_key().public_numbers()
        names = {"crv": "P-256", "kty": "EC", "x": _encode(point.x, 32), "y": _encode(point.y, 32)}

        def sign_ec(octets: bytes) -> bytes:
            r, s = decode_dss_signature(key.sign(octets, ec.ECDSA(SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")

        return AssertionKey(algorithm="ES256", kid=kid or _thumbprint(names), sign=sign_ec)
    raise BadAssertionKey("the key is neither RSA nor P-256")


def _from_jwk(members: Mapping[str, object]) -> object:
    def number(name: str) -> int:
        return int.from_bytes(decode_base64url(str(members[name])), "big")

    if members.get("kty") == "EC" and members.get("crv") == "P-256":
        point = ec.EllipticCurvePublicNumbers(number("x"), number("y"), ec.SECP256R1())
        return ec.EllipticCurvePrivateNumbers(number("d"), point).private_key()
    if members.get("kty") == "RSA":
        n, e, d = number("n"), number("e"), number("d")
        if n.bit_length() not in _RSA_BITS:
            raise BadAssertionKey("an RSA key has 2048 to 8192 bits")
        p, q = number("p"), number("q")  # finding them would take seconds
        parts = rsa.RSAPrivateNumbers(
            p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), rsa.RSAPublicNumbers(e, n)
        )
        return parts.private_key()
    raise BadAssertionKey("the JWK is neither RSA nor P-256")


def _encode(number: int, length: int = 0) -> str:
    return encode_base64url(number.to_bytes(length or (number.bit_length() + 7) // 8, "big"))


def _thumbprint(names: Mapping[str, str]) -> str:
    return encode_base64url(hashlib.sha256(json.dumps(names, separators=(",", ":"), sort_keys=True).encode()).digest())


def sign_assertion(key: AssertionKey, *, client_id: str, audience: str, typ: str, jti: str, now: float) -> Secret:
    """An assertion for one call (RFC 7523 section 3): the client about itself, for one audience, for a minute."""
    header = {"alg": key.algorithm, "kid": key.kid, "typ": typ}
    at = int(now)
    claims = {"iss": client_id, "sub": client_id, "aud": audience, "iat": at - _BEFORE_S, "exp": at + _LIFE_S, "jti": jti}
    return Secret(render_compact(header, claims, key.sign).encode("ascii"))
