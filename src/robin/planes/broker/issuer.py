"""The signer: passports with the issuer's active key, proofs with a key of their own for each principal, in memory alone."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robin.model.passport import NS, TRANSCRIPT
from robin.model.passport_reasons import Refused
from robin.planes.broker.keys import IssuerKeyPair
from robin.policy.broker_issue import Issue, Principal
from robin.policy.x509_svid import POSTURE, SVID_PROFILE
from robin.wire import http_signature as sig
from robin.wire import transcript as tr
from robin.wire.compact_jws import encode_base64url, render_compact
from robin.wire.passport_keys import public_jwk


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """What passports say of their issuer, and how long they live. `extended`: the claim `NS` is there."""

    issuer: str
    trust_domain: str
    passport_ttl_s: int = 300
    proof_ttl_s: int = 60
    proof_key_max_age_s: float = 3600.0
    jose_alg_name: str = "Ed25519"
    extended: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A passport that is decided but not signed: what its audit record needs is known."""

    issue: Issue
    jti: str
    nonce: str
    issued_at: int
    expires_at: int
    proof_key: Ed25519PrivateKey
    kid: str
    issuer_key: Ed25519PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A passport with its proof. `digest` of transcript or base; `headers` are what the client sends."""

    draft: Draft
    passport: str
    proof: str
    digest: str
    headers: list[tuple[str, str]]


class Issuer:
    """`octets(n)` gives unpredictable bytes. A proof key is replaced after its age and with a new SVID; the one before is forgotten."""

    __slots__ = ("_active", "_octets", "_proof_keys", "_settings")

    PRINCIPALS_MOST = 4096

    def __init__(self, settings: IssuerSettings, keys: tuple[IssuerKeyPair, ...], octets: Callable[[int], bytes]) -> None:
        self._settings = settings
        self.use_keys(keys)
        self._octets = octets
        self._proof_keys: dict[str, tuple[Ed25519PrivateKey, float, str]] = {}

    def use_keys(self, keys: tuple[IssuerKeyPair, ...]) -> None:
        """Sign with the active one of these from now on."""
        self._active = next((key for key in keys if key.status == "active"), None)

    def draft(self, issue: Issue, *, now: float, monotonic: float) -> Draft:
        """Decide the values of a passport. Raises Refused `issuer_key_unavailable`."""
        if self._active is None:
            raise Refused("issuer_key_unavailable")
        issued_at = int(now)
        return Draft(
            issue=issue,
            jti="jti-" + encode_base64url(self._octets(16)),
            nonce=issue.request.nonce or encode_base64url(self._octets(16)),
            issued_at=issued_at,
            expires_at=self._ends_at(issue, issued_at),
            proof_key=self._proof_key(issue.principal, monotonic),
            kid=self._active.kid,
            issuer_key=self._active.key,
        )

    def sign(self, draft: Draft) -> Signed:
        """Sign passport and request."""
        return self._sign_transcript(draft) if draft.issue.request.profile == TRANSCRIPT else self._sign_httpsig(draft)

    def _ends_at(self, issue: Issue, issued_at: int) -> int:
        """A passport does not outlive the SVID behind it."""
        ends_at, attestation = issued_at + self._settings.passport_ttl_s, issue.principal.attestation
        return ends_at if attestation is None else max(issued_at + 1, min(ends_at, int(attestation.svid.not_after_at)))

    def _proof_key(self, principal: Principal, monotonic: float) -> Ed25519PrivateKey:
        svid = "" if principal.attestation is None else principal.attestation.svid.sha256
        key, made_at, made_for = self._proof_keys.get(principal.subject, (None, 0.0, ""))
        if key is None or made_for != svid or monotonic - made_at >= self._settings.proof_key_max_age_s:
            if len(self._proof_keys) >= self.PRINCIPALS_MOST:
                self._proof_keys.clear()
            key = Ed25519PrivateKey.generate()
            self._proof_keys[principal.subject] = (key, monotonic, svid)
        return key

    def _extension(self, issue: Issue) -> dict[str, object]:
        signer = {"class": issue.signer_class, "identity": issue.axes.identity, "key_protection": issue.axes.key_protection}
        provenance = self._provenance(issue)
        return {NS: {"route_id": issue.route.route_id, "signer": signer, "provenance": provenance, "ctx": dict(issue.request.ctx)}}

    def _provenance(self, issue: Issue) -> dict[str, object] | None:
        """The SVID behind a passport whose class says that there was one."""
        attestation = issue.principal.attestation
        if attestation is None or issue.signer_class == "software":
            return None
        return {
            "profile": SVID_PROFILE,
            "posture": POSTURE,
            "trust_domain": self._settings.trust_domain,
            "spiffe_id": attestation.svid.spiffe_id,
            "mode": attestation.mode,
            "svid_sha256": attestation.svid.sha256,
        }

    def _sign_transcript(self, draft: Draft) -> Signed:
        issue, settings = draft.issue, self._settings
        request = issue.request
        proof_key = public_jwk(draft.proof_key)["x"]
        claims: dict[str, object] = {
            "iss": settings.issuer,
            "sub": issue.principal.subject,
            "aud": issue.audience,
            "iat": draft.issued_at,
            "exp": draft.expires_at,
            "jti": draft.jti,
            "trust_domain": settings.trust_domain,
            "cnf": {"kid": proof_key, "public_key_b64url": proof_key, "key_binding": issue.signer_class},
            **(self._extension(issue) if settings.extended else {}),
        }
        passport = render_compact({"alg": "EdDSA", "kid": draft.kid, "typ": "JWT"}, claims, draft.issuer_key.sign)
        path, _, query = request.target.partition("?")
        covered = dict(request.headers) | {"x-trustplane-nonce": tr.hash_value(draft.nonce)}
        if "content-encoding" not in {*issue.route.covered_headers, *issue.route.covered_if_present}:
            covered.pop("content-encoding", None)
        body_sha256 = request.body_sha256 or tr.EMPTY_SHA256
        built = tr.build_transcript(
            tr.Transcript(
                method=request.method,
                scheme=request.scheme,
                authority=request.authority,
                path=path,
                query=query,
                audience=issue.audience,
                route_id=issue.route.route_id,
                content_encoding=request.content_encoding,
                headers=tuple(sorted(covered.items())),
                body_sha256=body_sha256,
                jti=draft.jti,
                nonce=draft.nonce,
                issued_at=draft.issued_at,
                key_binding=issue.signer_class,
            )
        )
        digest = hashlib.sha256(built)
        proof = encode_base64url(draft.proof_key.sign(digest.digest()))
        headers = [
            ("Authorization", f"Bearer {passport}"),
            ("X-TrustPlane-Transcript-SHA256", digest.hexdigest()),
            ("X-TrustPlane-Body-SHA256", body_sha256),
            ("X-TrustPlane-Proof", proof),
            ("X-TrustPlane-Nonce", draft.nonce),
        ]
        return Signed(draft=draft, passport=passport, proof=proof, digest=digest.hexdigest(), headers=headers)

    def _sign_httpsig(self, draft: Draft) -> Signed:
        issue, settings = draft.issue, self._settings
        request = issue.request
        claims: dict[str, object] = {
            "iss": settings.issuer,
            "sub": issue.principal.subject,
            "iat": draft.issued_at,
            "nbf": draft.issued_at,
            "exp": draft.expires_at,
            "jti": draft.jti,
            "aud": issue.audience,
            "cnf": {"jwk": {**public_jwk(draft.proof_key), "alg": settings.jose_alg_name}},
            **self._extension(issue),
        }
        passport = render_compact({"alg": settings.jose_alg_name, "kid": draft.kid, "typ": "wit+jwt"}, claims, draft.issuer_key.sign)
        sent = [("Workload-Identity-Token", passport)]
        if request.body_sha256 not in (None, tr.EMPTY_SHA256):
            digest = base64.b64encode(bytes.fromhex(str(request.body_sha256))).decode("ascii")
            sent.append(("Content-Digest", f"sha-256=:{digest}:"))
        fields = sig.headers_of(dict(sent)) + request.fields
        names = {name for name, _ in fields}
        components = ["@method", "@request-target", "@authority", *(name for name in sig.COVERED_IF_PRESENT if name in names)]
        components += [name for name in issue.route.extra_components if name not in components]
        created = draft.issued_at
        parameters = sig.request_parameters(
            created=created, expires=created + settings.proof_ttl_s, nonce=draft.nonce, audience=issue.audience
        )
        text = sig.render_parameters(components, parameters)
        message = sig.Message(
            method=request.method, scheme=request.scheme, authority=request.authority, target=request.target, fields=fields
        )
        base = sig.build_base(message, components, text)
        signature = sig.render_binary(draft.proof_key.sign(base))
        headers = [*sent, ("Signature-Input", f"{sig.LABEL}={text}"), ("Signature", f"{sig.LABEL}={signature}")]
        return Signed(draft=draft, passport=passport, proof=signature, digest=hashlib.sha256(base).hexdigest(), headers=headers)
