"""Show every setting with its value and origin, or everything that is wrong with them. Nothing is opened but the settings file."""

import argparse
import json
from importlib import import_module
from typing import Final

from robin.cli.flags import add_settings, given, refuse
from robin.config.check import warnings
from robin.config.diagnostic import Diagnostic
from robin.config.file import load_content
from robin.config.layers import Layer, ResolvedValue
from robin.config.load import Loaded, Problem, environment, load
from robin.config.parse import InvalidValue
from robin.config.robin_yaml import SECTIONS

OTHERS: Final = {plane: f"robin.cli.check_{plane}" for plane in ("gateway", "kube", "broker")}
"""The planes whose settings are no table of the sidecar: the module with `check(path, as_json=) -> int`."""

_OF_PROFILES: Final = {"id", "endpoints"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Every setting is a flag, so that a command line can be checked as it will run."""
    parser.usage = "robin check [PLANE] [flags]"
    parser.add_argument("plane", nargs="?", default="", metavar="PLANE", help="whose settings [by the file's content; sidecar]")
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    parser.add_argument("--profile", action="append", default=[], metavar="FILE", help="check provider profiles instead; may be repeated")
    parser.add_argument(
        "--manifest", action="append", default=[], metavar="FILE", help="check isolation in Kubernetes manifests instead; may be repeated"
    )
    parser.add_argument(
        "--files-elsewhere", action="store_true", help="of a gateway's file: files that it names and that are not here are warnings"
    )
    parser.add_argument("--strict", action="store_true", help="with --profile: a warning is an error")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """0 the settings are right, 2 they are not."""
    if args.manifest:
        from robin.cli.manifests import check_manifests  # noqa: PLC0415 - only this needs manifests

        return check_manifests(args.manifest, as_json=args.json)
    if args.profile:
        from robin.cli.profiles import check_profiles  # noqa: PLC0415 - only this needs the schema of profiles

        return check_profiles(args.profile, as_json=args.json, strict=args.strict)
    path = given(args).get("ROBIN_CONFIG") or environment().get("ROBIN_CONFIG")
    keys = _keys_of(path)
    if keys >= _OF_PROFILES and not keys & {"version", *SECTIONS}:
        refuse([f"robin: {path}: this is no robin.yaml but a provider profile; check it with robin check --profile {path}"])
    planes = keys & set(SECTIONS)
    plane = args.plane or (planes.pop() if len(planes) == 1 else "sidecar")  # it has one section: that one is meant
    if plane not in SECTIONS:
        refuse([f"robin: {plane[:80]!a} is not a plane; use {', '.join(SECTIONS)}"])
    if args.files_elsewhere and plane != "gateway":
        refuse(["robin: --files-elsewhere is for the settings of a gateway"])
    if plane in OTHERS:
        more = {"files_elsewhere": True} if args.files_elsewhere else {}
        code: int = import_module(OTHERS[plane]).check(path, as_json=args.json, **more)
        return code
    outcome = load(given(args), environment())
    if args.json:
        print(json.dumps(_errors(outcome) if isinstance(outcome, tuple) else _values(outcome), indent=2))
    elif isinstance(outcome, Loaded):
        print(_table(outcome))
    if isinstance(outcome, tuple):
        refuse(outcome)
    return 0


def _keys_of(path: str | None) -> set[str]:
    """The keys in the first column of a YAML file; none where it should not be read, which the plane reports."""
    try:
        content = load_content(path or "")
    except InvalidValue:
        return set()
    return {line.partition(":")[0].rstrip() for line in content.decode("utf-8", "replace").splitlines()}


def _values(loaded: Loaded) -> dict[str, object]:
    settings = {
        source.key: {"value": _shown(source), "origin": str(source.layer), "note": source.note or None} for source in loaded.sources
    }
    return {"ok": True, "settings": settings, "warnings": [fields["detail"] for _event, fields in warnings(loaded.settings)]}


def _shown(source: ResolvedValue) -> str | None:
    """A value as it may be shown: what ROBIN_REQUIRE_HEADER demands is a shared secret in effect."""
    if source.key == "ROBIN_REQUIRE_HEADER" and source.text is not None:
        name, colon, _ = source.text.partition(":")
        return f"{name}:(hidden)" if colon else name
    return source.text


def _errors(problems: tuple[Problem, ...]) -> dict[str, object]:
    """Errors at a setting, and those at a place in robin.yaml."""
    errors, diagnostics = [], []
    for problem in problems:
        diagnostic = problem if isinstance(problem, Diagnostic) else problem.diagnostic
        if diagnostic is not None:
            diagnostics.append(diagnostic.json())
        elif not isinstance(problem, Diagnostic):
            errors.append({"key": problem.key, "origin": str(problem.layer), "what": problem.what, "fix": problem.fix})
    return {"ok": False, "errors": errors} | ({"diagnostics": diagnostics} if diagnostics else {})


def _table(loaded: Loaded) -> str:
    width = max(len(source.key) for source in loaded.sources)
    lines = []
    for source in sorted(loaded.sources, key=lambda source: source.layer is Layer.DEFAULT):  # what was set comes first
        origin = f"{source.layer} line {source.line}" if source.line else str(source.layer)
        note = f"  ({source.note})" if source.note else ""
        lines.append(f"{source.key:<{width}}  {origin:<12}  {_shown(source) or 'unset'}{note}")
    return "\n".join([*lines, *(f"warning: {fields['detail']}" for _event, fields in warnings(loaded.settings))])
