"""The proof over one request, steps 10 to 13 of the verifier, for both profiles: shape, coverage, time, rebuilt and compared. Pure."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from robin.model.passport import HTTPSIG, TRANSCRIPT, PassportRoute, ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.policy.passport_token import Passport, audience_fits
from robin.wire import http_signature as sig
from robin.wire import transcript as tr
from robin.wire.compact_jws import decode_base64url

PROOF, NONCE = "x-trustplane-proof", "x-trustplane-nonce"
TRANSCRIPT_SHA256, BODY_SHA256 = "x-trustplane-transcript-sha256", "x-trustplane-body-sha256"
TRANSCRIPT_FIELDS: Final = (TRANSCRIPT_SHA256, BODY_SHA256, PROOF, NONCE)
HTTPSIG_FIELDS: Final = (sig.WIT_FIELD, "signature", "signature-input")
CREDENTIAL_FIELDS: Final = ("authorization", *TRANSCRIPT_FIELDS, *HTTPSIG_FIELDS, "content-digest")

_NONCE: Final = re.compile(r"[\x21-\x7e]{8,128}")
_REQUIRED: Final = ("created", "expires", "nonce", "tag", "wimse-aud")
_JOINED: Final = {",": re.compile(r",(?! )"), ", ": re.compile(",")}
_PROOF_S: Final = range(1, 301)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A proof that is right for its head. `until`: when it can no longer be accepted; `digest` of the transcript or base.

    `body_sha256` (transcript-v1) or `content_digest` (wimse-httpsig) is the digest of the body in the proof; both None: it has none.
    """

    profile: str
    nonce: str
    made_at: int
    until: float
    digest: str
    body_sha256: str | None = None
    content_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofRules:
    """What the verifier is configured with. `not_before_at`: proofs of that time or earlier may have been used before the start."""

    scheme: str
    max_age_s: float
    skew_s: float
    not_before_at: float


def check_proof(
    request: ReceivedRequest, passport: Passport, route: PassportRoute, rules: ProofRules, now: float, built: list[bytes]
) -> Proof:
    """Steps 10 to 12. The transcript or base that was built is added to `built`, also where it is refused. Raises Refused."""
    check = _check_transcript if passport.profile == TRANSCRIPT else _check_httpsig
    return check(request, passport, route, rules, now, built)


def check_body(proof: Proof, route: PassportRoute, body: bytes) -> None:
    """Step 13: the body that was received. Raises Refused: body_digest_mismatch, proof_coverage_insufficient."""
    if route.body == "unsigned":
        return
    if proof.body_sha256 is not None:
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest(), proof.body_sha256):
            raise Refused("body_digest_mismatch")
    elif proof.content_digest is None:
        if body:
            raise Refused("proof_coverage_insufficient", "content-digest")
    elif not sig.digest_matches(proof.content_digest, body):
        raise Refused("body_digest_mismatch")


def check_unseen_body(proof: Proof, route: PassportRoute, request: ReceivedRequest) -> None:
    """Step 13 where the surface does not get the body: only a route that leaves the bytes to the service may have one. Raises Refused.

    Where it is not known whether there is one (`body_bytes` None), there could be.
    """
    if route.body != "bound":
        return
    empty = proof.body_sha256 == tr.EMPTY_SHA256 if proof.body_sha256 is not None else proof.content_digest is None
    if not empty or request.body_bytes != 0 or request.method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        raise Refused("body_digest_mismatch", "body_not_seen")


# transcript-v1


def covered_names(request_names: frozenset[str], route: PassportRoute) -> tuple[str, ...]:
    """The covered headers of a request: those that the route requires, and those it covers if they are there; sorted, each once."""
    return tuple(sorted({*route.covered_headers, *(name for name in route.covered_if_present if name in request_names)}))


def _check_transcript(
    request: ReceivedRequest, passport: Passport, route: PassportRoute, rules: ProofRules, now: float, bases: list[bytes]
) -> Proof:
    values = {name: request.values(name) for name in TRANSCRIPT_FIELDS}
    if not all(values.values()):
        raise Refused("proof_missing")
    proof, nonce, claimed, body_sha256 = (values[name][0] for name in (PROOF, NONCE, TRANSCRIPT_SHA256, BODY_SHA256))
    if not tr.is_digest(claimed) or not tr.is_digest(body_sha256) or _NONCE.fullmatch(nonce) is None:
        raise Refused("proof_malformed")
    signature = _decode_proof(proof)
    names = covered_names(frozenset(name for name, _ in request.fields), route)
    codings = request.values("content-encoding")
    _guard(
        tr.guard_query(request.query, repeated_keys=route.repeated_keys, any_order=route.query_order == "any") or tr.guard_coding(codings)
    )
    if request.target.endswith("?"):
        _guard("query_not_canonical")
    selected = []
    for name in names:
        lines = request.values(name)
        if not lines:
            raise Refused("covered_header_missing", name)
        if len(lines) > 1:
            _guard("duplicate_header")
        _guard(tr.guard_values(lines))
        _guard(_guard_joined(request, name))
        selected.append((name, tr.hash_value(lines[0])))
    assert passport.audience is not None
    _guard(tr.guard_words([passport.audience, passport.jti]))
    _check_time(passport.issued_at, rules, now)
    built = tr.build_transcript(
        tr.Transcript(
            method=request.method,
            scheme=rules.scheme,
            authority=request.authority,
            path=request.path,
            query=request.query,
            audience=passport.audience,
            route_id=route.route_id,
            content_encoding=codings[0] if codings else "identity",
            headers=tuple(selected),
            body_sha256=body_sha256,
            jti=passport.jti,
            nonce=nonce,
            issued_at=passport.issued_at,
            key_binding=passport.key_binding,
        )
    )
    bases.append(built)
    digest = hashlib.sha256(built)
    if not hmac.compare_digest(digest.hexdigest(), claimed):
        raise Refused("request_binding_mismatch")
    if not passport.proof_key.verifies(signature, digest.digest()):
        raise Refused("invalid_request_proof")
    until = min(passport.expires_at, passport.issued_at + rules.max_age_s) + rules.skew_s
    made_at = passport.issued_at
    return Proof(profile=TRANSCRIPT, nonce=nonce, made_at=made_at, until=until, digest=digest.hexdigest(), body_sha256=body_sha256)


