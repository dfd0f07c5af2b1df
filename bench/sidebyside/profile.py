"""bench/profile: Robin alone under load; processor time per request, and with --calls what Python does with it."""

import argparse
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sidebyside import tools
from sidebyside.contenders import CONTENDERS, Contender, Launch, Post
from sidebyside.gateway_cases import absolute_load, bridge_load, minted_load, new_bridge_load, tunnel_load
from sidebyside.gateway_contenders import ROBIN as GATEWAY
from sidebyside.gateway_contenders import ROBIN_MINTING
from sidebyside.ledger import Ledger
from sidebyside.machine import cpu_split, resident_bytes, shut_others_out
from sidebyside.stage import CONNECTIONS, FULL, Stage, raised

WARM_REQUESTS_S = 0.5
WARM_BRIDGES_S = 2.0  # 32 handshakes with the client and as many with the upstream
HOW: Mapping[str, Mapping[str, bool]] = {"small": {}, "varied": {"varied": True}, "asleep": {"sleeps": True}, "tls": {}}
GATEWAY_HOW: Mapping[str, Callable[[Stage], dict[str, object]]] = {
    "absolute": absolute_load,
    "bridge": bridge_load,
    "bridge-new": new_bridge_load,
    "bridge-minted": minted_load,
    "tunnel": tunnel_load,
}
STREAMS = ("download", "upload", "tls-download", "tls-upload")
MEMORY = ("memory", "tls-memory")
CLIENTS, REST_S = 150, 3.0  # of a memory case: connections that come and go in a turn, and how long the process then rests
SMALLER_BYTES = 256 << 20  # of a stream, so that the rounds of a comparison stay short


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 when Robin was measured."""
    parser = argparse.ArgumentParser(prog="bench/profile", description="Robin alone under load: processor time and calls per request.")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the measured turn (5)")
    parser.add_argument(
        "--case", choices=(*HOW, *GATEWAY_HOW, *STREAMS, *MEMORY), default="small", help="the load, as in bench/run (small)"
    )
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="another checkout of Robin, measured by turns with this one, on the same Python"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=20,
        help="with --against: turns of each, of --seconds or 256 MiB; of a memory case, --seconds of connections, then a rest (20)",
    )
    parser.add_argument("--undisturbed", action="store_true", help="as root: come before everything else on the two cores")
    parser.add_argument("--set", action="append", default=[], metavar="ROBIN_X=VALUE", help="a setting to try, repeatable")
    parser.add_argument(
        "--calls", action="store_true", help="run under cProfile: calls per request and the dearest functions (slows Robin)"
    )
    parser.add_argument("--lines", type=int, default=40, help="with --calls: functions listed (40)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="with --calls: also keep the raw profile here, for snakeviz and the like")
    asked = parser.parse_args(arguments)
    if asked.case in (*STREAMS, *MEMORY) and asked.against is None:
        parser.error(f"--case {asked.case} needs --against")
    if asked.undisturbed:
        shut_others_out()
    try:
        program, robin = tools.go_program("load"), GATEWAY if asked.case in GATEWAY_HOW else CONTENDERS[0]
        robin = replace(robin, launch=ROBIN_MINTING) if asked.case == "bridge-minted" else robin
        robin.find()
    except tools.Missing as missing:
        raise SystemExit(f"bench: {missing}") from missing
    robin = _adjusted(robin, dict(setting.split("=", 1) for setting in asked.set))
    with raised(program, [robin], Ledger(), FULL) as stage:
        if asked.against is not None:
            compare = _compare_memory if asked.case in MEMORY else _compare
            compare(stage, robin, _of_checkout(robin, asked.against), asked)
            return 0
        if not asked.calls:
            _measure(stage, robin, asked.seconds, asked.case)
            return 0
        raw = asked.keep or stage.work / "robin.profile"
        requests = _measure(stage, _profiled(robin, raw), asked.seconds, asked.case)
        _print_calls(raw, requests, asked.lines)
    return 0


def _measure(stage: Stage, robin: Contender, seconds: float, case: str) -> float:
    """Print the turn's numbers; returns how many requests the process served in all."""
    with stage.one(robin, tls=case.startswith("tls"), bridge=case in GATEWAY_HOW) as running:
        how = _how(stage, case)
        warm_s = WARM_BRIDGES_S if case in GATEWAY_HOW else WARM_REQUESTS_S
        warm = stage.load.order("closed", running.address, conns=CONNECTIONS, seconds=warm_s, **how)
        before = cpu_split(running.pids())
        answer = stage.load.order("closed", running.address, conns=CONNECTIONS, seconds=seconds, **how)
        after = cpu_split(running.pids())
    user, system = ((b - a) / answer["requests"] * 1e6 for a, b in zip(before, after, strict=True))
    speed = answer["requests"] / answer["seconds"]
    print(f"{speed:,.0f} req/s on {CONNECTIONS} connections, p50 {answer['p50_us']:.0f} p99 {answer['p99_us']:.0f} µs")
    print(f"processor time per request: {user + system:.1f} µs = {user:.1f} user + {system:.1f} system")
    return warm["requests"] + answer["requests"]


