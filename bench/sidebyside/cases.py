"""The cases: small requests, TLS upstream, streams, latency at a fixed rate, memory, time to the first answer."""

import time
from collections.abc import Callable

from sidebyside.contenders import ROBIN_JWTSVID, Contender, Running
from sidebyside.ledger import DIRECT
from sidebyside.load import Refused
from sidebyside.machine import cpu_seconds, forget_peak, peak_bytes, resident_bytes
from sidebyside.stage import CONNECTIONS, RATE, Stage

MB, MIB = 1e6, 1 << 20


def small(stage: Stage) -> None:
    """Capacity: 32 keep-alive connections, the next request when the answer is in."""
    stage.say(f"small: {CONNECTIONS} connections, {stage.lengths.closed_s:g} s a turn")
    with stage.all() as line_up:
        stage.take_turns([_direct(stage), *line_up], lambda running, turn: _capacity(stage, running, turn, "small"))


def varied(stage: Stage) -> None:
    """The same with heads that change on each exchange, both ways; one request in four is a POST with a body."""
    stage.say(f"varied: {CONNECTIONS} connections, {stage.lengths.closed_s:g} s a turn")
    with stage.all() as line_up:
        stage.take_turns([_direct(stage), *line_up], lambda running, turn: _capacity(stage, running, turn, "varied", varied=True))


def asleep(stage: Stage) -> None:
    """Like `small`, but the load's core may go idle, so that a proxy's write has to wake it."""
    stage.say(f"asleep: {CONNECTIONS} connections, {stage.lengths.closed_s:g} s a turn")
    with stage.all() as line_up:
        stage.take_turns([_direct(stage), *line_up], lambda running, turn: _capacity(stage, running, turn, "asleep", sleeps=True))


def tls(stage: Stage) -> None:
    """Like `small` with TLS to the upstream; there is no direct line, since the load generator speaks plain HTTP."""
    stage.say(f"tls: {CONNECTIONS} connections, {stage.lengths.closed_s:g} s a turn")
    with stage.all(tls=True) as line_up:
        stage.take_turns(line_up, lambda running, turn: _capacity(stage, running, turn, "tls"))


def streams(stage: Stage) -> None:
    """One exchange with one long body, each way."""
    for row in ("download", "upload"):
        stage.say(f"{row}: 1 GiB")

        def measure(running: Running, turn: int, row: str = row) -> str:
            answer, spent = _timed(stage, running, row, bytes=stage.stream_bytes)
            speed = stage.stream_bytes / answer["seconds"] / MB
            stage.ledger.add(row, running.name, turn, speed)
            if running.process:
                stage.ledger.add(f"{row}_cpu", running.name, turn, spent * 1e3)
                stage.ledger.add(f"{row}_busy", running.name, turn, spent / answer["seconds"] * 100)
            return f"{speed:,.0f}"

        with stage.all() as line_up:
            stage.take_turns([_direct(stage), *line_up], measure)


def latency(stage: Stage) -> None:
    """Poisson arrivals at a fixed rate, each latency counted from the instant its request was due, less the direct one's."""
    stage.say(f"latency: {RATE:,} requests/s, {stage.lengths.open_s:g} s a turn")
    direct: dict[str, float] = {}

    def measure(running: Running, turn: int) -> str:
        stage.load.order("open", running.address, conns=64, rate=RATE, seconds=stage.lengths.warm_s)
        answer = stage.load.order("open", running.address, conns=64, rate=RATE, seconds=stage.lengths.open_s)
        if running.name == DIRECT:
            direct.update(answer)
        for quantile in ("p50", "p99"):
            value = answer[f"{quantile}_us"]
            added = value if running.name == DIRECT else value - direct[f"{quantile}_us"]
            stage.ledger.add(f"latency_{quantile}", running.name, turn, added)
        return f"p50 {answer['p50_us']:.0f} p99 {answer['p99_us']:.0f} µs"

    with stage.all() as line_up:
        stage.take_turns([_direct(stage), *line_up], measure)


