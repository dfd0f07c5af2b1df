"""The CA of the TLS bridge and the leaves that it signs. A leaf's key never touches a disk; one key serves all leaves of a process and CA.

A leaf is for exactly one host and lives for `leaf_ttl_s`, but not beyond the CA. Contexts are kept for the hosts that were used last, and
made anew when less than a quarter of the leaf's life is left. Where the CA has expired, or may not sign for a host, requests to that host
fail with `bridge_unavailable`; they are never passed through.
"""

import datetime
import ipaddress
import os
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.transport.tls import TlsFileError, file_identity, read_file
from robin.transport.tls_server import server_context

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_BACKDATED_S: Final = 300.0
_CN_OCTETS: Final = 64
_LOOK_S: Final = 10.0


class CaInvalid(Exception):
    """A folder does not hold a CA that can sign; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SigningCa:
    """One loaded CA. `pem` is its certificate; `chain` is PEM too, sent behind each leaf; `sha256` names the certificate in records."""

    certificate: "x509.Certificate"
    key: object
    pem: bytes
    chain: bytes
    sha256: str
    not_before: float
    not_after: float
    leaf_key: "EllipticCurvePrivateKey"
    leaf_key_pem: Secret


def load_ca(folder: str) -> SigningCa:
    """Read tls.crt and tls.key of a slot. Raises CaInvalid."""
    from cryptography import x509  # noqa: PLC0415 - 30 ms and 10 MiB, only where something is bridged
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415

    try:
        certificates = x509.load_pem_x509_certificates(read_file(os.path.join(folder, "tls.crt"), "tls.crt"))
        key = serialization.load_pem_private_key(read_file(os.path.join(folder, "tls.key"), "tls.key"), password=None)
    except (TlsFileError, OSError) as error:
        raise CaInvalid(str(error)) from None
    except (ValueError, TypeError):
        raise CaInvalid("tls.crt and tls.key are not PEM, or the key is encrypted") from None
    certificate = certificates[0]
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CaInvalid("the key is neither EC nor RSA")
    _check_ca(certificate)
    if key.public_key() != certificate.public_key():
        raise CaInvalid("tls.key is not the key of the first certificate in tls.crt")
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    pem = leaf_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SigningCa(
        certificate=certificate,
        key=key,
        pem=certificate.public_bytes(serialization.Encoding.PEM),
        chain=b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates[1:]),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        leaf_key=leaf_key,
        leaf_key_pem=Secret(pem),
    )


def _check_ca(certificate: "x509.Certificate") -> None:
    from cryptography import x509  # noqa: PLC0415

    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound as error:
        raise CaInvalid(f"the certificate lacks {error.oid._name}") from None
    if not constraints.ca or not usage.key_cert_sign:
        raise CaInvalid("the certificate is not one of a CA that may sign certificates")


def mint_leaf(ca: SigningCa, *hosts: str, now: float, ttl_s: float) -> tuple[bytes, float]:
    """A leaf for exactly these hosts, the first of which is its subject, PEM, and when it ends."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    ends_at = min(now + ttl_s, ca.not_after)
    named = len(hosts[0]) <= _CN_OCTETS
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])] if named else [])
    issuer_key_id = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    public = ca.leaf_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.certificate.subject)
        .public_key(public)
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1 or 1)
        .not_valid_before(_utc(max(now - _BACKDATED_S, ca.not_before)))
        .not_valid_after(_utc(ends_at))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=not named)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_leaf_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    certificate = builder.sign(ca.key, hashes.SHA256())  # type: ignore[arg-type]
    return certificate.public_bytes(Encoding.PEM), ends_at


def _general_name(host: str) -> "x509.GeneralName":
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _leaf_usage() -> "x509.KeyUsage":
    from cryptography import x509  # noqa: PLC0415

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(at), datetime.UTC)


def permits_name(ca: SigningCa, host: str) -> bool:
    """Whether the name constraints of the CA allow a leaf for this host (RFC 5280 section 4.2.1.10)."""
    from cryptography import x509  # noqa: PLC0415

    try:
        constraints = ca.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if any(_within(tree, host, address) for tree in constraints.excluded_subtrees or ()):
        return False
    kind = x509.DNSName if address is None else x509.IPAddress
    permitted = [tree for tree in constraints.permitted_subtrees or () if isinstance(tree, kind)]
    return not permitted or any(_within(tree, host, address) for tree in permitted)