def _guard_joined(request: ReceivedRequest, name: str) -> str | None:
    """A covered value that two lines could have been, where that cannot be seen."""
    return "duplicate_header" if request.joined and any(map(_JOINED[request.joined].search, request.values(name))) else None


def _decode_proof(text: str) -> bytes:
    try:
        octets = decode_base64url(text)
    except ValueError:
        octets = b""
    if len(octets) != 64:
        raise Refused("proof_malformed")
    return octets


def _guard(detail: str | None) -> None:
    if detail is not None:
        raise Refused("transcript_ambiguous", detail)


# wimse-httpsig


def _check_httpsig(
    request: ReceivedRequest, passport: Passport, route: PassportRoute, rules: ProofRules, now: float, bases: list[bytes]
) -> Proof:
    inputs, signatures = request.values("signature-input"), request.values("signature")
    if not inputs or not signatures:
        raise Refused("proof_missing")
    try:
        member = _tagged(sig.parse_signature_input(inputs[0]))
        signature = sig.parse_binaries(signatures[0])[member.label]
    except (sig.BadField, KeyError):
        _refuse_form("field")
    parameters = dict(member.parameters)
    created, expires, nonce, audience = (parameters.get(name) for name in ("created", "expires", "nonce", "wimse-aud"))
    if type(created) is not int or type(expires) is not int or not isinstance(nonce, str) or not isinstance(audience, str):
        _refuse_form("parameter")
    if not parameters.keys() <= {*_REQUIRED, "wimse-sign-response"} or expires - created not in _PROOF_S:
        _refuse_form("parameter")
    if _NONCE.fullmatch(nonce) is None or not all(type(parameters[name]) is str for name in ("nonce", "tag", "wimse-aud")):
        _refuse_form("parameter")
    _check_coverage(request, route, member.components)
    for name in member.components:
        _guard(_guard_joined(request, name))
    if not audience_fits(audience, route, target_uri(request, rules.scheme)):
        raise Refused("audience_mismatch", "wimse-aud")
    _check_time(created, rules, now)
    if expires <= now - rules.skew_s:
        raise Refused("proof_expired")
    if parameters.get("wimse-sign-response", False) is not False:
        raise Refused("response_signing_unsupported")
    message = sig.Message(
        method=request.method, scheme=rules.scheme, authority=request.authority, target=request.target, fields=request.fields
    )
    try:
        base = sig.build_base(message, member.components, member.text)
    except sig.BadField:
        _refuse_form("component")
    bases.append(base)
    if not passport.proof_key.verifies(signature, base):
        raise Refused("invalid_request_proof")
    digests = request.values("content-digest")
    return Proof(
        profile=HTTPSIG,
        nonce=nonce,
        made_at=created,
        until=expires + rules.skew_s,
        digest=hashlib.sha256(base).hexdigest(),
        content_digest=digests[0] if digests else None,
    )


def target_uri(request: ReceivedRequest, scheme: str) -> str:
    """The URI of the request without its query, as the verifier is configured."""
    return f"{scheme}://{request.authority.lower()}{request.path}"


def _tagged(members: tuple[sig.SignatureInput, ...]) -> sig.SignatureInput:
    """The one signature with the tag. Raises BadField."""
    found = [member for member in members if sig.find(member.parameters, "tag") == sig.TAG]
    if len(found) != 1 or (len(members) > 1 and found[0].label != sig.LABEL):
        raise sig.BadField("not exactly one signature has the tag")
    return found[0]


def _check_coverage(request: ReceivedRequest, route: PassportRoute, components: tuple[str, ...]) -> None:
    """What was received decides what must be covered. Raises Refused."""
    required = {"@method", "@request-target", sig.WIT_FIELD, *route.extra_components}
    required |= {"@authority"} if route.require_authority else set()
    required |= {name for name in sig.COVERED_IF_PRESENT if request.values(name)}
    if request.body_bytes and route.body != "unsigned":
        required.add("content-digest")
    missing = sorted(required - set(components))
    if missing:
        raise Refused("proof_coverage_insufficient", missing[0])
    absent = next((name for name in components if not name.startswith("@") and not request.values(name)), None)
    if absent is not None and absent in required:
        raise Refused("proof_coverage_insufficient", absent)
    if absent is not None:
        _refuse_form("component")
    digests = request.values("content-digest")
    try:
        known = not digests or not {"sha-256", "sha-512"}.isdisjoint(sig.parse_binaries(digests[0]))
    except sig.BadField:
        known = False
    if not known:
        _refuse_form("content-digest")


def _check_time(made_at: int, rules: ProofRules, now: float) -> None:
    """Step 11. Raises Refused."""
    if made_at > now + rules.skew_s:
        raise Refused("proof_not_yet_valid")
    if made_at < now - rules.max_age_s - rules.skew_s:
        raise Refused("nonce_stale")
    if made_at <= rules.not_before_at:
        raise Refused("nonce_stale", "before_start")


def _refuse_form(detail: str) -> NoReturn:
    raise Refused("proof_malformed", detail) from None