def memory(stage: Stage) -> None:
    """A fresh process each: idle, then 1,000 idle clients; another: one long stream each way."""
    for contender in stage.contenders:
        for measure in (_idle, _growth):
            try:
                stage.say(f"memory: {contender.name}: {measure(stage, contender)}")
            except Refused as failure:
                stage.fail(contender.name, failure)
    if any(contender.name == "Robin" for contender in stage.contenders):
        try:
            with stage.one(ROBIN_JWTSVID) as running:
                idle = resident_bytes(running.pids())
            stage.ledger.add("idle_jwtsvid", "Robin", 0, idle / MB)
            stage.say(f"memory: {ROBIN_JWTSVID.name}: idle {idle / MB:.1f} MB")
        except Refused as failure:
            stage.fail(ROBIN_JWTSVID.name, failure)


def startup(stage: Stage) -> None:
    """From exec to the first answered request, with warm disk caches; the asker tries once a millisecond."""
    stage.say("startup: exec to the first answer")
    for turn in range(stage.lengths.starts):
        said = []
        for contender in stage.contenders:
            begin = time.perf_counter()
            try:
                with stage.one(contender):
                    took = time.perf_counter() - begin
            except Refused as failure:
                stage.fail(contender.name, failure)
                continue
            stage.ledger.add("first_answer", contender.name, turn, took)
            said.append(f"{contender.name} {took:.3f} s")
        stage.say(f"  start {turn + 1}/{stage.lengths.starts}: " + ", ".join(said))


CASES: dict[str, Callable[[Stage], None]] = {
    "small": small,
    "varied": varied,
    "asleep": asleep,
    "tls": tls,
    "streams": streams,
    "latency": latency,
    "memory": memory,
    "startup": startup,
}


def _direct(stage: Stage) -> Running:
    """The upstream itself, to show that it is no bottleneck."""
    return Running(name=DIRECT, address=stage.load.upstream)


def _capacity(stage: Stage, running: Running, turn: int, row: str, **how: bool) -> str:
    stage.load.order("closed", running.address, conns=CONNECTIONS, seconds=stage.lengths.warm_s, **how)
    answer, spent = _timed(stage, running, "closed", conns=CONNECTIONS, seconds=stage.lengths.closed_s, **how)
    speed = answer["requests"] / answer["seconds"]
    stage.ledger.add(row, running.name, turn, speed)
    if running.process is None:
        return f"{speed:,.0f}"
    each = spent / answer["requests"] * 1e6
    stage.ledger.add(f"{row}_cpu", running.name, turn, each)
    stage.ledger.add(f"{row}_busy", running.name, turn, spent / answer["seconds"] * 100)
    stage.ledger.add(f"{row}_p99", running.name, turn, answer["p99_us"])
    return f"{speed:,.0f} ({each:.1f} µs)"


def _timed(stage: Stage, running: Running, op: str, **details: float) -> tuple[dict[str, float], float]:
    """The load's answer, and the processor seconds the proxy spent meanwhile."""
    pids = running.pids()
    before = cpu_seconds(pids)
    answer = stage.load.order(op, running.address, **details)
    return answer, cpu_seconds(pids) - before


def _idle(stage: Stage, contender: Contender) -> str:
    with stage.one(contender) as running:
        idle = resident_bytes(running.pids())
        stage.load.order("hold", running.address, conns=1000)
        try:
            crowded = resident_bytes(running.pids())
        finally:
            stage.load.order("release", running.address)
    stage.ledger.add("idle_file", contender.name, 0, idle / MB)
    stage.ledger.add("clients_1000", contender.name, 0, crowded / MB)
    return f"idle {idle / MB:.1f} MB, with 1,000 clients {crowded / MB:.1f} MB"


def _growth(stage: Stage, contender: Contender) -> str:
    said = []
    for row in ("download", "upload"):
        with stage.one(contender) as running:
            pids = running.pids()
            before = resident_bytes(pids)
            forget_peak(pids)
            stage.load.order(row, running.address, bytes=stage.stream_bytes)
            grown = max(0, peak_bytes(pids) - before)
        stage.ledger.add(f"growth_{row}", contender.name, 0, grown / MIB)
        said.append(f"{row} +{grown / MIB:.1f} MiB at most")
    return ", ".join(said)
