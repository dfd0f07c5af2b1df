"""The passport itself, steps 5 to 9 of the verifier: form, key, times, audience, source, strength. Pure; the first failure is raised.

A passport is not trusted before its key was found in the bundle by (trust domain, kid) and its signature is right. Nothing is fetched.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NoReturn
from urllib.parse import urlsplit

from robin.model.passport import HTTPSIG, IDENTITY, KEY_PROTECTION, NS, SIGNER_CLASSES, TRANSCRIPT, Axes, PassportRoute, SourceRule
from robin.model.passport_reasons import Refused
from robin.wire.compact_jws import CompactToken, decode_base64url, parse_compact
from robin.wire.passport_keys import BadKey, PublicKey, from_raw, parse_public
from robin.wire.trust_bundle import IssuerKey, TrustBundle, is_amount

_LIFETIME_S: Final = {TRANSCRIPT: 600, HTTPSIG: 3600}
_ALGORITHMS: Final = {TRANSCRIPT: ("EdDSA",), HTTPSIG: ("ES256", "Ed25519", "EdDSA")}
_TYPES: Final = {TRANSCRIPT: "JWT", HTTPSIG: "wit+jwt"}
_TEXT: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")  # it goes into headers and records
_NEVER: Final = frozenset("crit jku jwk x5u x5c b64".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Passport:
    """A parsed passport, not trusted yet. `claimed`: the axes that its signer claims; `extension`: the claim `NS`, None where absent."""

    profile: str
    token: CompactToken
    algorithm: str
    kid: str
    issuer: str
    subject: str
    audience: str | None
    jti: str
    issued_at: int
    not_before: int
    expires_at: int
    trust_domain: str
    proof_key: PublicKey
    key_binding: str
    claimed: Axes
    extension: Mapping[str, object] | None


def is_wit(text: str) -> bool:
    """Whether the text of a bearer is a workload identity token, which has its own field."""
    try:
        return parse_compact(text).header.get("typ") == _TYPES[HTTPSIG]
    except ValueError:
        return False


def parse_passport(text: str, profile: str) -> Passport:
    """Step 5. Raises Refused: passport_malformed, passport_algorithm_not_allowed."""
    try:
        token = parse_compact(text)
    except ValueError:
        _refuse_form("not_compact")
    header, claims = token.header, token.claims
    if header.get("typ") != _TYPES[profile]:
        _refuse_form("typ")
    if _NEVER & header.keys() or (profile == TRANSCRIPT and header.keys() != {"alg", "kid", "typ"}):
        _refuse_form("header_member")
    algorithm = header.get("alg")
    if algorithm not in _ALGORITHMS[profile]:
        raise Refused("passport_algorithm_not_allowed")
    issued_at, expires_at = _integer(claims, "iat"), _integer(claims, "exp")
    if not 0 < issued_at < expires_at:
        _refuse_form("times")
    extension = claims.get(NS)
    if extension is not None and not isinstance(extension, dict):
        _refuse_form("extension")
    proof_key, key_binding = _parse_cnf(claims, profile)
    if profile == TRANSCRIPT:
        domain = _text(claims, "trust_domain")
    else:
        domain = _domain_of(_text(claims, "sub"))
        key_binding = _signer(extension).get("class", "software")
    if key_binding not in SIGNER_CLASSES:
        _refuse_form("key_binding")
    return Passport(
        profile=profile,
        token=token,
        algorithm=str(algorithm),
        kid=_text(header, "kid"),
        issuer=_text(claims, "iss") if profile == TRANSCRIPT else _optional(claims, "iss") or "",
        subject=_text(claims, "sub"),
        audience=_text(claims, "aud") if profile == TRANSCRIPT else _optional(claims, "aud"),
        jti=_text(claims, "jti") if profile == TRANSCRIPT else _optional(claims, "jti") or "",
        issued_at=issued_at,
        not_before=_integer(claims, "nbf") if "nbf" in claims else issued_at,
        expires_at=expires_at,
        trust_domain=domain,
        proof_key=proof_key,
        key_binding=key_binding,
        claimed=_claimed(extension, key_binding),
        extension=extension,
    )


def check_key(passport: Passport, bundle: TrustBundle, now: float) -> IssuerKey:
    """Step 6. Returns the issuer's entry. Raises Refused: passport_untrusted_key, passport_revoked, passport_signature_invalid."""
    entry = bundle.keys.get((passport.trust_domain, passport.kid))
    if entry is None or passport.profile not in entry.profiles or not entry.key.fits(passport.algorithm):
        raise Refused("passport_untrusted_key", "unknown_key")
    if passport.issuer != entry.iss and not (passport.profile == HTTPSIG and not passport.issuer):
        raise Refused("passport_untrusted_key", "issuer")
    is_own = entry.key.thumbprint == passport.proof_key.thumbprint
    if is_own != (entry.kind == "self") or (entry.subject_exact is not None and entry.subject_exact != passport.subject):
        raise Refused("passport_untrusted_key", "self_issued" if is_own else "not_self_issued")
    for kind, value in (("kid", passport.kid), ("jti", passport.jti), ("sub", passport.subject)):
        if bundle.revocations.get((kind, value), 0) > now:
            raise Refused("passport_revoked", kind)
    if not entry.key.verifies(passport.token.signature, passport.token.signing_input):
        raise Refused("passport_signature_invalid")
    return entry


