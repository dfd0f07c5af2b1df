"""Token text -> IdentityToken without verification: the checks that every token of our own passes before it is injected, in one order.

Signatures are not verified here: that is the upstream's business. What cannot be a whole, current token for the right audience is refused:
RFC 6750 section 2.1 (b64token), RFC 7515 section 3.1 (compact serialization), RFC 7519 section 4.1 (claims). The text is hostile input: no
reason, detail or exception of this module holds a byte of it.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from robin.model.faults import Fault
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.wire.compact_jws import decode_base64url

TOKEN_LIMIT_BYTES: Final = 16384
NOT_BEFORE_LEEWAY_S: Final = 30.0
SVID_ALGORITHMS: Final = frozenset(f"{family}{size}" for family in ("RS", "ES", "PS") for size in (256, 384, 512))  # JWT-SVID section 2.2
SVID_TYPES: Final = frozenset({"JWT", "JOSE"})  # JWT-SVID section 2.3

_B64TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_SEGMENT: Final = re.compile(rb"[A-Za-z0-9_-]+")
_BOMS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_SIGNATURE_BYTES: Final = {"ES256": (64,), "ES384": (96,), "ES512": (132,), "EdDSA": (64, 114)}
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_RSA_SIGNATURE_BYTES: Final = 256
_DATE_MAX: Final = 2.0**53

_FATAL: Final = frozenset({"identity_malformed", "identity_unavailable"})

_FIX_WHOLE: Final = "let the platform write one whole token"
_FIX_JWT: Final = "point Robin at a JWT, or set {token_format}=opaque"
_FIX_AUDIENCE: Final = "make {audience} and the audience the platform issues for equal"
_FIX_EXPIRED: Final = "check that the platform rotates the token and that this clock is right"
_FIX_CLOCK: Final = "check this machine's clock"


class TokenRefused(Fault):
    """A token that did not pass. `reason` is one stable word."""

    def __init__(self, code: str, reason: str, text: str, fix: str) -> None:
        super().__init__(code, f"{reason}: {text}; {fix}")
        self.reason = reason
        self.text = text
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token must be. `decoded` False: opaque, nothing past the b64token check. `audience`, `algorithms`, `types` None: any."""

    decoded: bool = True
    audience: str | None = None
    min_validity_s: float = 5.0
    algorithms: frozenset[str] | None = None
    types: frozenset[str] | None = None  # `typ`; its absence always passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check and how it went. `code`, `reason` and `fix` are empty where it passed."""

    name: str
    passed: bool
    text: str
    code: str = ""
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """A token decoded for display, its signature neither verified nor kept. None where it could not be decoded."""

    header: dict[str, Any] | None
    claims: dict[str, Any] | None
    checks: tuple[Check, ...]


@dataclass(slots=True, kw_only=True)
class _Reading:
    """The findings of the checks so far."""

    rules: TokenRules
    now: float
    seen_at: float
    issued_to: str | None
    text: bytes = field(default=b"", repr=False)
    value: bytes = field(default=b"", repr=False)
    header: dict[str, Any] | None = None
    claims: dict[str, Any] | None = None
    signature_bytes: int = 0
    audiences: tuple[str, ...] = ()
    expires_at: float | None = None
    not_before_at: float | None = None
    usable_until: float = math.inf


def inspect_token(
    text: Secret, rules: TokenRules, *, now: float, seen_at: float | None = None, issued_to: str | None = None
) -> IdentityToken:
    """Return the token in `text`. Raises TokenRefused. `now` is the wall clock; `seen_at` when this token was first seen, None for now.

    `issued_to` is the SPIFFE ID that the platform's reply names: `sub` must be equal to it.
    """
    reading = _Reading(rules=rules, now=now, seen_at=now if seen_at is None else seen_at, issued_to=issued_to)
    reading.text = text.reveal()
    for _name, check in _checks(rules):
        check(reading)
    subject = reading.claims.get("sub") if reading.claims is not None else None
    algorithm = (reading.header or {}).get("alg")
    return IdentityToken(
        value=Secret(reading.value),
        subject=subject if isinstance(subject, str) else None,
        audiences=reading.audiences,
        expires_at=reading.expires_at,
        not_before_at=reading.not_before_at,
        seen_at=reading.seen_at,
        usable_until=reading.usable_until,
        algorithm=algorithm if isinstance(algorithm, str) else None,
        issued_at=numeric_date((reading.claims or {}).get("iat")),
    )


