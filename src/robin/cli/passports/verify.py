"""Verify one request from its raw HTTP/1.1 bytes, as the verifier of a service would, and print one JSON line. No replay store is kept."""

import argparse
import json
import sys
from pathlib import Path

from robin.cli.flags import refuse
from robin.model.faults import Fault
from robin.model.message import Framing
from robin.model.passport import TRANSCRIPT, find_route
from robin.model.passport_reasons import Refused
from robin.planes.broker.inbound import received
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
    parser.add_argument("--at", type=float, metavar="EPOCH", help="the verifier's clock [now]")
    parser.add_argument("--scheme", choices=("https", "http"), help="[the route's]")
    parser.add_argument("--authority", metavar="HOST", help="the served host [the route's]")


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
    try:
        verify_head(request, bundle, "", rules, now, found)
        assert found.proof is not None
        assert found.route is not None
        check_body(found.proof, found.route, body)
    except Refused as refused:
        return _say(allowed=False, reason=refused.reason.code, found=found, detail=refused.detail)
    return _say(allowed=True, reason="passport_verified", found=found)


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
    return b"".join(pieces)


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
