"""One side of a soak: a real sidecar, its callers, its upstream, and everything that is done to them."""

import asyncio
import contextlib
import signal
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.soak import look
from tests.soak.mix import AUDIENCE
from tests.soak.phases import Mischief, Phase
from tests.soak.records import Records
from tests.soak.worker import Worker

from robin.testing.authority import IdentityAuthority
from robin.testing.process import SidecarProcess
from robin.testing.waiting import eventually
from robin.transport.deadlines import GRAIN_S
from robin.transport.malloc_trim import EVERY_S

SETTLE_S = 0.3  # what was under way when mischief ended is over then
_DOWN_S = 0.3
_TRIMMED_S = EVERY_S + 2 * GRAIN_S
_SETTINGS = {"ROBIN_AUDIENCE": AUDIENCE, "ROBIN_HEADER_TIMEOUT": "2s", "ROBIN_DRAIN_MAX": "25s"}
_VIOLATIONS_KEPT = 100
_AT_REST = (
    "robin_requests_in_flight",
    "robin_downstream_connections",
    "robin_upstream_connections",
    "robin_upgrades_active",
    "robin_access_records_dropped_total",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A sidecar with nothing to do: nothing may be left over. `left`: gauges that are not 0."""

    at_s: float
    size: look.Size
    left: dict[str, float]
    requests: int
    records: int


class Side:
    """What the two sides have in common; a subclass brings the identity, and the upstream's TLS if any."""

    name = ""
    host = "127.0.0.1"
    tls = False

    def __init__(self, folder: Path, scratch: Path, authority: IdentityAuthority, rate: float) -> None:
        self.folder = folder
        self.scratch = scratch
        self.authority = authority
        self.rate = rate
        self.records = Records()
        self.violations: list[str] = []
        self.tokens: set[str] = set()
        self.rotations = 0
        self.restarts = 0
        self.cuts = 0
        self.rests: list[Rest] = []
        self.begun = self.in_flight = self.held = 0
        self.ended: Counter[str] = Counter()
        self.took_us: list[int] = []
        self.retries = 0
        self.returncode: int | None = None
        self.drain_s = 0.0
        self.callers = Worker("tests.soak.callers", self._hear)
        self.upstream = Worker("tests.soak.upstream", self._hear)
        self._requests = 0
        self._port = 0
        self._robin: SidecarProcess | None = None
        self._rotating: asyncio.Task[None] | None = None

    @property
    def robin(self) -> SidecarProcess:
        """The sidecar."""
        assert self._robin is not None, "not started"
        return self._robin

    @property
    def results(self) -> Path:
        """The callers' ledger."""
        return self.folder / f"{self.name}-callers.ledger"

    @property
    def deliveries(self) -> Path:
        """The upstream's ledger."""
        return self.folder / f"{self.name}-upstream.ledger"

    # what a subclass brings

    async def prepare(self) -> dict[str, str]:
        """Set up the identity and what else is needed; the sidecar's settings for it."""
        raise NotImplementedError

    async def rotate(self) -> None:
        """Rotate the identity for ever."""
        raise NotImplementedError

    async def reload(self, seconds: float) -> None:
        """All that an operator may do to a running sidecar, in so many seconds: nothing of it may be felt."""
        raise NotImplementedError

    async def part(self) -> None:
        """Give back what `prepare` set up."""

    def upstream_settings(self) -> dict[str, Any]:
        """What the upstream needs to know besides."""
        return {}

    # start and end

    async def start(self) -> None:
        """Start all three."""
        settings = await self.prepare()
        await self._start_upstream()
        scheme = "https" if self.tls else "http"
        self._robin = SidecarProcess(
            upstream_url=f"{scheme}://{self.host}:{self._port}",
            settings={**_SETTINGS, **settings},
            on_line=self.records.hear,
            keep_lines=200,
        )
        await self._robin.start()
        self._rotating = asyncio.create_task(self.rotate())
        await self._robin.started()
        host, _, port = self._robin.listen[0].rpartition(":")
        await self.callers.start(host=host, port=int(port), ledger=str(self.results), seed=f"{self.name} callers")

    async def _start_upstream(self) -> None:
        await self.upstream.start(
            name=self.host,
            port=self._port,
            ledger=str(self.deliveries),
            seed=f"{self.name} upstream {self.restarts}",
            jwks=self.authority.jwks(),
            issuer=self.authority.issuer,
            **self.upstream_settings(),
        )
        self._port = (await self.upstream.answer("listening"))["listening"]

    async def close(self) -> None:
        """End what still runs, in order."""
        if self._rotating is not None:
            self._rotating.cancel()
            await asyncio.gather(self._rotating, return_exceptions=True)
        await self.callers.kill()
        if self._robin is not None:
            await self._robin.stop()
        await self.upstream.kill()
        await self.part()

    # phases

    async def enter(self, phase: Phase, number: int) -> None:
        """Let the callers, then the upstream, know."""
        await self.callers.ask("phase", number=number, rate=self.rate * phase.rate, tears=phase.tears)
        if phase.mischief != Mischief():
            await self.upstream.ask("mischief", faults=asdict(phase.mischief))

    async def leave(self, phase: Phase) -> None:
        """Mischief ends, and what it hit with it; only then may a next phase begin that allows less."""
        if phase.mischief != Mischief():
            self.cuts += (await self.upstream.ask("mischief", faults=asdict(Mischief())))["cuts"]
        await asyncio.sleep(SETTLE_S)
        if self._rotating is not None and self._rotating.done():
            self._rotating.result()

    async def restart(self, seconds: float) -> None:
        """Kill the upstream and start it again, as often as fits."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            await self.upstream.kill()
            self.restarts += 1
            await asyncio.sleep(_DOWN_S)
            await self._start_upstream()
            await asyncio.sleep(max(0.0, min(1.0, until - loop.time())))
            if loop.time() >= until - 1.0:
                return

    async def exhaust(self, seconds: float) -> None:
        """Leave the sidecar fewer descriptors than it has open, then as many as before."""
        held = look.size(self.robin.pid).descriptors
        look.limit_descriptors(self.robin.pid, max(24, min(64, held * 3 // 4)))
        try:
            await asyncio.sleep(seconds)
        finally:
            look.limit_descriptors(self.robin.pid, None)
        await asyncio.sleep(1.2)  # its listener looks again within a second

    async def rest(self, at_s: float) -> None:
        """Everybody hangs up; what is left then is a leak."""
        await self.callers.ask("hang_up", timeout_s=60.0)
        gauges: dict[str, float] = {}

        async def quiet() -> bool:
            series = await look.metrics(self.robin.admin_url)
            gauges.clear()
            gauges.update({name: series.get(name, 0.0) for name in _AT_REST if series.get(name, 0.0)})
            self.retries = int(series.get("robin_upstream_retries_total", 0))
            self._requests = int(series.get("robin_requests_total", 0))
            return not gauges and self._requests == self.records.total

        with contextlib.suppress(TimeoutError):  # the judge tells what is left
            await eventually(quiet, timeout_s=12.0, every_s=0.2, what="a sidecar at rest")
        await asyncio.sleep(_TRIMMED_S)  # what closed last goes back; a probe would itself open connections
        self.rests.append(Rest(at_s=at_s, size=look.size(self.robin.pid), left=gauges, requests=self._requests, records=self.records.total))

    async def drain(self) -> None:
        """SIGTERM under load."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.robin.send_signal(signal.SIGTERM)
        self.returncode = await self.robin.returned(timeout_s=40.0)
        self.drain_s = loop.time() - began

    async def finish(self) -> None:
        """The callers bring their exchanges to an end, the upstream goes."""
        await self.callers.stop()
        await self.upstream.stop()

    # what the workers tell

    def _hear(self, entry: dict[str, Any]) -> None:
        if "violation" in entry:
            if len(self.violations) < _VIOLATIONS_KEPT:
                self.violations.append(entry["violation"])
        elif "token" in entry:
            self.tokens.add(entry["token"])
        elif "begun" in entry:
            self.begun, self.in_flight, self.held = entry["begun"], entry["in_flight"], entry["held"]
            self.ended = Counter(entry["ended"])
            self.took_us += entry["took_us"]