def check_times(passport: Passport, *, now: float, skew_s: float) -> None:
    """Step 7. Raises Refused: passport_not_yet_valid, passport_expired, passport_lifetime_exceeded."""
    if max(passport.issued_at, passport.not_before) > now + skew_s:
        raise Refused("passport_not_yet_valid")
    if passport.expires_at <= now - skew_s:
        raise Refused("passport_expired")
    if passport.expires_at - passport.issued_at > _LIFETIME_S[passport.profile]:
        raise Refused("passport_lifetime_exceeded")


def check_source(passport: Passport, entry: IssuerKey, route: PassportRoute, *, target_uri: str) -> Axes:
    """Steps 8 and 9. Returns what is credited on both axes. Raises Refused."""
    if passport.audience is not None and not audience_fits(passport.audience, route, target_uri):
        raise Refused("audience_mismatch")
    if passport.subject.lower().startswith(("spiffe:", "wimse:")) and _domain_of(passport.subject) != passport.trust_domain:
        raise Refused("source_trust_domain_mismatch", "subject")
    if passport.extension is not None and passport.extension.get("route_id") != route.route_id:
        raise Refused("route_mismatch", "passport")
    rules = _admitting(passport, entry, route.allowed_sources)
    credited = passport.claimed.capped(entry.cap)
    failure: Refused | None = None
    for rule in rules:
        try:
            _check_strength(passport, credited, route, rule)
        except Refused as refused:
            failure = failure or refused
        else:
            _check_context(passport, route)
            return credited
    assert failure is not None
    raise failure


def audience_fits(audience: str, route: PassportRoute, target_uri: str) -> bool:
    """Whether an audience is one of the route, byte for byte, or with `target-uri` the configured URI of the request."""
    return audience in route.audiences or (route.audience_match == "target-uri" and audience == target_uri)


def _admitting(passport: Passport, entry: IssuerKey, rules: tuple[SourceRule, ...]) -> list[SourceRule]:
    found = [rule for rule in rules if rule.issuer == entry.iss and rule.source_type == entry.source_type]
    if not found:
        raise Refused("source_issuer_mismatch")
    found = [rule for rule in found if rule.trust_domain == passport.trust_domain]
    if not found:
        raise Refused("source_trust_domain_mismatch")
    found = [
        rule
        for rule in found
        if (not rule.subject_exact or rule.subject_exact == passport.subject)
        and (not rule.subject_prefix or _has_prefix(passport.subject, rule.subject_prefix))
    ]
    if not found:
        raise Refused("source_subject_mismatch")
    return found


def _has_prefix(subject: str, prefix: str) -> bool:
    """Whether the prefix ends at a boundary of the subject's path."""
    return subject == prefix or subject.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def _check_strength(passport: Passport, credited: Axes, route: PassportRoute, rule: SourceRule) -> None:
    minimum = route.minimum.raised(SIGNER_CLASSES[rule.required_key_binding or "software"])
    if not credited.satisfies(minimum):
        raise Refused("insufficient_key_binding")
    wanted = rule.provenance
    if wanted is None:
        return
    found = (passport.extension or {}).get("provenance")
    if not isinstance(found, dict):
        raise Refused("missing_provenance")
    asked = (
        ("profile", wanted.profile),
        ("trust_domain", wanted.required_spiffe_trust_domain),
        ("posture", wanted.required_posture),
    )
    for member, value in asked:
        if value and found.get(member) != value:
            raise Refused("provenance_mismatch", member)


