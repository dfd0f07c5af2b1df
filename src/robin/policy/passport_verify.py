"""Whether one request carries a passport and a proof for exactly this request: steps 1 to 13 of the verifier, in one order. Pure.

What is expensive or changes anything (the body, the replay store, the audit record) comes after, by `planes/broker/verifier.py`. A route is
found by method and path, never by a header; what was received is checked, never what the client claims to have covered.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from robin.model.passport import HTTPSIG, TRANSCRIPT, Axes, PassportRoute, ReceivedRequest, find_route
from robin.model.passport_reasons import Refused
from robin.policy.passport_proof import (
    CREDENTIAL_FIELDS,
    HTTPSIG_FIELDS,
    TRANSCRIPT_FIELDS,
    Proof,
    ProofRules,
    check_proof,
    target_uri,
)
from robin.policy.passport_token import Passport, check_key, check_source, check_times, is_wit, parse_passport
from robin.wire import transcript as tr
from robin.wire.fields import REWRITES
from robin.wire.http_signature import COVERED_IF_PRESENT, WIT_FIELD
from robin.wire.trust_bundle import TrustBundle

_REALTIME_S: Final = 5
_REWRITES: Final = frozenset(name.decode("ascii") for name in REWRITES)
_JUDGED: Final = frozenset({*CREDENTIAL_FIELDS, *COVERED_IF_PRESENT, "content-encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRules:
    """The settings of a verifier, as far as they decide."""

    authorities: frozenset[str]
    proof: ProofRules
    max_header_bytes: int = 16384


@dataclass(slots=True, kw_only=True)
class Findings:
    """What is known of one request so far; what was refused before it was known stays None. For the record and the response."""

    profile: str | None = None
    route: PassportRoute | None = None
    passport: Passport | None = None
    credited: Axes | None = None
    proof: Proof | None = None
    built: list[bytes] = field(default_factory=list)  # the transcript or base, once it was built


def verify_head(request: ReceivedRequest, bundle: TrustBundle | None, reason: str, rules: VerifyRules, now: float, found: Findings) -> None:
    """Steps 1 to 12, noted in `found`. `reason`: why no bundle is in force, where none is. Raises Refused."""
    _check_fields(request, rules, found)
    if bundle is None:
        raise Refused(reason or "bundle_policy_missing")
    if request.authority.lower() not in rules.authorities:
        raise Refused("authority_not_served")
    route = found.route = find_route(bundle.routes, request.method, request.path)
    if route is None:
        raise Refused("bundle_route_missing")
    _check_age(bundle, route, now)
    covered = frozenset((*route.covered_headers, *route.covered_if_present, *route.extra_components))
    _refuse_folded({name for name, _ in request.fields}, covered)
    text = _credential(request, route, found)
    assert found.profile is not None
    passport = found.passport = parse_passport(text, found.profile)
    if found.profile == HTTPSIG and any(is_wit(value.partition(" ")[2]) for value in request.values("authorization")):
        raise Refused("passport_malformed", "wit_as_bearer")
    entry = check_key(passport, bundle, now)
    check_times(passport, now=now, skew_s=rules.proof.skew_s)
    found.credited = check_source(passport, entry, route, target_uri=target_uri(request, rules.proof.scheme))
    found.proof = check_proof(request, passport, route, rules.proof, now, found.built)


def replay_key(found: Findings) -> bytes:
    """What may be used once: the passport (transcript-v1), or the nonce of a proof key (wimse-httpsig)."""
    passport, proof = found.passport, found.proof
    assert passport is not None
    assert proof is not None
    parts = [passport.profile, passport.trust_domain]
    parts += [passport.issuer, passport.jti] if passport.profile == TRANSCRIPT else [passport.proof_key.thumbprint, proof.nonce]
    digest = hashlib.sha256()
    for part in parts:
        octets = part.encode()
        digest.update(len(octets).to_bytes(4, "big") + octets)
    return digest.digest()


def _check_fields(request: ReceivedRequest, rules: VerifyRules, found: Findings) -> None:
    """Step 1. The profile is noted as soon as it is known, since it decides the status; None where there is no credential."""
    size = sum(len(name) + len(value) for name, value in request.fields if name in CREDENTIAL_FIELDS)
    if size > rules.max_header_bytes:
        raise Refused("header_too_large")
    names = {name for name, _ in request.fields}
    has_transcript = not names.isdisjoint(TRANSCRIPT_FIELDS)
    has_httpsig = WIT_FIELD in names or ("signature-input" in names and "signature" in names)
    if has_transcript and has_httpsig:
        raise Refused("profile_ambiguous")
    profile = found.profile = HTTPSIG if has_httpsig else TRANSCRIPT if has_transcript or _bearer(request) else None
    _refuse_folded(names, _JUDGED)
    fields = (*HTTPSIG_FIELDS, "content-digest", "authorization") if profile == HTTPSIG else ("authorization", *TRANSCRIPT_FIELDS)
    if any(len(request.values(name)) > 1 for name in fields) or _is_joined(request, profile):
        if profile == TRANSCRIPT:
            raise Refused("transcript_ambiguous", "duplicate_header")
        raise Refused("passport_malformed", "duplicate_header")
    if profile is not None and (detail := tr.guard_target(request.target)) is not None:
        raise Refused("transcript_ambiguous", detail)
    if profile is not None and not _REWRITES.isdisjoint(name.replace("_", "-") for name in names):  # the service may act on it
        raise Refused("transcript_ambiguous", "rewrite")
    if has_transcript:
        _check_transcript_target(request)


def _is_joined(request: ReceivedRequest, profile: str | None) -> bool:
    """Whether a field of the credentials was on two lines that came as one, where no such field has a comma of its own."""
    fields = ("authorization", *TRANSCRIPT_FIELDS) if profile == TRANSCRIPT else (WIT_FIELD,)
    return request.joined == ", " and any("," in value for name in fields for value in request.values(name))


def _refuse_folded(names: set[str], judged: frozenset[str]) -> None:
    """Refuse a name that CGI and WSGI, where `_` and `-` are one, would take for one that is judged: its value is not."""
    folded = {name.replace("-", "_") for name in names - judged}
    if not folded.isdisjoint(name.replace("-", "_") for name in judged):
        raise Refused("passport_malformed", "underscore")


def _check_transcript_target(request: ReceivedRequest) -> None:
    detail = tr.guard_path(request.path) or tr.guard_words([request.method, request.authority])
    if detail is not None:
        raise Refused("transcript_ambiguous", detail)


def _bearer(request: ReceivedRequest) -> str | None:
    values = request.values("authorization")
    scheme, _, text = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return text if scheme.lower() == "bearer" and text else None


def _credential(request: ReceivedRequest, route: PassportRoute, found: Findings) -> str:
    """Step 4: the text of the passport."""
    bearer, wits = _bearer(request), request.values(WIT_FIELD)
    only_bearer = found.profile == TRANSCRIPT and not any(request.values(name) for name in TRANSCRIPT_FIELDS)
    if only_bearer and TRANSCRIPT not in route.profiles:
        if bearer is not None and is_wit(bearer):
            raise Refused("passport_malformed", "wit_as_bearer")
        found.profile = None  # a bearer of the application, not one of ours
    if found.profile is None or (found.profile == TRANSCRIPT and bearer is None) or (found.profile == HTTPSIG and not wits):
        found.profile = found.profile or (HTTPSIG if route.profiles == (HTTPSIG,) else TRANSCRIPT)
        raise Refused("passport_missing")
    if found.profile not in route.profiles:
        raise Refused("profile_not_allowed")
    text = bearer if found.profile == TRANSCRIPT else wits[0]
    assert text is not None
    return text


def _check_age(bundle: TrustBundle, route: PassportRoute, now: float) -> None:
    """Step 3: the age of the bundle, from its signed time."""
    most = {"realtime": _REALTIME_S, "bounded": route.max_staleness_seconds, "offline-ok": None, "offline_ok": None}
    if route.freshness_class not in most:
        raise Refused("bundle_freshness_unknown")
    limit_s = most[route.freshness_class]
    if now > bundle.not_after or (limit_s is not None and now - bundle.created_at > limit_s):
        raise Refused("stale_bundle_fail_closed")
