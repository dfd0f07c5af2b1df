"""`robin ca bundle`: what agents must trust, as files or as ConfigMaps. A CA that was published stays as long as `--keep` carries it over.

Rules to keep: no private key ever gets in; nothing empty is published; what is written is written whole, or not at all.
"""

import argparse
import contextlib
import datetime
import os
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robin.cli.config_map import ApiError, ApiServer, ConfigMap, api_server
from robin.cli.pem import certificate_blocks
from robin.transport.public_roots import public_roots
from robin.transport.tls import TlsFileError, read_file

if TYPE_CHECKING:
    from cryptography import x509

CA_FILE: Final = "ca.crt"
BUNDLE_FILE: Final = "bundle.crt"
_FROM_DESTINATION: Final = ""
_DATA_BYTES: Final = 1_000_000  # a ConfigMap holds 1 MiB
_TRIES: Final = 3
_DESTINATION: Final = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)/([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)")


class BundleRefused(Exception):
    """Nothing is written; the message says why."""


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    parser.add_argument(
        "--ca", action="append", required=True, metavar="FILE", help="CA certificates (PEM), as tls.crt of a slot; repeatable"
    )
    parser.add_argument("--public-roots", action="store_true", help="write bundle.crt too, with the public roots of this machine")
    parser.add_argument(
        "--keep",
        nargs="?",
        const=_FROM_DESTINATION,
        metavar="FILE",
        help="carry over the CAs of an earlier ca.crt; without FILE those that are published now",
    )
    parser.add_argument("--drop", action="append", default=[], type=_sha256, metavar="SHA256", help="leave this CA out; repeatable")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", help="write files into this folder")
    where.add_argument(
        "--configmap", action="append", type=_config_map, metavar="NS/NAME", help="apply to this ConfigMap (server-side apply); repeatable"
    )
    parser.add_argument("--server", metavar="URL", help="the API server [that of this pod]")
    parser.add_argument("--token-file", metavar="FILE", help="its token [that of this pod's ServiceAccount]")
    parser.add_argument("--server-ca", metavar="FILE", help="CA of its certificate [that of this pod's ServiceAccount]")


def _sha256(text: str) -> str:
    plain = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise argparse.ArgumentTypeError("write the 64 hexadecimal digits that robin ca fingerprint shows")
    return plain


def _config_map(text: str) -> tuple[str, str]:
    found = _DESTINATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is not NAMESPACE/NAME")
    return found[1], found[2]


def write_bundle(args: argparse.Namespace, now: datetime.datetime) -> int:
    """0 written, 1 refused, 2 usage."""
    try:
        given = [certificate for path in args.ca for certificate in _read(path, now)]
        if not given:
            raise BundleRefused("no --ca file has a CA that is still valid")
        kept = _read(args.keep, now) if args.keep else []
        roots = _public_roots() if args.public_roots else b""
        bundle = _Bundle(args, given, kept, roots, now)
        if args.out is not None:
            bundle.write(Path(args.out))
        else:
            server = api_server(args.server, args.token_file, args.server_ca)
            for namespace, name in args.configmap:
                bundle.apply(server, namespace, name)
    except (BundleRefused, ApiError) as error:
        print(f"robin: {error}", file=sys.stderr)
        return 1
    return 0


class _Bundle:
    """The certificates, and where they go."""

    def __init__(
        self,
        args: argparse.Namespace,
        given: "list[x509.Certificate]",
        kept: "list[x509.Certificate]",
        roots: bytes,
        now: datetime.datetime,
    ) -> None:
        self._given = given
        self._kept = kept
        self._roots = roots
        self._now = now
        self._drop = frozenset(args.drop)
        self._keeps_published = args.keep == _FROM_DESTINATION

    def _content(self, published: bytes, where: str) -> dict[str, bytes]:
        """The files by name. `published`: the ca.crt that is there now."""
        before = _parse(published, where, self._now) if self._keeps_published and published else []
        chosen = {_fingerprint(one): one for one in (*self._given, *self._kept, *before)}
        chosen = {digest: one for digest, one in chosen.items() if digest not in self._drop}
        if not chosen:
            raise BundleRefused(f"{where}: nothing is left to publish; look at --drop")
        pem = b"".join(map(_pem, chosen.values()))
        for digest, one in chosen.items():
            print(f"{where} {digest} {one.subject.rfc4514_string() or '-'}")
        content = {CA_FILE: pem, **({BUNDLE_FILE: pem + self._roots} if self._roots else {})}
        if sum(map(len, content.values())) > _DATA_BYTES:
            raise BundleRefused(f"{where}: the bundle has more than {_DATA_BYTES} octets")
        return content

    def write(self, folder: Path) -> None:
        """Raises BundleRefused."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / CA_FILE
            published = read_file(str(file), CA_FILE) if file.exists() else b""
            content = self._content(published, str(folder))
            for name, octets in reversed(content.items()):  # ca.crt last: it is what --keep reads
                _replace(folder / name, octets)
        except (OSError, TlsFileError) as error:
            raise BundleRefused(f"{folder}: {error.strerror if isinstance(error, OSError) else error}") from None
        if BUNDLE_FILE not in content and (folder / BUNDLE_FILE).exists():
            print(f"robin: {folder / BUNDLE_FILE} stays as it was; give --public-roots to write it too", file=sys.stderr)

    def apply(self, server: ApiServer, namespace: str, name: str) -> None:
        """Read, decide and apply; once more where another writer came between. Raises BundleRefused, ApiError."""
        for left in reversed(range(_TRIES)):
            found = server.read(namespace, name)
            published = found.data.get(CA_FILE, "") if found is not None else ""
            content = self._content(published.encode("utf-8"), f"{namespace}/{name}")
            data = {key: octets.decode("ascii") for key, octets in content.items()}
            version = None if found is None else found.version
            if server.apply(ConfigMap(namespace=namespace, name=name, data=data, version=version)):
                return
            if not left:
                raise BundleRefused(f"{namespace}/{name}: others write it at the same time; try again")


def _read(path: str, now: datetime.datetime) -> "list[x509.Certificate]":
    try:
        return _parse(read_file(path, "the file"), path, now)
    except (TlsFileError, OSError) as error:
        raise BundleRefused(f"{path}: {error}") from None


def _parse(content: bytes, where: str, now: datetime.datetime) -> "list[x509.Certificate]":
    """The CAs in it that are still valid. Raises BundleRefused for a private key, and where there is no certificate."""
    from cryptography import x509  # noqa: PLC0415 - loaded only here

    if b"PRIVATE KEY" in content:
        raise BundleRefused(f"{where} has a private key, which must never be published; name a file with certificates alone")
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise BundleRefused(f"{where} has no certificate that can be read") from None
    chosen = []
    for one in found:
        why = "has expired" if one.not_valid_after_utc <= now else "" if _is_ca(one) else "is no CA"
        if why:
            print(f"robin: {where}: {_fingerprint(one)} {why}, and is left out", file=sys.stderr)
        else:
            chosen.append(one)
    return chosen


def _is_ca(certificate: "x509.Certificate") -> bool:
    from cryptography import x509  # noqa: PLC0415

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _fingerprint(certificate: "x509.Certificate") -> str:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    return certificate.fingerprint(hashes.SHA256()).hex()


def _pem(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return certificate.public_bytes(Encoding.PEM)


def _public_roots() -> bytes:
    """The public roots of this machine. Raises BundleRefused.

    Not those that SSL_CERT_FILE names: that may be a bundle that was made here.
    """
    if blocks := certificate_blocks(public_roots(named=False)):
        return b"".join(blocks)
    raise BundleRefused("this machine has no file of public roots; install ca-certificates")


def _replace(path: Path, content: bytes) -> None:
    """Write a file of mode 0644 whole."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(descriptor, "wb") as opened:
            os.fchmod(descriptor, 0o644)
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
