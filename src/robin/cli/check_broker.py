"""`robin check broker`."""

import json
import sys

from robin.cli.broker_config import read_broker
from robin.cli.flags import refuse


def check(path: str | None, *, as_json: bool) -> int:
    """0 the file is right, 2 it is not. Keys are not opened."""
    if not path:
        refuse(["robin check broker: name the file with --config"])
    settings, diagnostics = read_broker(path)
    if as_json:
        print(json.dumps({"ok": settings is not None, "diagnostics": [one.json() for one in diagnostics]}, indent=2))
    elif settings is not None:
        for one in diagnostics:
            print(one, file=sys.stderr)
        print(f"{path}: broker: ok")
    if settings is None:
        refuse(diagnostics)
    return 0
