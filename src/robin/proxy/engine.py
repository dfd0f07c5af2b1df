"""What all exchanges of one plane share: built once by the plane's builder, read on the request path, never changed by it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from robin.grants.grant import Credentials
from robin.model.caller import Caller
from robin.model.faults import Fault, Refusals
from robin.model.limits import Deadlines, Limits
from robin.model.message import HeldBody, RequestHead
from robin.model.verdict import Permit, Verdict
from robin.proxy.drain import Drain
from robin.proxy.open_tunnels import OpenTunnel, OpenTunnels
from robin.telemetry.logs import EventLog
from robin.telemetry.metrics import Metrics
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.recorder import Recorder
from robin.transport.clock import Clock
from robin.transport.deadlines import Sweeper
from robin.transport.entropy import Entropy
from robin.transport.pool import Pool
from robin.transport.tasks import TaskOwner
from robin.wire.http1 import REVERSE_PROXY, RequestForms
from robin.wire.shape import ParsedRequest

if TYPE_CHECKING:
    from robin.proxy.downstream import Downstream


class Policy(Protocol):
    """The policy of one plane."""

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """Return a Permit, a Denial or a LocalResponse. Pure: no I/O, no clock."""
        ...


Authenticate = Callable[[RequestHead, Caller], Awaitable[Caller]]
"""From the caller of the connection and one request head to the caller of that request. Raises Fault."""

Audit = Callable[[ExchangeRecord, Permit, HeldBody | None], Awaitable[None]]
"""Write the record of a decision. Returns when it may be relied on; raises Fault, and then nothing is sent."""

Connect = Callable[["Downstream", ParsedRequest, Permit, ExchangeRecord], Awaitable[bool]]
"""Serve a permitted CONNECT to its end. Returns True if the connection can be reused; raises Fault while nothing was answered."""


Judge = Callable[[Permit, HeldBody], Awaitable[None]]
"""Judge a request whose body is held whole, before anything is contacted. Raises Fault."""

Translate = Callable[[Fault, ExchangeRecord], Fault]
"""From a fault of the engine to the one that the plane answers with."""


class CallerLimits(Protocol):
    """Limits of each caller, by its id."""

    def connect(self, downstream: "Downstream") -> None:
        """Count a new connection, if its caller is known already. Raises Fault `limit_connections`."""
        ...

    def disconnect(self, downstream: "Downstream") -> None:
        """The connection has ended."""
        ...

    def enter(self, downstream: "Downstream", head: RequestHead, record: ExchangeRecord) -> None:
        """Count a request whose caller is known; its end is that of its record. Raises Fault."""
        ...


class Engine:
    """The shared parts. `limits` and `deadlines` are those of the downstream side; what differs per rule stands on the Route.

    `authenticate` None: the caller of a connection is the caller of each of its requests. `audit` None: decisions are not audited.
    `judge` None: the head decides alone.
    `refusals`: how refusals are written where the route has no form of its own. `translate` None: faults are answered as they are.
    `forms`: the request targets that are parsed; `connect` serves CONNECT where they have it. `open_tunnels`: what is open now.
    `callers` None: no caller has limits of its own.
    """

    __slots__ = (
        "audit",
        "authenticate",
        "callers",
        "clock",
        "connect",
        "credentials",
        "deadlines",
        "drain",
        "entropy",
        "events",
        "forms",
        "held_bytes",
        "judge",
        "limits",
        "loop",
        "metrics",
        "now",
        "open_tunnels",
        "policy",
        "pool",
        "recorder",
        "refusals",
        "sweeper",
        "tasks",
        "translate",
        "wall",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        policy: Policy,
        credentials: Credentials,
        pool: Pool,
        limits: Limits,
        deadlines: Deadlines,
        metrics: Metrics,
        recorder: Recorder,
        events: EventLog,
        sweeper: Sweeper,
        tasks: TaskOwner,
        entropy: Entropy,
        clock: Clock,
        drain: Drain,
        refusals: Refusals,
        authenticate: Authenticate | None = None,
        audit: Audit | None = None,
        forms: RequestForms = REVERSE_PROXY,
        connect: Connect | None = None,
        judge: Judge | None = None,
        translate: Translate | None = None,
        open_tunnels: OpenTunnels | None = None,
        callers: CallerLimits | None = None,
    ) -> None:
        self.loop = loop
        self.now = loop.time  # for deadlines: cheap, and as coarse as a turn of the loop
        self.clock = clock.monotonic  # for what is recorded
        self.wall = clock.wall  # for what others compare with their clocks
        self.policy = policy
        self.credentials = credentials
        self.pool = pool
        self.limits = limits
        self.deadlines = deadlines
        self.metrics = metrics
        self.recorder = recorder
        self.events = events
        self.sweeper = sweeper
        self.tasks = tasks
        self.entropy = entropy
        self.drain = drain
        self.refusals = refusals
        self.authenticate = authenticate
        self.audit = audit
        self.forms = forms
        self.held_bytes = 0  # of the bodies that are held now
        self.connect = connect
        self.judge = judge
        self.translate = translate
        self.open_tunnels: OpenTunnels = set[OpenTunnel]() if open_tunnels is None else open_tunnels
        self.callers = callers
        drain.add(pool)
