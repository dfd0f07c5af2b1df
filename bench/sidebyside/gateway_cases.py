"""The cases of the gateway: absolute-form requests, tunnels, TLS bridges, the cost of rules and of grants, replicas, memory.

Robin injects the credential in every case but tunnels, judges each request and writes its audit records to /dev/null. Envoy and smokescreen
inject nothing, so their caller brings the credential; Squid and mitmproxy replace the caller's.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from sidebyside.contenders import Contender, Launch, Running
from sidebyside.gateway_contenders import ROBIN, ROBIN_MINTING, port_of, robin_launch
from sidebyside.load import Refused
from sidebyside.machine import cpu_seconds, forget_peak, peak_bytes, resident_bytes
from sidebyside.stage import Stage

MB, MIB = 1e6, 1 << 20
_FORWARD = ("Robin", "Envoy", "Squid", "mitmproxy")
_TUNNELS = ("Robin", "smokescreen", "Squid", "Envoy")
_BRIDGES = ("Robin", "mitmproxy", "Squid")
_INJECT = ("Robin", "mitmproxy", "Squid")
_IDLE_TUNNELS = 1000
LineUp = dict[str, tuple[list[Running], dict[str, object]]]
"""By row, the Robins that serve it, the first of which is called, and what else the load is ordered."""

_SHORT_TURNS, _SHORTEST_S = 4, 0.5


def absolute(stage: Stage) -> None:
    """Small absolute-form requests on 32 kept connections."""
    stage.say(f"absolute: {stage.lengths.connections} connections, {stage.lengths.closed_s:g} s a turn")
    with stage.all(names=_FORWARD) as line_up:
        stage.take_turns(line_up, lambda running, turn: _capacity(stage, running, turn, "absolute", **absolute_load(stage)))


def tunnels(stage: Stage) -> None:
    """New tunnels, 32 at a time, one request in each; then one long body down one of them."""
    how = tunnel_load(stage)
    stage.say(f"tunnels: {stage.lengths.connections} at a time, {stage.lengths.closed_s:g} s a turn; 1 GiB")

    def stream(running: Running, turn: int) -> str:
        answer, spent = _timed(stage, running, "download", bytes=stage.stream_bytes, **how)
        speed = stage.stream_bytes / answer["seconds"] / MB
        stage.ledger.add("tunnel_stream", running.name, turn, speed)
        stage.ledger.add("tunnel_stream_cpu", running.name, turn, spent * 1e3)
        stage.ledger.add("tunnel_stream_busy", running.name, turn, spent / answer["seconds"] * 100)
        return f"{speed:,.0f} MB/s"

    with stage.all(names=_TUNNELS) as line_up:
        stage.take_turns(line_up, lambda running, turn: _capacity(stage, running, turn, "tunnels", **how))
        stage.take_turns(line_up, stream)


def bridge(stage: Stage) -> None:
    """TLS that the proxy opens: small requests on 32 kept connections, then on a new one each; Robin also with a new leaf for each."""
    stage.say(f"bridge: {stage.lengths.connections} connections, {stage.lengths.closed_s:g} s a turn; kept, new, new with a minted leaf")
    with stage.all(bridge=True, names=_BRIDGES) as line_up:
        stage.take_turns(line_up, lambda running, turn: _capacity(stage, running, turn, "bridge", **bridge_load(stage)))
        stage.take_turns(line_up, lambda running, turn: _capacity(stage, running, turn, "bridge_new", **new_bridge_load(stage)))
    if not _robin_is_here(stage):
        return
    with ExitStack() as stack:
        one = _enter(stack, stage, replace(ROBIN, launch=ROBIN_MINTING))
        stage.take_turns(one, lambda running, turn: _capacity(stage, running, turn, "bridge_minted", **minted_load(stage)))


def rules(stage: Stage) -> None:
    """Robin alone with 10, 1,000 and 10,000 rules."""
    if _robin_is_here(stage):
        costs = _beside_itself(stage, {f"rules_{count}": partial(robin_launch, rules=count) for count in (10, 1000, 10_000)})
        for turn, cost in enumerate(costs):
            stage.ledger.add("rules_ratio", "Robin", turn, cost["rules_10000"] / cost["rules_10"])


def grants(stage: Stage) -> None:
    """Robin alone: the credential is the token of a file, or one that an issuer gave and that is in the cache."""
    if _robin_is_here(stage):
        costs = _beside_itself(stage, {"grant_forward": robin_launch, "grant_issued": partial(robin_launch, issued=True)})
        for turn, cost in enumerate(costs):
            stage.ledger.add("grant_extra", "Robin", turn, cost["grant_issued"] - cost["grant_forward"])


def replicas(stage: Stage) -> None:
    """One Robin, and two that share nothing but the core: as many connections, spread over both. Each obtains a token of its own."""
    if not _robin_is_here(stage):
        return
    stage.say(f"replicas: one and two, {stage.lengths.connections} connections, {stage.lengths.closed_s:g} s a turn")
    with ExitStack() as stack:
        robin = replace(ROBIN, launch=partial(robin_launch, issued=True))
        before = _tokens(stage)
        started = [*_enter(stack, stage, robin), *_enter(stack, stage, robin)]
        if len(started) < 2:
            return
        stage.ledger.add("replicas_tokens", "Robin", 0, _tokens(stage) - before)
        one, other = started
        line_up = {"replicas_1": ([one], {}), "replicas_2": (started, {"others": [other.address]})}
        _rounds_in_changing_order(stage, line_up)


def memory(stage: Stage) -> None:
    """A fresh process each: idle, with 1,000 idle tunnels, and over one long body through a bridge."""
    for contender in stage.contenders:
        for measure in (_idle, _growth):
            if measure is _growth and contender.name not in _BRIDGES:
                continue
            try:
                stage.say(f"memory: {contender.name}: {measure(stage, contender)}")
            except Refused as failure:
                stage.fail(contender.name, failure)


GATEWAY_CASES: dict[str, Callable[[Stage], None]] = {
    "absolute": absolute,
    "tunnels": tunnels,
    "bridge": bridge,
    "rules": rules,
    "grants": grants,
    "replicas": replicas,
    "gateway-memory": memory,
}


def absolute_load(stage: Stage) -> dict[str, object]:
    """How the load sends absolute-form requests."""
    return {"via": "absolute", "origin": f"localhost:{port_of(stage.load.upstream)}"}


def tunnel_load(stage: Stage) -> dict[str, object]:
    """How it sends a request in a tunnel of its own."""
    return {"via": "connect", "origin": f"127.0.0.1:{port_of(stage.load.upstream)}"}


def bridge_load(stage: Stage) -> dict[str, object]:
    """How it sends requests inside of TLS that the proxy opens."""
    ca = str(stage.pki / "bridge" / "ca.crt")
    return {"via": "bridge", "origin": f"localhost:{port_of(stage.load.tls_upstream)}", "ca": ca}


def new_bridge_load(stage: Stage) -> dict[str, object]:
    """The same, on a new connection for each request."""
    return {**bridge_load(stage), "fresh": True}


def minted_load(stage: Stage) -> dict[str, object]:
    """The same, to two hosts in turn: with a cache of one leaf each is signed anew."""
    return {**new_bridge_load(stage), "more": [f"127.0.0.1:{port_of(stage.load.tls_upstream)}"]}


def _robin_is_here(stage: Stage) -> bool:
    return any(contender.name == "Robin" for contender in stage.contenders)


def _enter(stack: ExitStack, stage: Stage, contender: Contender) -> list[Running]:
    try:
        return [stack.enter_context(stage.one(contender, bridge=True))]
    except Refused as failure:
        stage.fail(contender.name, failure)
        return []


def _tokens(stage: Stage) -> float:
    """How many tokens the issuer has given out."""
    return stage.load.order("tokens", stage.load.upstream)["tokens"]


def _beside_itself(stage: Stage, launches: dict[str, Callable[..., Launch]]) -> list[dict[str, float]]:
    """The same load against Robins that differ in their settings; returns each round's processor time of a request, by row, in µs."""
    stage.say(f"{', '.join(launches)}: {stage.lengths.connections} connections, {stage.lengths.closed_s:g} s a turn")
    with ExitStack() as stack:
        line_up = {row: (_enter(stack, stage, replace(ROBIN, launch=launch)), {}) for row, launch in launches.items()}
        if not all(started for started, _ in line_up.values()):
            return []
        return _rounds_in_changing_order(stage, line_up)