def parse_unverified(text: Secret, rules: TokenRules, *, now: float, issued_to: str | None = None) -> Unverified:
    """Return the header, the claims and each check, up to one that leaves nothing to check, for `robin token` and `robin doctor`."""
    reading = _Reading(rules=rules, now=now, seen_at=now, issued_to=issued_to)
    checks: list[Check] = []
    reading.text = text.reveal()
    for name, check in _checks(rules):
        try:
            checks.append(Check(name=name, passed=True, text=check(reading)))
        except TokenRefused as refused:
            checks.append(Check(name=name, passed=False, text=refused.text, code=refused.code, reason=refused.reason, fix=refused.fix))
            if refused.code in _FATAL:
                break  # the later checks have nothing to stand on
    return Unverified(header=reading.header, claims=reading.claims, checks=tuple(checks))


def same_token(token: IdentityToken, text: Secret) -> bool:
    """Return True if `text`, trimmed, is this very token."""
    return token.value.reveal() == text.reveal().rstrip(b"\r\n \t")


def unsafe_text(text: Secret) -> str:
    """Return the token itself, for `robin token --unsafe-print-token` and nothing else."""
    return text.reveal().rstrip(b"\r\n \t").decode("ascii", "backslashreplace")


def fingerprint(text: Secret) -> bytes:
    """Return a digest that distinguishes tokens without holding them."""
    return hashlib.sha256(text.reveal()).digest()


def _malformed(reason: str, text: str, fix: str = _FIX_JWT) -> NoReturn:
    raise TokenRefused("identity_malformed", reason, text, fix) from None


def _check_text(reading: _Reading) -> str:
    value = reading.text.rstrip(b"\r\n \t")
    if not value:
        raise TokenRefused("identity_unavailable", "empty", "the token is empty", _FIX_WHOLE)
    if len(value) > TOKEN_LIMIT_BYTES:
        _malformed("too_large", f"the token is longer than {TOKEN_LIMIT_BYTES} bytes", "check that the file holds a token and nothing else")
    if value.startswith(_BOMS):
        _malformed("bom", "the token starts with a byte order mark", "write the file without one")
    if _B64TOKEN.fullmatch(value) is None:
        _malformed("not_b64token", "the token has a character that RFC 6750 does not allow", "check that the file holds one token only")
    reading.value = value
    return f"{len(value)} bytes"


def _check_form(reading: _Reading) -> str:
    segments = reading.value.split(b".")
    if len(segments) != 3 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        _malformed("not_jwt", "the token is not three base64url segments")
    reading.header = _parse_object(_decode(segments[0]))
    reading.claims = _parse_object(_decode(segments[1]))
    reading.signature_bytes = len(_decode(segments[2]))
    return "three segments, two JSON objects"


def _check_algorithm(reading: _Reading) -> str:
    assert reading.header is not None
    algorithm, kind = reading.header.get("alg"), reading.header.get("typ")
    if not isinstance(algorithm, str) or not algorithm or algorithm.lower() == "none":
        _malformed("bad_alg", "the header has no usable `alg`", "the issuer must sign its tokens")
    if reading.rules.algorithms is not None and algorithm not in reading.rules.algorithms:
        _malformed("bad_alg", "`alg` is not one that a JWT-SVID may use", "the issuer must sign with RS, ES or PS 256, 384 or 512")
    if reading.rules.types is not None and "typ" in reading.header and kind not in reading.rules.types:
        _malformed("bad_typ", "`typ` is neither JWT nor JOSE", "the issuer must follow the JWT-SVID specification")
    return algorithm


def _check_dates(reading: _Reading) -> str:
    assert reading.claims is not None
    expires_at = numeric_date(reading.claims.get("exp"))
    if expires_at is None:
        _malformed("bad_exp", "`exp` is not a number", "the issuer must date its tokens, or set {token_format}=opaque")
    not_before_at = numeric_date(reading.claims.get("nbf"))
    if not_before_at is None and reading.claims.get("nbf") is not None:
        _malformed("bad_nbf", "`nbf` is not a number", "the issuer must follow RFC 7519 section 4.1.5")
    reading.expires_at, reading.not_before_at = expires_at, not_before_at
    lifetime_s = expires_at - reading.seen_at
    reading.usable_until = expires_at - max(0.0, min(reading.rules.min_validity_s, lifetime_s / 10))
    return "exp and nbf are dates" if not_before_at is not None else "exp is a date"


