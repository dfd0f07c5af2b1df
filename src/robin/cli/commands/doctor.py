"""Look for what would go wrong, and show the fix: identity, clock, upstream, ports, limits. It sends no token anywhere.

With --grant: obtain one credential of the gateway from its issuer, and compare what the profile says with what the issuer publishes.
"""

import argparse
import json
import os
from collections.abc import Iterator

from robin.cli.doctor_egress import add_doctor_egress, doctor_egress
from robin.cli.findings import identity, machine, upstream
from robin.cli.findings.finding import Finding, Health, fail, ok, warn
from robin.cli.flags import add_grant, add_settings, given, refuse
from robin.config.check import warnings
from robin.config.layers import Layer, SettingError
from robin.config.load import Loaded, environment, load
from robin.transport.clock import SystemClock

_UPSTREAM = "ROBIN_UPSTREAM_URL"
_INSTEAD = "https://upstream.invalid"  # where there is none, so that the rest can be looked at; it is not connected to


def configure(parser: argparse.ArgumentParser) -> None:
    """Every setting is a flag; `egress` has flags of its own."""
    parser.usage = (
        "robin doctor [flags]\n       robin doctor egress [--gateway HOST:PORT] [--ca-file FILE] [--forbid IP:PORT]... [--token-file FILE]"
    )
    actions = parser.add_subparsers(prog="robin doctor", dest="action", metavar="egress")
    add_doctor_egress(actions.add_parser("egress", help="of an agent behind a gateway", allow_abbrev=False))
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    add_grant(parser)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """0 nothing fails, 1 something does (4 with --grant, and of `egress`), 2 the settings are wrong."""
    if args.action == "egress":
        return doctor_egress(args, dict(os.environ))  # noqa: TID251 - the variables of an agent, not settings of ours
    if args.grant is not None:
        from robin.cli.findings import grant  # noqa: PLC0415 - the sidecar's doctor does not load the gateway
        from robin.cli.one_grant import NO_GRANT, run_one  # noqa: PLC0415

        plan, result = run_one(args, metadata=True)
        return _report(args, grant.look(plan, result, SystemClock().wall()), NO_GRANT)
    loaded, missing = _load(args)
    return _report(args, _look(loaded, missing), 1)


def _report(args: argparse.Namespace, looked: Iterator[Finding], failed: int) -> int:
    findings = []
    for finding in looked:
        findings.append(finding)
        if not args.json:
            print(_line(finding), flush=True)
    healthy = all(finding.health is not Health.FAIL for finding in findings)
    if args.json:
        listed = [{"subject": one.subject, "status": str(one.health), "what": one.what, "fix": one.fix or None} for one in findings]
        print(json.dumps({"ok": healthy, "findings": listed}, indent=2))
    return 0 if healthy else failed


def _load(args: argparse.Namespace) -> tuple[Loaded, SettingError | None]:
    """The settings, and the error where nothing but the upstream is missing; exits 2 on any other."""
    flags, missing = given(args), None
    outcome = load(flags, environment())
    if isinstance(outcome, tuple):
        (first, *more) = outcome
        if isinstance(first, SettingError) and first.key == _UPSTREAM and first.unset and not more:
            missing = first
            outcome = load(flags | {_UPSTREAM: _INSTEAD}, environment())
    if isinstance(outcome, tuple):
        refuse(outcome)
    return outcome, missing


def _look(loaded: Loaded, missing: SettingError | None) -> Iterator[Finding]:
    clock = SystemClock()
    chosen = sum(source.layer is not Layer.DEFAULT for source in loaded.sources if missing is None or source.key != missing.key)
    yield ok("settings", f"{chosen} set, the rest are defaults; robin check shows them")
    for _event, fields in warnings(loaded.settings):
        yield warn("settings", fields["detail"], "keep it only where that is meant")
    yield from identity.look(loaded.settings, clock)
    if missing is None:
        yield from upstream.look(loaded.settings, clock)
    else:
        yield fail("upstream", f"{missing.key} {missing.what}", missing.fix)
    yield from machine.look(loaded.settings, environment())


def _line(finding: Finding) -> str:
    line = f"{finding.health.upper() if finding.health is Health.FAIL else finding.health:<5} {finding.subject:<16} {finding.what}"
    return f"{line}\n{'':<6}{'':<16} fix: {finding.fix}" if finding.fix else line
