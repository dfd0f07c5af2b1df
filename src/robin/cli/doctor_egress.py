"""`robin doctor egress`: what would keep an agent behind a gateway from working, or from being held; one line for each finding."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping

from robin.cli.enforcement import GatewayPlace, add_gateway
from robin.cli.findings.egress_environment import TRUST, Trusted, look_at_proxies, look_at_tokens, look_at_trust, proxy_place
from robin.cli.findings.egress_network import look_at_dns, look_at_gateway, look_at_relay
from robin.cli.findings.finding import Finding, Health
from robin.transport.clock import Clock, SystemClock

FAILED = 4


def add_doctor_egress(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    add_gateway(parser)
    parser.set_defaults(ca_file=f"{TRUST}/ca.crt")
    parser.add_argument("--token-file", metavar="FILE", help="the relay's token, where it is mounted here")
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")


def doctor_egress(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """0 nothing fails, 4 something does, 2 usage."""
    place = None
    if args.gateway is not None:
        encrypted, host, port = args.gateway
        place = GatewayPlace(host=host, port=port, ca_file=args.ca_file if encrypted else None)
    found: list[Finding] = []
    for finding in _look(args, place, environ, SystemClock()):
        found.append(finding)
        if not args.json:
            print(_line(finding), flush=True)
    healthy = all(one.health is not Health.FAIL for one in found)
    if args.json:
        listed = [{"code": one.subject, "status": str(one.health), "what": one.what, "fix": one.fix or None} for one in found]
        json.dump({"ok": healthy, "findings": listed}, sys.stdout, indent=2)
        print()
    return 0 if healthy else FAILED


def _look(args: argparse.Namespace, place: GatewayPlace | None, environ: Mapping[str, str], clock: Clock) -> Iterator[Finding]:
    trusted = Trusted(path=args.ca_file)
    yield from look_at_proxies(environ)
    yield from look_at_trust(environ, trusted, clock)
    yield from look_at_tokens(args.token_file, clock)
    yield from look_at_relay(proxy_place(environ.get("HTTPS_PROXY", "")))
    yield from look_at_dns()
    yield from look_at_gateway(place, trusted, tuple(args.forbid), clock)


def _line(finding: Finding) -> str:
    fix = f"; fix: {finding.fix}" if finding.fix else ""
    return f"{finding.health:<4} {finding.subject} {finding.what}{fix}"
