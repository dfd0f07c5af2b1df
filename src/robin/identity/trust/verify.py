"""A JWT of a caller -> verified claims: strict parsing, one configured algorithm that fits the key, then the claims (RFC 7519, RFC 8725).

The header chooses nothing but which of the issuer's own keys to try: `jwk`, `jku`, `x5c` and `x5u` in it are ignored. The text is hostile
input: no reason and no exception of this module holds a byte of it. Claims are parsed after the signature was verified.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from robin.identity.trust.key_sources import KeySource
from robin.identity.trust.keys import KeySet, VerificationKey
from robin.identity.trust.settings import TrustSettings
from robin.model.secret import Secret
from robin.wire.compact_jws import decode_base64url
from robin.wire.jwt_inspection import numeric_date
from robin.wire.strict_json import JsonObject, parse_json_object

TOKEN_LIMIT_BYTES: Final = 16384
_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_TYPES: Final = frozenset({"jwt", "jose", "at+jwt"})


class NotVerified(Exception):
    """A token that is not accepted. `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


REASONS: Final = frozenset(
    "too_large malformed algorithm critical_header bad_typ bad_kid missing_kid unknown_kid key_mismatch signature"
    " bad_exp bad_nbf bad_iat expired not_yet_valid issued_in_future too_long_lived bad_iss bad_aud bad_sub".split()
)
"""Every reason of NotVerified, in the order of the checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedClaims:
    """Claims whose signature, issuer, audience and dates were verified. Times are wall-clock seconds; `claims` has every claim."""

    issuer: str | None
    subject: str
    audiences: tuple[str, ...]
    expires_at: float
    issued_at: float | None
    algorithm: str
    kid: str | None
    claims: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    algorithm: str
    kid: str | None


class TokenVerifier:
    """Verifies the tokens of one issuer."""

    __slots__ = ("_keys", "_settings", "_wall")

    def __init__(self, settings: TrustSettings, keys: KeySource, wall: Callable[[], float]) -> None:
        self._settings = settings
        self._keys = keys
        self._wall = wall

    def ready(self, token: Secret) -> VerifiedClaims | None:
        """Return the claims if the keys are at hand; None when keys must be fetched (`obtain`). Raises NotVerified."""
        octets = token.reveal()
        header = _parse_header(octets, self._settings)
        keys = self._keys.ready()
        if keys is None:
            return None
        key = _choose(keys, header)
        return None if key is None else self._verify(octets, header, key)

    async def obtain(self, token: Secret) -> VerifiedClaims:
        """Return the claims, after a fetch of the keys where they are not at hand or the token names an unknown one.

        Raises NotVerified; KeysUnavailable where there are no keys to verify with.
        """
        octets = token.reveal()
        header = _parse_header(octets, self._settings)
        key = _choose(await self._keys.obtain(), header)
        if key is None:
            key = _choose(await self._keys.renew(), header)
        if key is None:
            raise NotVerified("unknown_kid")
        return self._verify(octets, header, key)

    def _verify(self, octets: bytes, header: _Header, key: VerificationKey) -> VerifiedClaims:
        if not key.verifies(octets, header.algorithm):
            raise NotVerified("signature")
        return _check_claims(_parse_segment(octets.split(b".")[1]), self._settings, header, now=self._wall())


def _parse_header(octets: bytes, settings: TrustSettings) -> _Header:
    if len(octets) > TOKEN_LIMIT_BYTES:
        raise NotVerified("too_large")
    match = _COMPACT.fullmatch(octets)
    if match is None:
        raise NotVerified("malformed")
    _decode(match[3])
    header = _parse_segment(match[1])
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in settings.algorithms:
        raise NotVerified("algorithm")
    if "crit" in header or "b64" in header:  # extensions that must be understood (RFC 7515 section 4.1.11, RFC 7797)
        raise NotVerified("critical_header")
    if "typ" in header and not (isinstance(kind, str) and kind.lower() in _TYPES):
        raise NotVerified("bad_typ")
    if "kid" in header and not isinstance(kid, str):
        raise NotVerified("bad_kid")
    return _Header(algorithm=algorithm, kid=kid if isinstance(kid, str) else None)


def _choose(keys: KeySet, header: _Header) -> VerificationKey | None:
    """Return the key that the token names; None if the set does not have it. Raises NotVerified if no such key fits the algorithm."""
    named = keys.find(header.kid)
    if not named:
        if header.kid is None:
            raise NotVerified("missing_kid")
        return None
    fitting = next((key for key in named if key.fits(header.algorithm)), None)
    if fitting is None:
        raise NotVerified("key_mismatch")
    return fitting


def _check_claims(claims: JsonObject, settings: TrustSettings, header: _Header, *, now: float) -> VerifiedClaims:
    expires_at, issued_at = _check_dates(claims, settings, now)
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not (isinstance(issuer, str) or (issuer is None and "iss" not in claims)):
        raise NotVerified("bad_iss")
    if settings.issuer is not None and issuer != settings.issuer:
        raise NotVerified("bad_iss")
    listed = claims.get("aud")
    audiences = [listed] if isinstance(listed, str) else listed
    if not isinstance(audiences, list) or not all(isinstance(audience, str) for audience in audiences):
        raise NotVerified("bad_aud")
    if not any(audience in settings.audiences for audience in audiences):
        raise NotVerified("bad_aud")
    if not isinstance(subject, str) or not 0 < len(subject) <= settings.subject_limit_chars:
        raise NotVerified("bad_sub")
    return VerifiedClaims(
        issuer=issuer,
        subject=subject,
        audiences=tuple(audiences),
        expires_at=expires_at,
        issued_at=issued_at,
        algorithm=header.algorithm,
        kid=header.kid,
        claims=MappingProxyType(claims),
    )


def _check_dates(claims: JsonObject, settings: TrustSettings, now: float) -> tuple[float, float | None]:
    """Return `exp` and `iat`."""
    expires_at = numeric_date(claims.get("exp"))
    if expires_at is None:
        raise NotVerified("bad_exp")
    not_before_at, issued_at = (_optional_date(claims, name) for name in ("nbf", "iat"))
    if now >= expires_at + settings.leeway_s:
        raise NotVerified("expired")
    if not_before_at is not None and not_before_at > now + settings.leeway_s:
        raise NotVerified("not_yet_valid")
    if issued_at is not None and issued_at > now + settings.leeway_s:
        raise NotVerified("issued_in_future")
    began_at = now + settings.leeway_s if issued_at is None else issued_at
    if expires_at - began_at > settings.max_lifetime_s:
        raise NotVerified("too_long_lived")
    return expires_at, issued_at


def _optional_date(claims: JsonObject, name: str) -> float | None:
    if name not in claims:
        return None
    date = numeric_date(claims[name])
    if date is None:
        raise NotVerified(f"bad_{name}")
    return date


def _parse_segment(segment: bytes) -> JsonObject:
    try:
        return parse_json_object(_decode(segment))
    except ValueError:
        raise NotVerified("malformed") from None


def _decode(segment: bytes) -> bytes:
    """Base64url without padding (RFC 7515 section 2), in its one canonical spelling."""
    try:
        return decode_base64url(segment.decode("ascii"))
    except ValueError:
        raise NotVerified("malformed") from None


def claimed_issuer(token: Secret) -> object:
    """The `iss` that a token claims, or None: it chooses the issuer whose keys are tried, and proves nothing."""
    parts = token.reveal().split(b".")
    try:
        return parse_json_object(_decode(parts[1])).get("iss")
    except (IndexError, ValueError, NotVerified):
        return None
