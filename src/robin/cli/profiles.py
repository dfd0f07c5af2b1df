"""Check provider profile files, each as if a provider without settings of its own used it: findings, and the pin of each good one."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from robin.config.diagnostic import Diagnostic, Position
from robin.config.provider_schema import GRANTS, grants_settings
from robin.config.providers import check_profile
from robin.config.yaml_reader import default_of


def check_profiles(files: Sequence[str], *, as_json: bool, strict: bool) -> int:
    """Print what was found. Returns 0, or 2 where there is an error; with `strict` also where there is a warning."""
    defaults = default_of(GRANTS)
    assert defaults is not None
    grants = grants_settings(defaults)
    findings: list[Diagnostic] = []
    pins: dict[str, str] = {}
    for name in files:
        try:
            content = Path(name).read_bytes()
        except OSError as error:
            start = Position(file=name, line=1, col=1)
            what = error.strerror or type(error).__name__
            findings.append(Diagnostic(at=start, code="profile_unreadable", message=what, fix="correct the name, or its permissions"))
            continue
        pin, found = check_profile(content, name, grants)
        findings += found
        if pin:
            pins[name] = pin
    failed = any(one.severity == "error" or strict for one in findings)
    if as_json:
        shown = [{**one.json(), "provider": None, "credential": None} for one in findings]
        print(json.dumps({"ok": not failed, "pins": pins, "diagnostics": shown}, indent=2))
        return 2 if failed else 0
    for one in findings:
        print(one, file=sys.stderr)
    for name, pin in pins.items():
        print(f"{name}: pin {pin}")
    return 2 if failed else 0
