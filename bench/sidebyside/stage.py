"""What every case stands on: cores, load, upstreams, the contenders that are here, the ledger, and how long to measure."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidebyside.contenders import Contender, Details, Post, Running, free_port, started
from sidebyside.ledger import Ledger
from sidebyside.load import Load, Refused, WorkloadApi
from sidebyside.machine import Cores, choose_cores

CONNECTIONS = 32
RATE = 5_000
STREAM_BYTES = 1 << 30
START_LIMIT_S = 45
SETTLED_S = 1.1  # Robin reads a token file that is younger than a second anew on each request


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How much of everything; ratios need rounds more than they need seconds."""

    rounds: int
    warm_s: float
    closed_s: float
    open_s: float
    starts: int
    connections: int = CONNECTIONS


TINY = Lengths(rounds=1, warm_s=1.0, closed_s=1.0, open_s=1.0, starts=1, connections=4)  # shows that a case runs, and nothing else
FULL = Lengths(rounds=7, warm_s=0.5, closed_s=2.0, open_s=4.0, starts=5)
QUICK = Lengths(rounds=3, warm_s=0.3, closed_s=1.0, open_s=2.0, starts=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Given to each case."""

    cores: Cores
    load: Load
    workload_api: str
    pki: Path
    work: Path
    contenders: Sequence[Contender]
    ledger: Ledger
    lengths: Lengths
    stream_bytes: int = STREAM_BYTES

    def say(self, text: str) -> None:
        """A line of progress, on standard error."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    @contextmanager
    def one(self, contender: Contender, *, tls: bool = False, bridge: bool = False) -> Iterator[Running]:
        """Start one contender and see it answer. `bridge`: a forward proxy that opens the TLS of its clients."""
        port, admin_port = free_port(), free_port()
        place = Path(tempfile.mkdtemp(prefix=f"port-{port}-", dir=self.work))  # the kernel gives a port out more than once
        post = Post(
            listen=f"127.0.0.1:{port}",
            admin=f"127.0.0.1:{admin_port}",
            upstream=self.load.tls_upstream if tls else self.load.upstream,
            tls=tls,
            pki=self.pki,
            workload_api=self.workload_api,
            work=place,
            plain=self.load.upstream,
            secure=self.load.tls_upstream,
            bridge=bridge,
        )
        with started(contender, self.cores.proxy, post) as running:
            self._await_answer(running, contender.first(post))
            yield running

    def _await_answer(self, running: Running, how: Details) -> None:
        for attempt in range(START_LIMIT_S):
            try:
                self.load.order("first", running.address, seconds=1, **how)
            except Refused as failure:
                if running.ended() or attempt == START_LIMIT_S - 1:
                    raise Refused(f"{running.name} does not serve: {failure}\n{running.last_words()}") from failure
            else:
                return

    @contextmanager
    def all(self, *, tls: bool = False, bridge: bool = False, names: Sequence[str] = ()) -> Iterator[list[Running]]:
        """Start every contender that can, of those that `names` has if it has any; the others' failures go to the ledger."""
        with ExitStack() as stack:
            line_up = []
            for contender in self.contenders:
                if names and contender.name not in names:
                    continue
                try:
                    line_up.append(stack.enter_context(self.one(contender, tls=tls, bridge=bridge)))
                except Refused as failure:
                    self.fail(contender.name, failure)
            yield line_up

    def take_turns(self, line_up: list[Running], measure: Callable[[Running, int], str]) -> None:
        """A B C D E, A B C D E, ...; one that fails is reported and sits out the rest."""
        for turn in range(self.lengths.rounds):
            said = []
            for running in tuple(line_up):
                try:
                    said.append(f"{running.name} {measure(running, turn)}")
                except Refused as failure:
                    self.fail(running.name, f"{failure}\n{running.last_words()}")
                    line_up.remove(running)
            self.say(f"  round {turn + 1}/{self.lengths.rounds}: " + ", ".join(said))

    def fail(self, name: str, why: object) -> None:
        """Say it now, and again under the table."""
        self.ledger.failures.append(f"{name}: {why}")
        self.say(f"FAILED {name}: {why}")


@contextmanager
def raised(
    program: Path, contenders: Sequence[Contender], ledger: Ledger, lengths: Lengths, stream_bytes: int = STREAM_BYTES
) -> Iterator[Stage]:
    """Keys, load generator, upstreams and Workload API, in a folder that is gone afterwards."""
    most = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # inherited by the contenders: 1,000 clients need it
    cores = choose_cores()
    with tempfile.TemporaryDirectory(prefix="robin-bench-") as folder:
        work = Path(folder)
        work.chmod(0o755)  # nginx's worker is another user
        subprocess.run([str(program), "-pki", folder], check=True)
        time.sleep(SETTLED_S)
        with Load(program, work, cores.load) as load, WorkloadApi(program, work, cores.load) as workload_api:
            yield Stage(
                cores=cores,
                load=load,
                workload_api=workload_api,
                pki=work,
                work=work,
                contenders=contenders,
                ledger=ledger,
                lengths=lengths,
                stream_bytes=stream_bytes,
            )
