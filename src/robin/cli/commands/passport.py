"""Ask the broker for a passport for one request, verify a request as a verifier would, and make the bundle that verifiers trust."""

import argparse
import sys

from robin.cli.output import is_of_output
from robin.cli.passports import bundles, issue, verify


def configure(parser: argparse.ArgumentParser) -> None:
    """One parser for each action."""
    parser.usage = "robin passport issue | verify | bundle ... [flags]"
    actions = parser.add_subparsers(
        prog="robin passport", dest="passport_action", required=True, metavar="ACTION", parser_class=type(parser)
    )
    issue.configure(actions.add_parser("issue", help="ask the broker for a passport", description=issue.__doc__))
    verify.configure(actions.add_parser("verify", help="verify one request", description=verify.__doc__))
    bundles.configure(actions.add_parser("bundle", help="make and check bundles", description=bundles.__doc__))


def run(args: argparse.Namespace) -> int:
    """0 yes, 1 no, 2 usage, 3 the broker cannot be reached."""
    try:
        actions = {"issue": issue.run, "verify": verify.run, "bundle": bundles.run}
        return actions[args.passport_action](args)
    except OSError as error:
        if is_of_output(error):
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        print(f"robin passport: {place}{error.strerror or type(error).__name__}", file=sys.stderr)
        return 2
