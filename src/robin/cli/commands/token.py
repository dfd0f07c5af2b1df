"""Show the identity: header, claims, time left, and the result of each check. The token itself and its signature stay hidden."""

import argparse
import json
import sys

from robin.cli.flags import add_grant, add_settings, identity_or_exit
from robin.cli.one_token import NoToken, OneToken, fetch_one
from robin.config.load import CONFIG
from robin.config.table import IDENTITY_KEYS
from robin.transport.clock import SystemClock
from robin.wire.jwt_inspection import unsafe_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Every setting is a flag, so that the sidecar's command line will do; those that are read are listed: the identity's, and the file."""
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    parser.add_argument(
        "--unsafe-print-token",
        "--unsafe-show-token",
        action="store_true",
        help="print the raw token: anyone who has it can act as this workload",
    )
    add_grant(parser)
    add_settings(parser, shown=(*IDENTITY_KEYS, CONFIG))


def run(args: argparse.Namespace) -> int:
    """0 every check passed, 1 one did not or there is no token (4 with --grant), 2 the settings are wrong."""
    if args.grant is not None:
        from robin.cli.one_grant import show_token  # noqa: PLC0415 - the sidecar's command does not load the gateway

        return show_token(args)
    settings = identity_or_exit(args)
    try:
        token = fetch_one(settings, SystemClock())
    except NoToken as none:
        if args.json:
            print(json.dumps({"ok": False, "error": str(none)}, indent=2))
        print(f"robin: {none}", file=sys.stderr)
        return 1
    passed = all(check.passed for check in token.laid_open.checks)
    if args.json:
        values = _values(token, passed=passed)
        print(json.dumps(values | {"token": unsafe_text(token.raw.text)} if args.unsafe_print_token else values, indent=2))
    elif args.unsafe_print_token:
        print(unsafe_text(token.raw.text))
    else:
        print(_text(token))
    return 0 if passed else 1


def _values(token: OneToken, *, passed: bool) -> dict[str, object]:
    left_s = token.expires_in_s
    return {
        "ok": passed,
        "header": token.laid_open.header,
        "claims": token.laid_open.claims,
        "expires_in_s": None if left_s is None else round(left_s, 3),
        "checks": [
            {"name": check.name, "passed": check.passed, "text": check.text, "code": check.code or None, "fix": check.fix or None}
            for check in token.laid_open.checks
        ],
    }


def _text(token: OneToken) -> str:
    laid_open = token.laid_open
    lines = []
    for title, part in (("header", laid_open.header), ("claims", laid_open.claims)):
        lines += [f"{title}:", "  " + json.dumps(part, indent=2).replace("\n", "\n  ")] if part is not None else []
    if token.expires_in_s is not None:
        lines += [f"time left: {token.expires_in_s:.0f} s"]
    lines += ["checks:"]
    for check in laid_open.checks:
        lines += [f"  {'ok  ' if check.passed else 'FAIL'} {check.name}: {check.text}"]
        lines += [f"       fix: {check.fix}"] if check.fix else []
    return "\n".join([*lines, "signature: hidden (the upstream verifies it)"])
