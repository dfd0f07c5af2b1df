"""The gateway's settings from robin.yaml for its commands, or exit 2 with everything that is wrong with the file."""

import argparse
import sys

from robin.config.gateway_load import LoadedGateway, parse_gateway, read_gateway
from robin.planes.gateway.settings import GatewaySettings


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flag that names the file."""
    parser.add_argument("--config", default="robin.yaml", metavar="FILE", help="the settings [robin.yaml]")


def gateway_or_exit(path: str, *, files_elsewhere: bool = False) -> GatewaySettings:
    """The settings; warnings and errors go to standard error, a line each. `files_elsewhere` is that of `build_gateway`."""
    settings = loaded_or_exit(path, files_elsewhere=files_elsewhere).settings
    assert settings is not None
    return settings


def loaded_or_exit(path: str, *, files_elsewhere: bool = False) -> LoadedGateway:
    """The settings, which are there, with the files that they are of; warnings and errors go to standard error, a line each."""
    try:
        loaded = reload_gateway(path, files_elsewhere=files_elsewhere)
    except OSError as error:
        print(f"robin: {path}: {error.strerror}; name the file with --config, or make one with robin gateway --init DIR", file=sys.stderr)
        raise SystemExit(2) from None
    if loaded.settings is None:
        raise SystemExit(2)
    return loaded


def text_or_exit(text: str) -> LoadedGateway:
    """The settings of a document that flags were made into."""
    loaded = parse_gateway(text.encode(), "command line")
    for one in loaded.diagnostics:
        print(one, file=sys.stderr)
    if loaded.settings is None:
        raise SystemExit(2)
    return loaded


def reload_gateway(path: str, *, files_elsewhere: bool = False) -> LoadedGateway:
    """What the file comes to now; warnings and errors go to standard error, a line each. Raises OSError."""
    loaded = read_gateway(path, files_elsewhere=files_elsewhere)
    for one in loaded.diagnostics:
        print(one, file=sys.stderr)
    return loaded
