"""A test certificate authority: leaves for any name, valid, expired or not yet valid, as PEM files and TLS contexts."""

import datetime
import ipaddress
import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from robin.transport.clock import Clock, SystemClock

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One certificate and its key on disk, both PEM; the CA is not in the chain, as a server would have it."""

    certificate_file: Path
    key_file: Path

    def server_context(
        self,
        *,
        minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
        alpn: tuple[str, ...] = (),
    ) -> ssl.SSLContext:
        """A server context that shows this leaf. `maximum` below TLS 1.2 lowers OpenSSL's security level, as an old server would."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if maximum in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # an old server is the point of an old version
            context.minimum_version = minimum
            context.maximum_version = maximum
        context.load_cert_chain(self.certificate_file, self.key_file)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


class CertificateAuthority:
    """A CA made on the spot in `folder`; its key stays in memory, `ca_file` is what a client trusts, for a day unless told otherwise."""

    def __init__(self, folder: Path, *, name: str = "Robin test CA", ends_in_s: float = 24 * _HOUR_S, clock: Clock | None = None) -> None:
        self._folder = folder
        self._clock = clock or SystemClock()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._leaves = 0
        self.certificate = self._certify_itself(ends_in_s)
        self.ca_pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.ca_pem)

    def issue(
        self,
        *names: str,
        starts_in_s: float = -_HOUR_S,
        ends_in_s: float = _HOUR_S,
        usages: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        common_name: str | None = None,
    ) -> Leaf:
        """A leaf for these DNS names, IP literals and URIs, by default for server and client; ends_in_s < 0 makes an expired one.

        Without names it has its common name alone; without usages it does not say what it is for.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ]
        if names:
            extensions.append((x509.SubjectAlternativeName([_general_name(name) for name in names]), False))
        if usages:
            extensions.append((x509.ExtendedKeyUsage(usages), False))
        common_name = names[0][:64] if common_name is None else common_name
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        return self._write(self._sign(subject, key.public_key(), (starts_in_s, ends_in_s), extensions), key)

    def self_signed(self) -> Leaf:
        """The certificate of the CA itself, as a server that has no other would show it."""
        return self._write(self.certificate, self._key)

    def _write(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Leaf:
        self._leaves += 1
        leaf = Leaf(certificate_file=self._folder / f"leaf-{self._leaves}.pem", key_file=self._folder / f"leaf-{self._leaves}.key")
        leaf.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        leaf.key_file.touch(mode=0o600)
        leaf.key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return leaf

    def client_context(self) -> ssl.SSLContext:
        """A client context that trusts this CA and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def _certify_itself(self, ends_in_s: float) -> x509.Certificate:
        public = self._key.public_key()
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage, True),
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
        ]
        return self._sign(self._name, public, (-24 * _HOUR_S, ends_in_s), extensions)

    def _sign(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        window_s: tuple[float, float],
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        starts_at, ends_at = (datetime.datetime.fromtimestamp(self._clock.wall() + offset, datetime.UTC) for offset in window_s)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts_at)
            .not_valid_after(ends_at)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
