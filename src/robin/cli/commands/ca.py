"""Make a CA for the TLS bridge of the gateway, publish what agents must trust, or show the fingerprint of a certificate."""

import argparse
import base64
import contextlib
import datetime
import json
import os
import re
import secrets
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from robin.cli.ca_bundle import add_bundle, write_bundle
from robin.cli.new_files import write_new
from robin.transport.clock import SystemClock

if TYPE_CHECKING:
    from cryptography import x509

_FILES: Final = ("tls.key", "tls.crt", "ca.crt")
_TIMEOUT_S: Final = 10.0
_HEAD_BYTES: Final = 65536


def configure(parser: argparse.ArgumentParser) -> None:
    """Three actions."""
    parser.usage = (
        "robin ca init --out DIR | --secret NAME -n NAMESPACE [--cn NAME] [--days N] [--permit-dns D]...\n"
        "       robin ca bundle --ca FILE... [--public-roots] [--keep [FILE]] [--drop SHA256]... --out DIR | --configmap NS/NAME...\n"
        "       robin ca fingerprint PATH | URL | --via PROXY HOST [--expect FILE]"
    )
    actions = parser.add_subparsers(prog="robin ca", dest="action", required=True, metavar="init | bundle | fingerprint")
    init = actions.add_parser("init", help="make a CA: tls.key, tls.crt and ca.crt in a folder", allow_abbrev=False)
    where = init.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", help="the folder; it must hold none of the three files")
    where.add_argument("--secret", type=_object_name, metavar="NAME", help="print a Secret with the key, for kubectl create -f -")
    init.add_argument("-n", "--namespace", type=_label, metavar="NAMESPACE", help="of the Secret")
    init.add_argument("--cn", metavar="NAME", help="common name [robin-bridge-ca-<8 hex>]")
    init.add_argument("--days", type=int, default=365, metavar="N", help="how long it is valid [365]")
    init.add_argument("--permit-dns", action="append", default=[], metavar="D", help="sign only for names at or under D; repeatable")
    add_bundle(actions.add_parser("bundle", help="ca.crt and bundle.crt for agents", allow_abbrev=False))
    show = actions.add_parser("fingerprint", help="SHA-256, subject and validity of a certificate", allow_abbrev=False)
    show.add_argument("place", metavar="PATH|URL|HOST", help="a PEM file, an https URL, or with --via a host[:port]")
    show.add_argument("--via", metavar="PROXY", help="http://[user:password@]host:port: what an agent behind this proxy gets")
    show.add_argument("--expect", metavar="FILE", help="exit 1 unless the chain's last certificate, or its issuer, is in this file")


def run(args: argparse.Namespace) -> int:
    """0 done, 1 refused, 2 usage."""
    if args.action == "bundle":
        return write_bundle(args, _now())
    return _init(args) if args.action == "init" else _fingerprint(args)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)  # noqa: TID251 - a command


def _object_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is no name of a Kubernetes object")
    return text


