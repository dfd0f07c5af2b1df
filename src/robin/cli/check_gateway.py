"""`robin check gateway`."""

import json
import sys

from robin.cli.flags import refuse
from robin.cli.gateway_file import load_gateway


def check(path: str | None, *, as_json: bool) -> int:
    """0 the file is right (warnings are shown), 2 it is not."""
    path = path or "robin.yaml"
    try:
        settings, diagnostics = load_gateway(path)
    except OSError as error:
        refuse([f"robin: {path}: {error.strerror}; name the file with --config"])
    if as_json:
        print(json.dumps({"ok": settings is not None, "diagnostics": [one.json() for one in diagnostics]}, indent=2))
    elif settings is not None:
        print(f"ok: {path}: {len(settings.listeners)} listener(s), {len(settings.rules.rules)} rule(s)")
    for one in diagnostics:
        print(one, file=sys.stderr)
    return 2 if settings is None else 0
