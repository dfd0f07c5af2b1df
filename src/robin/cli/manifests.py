"""`robin check --manifest FILE`: whether the programs of Kubernetes manifests are kept from Robin's identity."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from robin.config.diagnostic import Diagnostic, Position
from robin.config.manifest import LIMIT_BYTES, check_manifest


def check_manifests(files: Sequence[str], *, as_json: bool) -> int:
    """Print what was found. Returns 0, or 2 where there is a finding."""
    findings: list[Diagnostic] = []
    lines: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    for name in files:
        try:
            with Path(name).open("rb") as opened:
                content = opened.read(LIMIT_BYTES + 1)
        except OSError as error:
            start = Position(file=name, line=1, col=1)
            what = error.strerror or type(error).__name__
            findings.append(Diagnostic(at=start, code="manifest_unreadable", message=what, fix="correct the name, or its permissions"))
            continue
        checked = check_manifest(content, name)
        findings += checked.findings
        counts[name] = {"shared_pods": checked.pods, "robin_pods": checked.alone, "other_pods": checked.others}
        if not checked.findings:
            lines.append(
                f"ok: {name}: {checked.pods} pod(s) with Robin beside a program, {checked.alone} with Robin alone, {checked.others} without"
            )
    if as_json:
        shown = [one.json() for one in findings]
        print(json.dumps({"ok": not findings, "files": counts, "diagnostics": shown}, indent=2))
    else:
        for line in lines:
            print(line)
        for one in findings:
            print(one, file=sys.stderr)
    return 2 if findings else 0
