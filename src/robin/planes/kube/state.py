"""The state folder: the local CA, the certificate of the listener, certificates and tokens of agents; files of mode 0600."""

import contextlib
import datetime
import hashlib
import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robin.transport.private_file import write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

TRUST_DOMAIN: Final = "robin.local"
TOKEN_PREFIX: Final = "rbk_"  # noqa: S105 - the beginning of every token
_CA_DAYS: Final = 3650
_LEAF_DAYS: Final = 90
_RENEW_DAYS: Final = 30
_BACKDATED_S: Final = 300
_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_CA: Final = "ca.pem"
_CA_KEY: Final = "ca.key"
_LISTENER_KEY: Final = "listener.key"


def agent_id(agent: str) -> str:
    """The SPIFFE ID in the certificates that are issued here."""
    return f"spiffe://{TRUST_DOMAIN}/agent/{agent}"


def open_keys(folder: Path) -> list[Path]:
    """The private keys of a state folder that everyone can read or write."""
    found = []
    for name in (_CA_KEY, _LISTENER_KEY):
        with contextlib.suppress(OSError):  # a key that is not there, or that this user cannot see
            if (folder / name).stat().st_mode & 0o007:
                found.append(folder / name)
    return found


def has_ca(folder: Path) -> bool:
    """Whether `robin kube` has made its CA there."""
    return (folder / _CA).exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedPair:
    """A certificate and its key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes


class StateFolder:
    """One folder. `wall` is the clock of certificates and tokens."""

    def __init__(self, path: Path, wall: float) -> None:
        """Create the folder and the CA if they are not there. Raises OSError, ValueError."""
        self.path = path
        self._now = datetime.datetime.fromtimestamp(wall, datetime.UTC)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o022:
            raise ValueError(f"{path} can be written by others; chmod 700 {path}")
        for key in open_keys(path):
            raise ValueError(f"{key}: key_mode: everyone can read or write this private key; chmod 0600 it")
        self.ca_file = path / _CA
        self._ca_key_file = path / _CA_KEY
        self.tokens_file = path / "tokens.jsonl"
        self.audit_file = path / "audit.jsonl"
        self.certificate_file = path / "listener.pem"
        self.key_file = path / _LISTENER_KEY
        if not self.ca_file.exists():
            self._make_ca()
        self.tokens_file.touch(mode=0o600)

    def ensure_listener(self) -> None:
        """Make the certificate of the listener, or renew one that ends within 30 days."""
        from cryptography import x509  # noqa: PLC0415 - only this plane pays for it

        if self.certificate_file.exists() and self.key_file.exists():
            leaf = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
            if leaf.not_valid_after_utc - self._now > datetime.timedelta(days=_RENEW_DAYS):
                return
        names: list[x509.GeneralName] = [_general_name(name) for name in _NAMES]
        issued = self._issue("robin kube", names, days=_LEAF_DAYS, server=True)
        write_private(self.key_file, issued.key_pem)
        write_private(self.certificate_file, issued.certificate_pem)

    def issue_certificate(self, agent: str, lifetime_s: float) -> IssuedPair:
        """A client certificate of an agent."""
        from cryptography import x509  # noqa: PLC0415

        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(agent_id(agent))]
        return self._issue(agent, names, days=lifetime_s / 86400, server=False)

    def issue_token(self, agent: str, text: str, lifetime_s: float) -> str:
        """A token of an agent, made of 43 base64url characters of entropy; its digest goes into the tokens file."""
        token = TOKEN_PREFIX + text
        created = int(self._now.timestamp())
        line = {
            "agent": agent,
            "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "created": created,
            "expires": created + int(lifetime_s),
        }
        with open(os.open(self.tokens_file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            begun = file.read(1) not in (b"", b"\n")  # an editor may leave the last line without its end
            file.write(b"\n" * begun + json.dumps(line).encode() + b"\n")
        return token

    def _make_ca(self) -> None:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.x509.oid import NameOID  # noqa: PLC0415

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "robin kube local CA")])
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
        builder = (
            _builder(x509.CertificateBuilder(), self._now, days=_CA_DAYS)
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        write_private(self._ca_key_file, _key_pem(key))
        write_private(self.ca_file, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _issue(self, common_name: str, names: "list[x509.GeneralName]", *, days: float, server: bool) -> IssuedPair:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

        ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        ca_key = serialization.load_pem_private_key(self._ca_key_file.read_bytes(), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{self._ca_key_file} is not the key of the local CA")  # noqa: TRY004 - the content of a file
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(x509.CertificateBuilder(), self._now, days=days)
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        certificate = builder.sign(ca_key, hashes.SHA256())
        return IssuedPair(certificate_pem=certificate.public_bytes(serialization.Encoding.PEM), key_pem=_key_pem(key))


def _builder(builder: "x509.CertificateBuilder", now: datetime.datetime, *, days: float) -> "x509.CertificateBuilder":
    from cryptography import x509  # noqa: PLC0415

    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=_BACKDATED_S))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_pem(key: "ec.EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _general_name(name: str) -> "x509.GeneralName":
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
