"""What every exchange shares: built once by `app`, read on the hot path; the only mutable part is who is connected and whether we drain."""

import asyncio
from typing import Protocol

from robin.grants.grant import Credentials
from robin.model.caller import Caller
from robin.model.limits import Deadlines, Limits
from robin.model.message import RequestHead
from robin.model.verdict import Verdict
from robin.proxy.pool import Pool
from robin.telemetry.logs import EventLog
from robin.telemetry.metrics import Metrics
from robin.telemetry.recorder import Recorder
from robin.transport.clock import Clock
from robin.transport.deadlines import Sweeper
from robin.transport.entropy import Entropy
from robin.transport.tasks import TaskOwner
from robin.wire.forwarding import Rewriting


class Policy(Protocol):
    """The judge of one plane."""

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """Permit or Denial."""
        ...


class Drainable(Protocol):
    """A connection or tunnel, as the drain sees it."""

    def begin_drain(self) -> None:
        """Draining began: end as soon as nothing of worth is cut."""
        ...


class Connection(Drainable, Protocol):
    """A downstream connection, as the sweep sees it."""

    def detect_disconnect(self) -> None:
        """Look whether the caller of a connection that is not being read has gone."""
        ...


class Engine:
    """The rooms an exchange walks through."""

    __slots__ = (
        "clock",
        "closing",
        "connections",
        "credentials",
        "deadlines",
        "drained",
        "entropy",
        "events",
        "limits",
        "loop",
        "metrics",
        "now",
        "policy",
        "pool",
        "recorder",
        "rewriting",
        "sweeper",
        "tasks",
        "tunnels",
        "upgrades",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        policy: Policy,
        credentials: Credentials,
        pool: Pool,
        rewriting: Rewriting,
        limits: Limits,
        deadlines: Deadlines,
        upgrades: frozenset[bytes],
        metrics: Metrics,
        recorder: Recorder,
        events: EventLog,
        sweeper: Sweeper,
        tasks: TaskOwner,
        entropy: Entropy,
        clock: Clock,
    ) -> None:
        self.loop = loop
        self.now = loop.time  # for deadlines: cheap, and as coarse as the loop's turn
        self.clock = clock.monotonic  # for what is recorded
        self.policy = policy
        self.credentials = credentials
        self.pool = pool
        self.rewriting = rewriting
        self.limits = limits
        self.deadlines = deadlines
        self.upgrades = upgrades
        self.metrics = metrics
        self.recorder = recorder
        self.events = events
        self.sweeper = sweeper
        self.tasks = tasks
        self.entropy = entropy
        self.drained = asyncio.Event()  # closing, and nothing is in flight
        self.closing = False  # past the drain's minimum: no new exchange, every response closes
        self.connections: set[Connection] = set()
        self.tunnels: set[Drainable] = set()

    def begin_drain(self) -> None:
        """Begin to close: idle connections end now, the others after their exchange, tunnels at a frame boundary."""
        self.closing = True
        for part in [*self.connections, *self.tunnels]:
            part.begin_drain()
        self.pool.close_idle()
        if not self.connections:
            self.drained.set()

    def detect_client_disconnects(self, _: float) -> None:
        """Once a sweep: a caller that gave up while its upload was held back must not keep an upstream connection (E6)."""
        for connection in list(self.connections):
            connection.detect_disconnect()

    def unregister(self, connection: Connection) -> None:
        """A connection ended."""
        self.connections.discard(connection)
        if self.closing and not self.connections:
            self.drained.set()
