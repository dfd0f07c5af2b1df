"""The gateway's settings from robin.yaml for its commands, or exit 2 with everything that is wrong with the file."""

import argparse
import sys
from pathlib import Path

from robin.config.diagnostic import Diagnostic
from robin.planes.gateway.settings import GatewaySettings

_LIMIT_BYTES = (1 << 20) + 1


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flag that names the file."""
    parser.add_argument("--config", default="robin.yaml", metavar="FILE", help="the settings [robin.yaml]")


def load_gateway(path: str) -> tuple[GatewaySettings | None, tuple[Diagnostic, ...]]:
    """The settings, None where an error is among the diagnostics. Raises OSError for a file that cannot be read."""
    from robin.config.gateway import build_gateway  # noqa: PLC0415 - PyYAML is loaded only where there is a YAML file
    from robin.config.robin_yaml import document  # noqa: PLC0415
    from robin.config.yaml_reader import read_yaml  # noqa: PLC0415

    with Path(path).open("rb") as opened:
        content = opened.read(_LIMIT_BYTES)
    root, diagnostics = read_yaml(content, path, document())
    if root is None or any(one.severity == "error" for one in diagnostics):
        return None, diagnostics
    settings, more = build_gateway(root.value["gateway"], path)
    return settings, (*diagnostics, *more)


def gateway_or_exit(path: str) -> GatewaySettings:
    """The settings; warnings and errors go to standard error, a line each."""
    try:
        settings, diagnostics = load_gateway(path)
    except OSError as error:
        print(f"robin: {path}: {error.strerror}; name the file with --config", file=sys.stderr)
        raise SystemExit(2) from None
    for one in diagnostics:
        print(one, file=sys.stderr)
    if settings is None:
        raise SystemExit(2)
    return settings
