"""Make the bundle that verifiers trust: `keygen` a signing key, `build` from the broker's file and keys, `sign`, `verify`, `show`."""

import argparse
import json
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robin.cli.broker_config import broker_or_exit
from robin.cli.flags import refuse, seconds
from robin.config.broker_load import bundle_routes
from robin.planes.broker.keys import KeyFileRefused, load_bundle_key, load_public_keys
from robin.planes.broker.mounted_keys import load_issuer_keys
from robin.policy.broker_issue import IDENTITY_OF_MODE
from robin.transport.clock import SystemClock
from robin.wire.compact_jws import encode_base64url
from robin.wire.passport_keys import public_jwk, thumbprint_of
from robin.wire.trust_bundle import VERSION, BundleRefused, parse_bundle, parse_document, signed_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    """The step, and its files."""
    parser.add_argument("step", choices=("keygen", "build", "sign", "verify", "show"), metavar="STEP", help="keygen build sign verify show")
    parser.add_argument("--config", metavar="FILE", help="build: robin.yaml of the broker")
    parser.add_argument("--serial", type=int, metavar="N", help="build: not lower than the one before [the time in seconds]")
    parser.add_argument("--valid-for", type=seconds, default=30 * 86400.0, metavar="DURATION", help="build [720h]")
    parser.add_argument("--bundle", metavar="FILE", help="sign, verify, show: the bundle")
    parser.add_argument("--key", metavar="FILE", help="sign: the private key of keygen")
    parser.add_argument("--bundle-key", metavar="FILE", help="verify: the pinned public key")
    parser.add_argument("--out", metavar="FILE", help="keygen: the private key, FILE.pub beside it; build, sign: the bundle")


def run(args: argparse.Namespace) -> int:
    """0 done or right, 1 not right, 2 usage."""
    needs = {
        "keygen": ["out"],
        "build": ["config", "out"],
        "sign": ["bundle", "key", "out"],
        "verify": ["bundle", "bundle_key"],
        "show": ["bundle"],
    }
    missing = [name for name in needs[args.step] if not getattr(args, name)]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        refuse([f"robin passport bundle {args.step}: {flags} is missing"])
    return {"keygen": _keygen, "build": _build, "sign": _sign, "verify": _verify, "show": _show}[args.step](args)


def _keygen(args: argparse.Namespace) -> int:
    key = Ed25519PrivateKey.generate()
    public = {**public_jwk(key), "kid": thumbprint_of(key), "alg": "Ed25519"}
    fd = os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(json.dumps({**public, "d": encode_base64url(key.private_bytes_raw())}) + "\n")
    Path(f"{args.out}.pub").write_text(json.dumps(public) + "\n")
    print(f"{args.out}: private, keep it away from brokers and verifiers\n{args.out}.pub: for verify.bundle_keys")
    return 0


def _build(args: argparse.Namespace) -> int:
    settings = broker_or_exit(args.config, here=False)
    if settings.issue is None:
        refuse([f"robin passport bundle build: {args.config} has no section broker.issue"])
    own, had = settings.state_dir / "keys", _names(settings.state_dir / "keys")
    try:
        keys = load_issuer_keys(settings.state_dir, settings.keys_dir, now=SystemClock().wall(), auto_create=settings.auto_create)
    except KeyFileRefused as error:
        refuse([f"robin passport bundle build: {error}"])
    now = int(SystemClock().wall())
    issuer = {
        "iss": settings.issuer,
        "kind": "broker",
        "source_type": "software_jwks",
        "profiles": ["transcript-v1", "wimse-httpsig"],
        "keys": [{**public_jwk(pair.key), "kid": pair.kid, "alg": "Ed25519"} for pair in keys],
        "max_identity": "peercred" if settings.issue.identity is None else IDENTITY_OF_MODE[settings.issue.identity.mode],
        "max_key_protection": "software",
        "subject_exact": None,
    }
    document = {
        "version": VERSION,
        "serial": now if args.serial is None else args.serial,
        "created_at": now,
        "not_after": now + int(args.valid_for),
        "trust_domains": [{"name": settings.trust_domain, "issuers": [issuer]}],
        "routes": bundle_routes(settings),
        "revocations": [],
    }
    for name in sorted(_names(own) - had):
        print(f"{own / name}: made now, the first issuer key; the broker signs with it")
    code = _write(args.out, document)
    print(f"{args.out}: not signed yet, {len(keys)} keys; robin passport bundle sign makes the bundle that verifiers take")
    return code


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.jwk")}


def _sign(args: argparse.Namespace) -> int:
    try:
        document = parse_document(Path(args.bundle).read_bytes())
        document.pop("signature", None)
        parse_bundle(json.dumps(document).encode(), None)  # what no verifier would take is not signed
        key = load_bundle_key(Path(args.key))
    except (BundleRefused, KeyFileRefused) as refused:
        refuse([f"robin passport bundle sign: {refused}"])
    value = encode_base64url(key.sign(signed_bytes(document)))
    document["signature"] = {"kid": thumbprint_of(key), "alg": "Ed25519", "value": value}
    return _write(args.out, document)


def _verify(args: argparse.Namespace) -> int:
    try:
        bundle = parse_bundle(Path(args.bundle).read_bytes(), load_public_keys((Path(args.bundle_key),)))
    except (BundleRefused, KeyFileRefused) as refused:
        print(refused, file=sys.stderr)
        return 1
    print(f"serial {bundle.serial}, created {bundle.created_at}, {len(bundle.keys)} keys, {len(bundle.routes)} routes")
    return 0


def _show(args: argparse.Namespace) -> int:
    try:
        document = parse_document(Path(args.bundle).read_bytes())
    except BundleRefused as refused:
        print(refused, file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2))
    return 0


def _write(path: str, document: object) -> int:
    temporary = Path(f"{path}.new")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.rename(path)
    return 0
