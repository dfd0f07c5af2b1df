"""Run the egress gateway: a forward proxy for programs that hold no credentials, with callers, rules and an address guard."""

import argparse

from robin.cli.gateway_file import add_config, gateway_or_exit


def configure(parser: argparse.ArgumentParser) -> None:
    """The file."""
    parser.usage = "robin gateway [--config robin.yaml]"
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """0 drained, 1 internal, 2 settings, 3 cannot bind, 4 cut at the deadline, 128+n second signal."""
    settings = gateway_or_exit(args.config)
    from robin.app.gateway import run_gateway  # noqa: PLC0415 - the engine is loaded only once the settings are right

    return run_gateway(settings)
