"""Run the sidecar: inject this workload's identity into every request to the upstream, until a signal drains it."""

import argparse

from robin.cli.flags import add_settings, load_or_exit


def configure(parser: argparse.ArgumentParser) -> None:
    """Every setting is a flag."""
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """0 drained, 1 internal, 2 settings, 3 cannot bind, 4 cut at the deadline, 5 start-up timeout, 128+n second signal."""
    settings = load_or_exit(args).settings
    from robin.app.sidecar import run_sidecar  # noqa: PLC0415 - the engine is loaded only once the settings are right

    return run_sidecar(settings)
