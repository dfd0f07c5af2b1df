"""Verify one request from its raw HTTP/1.1 bytes, as the verifier of a service would, and print one JSON line. No replay store is kept.

`--explain` writes the transcript or signature base that was built to standard error, also for a refused request. Credentials in it are
replaced by their SHA-256.
"""

import argparse
import hashlib
import json
import math
import sys
from itertools import zip_longest
from pathlib import Path

from robin.cli.flags import refuse
from robin.model.faults import Fault
from robin.model.message import Framing
from robin.model.passport import TRANSCRIPT, find_route
from robin.model.passport_reasons import Refused
from robin.planes.broker.inbound import find_ambiguity, received
from robin.planes.broker.keys import KeyFileRefused, load_public_keys
from robin.policy.passport_proof import ProofRules, check_body
from robin.policy.passport_verify import Findings, VerifyRules, verify_head
from robin.transport.clock import SystemClock
from robin.wire.framing import ChunkedDecoder, FramingError
from robin.wire.http1 import parse_request
from robin.wire.trust_bundle import BundleRefused, parse_bundle


def configure(parser: argparse.ArgumentParser) -> None:
    """The request, the bundle and the time."""
    parser.add_argument("--request", required=True, metavar="FILE", help="raw HTTP/1.1 bytes, - for standard input")
    parser.add_argument("--bundle", required=True, metavar="FILE")
    parser.add_argument("--bundle-key", metavar="FILE", help="the pinned public key")
    parser.add_argument("--unsafe-unsigned-bundle", action="store_true", help="take the bundle without a signature")
    parser.add_argument("--at", type=_epoch, metavar="EPOCH", help="the verifier's clock [now]")
    parser.add_argument("--scheme", choices=("https", "http"), help="[the route's]")
    parser.add_argument("--authority", metavar="HOST", help="the served host [the route's]")
    parser.add_argument("--explain", action="store_true", help="show the transcript or base that was built")
    parser.add_argument("--claimed-base", metavar="FILE", help="what the client signed; show the first line that differs")


def run(args: argparse.Namespace) -> int:
    """0 allowed, 1 not, 2 usage."""
    if not args.bundle_key and not args.unsafe_unsigned_bundle:
        refuse(["robin passport verify: give --bundle-key, or --unsafe-unsigned-bundle"])
    raw = sys.stdin.buffer.read() if args.request == "-" else Path(args.request).read_bytes()
    try:
        signers = load_public_keys((Path(args.bundle_key),)) if args.bundle_key else None
        bundle = parse_bundle(Path(args.bundle).read_bytes(), signers)
    except BundleRefused as refused:
        return _say(allowed=False, reason=refused.reason, found=Findings())
    except KeyFileRefused as refused:
        refuse([f"robin passport verify: {refused}"])
    head_end = raw.find(b"\r\n\r\n") + 4
    try:
        if head_end < 4:
            raise ValueError
        head = parse_request(raw[:head_end], target_bytes=65536, fields_max=100)
        body = _body(raw[head_end:], chunked=head.framing == Framing.CHUNKED, length=head.length)
    except (Fault, FramingError, ValueError):
        refuse(["robin passport verify: --request is not one whole HTTP/1.1 request"])
    request = received(head)
    route = find_route(bundle.routes, request.method, request.path)
    authorities = {args.authority} if args.authority else set(route.authorities if route else ())
    now = SystemClock().wall() if args.at is None else args.at
    scheme = args.scheme or (route.scheme if route else "https")
    rules = VerifyRules(
        authorities=frozenset(name.lower() for name in authorities),
        proof=ProofRules(scheme=scheme, max_age_s=60, skew_s=5, not_before_at=0),
    )
    found = Findings()
    claimed = None if args.claimed_base is None else Path(args.claimed_base).read_bytes()
    try:
        if (ambiguity := find_ambiguity(head)) is not None:
            raise Refused("transcript_ambiguous", ambiguity)
        verify_head(request, bundle, "", rules, now, found)
        assert found.proof is not None
        assert found.route is not None
        check_body(found.proof, found.route, body)
    except Refused as refused:
        code = _say(allowed=False, reason=refused.reason.code, found=found, detail=refused.detail)
    else:
        code = _say(allowed=True, reason="passport_verified", found=found)
    return code if _explain(found, claimed, shown=args.explain) else 1


def _explain(found: Findings, claimed: bytes | None, *, shown: bool) -> bool:
    """Show what was built, and where it differs from what the client claims. Returns False if it does."""
    built = b"".join(found.built).decode("utf-8", "backslashreplace").split("\n") if found.built else []
    for line in built if shown else ():
        print(_without_secrets(line), file=sys.stderr)
    if shown and not built:
        print("robin passport verify: the request was refused before a base was built", file=sys.stderr)
    if claimed is None:
        return True
    theirs = claimed.decode("utf-8", "backslashreplace").removesuffix("\n").split("\n")
    for number, (ours, other) in enumerate(zip_longest(built, theirs, fillvalue=""), 1):
        if ours != other:
            print(f"line {number} differs\n  built:   {_without_secrets(ours)}\n  claimed: {_without_secrets(other)}", file=sys.stderr)
            return False
    return True


def _without_secrets(line: str) -> str:
    name, colon, value = line.partition(": ")
    secret = name in ('"authorization"', '"txn-token"', '"workload-identity-token"')
    return f"{name}: (sha256 {hashlib.sha256(value.encode()).hexdigest()})" if colon and secret else line


def _body(rest: bytes, *, chunked: bool, length: int) -> bytes:
    if not chunked:
        if len(rest) != length:
            raise ValueError
        return rest
    decoder, pieces = ChunkedDecoder(), []
    while not decoder.done:
        found, used = decoder.decode(rest)
        pieces += found
        rest = rest[used:]
        if not decoder.done and not decoder.eager:
            raise ValueError
    if rest:
        raise ValueError
    return b"".join(pieces)


def _epoch(text: str) -> float:
    try:
        at = float(text)
    except ValueError:
        at = math.nan
    if not math.isfinite(at):  # no comparison with such a time would fail
        raise argparse.ArgumentTypeError("it is not a time in seconds")
    return at


def _say(*, allowed: bool, reason: str, found: Findings, detail: str = "") -> int:
    said: dict[str, object] = {"allowed": allowed, "reason": reason}
    said |= {"detail": detail} if detail else {}
    said["profile"] = found.profile
    said["route_id"] = found.route.route_id if found.route else None
    if found.passport is not None:
        said |= {"issuer": found.passport.issuer, "subject": found.passport.subject}
    if found.proof is not None:
        said["transcript_sha256" if found.proof.profile == TRANSCRIPT else "base_sha256"] = found.proof.digest
    print(json.dumps(said))
    return 0 if allowed else 1
