"""bench/run: what is asked for, who is here, the cases in order, the page."""

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sidebyside import page, tools
from sidebyside.cases import CASES
from sidebyside.contenders import CONTENDERS, Contender, robin_before
from sidebyside.gateway_cases import GATEWAY_CASES
from sidebyside.gateway_contenders import GATEWAY_CONTENDERS
from sidebyside.ledger import Ledger
from sidebyside.machine import busy_shares, choose_cores, describe, shut_others_out
from sidebyside.stage import FULL, QUICK, STREAM_BYTES, TINY, raised

LOOK_S, QUIET_PERCENT = 1.0, 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 when every asked contender was measured, 1 when one is missing or failed."""
    asked = _parse(arguments)
    try:
        program = tools.go_program("load")
    except tools.Missing as missing:
        raise SystemExit(f"bench: cannot measure anything: {missing}") from missing
    present, versions, missing_names = _muster(asked)
    now = datetime.datetime.now(datetime.UTC)
    facts = {
        "command": f"`{_command(asked)}`",
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe(),
        "before the run": _quiet(asked),
    }
    ledger = Ledger()
    lengths, stream_bytes = (TINY, 1 << 24) if asked.tiny else (QUICK if asked.quick else FULL, STREAM_BYTES)
    cases = GATEWAY_CASES if asked.plane == "gateway" else CASES
    with raised(program, present, ledger, lengths, stream_bytes) as stage:
        for name in asked.only or cases:
            cases[name](stage)
    text = page.whole(ledger, [contender.name for contender in present], versions, facts, asked.plane)
    if asked.json:
        found = {"versions": versions, "missing": missing_names, "failures": ledger.failures, "results": ledger.as_json()}
        print(json.dumps({**facts, **found}))
    else:
        print(text)
    if asked.write:
        page.write(text, asked.plane)
    return 1 if missing_names or ledger.failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    cases = [*CASES, *GATEWAY_CASES]
    names = [*dict.fromkeys(contender.name for contender in (*CONTENDERS, *GATEWAY_CONTENDERS))]
    parser = argparse.ArgumentParser(prog="bench/run", description="Compare Robin with other proxies: one core each, taking turns.")
    parser.add_argument("--plane", choices=("sidecar", "gateway"), default="sidecar", help="whose cases and contenders [sidecar]")
    parser.add_argument("--tiny", action="store_true", help="one short turn and small streams: that everything runs, no result at all")
    parser.add_argument("--quick", action="store_true", help="short turns and few rounds: a hint, not a result")
    parser.add_argument("--only", action="append", choices=cases, metavar="CASE", help=f"this case, repeatable: {', '.join(cases)}")
    parser.add_argument("--contender", action="append", choices=names, metavar="NAME", help=f"this one, repeatable: {', '.join(names)}")
    parser.add_argument(
        "--before", type=Path, metavar="PROGRAM", help="also measure this robin, the .venv/bin/robin of another checkout, as `Robin before`"
    )
    parser.add_argument("--undisturbed", action="store_true", help="as root: come before everything else on the two cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--write", action="store_true", help="put the result of a whole run into docs/reference/benchmarks.md")
    asked = parser.parse_args(arguments)
    if asked.undisturbed:
        shut_others_out()
    if wrong := [name for name in asked.only or () if name not in (GATEWAY_CASES if asked.plane == "gateway" else CASES)]:
        parser.error(f"{wrong[0]} is no case of --plane {asked.plane}")
    if asked.write and (asked.quick or asked.tiny or asked.only or asked.contender):
        parser.error("--write publishes a whole run: leave out --quick, --tiny, --only and --contender")
    return asked


def _quiet(asked: argparse.Namespace) -> str:
    """How busy others keep the two cores; raises SystemExit when a result on such a machine would be published."""
    shares = busy_shares(choose_cores(), LOOK_S)
    said = ", ".join(f"{name} {share:.0f} % in use by others" for name, share in shares.items())
    if asked.undisturbed or max(shares.values()) <= QUIET_PERCENT:
        return said
    if asked.write:
        raise SystemExit(f"bench: not to be published, the machine is not quiet: {said}; end what runs there, or as root add --undisturbed")
    print(f"bench: NOT QUIET: {said}; trust processor time and ratios only", file=sys.stderr, flush=True)
    return f"NOT QUIET: {said}"


def _muster(asked: argparse.Namespace) -> tuple[list[Contender], dict[str, str], list[str]]:
    """Who is here, in which version; who is not, and how to change that."""
    present, versions, missing = [], {}, []
    everyone = GATEWAY_CONTENDERS if asked.plane == "gateway" else CONTENDERS
    contenders = [contender for contender in everyone if not asked.contender or contender.name in asked.contender]
    if asked.before:
        contenders.insert(1, robin_before(asked.before, everyone[0]))  # its turns next to those of Robin
    for contender in contenders:
        try:
            versions[contender.name] = contender.version(contender.find())
            present.append(contender)
        except tools.Missing as why:
            missing.append(contender.name)
            versions[contender.name] = f"MISSING, not measured: {why}"
            print(f"bench: MISSING {contender.name}: {why}", file=sys.stderr, flush=True)
    return present, versions, missing


def _command(asked: argparse.Namespace) -> str:
    words = ["bench/run", *(["--plane gateway"] if asked.plane == "gateway" else [])]
    words += [f"--{flag}" for flag in ("tiny", "quick", "undisturbed", "write") if getattr(asked, flag)]
    words += ["--before PROGRAM"] if asked.before else []
    words += [f"--only {name}" for name in asked.only or ()] + [f"--contender {name}" for name in asked.contender or ()]
    return " ".join(words)
