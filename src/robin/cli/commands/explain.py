"""Show what a plane would decide about one request, and why. Nothing is sent anywhere."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Final

PLANES: Final[Mapping[str, tuple[str, str]]] = {
    "kube": ("robin.cli.explain_kube", "a request to the Kubernetes API"),
}
"""Plane: the module with `configure(parser)` and `run(args) -> int`, and what it explains."""


def configure(parser: argparse.ArgumentParser) -> None:
    """One action per plane."""
    parser.usage = f"robin explain {' | '.join(PLANES)} ..."
    actions = parser.add_subparsers(prog="robin explain", dest="plane", required=True, metavar="PLANE")
    for name, (module, summary) in PLANES.items():
        plane = actions.add_parser(name, help=summary, allow_abbrev=False)
        import_module(module).configure(plane)


def run(args: argparse.Namespace) -> int:
    """0 permit, 3 escalate, 4 deny, 5 malformed request, 2 usage."""
    code: int = import_module(PLANES[args.plane][0]).run(args)
    return code
