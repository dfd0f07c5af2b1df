"""Run the broker: it signs one request at a time for local programs that hold no key, and verifies such requests where `verify` is set.

`robin broker key list` shows the issuer's keys, never the private halves.
"""

import argparse
import sys
from pathlib import Path

from robin.cli.broker_config import broker_or_exit

EXIT_OK, EXIT_NO, EXIT_USAGE = 0, 1, 2


def configure(parser: argparse.ArgumentParser) -> None:
    """The action and the file."""
    parser.usage = "robin broker [run | key list] --config FILE [--check]"
    parser.add_argument("action", nargs="*", metavar="ACTION", help="run, or key list [run]")
    parser.add_argument("--config", required=True, metavar="FILE", help="robin.yaml with a section `broker`")
    parser.add_argument("--check", action="store_true", help="read everything, and do not run")


def run(args: argparse.Namespace) -> int:
    """As a plane: 0 drained, 1 internal, 2 settings, keys or usage, 3 cannot bind, 4 cut, 128+n second signal."""
    if args.action not in ([], ["run"], ["key", "list"]):
        print("robin broker: use run or key list; making, activating and retiring keys is not built yet", file=sys.stderr)
        return EXIT_USAGE
    settings = broker_or_exit(args.config)
    if args.action[:1] == ["key"] or args.check:
        return _show(args, settings.state_dir)
    if settings.issue is None and args.action == ["run"]:
        print("robin broker run: there is no section broker.issue; robin broker alone runs the verifier", file=sys.stderr)
        return EXIT_USAGE
    from robin.app.broker import run_broker  # noqa: PLC0415 - the engine is loaded only once the settings are right

    return run_broker(settings)


def _show(args: argparse.Namespace, state_dir: Path) -> int:
    from robin.planes.broker.keys import KeyFileRefused, load_keys  # noqa: PLC0415 - only where keys are read

    try:
        keys = load_keys(state_dir / "keys", now=0, auto_create=False)
    except FileNotFoundError as error:
        print(f"robin broker: {error.filename}: there are no keys yet", file=sys.stderr)
        return EXIT_OK if args.check else EXIT_NO
    except (KeyFileRefused, OSError) as error:
        print(f"robin broker: {error}", file=sys.stderr)
        return EXIT_USAGE
    for key in () if args.check else keys:
        print(f"{key.kid}  {key.status:<8}  created {key.created}")
    return EXIT_OK
