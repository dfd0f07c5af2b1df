"""A development identity authority: one signing key in memory, and tokens with the claims of a projected Kubernetes token or a JWT-SVID.

It signs whatever it is asked to sign: for tests and demonstrations on one machine, never for anything else.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from robin.transport.clock import Clock, SystemClock
from robin.transport.entropy import Entropy, SystemEntropy


def base64url(octets: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


class SigningKey:
    """An ES256 key and its public half as a JWK, named by its RFC 7638 thumbprint."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        members = {"crv": "P-256", "kty": "EC", "x": base64url(numbers.x.to_bytes(32)), "y": base64url(numbers.y.to_bytes(32))}
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        self.key_id = base64url(hashlib.sha256(canonical).digest())
        self.jwk = {**members, "kid": self.key_id, "alg": "ES256", "use": "sig"}

    def sign(self, message: bytes) -> bytes:
        """The 64 octets r || s (RFC 7518 section 3.4)."""
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)


class IdentityAuthority:
    """Signs identity tokens. `issuer` is their `iss`; `jwks()` is what a verifier needs."""

    def __init__(
        self,
        *,
        issuer: str = "https://authority.robin.test",
        trust_domain: str = "robin.test",
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.issuer = issuer
        self.trust_domain = trust_domain
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._keys = [SigningKey()]

    def jwks(self) -> dict[str, Any]:
        """The public keys, newest first (RFC 7517); the one before the newest stays for tokens still about."""
        return {"keys": [key.jwk for key in self._keys]}

    def discovery(self) -> dict[str, Any]:
        """The OpenID discovery document, with what the Kubernetes API server puts into its own."""
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def rotate_key(self) -> None:
        """Sign with a new key from now on."""
        self._keys = [SigningKey(), self._keys[0]]

    def service_account_token(
        self,
        *,
        audience: str | Sequence[str],
        lifetime_s: float = 3600.0,
        namespace: str = "demo",
        account: str = "agent",
        **claims: Any,
    ) -> bytes:
        """A token as the TokenRequest API mints it for a projected volume; `claims` replace or add."""
        audiences = [audience] if isinstance(audience, str) else list(audience)
        bound = {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": self._uid("node-1")},
            "pod": {"name": f"{account}-0", "uid": self._uid(f"{account}-0")},
            "serviceaccount": {"name": account, "uid": self._uid(account)},
        }
        return self.sign(
            {
                "aud": audiences,
                **self._times(lifetime_s),
                "iss": self.issuer,
                "jti": self._entropy.token_hex(16),
                "kubernetes.io": bound,
                "sub": f"system:serviceaccount:{namespace}:{account}",
                **claims,
            }
        )

    def jwt_svid(
        self, *, audience: str | Sequence[str], lifetime_s: float = 300.0, path: str = "/ns/demo/sa/agent", **claims: Any
    ) -> bytes:
        """A JWT-SVID for `spiffe://<trust domain><path>`; `claims` replace or add."""
        audiences = [audience] if isinstance(audience, str) else list(audience)
        return self.sign(
            {"aud": audiences, **self._times(lifetime_s), "iss": self.issuer, "sub": f"spiffe://{self.trust_domain}{path}", **claims}
        )

    def sign(self, claims: Mapping[str, Any], *, header: Mapping[str, Any] | None = None) -> bytes:
        """Any claims under any header (which replaces the usual one), as a compact JWS."""
        chosen = {"alg": "ES256", "kid": self._keys[0].key_id, "typ": "JWT"} if header is None else header
        parts = (base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (chosen, claims))
        message = ".".join(parts).encode("ascii")
        return message + b"." + base64url(self._keys[0].sign(message)).encode("ascii")

    def _times(self, lifetime_s: float) -> dict[str, int]:
        """Whole seconds, as the platforms write them; never less than the lifetime asked for."""
        now = self._clock.wall()
        return {"exp": math.ceil(now + lifetime_s), "iat": int(now), "nbf": int(now)}

    def _uid(self, name: str) -> str:
        digest = hashlib.sha256(f"{self.issuer} {name}".encode()).hexdigest()
        return "-".join((digest[:8], digest[8:12], "4" + digest[13:16], "a" + digest[17:20], digest[20:32]))
