"""The broker's settings for commands: its section of robin.yaml, or every error on its own line of standard error and exit 2."""

import sys

from robin.cli.flags import refuse
from robin.config.broker import BrokerSettings, load_broker
from robin.config.file import load_content
from robin.config.parse import InvalidValue


def broker_or_exit(path: str) -> BrokerSettings:
    """The settings in the file at `path`; its warnings are printed."""
    try:
        content = load_content(path)
    except InvalidValue as error:
        refuse([f"robin: --config: {error.what}; {error.fix}"])
    settings, diagnostics = load_broker(content, path)
    if settings is None:
        refuse(str(one) for one in diagnostics)
    for one in diagnostics:
        print(one, file=sys.stderr)
    return settings
