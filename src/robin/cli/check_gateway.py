"""`robin check gateway`."""

import json
import sys

from robin.cli.flags import refuse
from robin.config.gateway_load import load_gateway


def check(path: str | None, *, as_json: bool, files_elsewhere: bool = False) -> int:
    """0 the file is right (warnings are shown), 2 it is not."""
    path = path or "robin.yaml"
    try:
        settings, diagnostics = load_gateway(path, files_elsewhere=files_elsewhere)
    except OSError as error:
        refuse([f"robin: {path}: {error.strerror}; name the file with --config"])
    if as_json:
        pins = {} if settings is None else dict(settings.providers.pins)
        print(json.dumps({"ok": settings is not None, "pins": pins, "diagnostics": [one.json() for one in diagnostics]}, indent=2))
    elif settings is not None:
        routes = f", {len(settings.routes)} route(s)" if settings.routes else ""
        print(f"ok: {path}: {len(settings.listeners)} listener(s), {len(settings.rules.rules)} rule(s){routes}")
        for name, pin in settings.providers.pins.items():
            print(f"profile {name}: pin {pin}")
    for one in diagnostics:
        print(one, file=sys.stderr)
    return 2 if settings is None else 0
