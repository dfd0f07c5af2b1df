"""Show every setting with its value and origin, or everything that is wrong with them. Nothing is opened but the settings file."""

import argparse
import json
import sys

from robin.cli.flags import add_settings, given, refuse
from robin.cli.gateway_file import load_gateway
from robin.config.check import warnings
from robin.config.diagnostic import Diagnostic
from robin.config.layers import ResolvedValue
from robin.config.load import Loaded, Problem, environment, load
from robin.config.robin_yaml import SECTIONS


def configure(parser: argparse.ArgumentParser) -> None:
    """Every setting is a flag, so that a command line can be checked as it will run."""
    parser.usage = "robin check [PLANE] [flags]"
    parser.add_argument("plane", nargs="?", default="", metavar="PLANE", help="whose settings [by the file's content; sidecar]")
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """0 the settings are right, 2 they are not."""
    plane = args.plane or _plane_of(getattr(args, "ROBIN_CONFIG", None))
    if plane not in SECTIONS:
        refuse([f"robin: {plane[:80]!a} is not a plane; use {', '.join(SECTIONS)}"])
    if plane == "gateway":
        return _check_gateway(args)
    outcome = load(given(args), environment())
    if args.json:
        print(json.dumps(_errors(outcome) if isinstance(outcome, tuple) else _values(outcome), indent=2))
    elif isinstance(outcome, Loaded):
        print(_table(outcome))
    if isinstance(outcome, tuple):
        refuse(outcome)
    return 0


def _plane_of(path: str | None) -> str:
    """The plane that a YAML file is for: the gateway where it has that section and none of the sidecar; else the sidecar."""
    try:
        with open(path or "", encoding="utf-8", errors="replace") as opened:
            keys = [line.partition(":")[0].rstrip() for line in opened.read(1 << 20).splitlines()]
    except OSError:
        return "sidecar"
    return "gateway" if "gateway" in keys and "sidecar" not in keys else "sidecar"


def _check_gateway(args: argparse.Namespace) -> int:
    """0 the file is right (warnings are shown), 2 it is not."""
    path = getattr(args, "ROBIN_CONFIG", None) or "robin.yaml"
    try:
        settings, diagnostics = load_gateway(path)
    except OSError as error:
        refuse([f"robin: {path}: {error.strerror}; name the file with --config"])
    if args.json:
        print(json.dumps({"ok": settings is not None, "diagnostics": [one.json() for one in diagnostics]}, indent=2))
    elif settings is not None:
        print(f"ok: {path}: {len(settings.listeners)} listener(s), {len(settings.rules.rules)} rule(s)")
    for one in diagnostics:
        print(one, file=sys.stderr)
    return 2 if settings is None else 0


def _values(loaded: Loaded) -> dict[str, object]:
    settings = {
        source.key: {"value": _shown(source), "origin": str(source.layer), "note": source.note or None} for source in loaded.sources
    }
    return {"ok": True, "settings": settings, "warnings": [text for _code, text in warnings(loaded.settings)]}


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
    for source in loaded.sources:
        origin = f"{source.layer} line {source.line}" if source.line else str(source.layer)
        note = f"  ({source.note})" if source.note else ""
        lines.append(f"{source.key:<{width}}  {origin:<12}  {_shown(source) or 'unset'}{note}")
    return "\n".join([*lines, *(f"warning: {text}" for _code, text in warnings(loaded.settings))])