def _how(stage: Stage, case: str) -> Mapping[str, object]:
    """What the load is ordered to do, beside connections and seconds."""
    if case not in GATEWAY_HOW:
        return HOW.get(case, {})
    return {**GATEWAY_HOW[case](stage), "direct": case == "tunnel"}  # into a tunnel nothing is injected


def _compare(stage: Stage, robin: Contender, other: Contender, asked: argparse.Namespace) -> None:
    """Print each Robin's processor time per request, or per MiB of a stream: the least and the median of its turns, and the ratio."""
    case, tls, bridge, how = asked.case, asked.case.startswith("tls"), asked.case in GATEWAY_HOW, _how(stage, asked.case)
    costs: list[list[float]] = [[], []]
    with stage.one(other, tls=tls, bridge=bridge) as before, stage.one(robin, tls=tls, bridge=bridge) as after:
        for turn in range(asked.rounds + 1):
            pair = list(zip((before, after), costs, strict=True))
            for running, told in pair if turn % 2 else reversed(pair):
                spent = cpu_split(running.pids())
                if case in STREAMS:
                    stage.load.order(case.removeprefix("tls-"), running.address, bytes=SMALLER_BYTES)
                    count = SMALLER_BYTES / (1 << 20)
                else:
                    count = stage.load.order("closed", running.address, conns=CONNECTIONS, seconds=asked.seconds, **how)["requests"]
                cost = (sum(cpu_split(running.pids())) - sum(spent)) / count * 1e6
                if turn:  # the first turn warms both
                    told.append(cost)
    for name, told in zip((str(asked.against), "this checkout"), costs, strict=True):
        print(f"{name}: least {min(told):.2f}, median {statistics.median(told):.2f} µs of processor time")
    least = min(costs[1]) / min(costs[0])
    median = statistics.median(after / before for before, after in zip(*costs, strict=True))
    print(f"this checkout takes {least:.3f} of the other's time by the least, {median:.3f} by the median pair of turns")


def _compare_memory(stage: Stage, robin: Contender, other: Contender, asked: argparse.Namespace) -> None:
    """Print each Robin's resident memory at rest: the median of the rests that follow each turn of connections, and the last."""
    tls = asked.case.startswith("tls")
    rests: list[list[float]] = [[], []]
    with stage.one(other, tls=tls) as before, stage.one(robin, tls=tls) as after:
        for _ in range(asked.rounds):
            for running in (before, after):
                stage.load.order("closed", running.address, conns=CLIENTS, seconds=asked.seconds)
            time.sleep(REST_S)
            for running, told in zip((before, after), rests, strict=True):
                told.append(resident_bytes(running.pids()) / 1e6)
    for name, told in zip((str(asked.against), "this checkout"), rests, strict=True):
        print(f"{name}: at rest {statistics.median(told):.1f} MB, the last time {told[-1]:.1f} MB")


def _of_checkout(robin: Contender, checkout: Path) -> Contender:
    """The Robin of another checkout, run by the Python of this one."""

    def launch(program: Path, post: Post) -> Launch:
        plain = robin.launch(program, post)
        command = [str(program.with_name("python")), "-m", "robin.cli.main", *plain.command[1:]]
        return replace(plain, command=command, environment={**plain.environment, "PYTHONPATH": str(checkout.resolve() / "src")})

    return replace(robin, name="Robin before", launch=launch)


def _adjusted(robin: Contender, settings: Mapping[str, str]) -> Contender:
    """The same Robin with other settings."""

    def launch(program: Path, post: Post) -> Launch:
        plain = robin.launch(program, post)
        return replace(plain, environment={**plain.environment, **settings})

    return replace(robin, launch=launch)


def _profiled(robin: Contender, raw: Path) -> Contender:
    """The same Robin started through cProfile, which writes its file when Robin has drained."""

    def launch(program: Path, post: Post) -> Launch:
        plain = robin.launch(program, post)
        python = str(program.with_name("python"))
        return replace(plain, command=[python, "-m", "cProfile", "-o", str(raw), *plain.command])

    return replace(robin, launch=launch)


def _print_calls(raw: Path, requests: float, lines: int) -> None:
    if not raw.exists():
        raise SystemExit("bench: cProfile left no file: did Robin end by a signal instead of draining?")
    stats = pstats.Stats(str(raw), stream=sys.stdout)
    rows = [(own, count, place) for place, (_, count, own, _, _) in stats.stats.items()]  # type: ignore[attr-defined]
    print(f"calls per request: {sum(count for _, count, _ in rows) / requests:.1f} (start-up and drain included, {requests:,.0f} requests)")
    print("  calls/request  own µs/request  function")
    for own, count, (file, line, name) in sorted(rows, reverse=True)[:lines]:
        where = name if file == "~" else f"{'/'.join(Path(file).parts[-3:])}:{line} {name}"
        print(f"  {count / requests:13.2f}  {own / requests * 1e6:14.2f}  {where}")
