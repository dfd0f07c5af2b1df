"""Key pairs of every kind, key sets, and tokens signed by PyJWT: a foreign judge beside the library that Robin verifies with."""

import base64
import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from robin.identity.trust.keys import KeySet, parse_key_set
from robin.identity.trust.settings import ALGORITHMS, JwksSettings, TrustSettings

NOW = 1_780_000_000.0
ISSUER = "https://issuer.example"
AUDIENCE = "robin"
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 300, "iat": NOW - 1}


@cache
def private_key(kind: str) -> Any:
    """`RSA`, `RSA1024`, `P-256`, `P-384`, `P-521`, `secp256k1`, `Ed25519` or `Ed448`; a suffix `/2` makes another one."""
    name = kind.partition("/")[0]
    if name.startswith("RSA"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(name[3:] or 2048))
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(), "secp256k1": ec.SECP256K1()}
    if name in curves:
        return ec.generate_private_key(curves[name])
    return (ed25519.Ed25519PrivateKey if name == "Ed25519" else ed448.Ed448PrivateKey).generate()


def jwk(kind: str, **members: object) -> dict[str, Any]:
    """The public key as a JWK."""
    public = private_key(kind).public_key()
    algorithm = RSAAlgorithm if kind.startswith("RSA") else OKPAlgorithm if kind.startswith("Ed") else ECAlgorithm
    made: dict[str, Any] = json.loads(algorithm.to_jwk(public))  # type: ignore[attr-defined]
    made.pop("key_ops", None)
    return made | members


def key_set(*keys: dict[str, Any]) -> KeySet:
    return parse_key_set(json.dumps({"keys": keys}).encode())


def kind_for(algorithm: str) -> str:
    """The key that an algorithm takes."""
    return {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}.get(algorithm, "RSA")


def sign(claims: object = None, *, algorithm: str = "ES256", kind: str = "", header: dict[str, Any] | None = None) -> bytes:
    """A token as PyJWT makes it, with the claims that are right where none are given; `kid` is the kind of the key."""
    kind = kind or kind_for(algorithm)
    payload = claims if isinstance(claims, bytes) else json.dumps(CLAIMS if claims is None else claims).encode()
    headers = {"kid": kind, **(header or {})}
    return jwt.api_jws.encode(payload, private_key(kind), algorithm=algorithm, headers=headers).encode()


def segment(value: object) -> bytes:
    """Base64url without padding, of JSON or of bytes."""
    octets = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


def sign_raw(header: bytes, payload: bytes) -> bytes:
    """A token whose first two segments are these very bytes, with a good ES256 signature."""
    algorithm = jwt.algorithms.get_default_algorithms()["ES256"]
    return b".".join((header, payload, segment(algorithm.sign(header + b"." + payload, private_key("P-256")))))


def settings(**changes: Any) -> TrustSettings:
    values: dict[str, Any] = {"issuer": ISSUER, "audiences": (AUDIENCE, "other"), "algorithms": ALGORITHMS, "jwks": JwksSettings(file="/x")}
    return TrustSettings(**(values | changes))
