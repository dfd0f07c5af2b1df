"""A JSON Web Key Set (RFC 7517) as the keys that may verify signatures; all others in it are ignored, and so are private members.

A key is used if `use` is absent or `sig`, `key_ops` is absent or has `verify`, and its type is RSA of 2048 to 8192 bits, EC on P-256, P-384
or P-521, or OKP Ed25519 or Ed448. The library that imports and verifies (joserfc) is loaded with the first key set.
"""

import base64
import binascii
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from robin.wire.strict_json import parse_json_object

if TYPE_CHECKING:
    from joserfc.jwk import Key

KEY_SET_LIMIT_BYTES: Final = 262144
KEYS_MAX: Final = 100
_KID_CHARS_MAX: Final = 512
_RSA_BITS: Final = range(2048, 8193)
_EXPONENT_BITS_MAX: Final = 33
_CURVES: Final = {"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521")}
_EC_CURVES: Final = frozenset(curve for _, curve in _CURVES.values())
_OKP_CURVES: Final = frozenset({"Ed25519", "Ed448"})
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_HEADER_LIMIT_BYTES: Final = 16384


class KeySetRefused(Exception):
    """A key set that cannot be used. `reason` is one stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerificationKey:
    """One public key. `curve` is empty for RSA; `algorithm` is the one that the key set binds it to, None: any that fits its type."""

    kid: str | None
    kind: str
    curve: str
    algorithm: str | None
    imported: "Key"

    def fits(self, algorithm: str) -> bool:
        """Return True if signatures of this algorithm may be verified with this key (RFC 7518 section 3.1, RFC 8037 section 3.1)."""
        if self.algorithm is not None and self.algorithm != algorithm and not (algorithm == "EdDSA" and self.algorithm == self.curve):
            return False
        if algorithm in _CURVES:
            return (self.kind, self.curve) == _CURVES[algorithm]
        if algorithm == "EdDSA":
            return self.kind == "OKP"
        return self.kind == "RSA" and algorithm[:2] in {"RS", "PS"}

    def verifies(self, token: bytes, algorithm: str) -> bool:
        """Return True if the signature of this compact JWS is right for `algorithm`, which is the one that its header names."""
        from joserfc import jws  # noqa: PLC0415 - loaded with the first key
        from joserfc.errors import JoseError, SecurityWarning  # noqa: PLC0415

        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        registry.max_header_length = registry.max_signature_length = _HEADER_LIMIT_BYTES
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # RFC 9864 renames EdDSA; issuers still use the name
                jws.deserialize_compact(token, self.imported, registry=registry)
        except (JoseError, ValueError, TypeError):
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeySet:
    """The usable keys of one issuer, in their order. `ignored` counts the others."""

    keys: tuple[VerificationKey, ...]
    ignored: int

    def find(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys with this `kid`; without one, the only key of the set, and () if it has several."""
        if kid is None:
            return self.keys if len(self.keys) == 1 else ()
        return tuple(key for key in self.keys if key.kid == kid)


def parse_key_set(text: bytes) -> KeySet:
    """Return the usable keys in `text`. Raises KeySetRefused: too_large, not_json, no_keys, too_many_keys, no_usable_key."""
    if len(text) > KEY_SET_LIMIT_BYTES:
        raise KeySetRefused("too_large")
    try:
        listed = parse_json_object(text).get("keys")
    except ValueError:
        raise KeySetRefused("not_json") from None
    if not isinstance(listed, list):
        raise KeySetRefused("no_keys")
    if len(listed) > KEYS_MAX:
        raise KeySetRefused("too_many_keys")
    keys: dict[tuple[object, str, str], VerificationKey] = {}
    for index, jwk in enumerate(listed):
        key = _parse_key(jwk) if isinstance(jwk, dict) else None
        if key is not None:  # of two keys with one name that could be confused, the first counts
            keys.setdefault((index if key.kid is None else key.kid, key.kind, key.curve), key)
    if not keys:
        raise KeySetRefused("no_usable_key")
    return KeySet(keys=tuple(keys.values()), ignored=len(listed) - len(keys))


def _parse_key(jwk: dict[str, Any]) -> VerificationKey | None:
    """Return the key, or None for one that may not verify signatures."""
    kid, kind, algorithm, operations = jwk.get("kid"), jwk.get("kty"), jwk.get("alg"), jwk.get("key_ops", ["verify"])
    if not isinstance(kind, str) or kind not in _MEMBERS or jwk.get("use", "sig") != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if not (kid is None or (isinstance(kid, str) and len(kid) <= _KID_CHARS_MAX)) or not (algorithm is None or isinstance(algorithm, str)):
        return None
    public: dict[str, Any] = {"kty": kind, **{name: jwk.get(name) for name in _MEMBERS[kind]}}
    if not all(isinstance(value, str) for value in public.values()) or not _is_strong(public):
        return None
    imported = _import(public)
    if imported is None:
        return None
    return VerificationKey(kid=kid, kind=kind, curve=str(public.get("crv", "")), algorithm=algorithm, imported=imported)


def _is_strong(public: dict[str, Any]) -> bool:
    if public["kty"] == "RSA":
        modulus_bits, exponent_bits = _bits(public["n"]), _bits(public["e"])
        return modulus_bits in _RSA_BITS and 1 < exponent_bits <= _EXPONENT_BITS_MAX
    return public["crv"] in (_EC_CURVES if public["kty"] == "EC" else _OKP_CURVES)


def _bits(text: str) -> int:
    """The length of a base64url number in bits; 0 for what is none."""
    if len(text) > 2 * _RSA_BITS.stop // 8:
        return 0
    try:
        return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)).bit_length()
    except (binascii.Error, ValueError):
        return 0


def _import(public: dict[str, Any]) -> "Key | None":
    from joserfc.errors import JoseError  # noqa: PLC0415 - loaded with the first key
    from joserfc.jwk import JWKRegistry  # noqa: PLC0415

    try:
        return JWKRegistry.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError, OverflowError):  # a point off its curve, a bad length, an even exponent
        return None
