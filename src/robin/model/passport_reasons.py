"""Why a passport is not issued or not accepted: one closed table of public reason codes (docs/reference/passports.md lists each).

`transcript` and `httpsig` are the HTTP statuses of the verifier for a request of that profile, 0 where only the broker gives the code.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One code: what it means, what to do, its statuses, and whether asking anew may help."""

    code: str
    meaning: str
    remedy: str
    transcript: int = 0
    httpsig: int = 0
    retryable: bool = False

    def status(self, profile: str | None) -> int:
        """The HTTP status for a request of this profile."""
        return self.httpsig if profile == "wimse-httpsig" else self.transcript

    @property
    def statuses(self) -> str:
        """The statuses as pages show them: transcript-v1 / wimse-httpsig."""
        return f"{self.transcript} / {self.httpsig}" if self.transcript else "broker"

    @property
    def again(self) -> str:
        """Whether the same request may be allowed later, as pages show it."""
        return "yes" if self.retryable else "no"


_A, _Z, _U = (403, 400), (403, 403), (503, 503)
_PASS: Final = (200, 200)
_BROKER: Final = (0, 0)

_ROWS: Final[tuple[tuple[str, tuple[int, int], bool, str, str], ...]] = (
    ("passport_verified", _PASS, False, "The request is the one that was signed", "nothing to do"),
    ("broker_passport_issued", _BROKER, False, "A passport was issued", "nothing to do"),
    ("challenge_issued", _BROKER, False, "A challenge was issued", "nothing to do"),
    # surfaces
    ("proxy_not_trusted", _Z, False, "The forward-auth caller is not a trusted proxy", "add it to verify.forward_auth.trusted_proxies"),
    ("forward_auth_incomplete", (400, 400), False, "A header of the original request is missing or doubled", "let the proxy set each once"),
    ("raw_target_unavailable", (400, 400), False, "The server does not give the target as it was sent", "use a server that does"),
    # the request and the policy
    ("header_too_large", (431, 431), False, "The credential headers are too large", "send one passport; see verify.max_header_bytes"),
    ("passport_malformed", _A, False, "The passport is not in its form", "send the passport as it was issued"),
    ("profile_ambiguous", _A, False, "Credentials of two profiles are present", "send one of them"),
    ("transcript_ambiguous", _A, False, "Another request could have the same transcript", "send the target in its canonical form"),
    ("bundle_policy_missing", _U, True, "No bundle is in force", "deploy a bundle at verify.bundle"),
    ("bundle_signature_invalid", _U, True, "The bundle's signature is not right", "sign it with a key of verify.bundle_keys"),
    ("bundle_rollback", _U, True, "The bundle is older than one seen before", "deploy the newest bundle"),
    ("authority_not_served", (421, 421), False, "The Host is not served here", "add it to verify.authorities if it is yours"),
    ("bundle_route_missing", _Z, False, "No route fits this method and path", "add a route to the bundle"),
    ("stale_bundle_fail_closed", _U, True, "The bundle is too old for this route", "deploy a new bundle"),
    ("bundle_freshness_unknown", _U, True, "The route's freshness class is unknown", "use realtime, bounded or offline-ok"),
    ("passport_missing", (401, 400), False, "There is no passport", "ask the broker for one"),
    ("profile_not_allowed", _Z, False, "The route does not take this profile", "use a profile of the route"),
    ("passport_algorithm_not_allowed", _A, False, "The algorithm is not allowed", "sign with Ed25519 or ES256"),
    ("passport_untrusted_key", _A, False, "The issuer's key is not in the bundle", "add the key to the bundle"),
    ("passport_revoked", _A, False, "The passport, its key or its subject is revoked", "issue with another key"),
    ("passport_signature_invalid", _A, False, "The passport's signature is not right", "send the passport as it was issued"),
    ("passport_not_yet_valid", _A, True, "The passport is not valid yet", "check the clocks"),
    ("passport_expired", _A, True, "The passport has expired", "ask for a new one"),
    ("passport_lifetime_exceeded", _A, False, "The passport is valid for too long", "issue shorter ones"),
    ("audience_mismatch", _A, False, "The audience is not one of the route", "ask for an audience of the route"),
    ("route_mismatch", _A, False, "The request does not fit the route", "ask for the route that fits"),
    ("source_issuer_mismatch", _Z, False, "No source rule admits this issuer", "add a source rule"),
    ("source_trust_domain_mismatch", _Z, False, "No source rule admits this trust domain", "add a source rule"),
    ("source_subject_mismatch", _Z, False, "No source rule admits this subject", "add a source rule"),
    ("insufficient_key_binding", _Z, False, "The signer is weaker than the route requires", "use a stronger signer, or lower the route"),
    ("missing_provenance", _Z, False, "The provenance that the route requires is missing", "issue with an SVID"),
    ("provenance_mismatch", _Z, False, "The provenance is another one", "issue with the required SVID"),
    ("missing_context", _Z, False, "A context value that the route requires is missing", "send it with the request for a passport"),
    ("context_mismatch", _Z, False, "A context value is not allowed", "send the values that the route allows"),
    ("proof_missing", _A, False, "There is no proof", "send all headers of the passport"),
    ("proof_malformed", _A, False, "The proof is not in its form", "send the proof as it was made"),
    ("covered_header_missing", _A, False, "A header that must be covered is missing", "send it"),
    ("proof_coverage_insufficient", _A, False, "The proof does not cover what was received", "send what was signed, and no more"),
    ("proof_not_yet_valid", _A, True, "The proof is from the future", "check the clocks"),
    ("nonce_stale", _A, True, "The proof is too old", "ask for a new passport"),
    ("proof_expired", _A, True, "The proof has expired", "ask for a new passport"),
    ("response_signing_unsupported", (501, 501), False, "A signed response was asked for", "do not ask for one"),
    ("request_binding_mismatch", _A, False, "The request is not the one that was signed", "send what was signed"),
    ("invalid_request_proof", _A, False, "The proof's signature is not right", "send what was signed"),
    ("body_too_large", (413, 413), False, "The body is too large", "send less; see verify.max_body_bytes"),
    ("body_digest_mismatch", _A, False, "The body is not the one that was signed", "send the body that was signed"),
    ("jti_replay", _A, False, "The passport was used before", "ask for a new passport for each request"),
    ("nonce_replay", _A, False, "The nonce was used before", "use a new nonce for each request"),
    ("replay_store_full", _U, True, "The replay store is full", "raise verify.replay.max_entries"),
    ("replay_store_unavailable", _U, True, "The replay store is out of reach", "look at the store"),
    ("audit_unavailable", _U, True, "The audit record cannot be written", "look at the audit file's disk"),
    # the broker
    ("peer_not_allowed", _BROKER, False, "No peer rule admits this process", "add a rule to issue.peers"),
    ("peer_ambiguous", _BROKER, False, "Peer rules give different subjects", "make the rules distinct"),
    ("peer_route_not_allowed", _BROKER, False, "The peer may not use this route", "add the route to its peer rule"),
    ("peer_unverified", _BROKER, False, "The kernel does not say who the peer is", "connect from this machine"),
    ("spiffe_id_not_allowed", _BROKER, False, "The SPIFFE ID is not listed", "add it to issue.identity.allowed_ids"),
    ("svid_invalid", _BROKER, False, "The SVID does not have the form of one", "look at its issuer"),
    ("svid_untrusted", _BROKER, False, "The SVID does not chain to its trust domain", "look at the trust bundle"),
    ("pod_binding_unverified", _BROKER, False, "There is no evidence that the peer is in the broker's pod", "share an emptyDir"),
    ("caller_proof_missing", _BROKER, False, "The caller gave no proof of its SVID", "send svid_proof"),
    ("caller_proof_invalid", _BROKER, False, "The caller's proof is not right", "sign the request that is asked for"),
    ("covered_headers_mismatch", _BROKER, False, "The covered headers are not those of the route", "cover those of the route"),
    ("ipc_malformed", _BROKER, False, "The request is not in its form", "correct what error.details of the reply names"),
    ("ipc_inconsistent", _BROKER, False, "Members of the request contradict each other", "compute them from one request"),
    ("ipc_too_large", _BROKER, False, "The request is larger than 65536 bytes", "send less"),
    ("ipc_version_unsupported", _BROKER, False, "The version is unknown", "use a version of details.supported"),
    ("ipc_operation_unsupported", _BROKER, False, "The kind or operation is unknown", "use one of the version"),
    ("workload_api_unavailable", _BROKER, True, "The Workload API is out of reach", "look at its socket"),
    ("svid_expired", _BROKER, True, "The SVID has expired", "look at the Workload API"),
    ("issuer_key_unavailable", _BROKER, True, "No issuer key is active; never given: no broker starts so", "activate a key"),
    ("rate_limited", _BROKER, True, "Too many requests of this user", "wait, and ask again"),
    ("ipc_timeout", _BROKER, True, "The request did not arrive in time", "send one line at once"),
    ("reserved_rls_deny", _BROKER, False, "Reserved; never given", "nothing to do"),
)  # fmt: skip

REASONS: Final = {
    code: Reason(code=code, transcript=statuses[0], httpsig=statuses[1], retryable=retryable, meaning=meaning, remedy=remedy)
    for code, statuses, retryable, meaning, remedy in _ROWS
}


class Refused(Exception):
    """A refusal with its reason; `detail` is one stable word for the audit record alone. `extra`: public details of a broker's reply."""

    def __init__(self, reason: str, detail: str = "", *, extra: dict[str, object] | None = None) -> None:
        super().__init__(reason, detail)
        self.reason = REASONS[reason]
        self.detail = detail
        self.extra = extra or {}
