"""X.509-SVIDs as SPIRE makes them, and as nobody should, of a trust domain of the tests."""

import base64
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from robin.model.secret import Secret
from robin.wire.broker_ipc import IssueRequest, SvidProof
from robin.wire.compact_jws import encode_base64url
from robin.wire.workload_x509 import X509SvidMessage

DOMAIN = "example.org"
AGENT = "spiffe://example.org/ns/agents/agent"
_serials = itertools.count(1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass
class Leaf:
    """A certificate with its key and the certificates between it and the anchor."""

    certificate: x509.Certificate
    key: Key
    between: Sequence[x509.Certificate] = ()

    @property
    def chain(self) -> tuple[bytes, ...]:
        return tuple(one.public_bytes(Encoding.DER) for one in (self.certificate, *self.between))

    def sign(self, text: bytes) -> tuple[str, bytes]:
        """Algorithm and signature."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return "PS256", self.key.sign(text, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        alg, size, digest = {256: ("ES256", 32, hashes.SHA256()), 384: ("ES384", 48, hashes.SHA384())}[self.key.curve.key_size]
        r, s = decode_dss_signature(self.key.sign(text, ec.ECDSA(digest)))
        return alg, r.to_bytes(size, "big") + s.to_bytes(size, "big")


@dataclass
class Domain:
    """An authority of a trust domain. `now`: what its certificates are dated by."""

    name: str = DOMAIN
    now: float = field(default_factory=lambda: datetime.now(UTC).timestamp())

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._make(self.key, None, uris=(f"spiffe://{self.name}",), **_AUTHORITY)
        self.anchor = self.certificate.public_bytes(Encoding.DER)

    def below(self) -> "Domain":
        """An authority that this one certified."""
        found = object.__new__(Domain)
        found.name, found.now, found.key = self.name, self.now, ec.generate_private_key(ec.SECP256R1())
        found.certificate = self._make(found.key, self, uris=(f"spiffe://{self.name}",), **_AUTHORITY)
        found.anchor = found.certificate.public_bytes(Encoding.DER)
        return found

    def issue(self, *uris: str, key: Key | None = None, between: Sequence["Domain"] = (), **changes: Any) -> Leaf:
        """An SVID of the shape that SPIRE gives."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        return Leaf(self._make(key, self, uris=uris or (AGENT,), **changes), key, [one.certificate for one in between])

    def message(self, leaf: Leaf, spiffe_id: str = AGENT, hint: str = "") -> X509SvidMessage:
        """What a Workload API says of it."""
        key = Secret(leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        return X509SvidMessage(spiffe_id=spiffe_id, chain=b"".join(leaf.chain), key=key, anchors=self.anchor, hint=hint)

    def _make(
        self,
        key: Key,
        issuer: "Domain | None",
        *,
        uris: Sequence[str],
        ca: bool = False,
        usage: Sequence[str] = ("digital_signature", "key_encipherment"),
        critical: bool = True,
        extended: Sequence[Any] | None = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        starts_s: float = -60.0,
        ends_s: float = 3600.0,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{self.name} {next(_serials)}")])
        instant = datetime.fromtimestamp(self.now, UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(instant + timedelta(seconds=starts_s))
            .not_valid_after(instant + timedelta(seconds=ends_s))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if usage:
            builder = builder.add_extension(x509.KeyUsage(**{name: name in usage for name in _USAGES}), critical=critical)
        if issuer is not None:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        if extended and not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        if uris:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(key if issuer is None else issuer.key, hashes.SHA256())


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_AUTHORITY: dict[str, Any] = {"ca": True, "usage": ("key_cert_sign", "crl_sign"), "ends_s": 86400.0}


def render_proof(leaf: Leaf, challenge: str, request: dict[str, Any]) -> dict[str, Any]:
    """The member `svid_proof` of a request of the own envelope, made from docs/reference/passports.md alone."""
    http = request["http"]
    members = [http[name] for name in ("method", "scheme", "authority", "target")]
    rest = [request[name] or "" for name in ("audience", "route_id", "nonce")]
    text = "\n".join(["robin-svid-proof-v1", challenge, request["request_id"], *members, *rest, http["body_sha256"] or ""])
    alg, signature = leaf.sign(text.encode())
    chain = [base64.b64encode(der).decode() for der in leaf.chain]
    return {"chain": chain, "challenge": challenge, "alg": alg, "signature": encode_base64url(signature)}


def proof_of(leaf: Leaf, challenge: str, request: IssueRequest) -> SvidProof:
    """The same as a value."""
    lines = ("robin-svid-proof-v1", challenge, request.request_id, request.method, request.scheme, request.authority, request.target)
    rest = (request.audience or "", request.route_id or "", request.nonce or "", request.body_sha256 or "")
    alg, signature = leaf.sign("\n".join((*lines, *rest)).encode())
    return SvidProof(chain=leaf.chain, challenge=challenge, alg=alg, signature=signature)