def _within(tree: "x509.GeneralName", host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    from cryptography import x509  # noqa: PLC0415

    if isinstance(tree, x509.DNSName) and address is None:
        base = tree.value.lower().removeprefix(".")
        return host == base or host.endswith(f".{base}")
    net = tree.value if isinstance(tree, x509.IPAddress) else None
    return (
        address is not None
        and isinstance(net, ipaddress.IPv4Network | ipaddress.IPv6Network)
        and address.version == net.version
        and address in net
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MintedContext:
    """A context with a leaf, who signed it, and when it is to be made anew."""

    context: ssl.SSLContext
    ca: SigningCa
    refresh_at: float


class BridgeAuthority:
    """Contexts for the client's side of a bridge, by host. `mints` and `hits` count.

    The folder of the signing slot is looked at every ten seconds: the same key with a new certificate is used from then on; another key
    waits (`pending`) until the old certificate ends or the gateway restarts, since callers may not trust it yet; a broken pair changes
    nothing.
    """

    __slots__ = (
        "_ca",
        "_contexts",
        "_folder",
        "_limit",
        "_looked_at",
        "_minted",
        "_per_second",
        "_second",
        "_seen",
        "_ttl_s",
        "_wall",
        "hits",
        "mints",
        "pending",
    )

    def __init__(
        self,
        folder: str,
        *,
        ttl_s: float,
        contexts: int,
        per_second: int,
        wall: Callable[[], float],
        before: "BridgeAuthority | None" = None,
    ) -> None:
        """Load the CA. `before`: what this one replaces; its counts go on, and where the folder is the same its CA. Raises CaInvalid."""
        self._folder = folder
        self._ttl_s = ttl_s
        self._limit = contexts
        self._per_second = per_second
        self._wall = wall
        self._contexts: OrderedDict[str, MintedContext] = OrderedDict()
        self._second = 0
        self._minted: Counter[str] = Counter()  # in this second, by caller
        self._looked_at = wall()
        same = before if before is not None and before._folder == folder else None
        self._seen: tuple[tuple[int, ...], ...] = self._files() if same is None else same._seen
        self._ca: SigningCa = load_ca(folder) if same is None else same._ca
        self.pending: bool = same is not None and same.pending
        self.mints: int = 0 if before is None else before.mints
        self.hits: int = 0 if before is None else before.hits

    @property
    def ca(self) -> SigningCa:
        """The CA that signs now."""
        return self._ca

    def _files(self) -> tuple[tuple[int, ...], ...]:
        return tuple(file_identity(os.path.join(self._folder, name)) for name in ("tls.crt", "tls.key"))

    def look(self) -> str:
        """Load again if the files changed, at most every ten seconds. The event that this is: `ca_renewed`, `ca_key_changed` (it waits),
        `ca_invalid`; empty: nothing changed.
        """
        now = self._wall()
        if abs(now - self._looked_at) < _LOOK_S:
            return ""
        self._looked_at = now
        ended = self.pending and not self.valid
        if (seen := self._files()) == self._seen and not ended:
            return ""
        self._seen = seen
        try:
            ca = load_ca(self._folder)
        except CaInvalid:
            return "ca_invalid"
        self.pending = ca.certificate.public_key() != self._ca.certificate.public_key() and not ended
        if self.pending:
            return "ca_key_changed"
        self._ca = ca
        self._contexts.clear()
        return "ca_renewed"

    @property
    def valid(self) -> bool:
        """Whether the CA is valid now."""
        return self._ca.not_before <= self._wall() < self._ca.not_after

    def check(self, host: str) -> None:
        """Raise Fault `bridge_unavailable` where no leaf can be signed for this host."""
        if not self.valid:
            raise Fault("bridge_unavailable", "ca_expired: the CA of the bridge is not valid now")
        if not permits_name(self._ca, host):
            raise Fault("bridge_unavailable", "name_constraints: the CA of the bridge may not sign for this host")

    def context(self, host: str, caller: str = "") -> ssl.SSLContext:
        """The server context for this host. Raises Fault `bridge_unavailable`, `limit_mints`.

        One caller has at most half of the leaves of a second, so that others can still be served.
        """
        now = self._wall()
        kept = self._contexts.get(host)
        if kept is not None and now < kept.refresh_at:
            self._contexts.move_to_end(host)
            self.hits += 1
            return kept.context
        if int(now) != self._second:
            self._second = int(now)
            self._minted.clear()
        if self._minted.total() >= self._per_second or self._minted[caller] >= (self._per_second + 1) // 2:
            raise Fault("limit_mints", "mints: gateway.limits.mints_per_second is reached, or one caller's half of it")
        kept = self._contexts[host] = self.sign(host)
        self._minted[caller] += 1
        self._contexts.move_to_end(host)
        while len(self._contexts) > self._limit:
            self._contexts.popitem(last=False)
        return kept.context

    def sign(self, *hosts: str, client_ca_file: str | None = None) -> "MintedContext":
        """A server context with a new leaf for these hosts; with `client_ca_file` a client shows a certificate, which is verified.

        Raises Fault `bridge_unavailable`, TlsFileError.
        """
        for host in hosts:
            self.check(host)
        now = self._wall()
        pem, ends_at = mint_leaf(self._ca, *hosts, now=now, ttl_s=self._ttl_s)
        context = server_context(pem + self._ca.chain, self._ca.leaf_key_pem, client_ca_file=client_ca_file)
        self.mints += 1
        return MintedContext(context=context, ca=self._ca, refresh_at=ends_at - (ends_at - now) / 4)