def _rounds_in_changing_order(stage: Stage, line_up: LineUp) -> list[dict[str, float]]:
    costs: list[dict[str, float]] = []
    try:
        costs.extend(_in_changing_order(stage, turn, line_up) for turn in range(stage.lengths.rounds))
    except Refused as failure:
        stage.fail("Robin", failure)
    return costs


def _in_changing_order(stage: Stage, turn: int, line_up: LineUp) -> dict[str, float]:
    """One round, of short turns there and back, since these rows differ by less than a slow second of the machine makes."""
    length_s = max(_SHORTEST_S, stage.lengths.closed_s / _SHORT_TURNS)
    requests, seconds, spent = (dict.fromkeys(line_up, 0.0) for _ in range(3))
    for part in range(_SHORT_TURNS):
        for row in list(line_up)[:: -1 if part % 2 else 1]:
            running, more = line_up[row]
            how = {"conns": stage.lengths.connections, "seconds": length_s, **more, **absolute_load(stage)}
            before = cpu_seconds([pid for one in running for pid in one.pids()])
            answer = stage.load.order("closed", running[0].address, **how)
            spent[row] += cpu_seconds([pid for one in running for pid in one.pids()]) - before
            requests[row] += answer["requests"]
            seconds[row] += answer["seconds"]
    costs = {row: spent[row] / requests[row] * 1e6 for row in line_up}
    for row, cost in costs.items():
        stage.ledger.add(row, "Robin", turn, requests[row] / seconds[row])
        stage.ledger.add(f"{row}_cpu", "Robin", turn, cost)
    said = ", ".join(f"{row} {requests[row] / seconds[row]:,.0f} ({cost:.1f} µs)" for row, cost in costs.items())
    stage.say(f"  round {turn + 1}/{stage.lengths.rounds}: {said}")
    return costs