def _check_signature_length(reading: _Reading) -> str:
    assert reading.header is not None
    algorithm, found = reading.header["alg"], reading.signature_bytes
    expected = _SIGNATURE_BYTES.get(algorithm)
    if (expected is not None and found not in expected) or (algorithm in _RSA_ALGORITHMS and found < _RSA_SIGNATURE_BYTES):
        _malformed("bad_signature_length", "the signature does not have the length of its `alg`: the token may be cut short", _FIX_WHOLE)
    return f"{found} bytes"


def _check_subject(reading: _Reading) -> str:
    assert reading.claims is not None
    if reading.issued_to is None:
        return "any"
    if reading.claims.get("sub") != reading.issued_to:
        _malformed("bad_sub", "`sub` is not the SPIFFE ID that the reply names", "the Workload API must follow the JWT-SVID specification")
    return "sub is the SPIFFE ID of the reply"


def _check_not_before(reading: _Reading) -> str:
    if reading.not_before_at is not None and reading.not_before_at > reading.now + NOT_BEFORE_LEEWAY_S:
        ahead_s = reading.not_before_at - reading.now
        raise TokenRefused("identity_not_yet_valid", "not_yet_valid", f"the token is valid in {ahead_s:.0f} s", _FIX_CLOCK)
    return "valid already"


def _check_audience(reading: _Reading) -> str:
    assert reading.claims is not None
    claim = reading.claims.get("aud")
    listed = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    reading.audiences = tuple(audience for audience in listed if isinstance(audience, str))
    if reading.rules.audience is None:
        return "any ({audience} is unset)"
    if reading.rules.audience not in reading.audiences:
        raise TokenRefused("audience_mismatch", "bad_aud", "`aud` does not contain {audience}", _FIX_AUDIENCE)
    return "contains {audience}"


def _check_expiry(reading: _Reading) -> str:
    assert reading.expires_at is not None
    left_s = reading.expires_at - reading.now
    if reading.now >= reading.usable_until:
        text = f"the token expired {-left_s:.0f} s ago" if left_s <= 0 else "the token has less left than {token_min_validity}"
        raise TokenRefused("identity_expired", "expired", text, _FIX_EXPIRED)
    return f"{left_s:.0f} s left"


_TEXT_CHECKS: Final = (("text", _check_text),)
_JWT_CHECKS: Final = (
    *_TEXT_CHECKS,
    ("form", _check_form),
    ("algorithm", _check_algorithm),
    ("dates", _check_dates),
    ("signature length", _check_signature_length),
    ("subject", _check_subject),
    ("not before", _check_not_before),
    ("audience", _check_audience),
    ("expiry", _check_expiry),
)


def _checks(rules: TokenRules) -> tuple[tuple[str, Callable[[_Reading], str]], ...]:
    """Return every check in its order: a name, and a function that returns what it found or raises TokenRefused."""
    return _JWT_CHECKS if rules.decoded else _TEXT_CHECKS


def _decode(segment: bytes) -> bytes:
    """Base64url without padding; a token that was cut short is recognized by the length of its signature."""
    try:
        return decode_base64url(segment.decode("ascii"), canonical=False)
    except ValueError:
        _malformed("not_jwt", "a segment is not base64url")


def _parse_object(text: bytes) -> dict[str, Any]:
    """Parse one JSON object in UTF-8. `json` alone would accept UTF-16 and NaN, and raise four kinds of error for the rest."""
    try:
        parsed = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # ValueError covers JSON, UTF-8 and integers of thousands of digits
        _malformed("not_jwt", "a segment is not JSON")
    if not isinstance(parsed, dict):
        _malformed("not_jwt", "a segment is not a JSON object")
    return parsed


def _refuse_constant(_word: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def numeric_date(claim: object) -> float | None:
    """Return a NumericDate (RFC 7519 section 2) as a float, None for anything else; `true` is not a number here."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not abs(claim) <= _DATE_MAX:
        return None
    return float(claim)