def _check_context(passport: Passport, route: PassportRoute) -> None:
    values = (passport.extension or {}).get("ctx") or {}
    check_context(values if isinstance(values, dict) else {}, route)


def check_context(values: Mapping[str, object], route: PassportRoute) -> None:
    """The context values of a request against the route's. Raises Refused: missing_context, context_mismatch."""
    rules = route.ctx
    required = {"tool_name": rules.required_tool_name, "workflow_id": rules.required_workflow_id, "max_txn_value": rules.max_txn_value}
    if not values.keys() <= {*rules.allow, *(name for name, rule in required.items() if rule)}:
        raise Refused("context_mismatch", "not_allowed")
    for name, wanted in (("tool_name", rules.required_tool_name), ("workflow_id", rules.required_workflow_id)):
        if wanted and name not in values:
            raise Refused("missing_context", name)
        if wanted and values[name] != wanted:
            raise Refused("context_mismatch", name)
    if rules.max_txn_value:
        if "max_txn_value" not in values:
            raise Refused("missing_context", "max_txn_value")
        amount = values["max_txn_value"]
        if not is_amount(amount) or Decimal(str(amount)) > Decimal(rules.max_txn_value):
            raise Refused("context_mismatch", "max_txn_value")


def _parse_cnf(claims: Mapping[str, object], profile: str) -> tuple[PublicKey, str]:
    cnf = claims.get("cnf")
    if not isinstance(cnf, dict):
        _refuse_form("cnf")
    try:
        if profile == TRANSCRIPT:
            if cnf.keys() != {"kid", "public_key_b64url", "key_binding"} or not isinstance(cnf["public_key_b64url"], str):
                _refuse_form("cnf")
            _text(cnf, "kid")
            return from_raw(decode_base64url(cnf["public_key_b64url"])), _text(cnf, "key_binding")
        jwk = cnf.get("jwk")
        if not isinstance(jwk, dict) or cnf.keys() != {"jwk"}:
            _refuse_form("cnf")
        key = parse_public(jwk)
        if jwk.get("alg") not in _ALGORITHMS[profile] or not key.fits(str(jwk["alg"])):
            _refuse_form("cnf")
        return key, ""
    except (BadKey, ValueError):
        _refuse_form("cnf")


def _signer(extension: Mapping[str, object] | None) -> Mapping[str, str]:
    signer = (extension or {}).get("signer", {})
    if not isinstance(signer, dict) or not all(isinstance(value, str) for value in signer.values()):
        _refuse_form("extension")
    return signer


def _claimed(extension: Mapping[str, object] | None, key_binding: str) -> Axes:
    if extension is None:
        return SIGNER_CLASSES[key_binding]
    signer = _signer(extension)
    identity, protection = signer.get("identity", "none"), signer.get("key_protection", "software")
    if identity not in IDENTITY or protection not in KEY_PROTECTION or signer.get("class") != key_binding:
        _refuse_form("extension")
    return Axes(identity=identity, key_protection=protection)


def _domain_of(subject: str) -> str:
    try:
        parts = urlsplit(subject)
    except ValueError:
        _refuse_form("sub")
    if parts.scheme not in ("spiffe", "wimse") or not parts.netloc or parts.query or parts.fragment:
        _refuse_form("sub")
    return parts.netloc


def _text(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or _TEXT.fullmatch(value) is None:
        _refuse_form(name)
    return value


def _optional(members: Mapping[str, object], name: str) -> str | None:
    return _text(members, name) if name in members else None


def _integer(members: Mapping[str, object], name: str) -> int:
    value = members.get(name)
    if type(value) is not int:
        _refuse_form(name)
    return value


def _refuse_form(detail: str) -> NoReturn:
    raise Refused("passport_malformed", detail) from None
