"""Run the broker: it signs one request at a time for local programs that hold no key, and verifies such requests where `verify` is set.

`robin broker key list` shows the issuer's keys, never the private halves; `key new`, `key activate KID` and `key retire KID` replace one.
"""

import argparse
import sys
from pathlib import Path

from robin.cli.broker_config import broker_or_exit
from robin.config.broker_load import BrokerSettings
from robin.transport.clock import SystemClock

EXIT_OK, EXIT_NO, EXIT_USAGE = 0, 1, 2
_KID_ACTIONS = ("activate", "retire")


def configure(parser: argparse.ArgumentParser) -> None:
    """The action and the file."""
    parser.usage = "robin broker [run | key list | key new | key activate KID | key retire KID] --config FILE [--check] [--bundle FILE]"
    parser.add_argument("action", nargs="*", metavar="ACTION", help="run, or key list, new, activate KID, retire KID [run]")
    parser.add_argument("--config", required=True, metavar="FILE", help="robin.yaml with a section `broker`")
    parser.add_argument("--check", action="store_true", help="read everything, and do not run")
    parser.add_argument("--bundle", metavar="FILE", help="key activate: the bundle that verifiers have")


def run(args: argparse.Namespace) -> int:
    """As a plane: 0 drained, 1 internal, 2 settings, keys or usage, 3 cannot bind, 4 cut, 128+n second signal. key: 0 done, 1 not yet."""
    action = args.action
    if action not in ([], ["run"], ["key", "list"], ["key", "new"]) and (
        len(action) != 3 or action[0] != "key" or action[1] not in _KID_ACTIONS
    ):
        print("robin broker: use run, or key list, key new, key activate KID, key retire KID", file=sys.stderr)
        return EXIT_USAGE
    settings = broker_or_exit(args.config, here=action[:1] != ["key"])
    if action[:1] == ["key"]:
        return _on_keys(args, settings)
    if args.check:
        return _check(settings, args.config)
    if settings.issue is None and action == ["run"]:
        print("robin broker run: there is no section broker.issue; robin broker alone runs the verifier", file=sys.stderr)
        return EXIT_USAGE
    from robin.app.broker import run_broker  # noqa: PLC0415 - the engine is loaded only once the settings are right

    return run_broker(settings)


def _check(settings: BrokerSettings, path: str) -> int:
    """What a start reads, without the lock: folders and keys where they are there, pinned keys, the bundle, the key of checkpoints."""
    from robin.planes.broker import keys  # noqa: PLC0415 - only where keys are read
    from robin.planes.broker.bundle_file import read_bundle  # noqa: PLC0415 - as above
    from robin.planes.broker.mounted_keys import load_issuer_keys  # noqa: PLC0415 - as above
    from robin.telemetry.audit_file import load_checkpoint_key  # noqa: PLC0415 - as above
    from robin.wire.trust_bundle import BundleRefused, parse_bundle  # noqa: PLC0415 - as above

    issue, verify = settings.issue, settings.verify
    try:
        keys.check_folders(settings.state_dir, None if issue is None else Path(issue.socket))
        if issue is not None and (settings.keys_dir is not None or (settings.state_dir / "keys").exists()):
            load_issuer_keys(settings.state_dir, settings.keys_dir, now=0, auto_create=False)
        if verify is not None:
            parse_bundle(read_bundle(verify.bundle), keys.load_public_keys(verify.bundle_keys))
        if settings.checkpoint_key_file is not None:
            load_checkpoint_key(settings.checkpoint_key_file)
    except (keys.KeyFileRefused, BundleRefused) as error:
        print(f"robin broker: {error}", file=sys.stderr)
        return EXIT_USAGE
    except ValueError as error:
        print(f"robin broker: broker.audit.checkpoint_key_file: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"robin broker: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE
    print(f"{path}: broker: ok")
    return EXIT_OK


def _on_keys(args: argparse.Namespace, settings: BrokerSettings) -> int:
    from robin.planes.broker import keys  # noqa: PLC0415 - only where keys are read
    from robin.planes.broker.mounted_keys import load_issuer_keys  # noqa: PLC0415 - as above

    step, now = args.action[1], int(SystemClock().wall())
    folder = settings.state_dir / "keys"
    if settings.keys_dir is not None and step != "list":
        print(f"robin broker: {settings.keys_dir} is only read; replace keys where it is filled, such as in the Secret", file=sys.stderr)
        return EXIT_USAGE
    try:
        if step == "new":
            print(keys.add_key(folder, now=now).kid)
        elif step == "activate":
            if args.bundle is None or not _has_key(args.bundle, args.action[2]):
                print("robin broker: warning: no bundle was named that has this key; verifiers refuse what it signs", file=sys.stderr)
            keys.activate_key(folder, args.action[2], now=now)
        elif step == "retire":
            left_s = keys.retire_key(folder, args.action[2], now=now)
            if left_s:
                print(f"robin broker: passports of this key may still be valid for {left_s} s", file=sys.stderr)
                return EXIT_NO
        else:
            for key in load_issuer_keys(settings.state_dir, settings.keys_dir, now=0, auto_create=False):
                print(f"{key.kid}  {key.status:<8}  created {key.created}")
    except FileNotFoundError as error:
        print(f"robin broker: {error.filename}: there are no keys yet", file=sys.stderr)
        return EXIT_NO
    except (keys.KeyFileRefused, OSError) as error:
        print(f"robin broker: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


def _has_key(path: str, kid: str) -> bool:
    from robin.wire.trust_bundle import BundleRefused, parse_bundle  # noqa: PLC0415 - as above

    try:
        return any(known == kid for _, known in parse_bundle(Path(path).read_bytes(), None).keys)
    except (BundleRefused, OSError):
        return False