def _label(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is no name of a namespace")
    return text


def _init(args: argparse.Namespace) -> int:
    if not 1 <= args.days <= 36500:
        print("robin: --days is 1 to 36500", file=sys.stderr)
        return 2
    if (args.secret is None) != (args.namespace is None):
        print("robin: --secret NAME and -n NAMESPACE belong together", file=sys.stderr)
        return 2
    folder = Path(args.out or "")
    present = [name for name in _FILES if args.out is not None and os.path.lexists(folder / name)]
    if present:
        print(f"robin: {folder / present[0]} is there already, and nothing was written; choose another folder", file=sys.stderr)
        return 1
    from robin.planes.gateway.new_authority import make_authority  # noqa: PLC0415 - cryptography is loaded only here

    name = args.cn or f"robin-bridge-ca-{secrets.token_hex(4)}"
    try:
        certificate, key = make_authority(name, days=args.days, permit_dns=args.permit_dns, now=_now())
    except ValueError as error:
        print(f"robin: {error}", file=sys.stderr)
        return 2
    if args.secret is not None:
        print(_secret(args.secret, args.namespace, {"ca.crt": certificate, "tls.crt": certificate, "tls.key": key}))
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content, mode in (("tls.key", key, 0o600), ("tls.crt", certificate, 0o644), ("ca.crt", certificate, 0o644)):
            write_new(folder / file, content, mode)
    except OSError as error:
        print(f"robin: {folder}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{name}: tls.key, tls.crt and ca.crt are in {folder}; give ca.crt to callers, never tls.key")
    return 0


def _secret(name: str, namespace: str, files: dict[str, bytes]) -> str:
    """The manifest of a Secret. JSON strings are YAML: a name of digits stays a name."""
    metadata = f"metadata: {json.dumps({'name': name, 'namespace': namespace})}"
    lines = [f"  {file}: {base64.b64encode(content).decode()}" for file, content in files.items()]
    return "\n".join(["apiVersion: v1", "kind: Secret", metadata, "type: kubernetes.io/tls", "data:", *lines])


def _fingerprint(args: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    try:
        chain = _chain_of(args)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print(f"robin: {args.place}: {text}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    for certificate in chain:
        print(f"sha256 {certificate.fingerprint(hashes.SHA256()).hex()}")
        print(f"subject {certificate.subject.rfc4514_string() or '-'}")
        print(f"issuer {certificate.issuer.rfc4514_string() or '-'}")
        print(f"valid {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} to {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    if args.expect is None:
        return 0
    try:
        expected = _read_certificates(args.expect)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print(f"robin: --expect: {args.expect}: {text}", file=sys.stderr)
        return 2
    vouching = next((one for one in expected if any(_is_vouched(shown, [one]) for shown in chain)), None)
    if vouching is not None:
        print(f"expected {vouching.fingerprint(hashes.SHA256()).hex()} {vouching.subject.rfc4514_string() or '-'}")
        return 0
    print(f"robin: no certificate of the chain is in {args.expect}, or signed by one in it", file=sys.stderr)
    return 1


def _is_vouched(certificate: "x509.Certificate", expected: "list[x509.Certificate]") -> bool:
    for one in expected:
        if one == certificate:
            return True
        try:
            certificate.verify_directly_issued_by(one)
        except Exception:  # noqa: BLE001, S112 - it raises one of several for "no"
            continue
        return True
    return False


def _read_certificates(path: str) -> "list[x509.Certificate]":
    """The certificates of a PEM file. Raises OSError, ValueError."""
    from cryptography import x509  # noqa: PLC0415

    content = Path(path).read_bytes()
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        what = "this is a private key" if b"PRIVATE KEY-----" in content else "it has no certificate that can be read"
        raise ValueError(f"{what}; name a PEM file with certificates, such as ca.crt") from None


def _chain_of(args: argparse.Namespace) -> "list[x509.Certificate]":
    """The certificates of a file, or the one that a server shows. Raises OSError, ValueError."""
    from cryptography import x509  # noqa: PLC0415

    if args.via is None and "://" not in args.place:
        return _read_certificates(args.place)
    host, port = _target(args.place)
    with contextlib.closing(_connect(args.via, host, port)) as sock:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # only the fingerprint is read, and any server may be asked for it
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        with context.wrap_socket(sock, server_hostname=host) as tls:
            octets = tls.getpeercert(binary_form=True)
    if octets is None:
        raise ValueError("the server shows no certificate")
    return [x509.load_der_x509_certificate(octets)]


def _target(text: str) -> tuple[str, int]:
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("write an https URL, or host[:port]")
    return parts.hostname, parts.port or 443


def _connect(via: str | None, host: str, port: int) -> socket.socket:
    """A connection to the place, through the proxy if there is one. Raises OSError, ValueError."""
    if via is None:
        return socket.create_connection((host, port), _TIMEOUT_S)
    proxy = urlsplit(via)
    if proxy.scheme != "http" or not proxy.hostname or not proxy.port:
        raise ValueError("--via is http://[user:password@]host:port")
    sock = socket.create_connection((proxy.hostname, proxy.port), _TIMEOUT_S)
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.username is not None:
        pair = base64.b64encode(f"{proxy.username}:{proxy.password or ''}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {pair}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    head, clock = b"", SystemClock()
    deadline_at = clock.monotonic() + _TIMEOUT_S
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
        sock.settimeout(max(0.001, deadline_at - clock.monotonic()))
        piece = sock.recv(1)  # nothing behind the head may be taken from TLS
        if not piece:
            break
        head += piece
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        sock.close()
        raise OSError(None, f"the proxy answered {status[0].decode('latin-1') if status else 'nothing'}")
    return sock