def _capacity(stage: Stage, running: Running, turn: int, row: str, **how: object) -> str:
    how = {"direct": running.name not in _INJECT or how["via"] == "connect", **how}
    stage.load.order("closed", running.address, conns=stage.lengths.connections, seconds=stage.lengths.warm_s, **how)
    answer, spent = _timed(stage, running, "closed", conns=stage.lengths.connections, seconds=stage.lengths.closed_s, **how)
    speed, each = answer["requests"] / answer["seconds"], spent / answer["requests"] * 1e6
    stage.ledger.add(row, running.name, turn, speed)
    stage.ledger.add(f"{row}_cpu", running.name, turn, each)
    stage.ledger.add(f"{row}_busy", running.name, turn, spent / answer["seconds"] * 100)
    stage.ledger.add(f"{row}_p99", running.name, turn, answer["p99_us"])
    return f"{speed:,.0f} ({each:.1f} µs)"


def _timed(stage: Stage, running: Running, op: str, **details: object) -> tuple[dict[str, float], float]:
    """The load's answer, and the processor seconds the proxy spent meanwhile."""
    pids = running.pids()
    before = cpu_seconds(pids)
    answer = stage.load.order(op, running.address, **details)
    return answer, cpu_seconds(running.pids()) - before


def _idle(stage: Stage, contender: Contender) -> str:
    with stage.one(contender, bridge=contender.name in _BRIDGES) as running:
        idle = resident_bytes(running.pids())
    said = f"idle {idle / MB:.1f} MB"
    stage.ledger.add("gateway_idle", contender.name, 0, idle / MB)
    if contender.name not in _TUNNELS:
        return said
    with stage.one(contender) as running:
        origin = f"127.0.0.1:{port_of(stage.load.upstream)}"
        stage.load.order("hold", running.address, conns=_IDLE_TUNNELS, via="connect", origin=origin)
        try:
            crowded = resident_bytes(running.pids())
        finally:
            stage.load.order("release", running.address)
    stage.ledger.add("gateway_tunnels", contender.name, 0, crowded / MB)
    return f"{said}, with {_IDLE_TUNNELS:,} tunnels {crowded / MB:.1f} MB"


def _growth(stage: Stage, contender: Contender) -> str:
    with stage.one(contender, bridge=True) as running:
        how = bridge_load(stage)
        stage.load.order("download", running.address, bytes=1 << 20, **how)  # what is made at the first bridge is there
        pids = running.pids()
        before = resident_bytes(pids)
        forget_peak(pids)
        stage.load.order("download", running.address, bytes=stage.stream_bytes, **how)
        grown = max(0, peak_bytes(pids) - before)
    stage.ledger.add("gateway_growth", contender.name, 0, grown / MIB)
    return f"a bridge of 1 GiB +{grown / MIB:.1f} MiB at most"
