"""Look for what would go wrong, and say how to mend it: identity, clock, upstream, ports, limits. It sends no token anywhere."""

import argparse
import json
from collections.abc import Iterator

from robin.cli.findings import identity, machine, upstream
from robin.cli.findings.finding import Finding, Health, ok, warn
from robin.cli.flags import add_settings, load_or_exit
from robin.config.check import warnings
from robin.config.layers import Layer
from robin.config.load import Loaded, environment
from robin.transport.clock import SystemClock


def configure(parser: argparse.ArgumentParser) -> None:
    """Every setting is a flag."""
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """0 nothing fails, 1 something does, 2 the settings are wrong."""
    loaded = load_or_exit(args)
    findings = []
    for finding in _look(loaded):
        findings.append(finding)
        if not args.json:
            print(_line(finding), flush=True)
    healthy = all(finding.health is not Health.FAIL for finding in findings)
    if args.json:
        listed = [{"subject": one.subject, "status": str(one.health), "what": one.what, "fix": one.fix or None} for one in findings]
        print(json.dumps({"ok": healthy, "findings": listed}, indent=2))
    return 0 if healthy else 1


def _look(loaded: Loaded) -> Iterator[Finding]:
    clock = SystemClock()
    chosen = sum(source.layer is not Layer.DEFAULT for source in loaded.sources)
    yield ok("settings", f"{chosen} set, the rest are defaults; robin check shows them")
    for _event, fields in warnings(loaded.settings):
        yield warn("settings", fields["detail"], "keep it only where that is meant")
    yield from identity.look(loaded.settings, clock)
    yield from upstream.look(loaded.settings, clock)
    yield from machine.look(loaded.settings, environment())


def _line(finding: Finding) -> str:
    line = f"{finding.health.upper() if finding.health is Health.FAIL else finding.health:<5} {finding.subject:<16} {finding.what}"
    return f"{line}\n{'':<6}{'':<16} fix: {finding.fix}" if finding.fix else line
