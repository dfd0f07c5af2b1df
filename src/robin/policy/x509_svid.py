"""Whether certificates are an X.509-SVID of the trust domain, and whether a caller proved that it holds the key of one. Pure.

Source: SPIFFE X509-SVID sections 2 to 5; the path is built and its signatures are verified by `cryptography`, whose policy for the web asks
for a DNS name, so that the extensions of a leaf are judged here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from robin.model.passport_reasons import Refused
from robin.model.spiffe import trust_domain_of
from robin.wire.broker_ipc import IssueRequest, SvidProof
from robin.wire.workload_x509 import CHAIN_MAX

PROOF_VERSION: Final = "robin-svid-proof-v1"
SVID_PROFILE: Final = "trustplane-spiffe-spire-k8s-v1"
POSTURE: Final = "spiffe_svid_verified"
_DEPTH: Final = CHAIN_MAX - 1  # certificate authorities between leaf and anchor


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """A verified X.509-SVID. `not_before_at`, `not_after_at`: Unix seconds; `sha256` of the leaf, in hex."""

    spiffe_id: str
    sha256: str
    not_before_at: float
    not_after_at: float
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedIds:
    """SPIFFE IDs that may have passports: exact ones, and prefixes that end at a `/`. Nothing listed: none."""

    ids: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def check(self, spiffe_id: str) -> None:
        """Raises Refused `spiffe_id_not_allowed`."""
        if spiffe_id not in self.ids and not any(is_below(spiffe_id, prefix) for prefix in self.prefixes):
            raise Refused("spiffe_id_not_allowed")


def is_below(spiffe_id: str, prefix: str) -> bool:
    """Whether an ID is the prefix or below it, at the boundary of a segment."""
    return spiffe_id == prefix.rstrip("/") or spiffe_id.startswith(prefix.rstrip("/") + "/")


def load_anchors(ders: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """The anchors of a trust domain. Raises Refused `svid_untrusted` where there is none that can be read."""
    try:
        anchors = tuple(x509.load_der_x509_certificate(der) for der in ders)
    except ValueError:
        raise Refused("svid_untrusted", "an anchor cannot be read") from None
    if not anchors:
        raise Refused("svid_untrusted", "there is no anchor")
    return anchors


def verify_svid(chain: Sequence[bytes], anchors: Sequence[x509.Certificate], trust_domain: str, now: float) -> Svid:
    """The SVID of DER certificates, leaf first. Raises Refused: svid_invalid, svid_expired, svid_untrusted."""
    if not 1 <= len(chain) <= CHAIN_MAX:
        raise _invalid("chain")
    try:
        leaf, *between = [x509.load_der_x509_certificate(der) for der in chain]
        spiffe_id = _judge_leaf(leaf, trust_domain)
        key = leaf.public_key()
        not_before, not_after = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise _invalid("certificate") from None
    if now < not_before:
        raise _invalid("not_yet_valid")
    if now > not_after:
        raise Refused("svid_expired")
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise _invalid("key")
    builder = PolicyBuilder().store(Store(list(anchors))).time(datetime.fromtimestamp(now, UTC)).max_chain_depth(_DEPTH)
    verifier = builder.extension_policies(ca_policy=_CA, ee_policy=ExtensionPolicy.permit_all()).build_client_verifier()
    try:
        verifier.verify(leaf, between)
    except (VerificationError, ValueError):
        raise Refused("svid_untrusted") from None
    sha256 = hashlib.sha256(chain[0]).hexdigest()
    return Svid(spiffe_id=spiffe_id, sha256=sha256, not_before_at=not_before, not_after_at=not_after, key=key)


def proof_text(proof: SvidProof, request: IssueRequest) -> bytes:
    """What a caller signs with the key of its SVID (docs/reference/passports.md)."""
    lines = (
        PROOF_VERSION,
        proof.challenge,
        request.request_id,
        request.method,
        request.scheme,
        request.authority,
        request.target,
        request.audience or "",
        request.route_id or "",
        request.nonce or "",
        request.body_sha256 or "",
    )
    return "\n".join(lines).encode()


def verify_proof(proof: SvidProof, request: IssueRequest, svid: Svid) -> None:
    """Raises Refused `caller_proof_invalid` unless the holder of the SVID's key signed this request and challenge."""
    text, key = proof_text(proof, request), svid.key
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if proof.alg != "PS256":
                raise Refused("caller_proof_invalid", "alg")
            key.verify(proof.signature, text, padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size), hashes.SHA256())
            return
        alg, size, digest = _CURVES.get(key.curve.name, ("", 0, hashes.SHA256()))
        if proof.alg != alg or len(proof.signature) != 2 * size:
            raise Refused("caller_proof_invalid", "alg")
        r, s = (int.from_bytes(half, "big") for half in (proof.signature[:size], proof.signature[size:]))
        key.verify(encode_dss_signature(r, s), text, ec.ECDSA(digest))
    except InvalidSignature:
        raise Refused("caller_proof_invalid") from None


_CURVES: Final[dict[str, tuple[str, int, hashes.HashAlgorithm]]] = {
    "secp256r1": ("ES256", 32, hashes.SHA256()),
    "secp384r1": ("ES384", 48, hashes.SHA384()),
}


def _judge_leaf(leaf: x509.Certificate, trust_domain: str) -> str:
    """The SPIFFE ID of a certificate that has the form of a leaf. Raises Refused `svid_invalid`."""
    found = {extension.oid: extension for extension in leaf.extensions}
    constraints = found.get(x509.BasicConstraints.oid)
    if constraints is not None and constraints.value.ca:
        raise _invalid("ca")
    usage = found.get(x509.KeyUsage.oid)
    if usage is None or not usage.critical or not usage.value.digital_signature:
        raise _invalid("key_usage")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise _invalid("key_usage")
    extended = found.get(x509.ExtendedKeyUsage.oid)
    if extended is not None and not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH} <= set(extended.value):
        raise _invalid("extended_key_usage")
    names = found.get(x509.SubjectAlternativeName.oid)
    uris = [] if names is None else names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _invalid("uri_names")
    domain = trust_domain_of(uris[0])
    if domain is None:
        raise _invalid("spiffe_id")
    if domain != trust_domain:
        raise _invalid("trust_domain")
    return str(uris[0])


def _judge_authority(_policy: object, certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is None or not constraints.ca:
        raise ValueError("not a certificate authority")


def _judge_authority_usage(_policy: object, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is None or not usage.key_cert_sign:
        raise ValueError("may not sign certificates")


# X509-SVID section 4.1 and 4.3 for the certificates that sign; what else stands in them is no matter of ours.
_CA: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _judge_authority)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _judge_authority_usage)
)


def _invalid(detail: str) -> Refused:
    return Refused("svid_invalid", detail)
