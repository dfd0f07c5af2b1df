"""The broker's settings for commands: its section of robin.yaml, or every error on its own line of standard error and exit 2."""

import sys

from robin.cli.flags import refuse
from robin.config.broker_load import BrokerSettings, load_broker
from robin.config.diagnostic import Diagnostic
from robin.config.file import load_content
from robin.config.parse import InvalidValue


def read_broker(path: str, *, here: bool = True) -> tuple[BrokerSettings | None, tuple[Diagnostic, ...]]:
    """The settings in the file at `path`, None where they are wrong, and the diagnostics. A file that cannot be read ends with exit 2.

    `here`: for a broker of this machine.
    """
    try:
        content = load_content(path)
    except InvalidValue as error:
        refuse([f"robin: --config: {path!a}: {error.what}; {error.fix}"])
    return load_broker(content, path, here=here)


def broker_or_exit(path: str, *, here: bool = True) -> BrokerSettings:
    """The settings in the file at `path`; its warnings are printed."""
    settings, diagnostics = read_broker(path, here=here)
    for one in diagnostics:
        print(one, file=sys.stderr)
    if settings is None:
        raise SystemExit(2)
    return settings
